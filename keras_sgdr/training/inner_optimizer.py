"""The optimizer inside a DifferentialLR: which may be used, and the class that is both."""

from functools import cache
from typing import Any

import keras


@cache
def combined_class(outer_class: type, inner_class: type) -> type:
    """Returns the class that overrides `inner_class` by `outer_class`, and is saved under `outer_class`'s name."""
    namespace = {"__module__": outer_class.__module__, "__doc__": outer_class.__doc__}
    combined = type(outer_class.__name__, (outer_class, inner_class), namespace)
    # Keras knows one class by one name: the last one registered is found by the name, and each finds its name.
    register(combined)
    register(outer_class)
    return combined


def register(optimizer_class: type) -> type:
    """Registers a class with Keras, for saving and loading."""
    registered: type = keras.saving.register_keras_serializable(package="keras_sgdr")(optimizer_class)
    return registered


def check_inner_optimizer(optimizer: Any) -> None:
    """Checks that an optimizer can be made a DifferentialLR.

    Raises:
        TypeError: If it is no Keras optimizer, or one that holds others.
        ValueError: If it has slots already.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`inner_optimizer` must be a Keras optimizer. Received: inner_optimizer={optimizer!r}. "
            "Write keras.optimizers.Adam()."
        )
    if any(hasattr(optimizer, name) for name in ("inner_optimizer", "optimizers", "multipliers")):
        raise TypeError(
            "`inner_optimizer` must be a plain optimizer, not one that holds others. "
            f"Received: inner_optimizer={type(optimizer).__name__}. Put that one around the DifferentialLR."
        )
    if optimizer.built:
        raise ValueError(
            "`inner_optimizer` must not have been used yet: its slots would not cover all groups. "
            f"Received: inner_optimizer={optimizer.name}, already built. Make a new one."
        )
