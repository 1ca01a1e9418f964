"""The optimizer inside a DifferentialLR: which may be used, and the class that is both."""

from functools import cache
from typing import Any

import keras

from keras_sgdr.training.grouped_updates import GroupedUpdates


@cache
def combined_class(outer_class: Any, inner_class: Any) -> Any:
    """Returns the class that overrides `inner_class` by `outer_class`, and is saved under `outer_class`'s name."""
    namespace = {"__module__": outer_class.__module__, "__doc__": outer_class.__doc__, "outer_class": outer_class}
    combined = type(outer_class.__name__, (outer_class, inner_class), namespace)
    package, _, name = keras.saving.get_registered_name(outer_class).rpartition(">")
    # Keras finds a class by its name and a name by its class: many classes may have one name, the last one is found.
    for each in (combined, outer_class):
        keras.saving.register_keras_serializable(package=package, name=name)(each)
    return combined


def portable_config(optimizer: Any) -> dict[str, Any]:
    """Returns what Keras saves of an optimizer, fit to be loaded on every backend.

    On torch Keras 3.15 makes `keras.optimizers.Adam()` an instance of a private class, and saves that class's name.
    """
    config: dict[str, Any] = keras.saving.serialize_keras_object(optimizer)
    if config["module"].startswith("keras.src.backend.") and hasattr(keras.optimizers, config["class_name"]):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config


def check_inner_optimizer(optimizer: Any) -> None:
    """Checks that an optimizer can be made a DifferentialLR.

    Raises:
        TypeError: If it is no Keras optimizer, or one that holds others.
        ValueError: If it has slots already, or is in another DifferentialLR.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`inner_optimizer` must be a Keras optimizer. Received: inner_optimizer={optimizer!r}. "
            "Write keras.optimizers.Adam()."
        )
    holds_others = hasattr(optimizer, "inner_optimizer") or hasattr(optimizer, "optimizers")
    if holds_others or isinstance(optimizer, GroupedUpdates):
        raise TypeError(
            "`inner_optimizer` must be a plain optimizer, not one that holds others. "
            f"Received: inner_optimizer={type(optimizer).__name__}. Put that one around the DifferentialLR."
        )
    if "_differential" in vars(optimizer):
        raise ValueError(
            "`inner_optimizer` must not be in a DifferentialLR already, which shares its state. "
            f"Received: inner_optimizer={optimizer.name}. Make a new one."
        )
    if optimizer.built:
        raise ValueError(
            "`inner_optimizer` must not have been used yet: its slots would not cover all groups. "
            f"Received: inner_optimizer={optimizer.name}, already built. Make a new one."
        )
