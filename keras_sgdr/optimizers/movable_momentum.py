"""`MovableMomentum`: an optimizer's momentum as a variable, which a scheduler sets before each batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_sgdr.validation import InvalidValueError

NAMES = ("momentum", "beta_1")
"""The attributes in which Keras's optimizers have their momentum; the first that is above 0 is it."""


class MovableMomentum(keras.Variable):
    """The momentum of the next step.

    A step that has used it sets it back to the optimizer's own. So what is saved between two steps, and a step before
    which nobody writes, have that one.

    Args:
        optimizer: A Keras optimizer with a `momentum` or a `beta_1` above 0.

    Raises:
        ValueError: If it has none.
    """

    __hash__ = object.__hash__

    def __init__(self, optimizer: Any) -> None:
        self.attribute = next((name for name in NAMES if getattr(optimizer, name, 0)), "")
        if not self.attribute:
            raise InvalidValueError(
                f"`movable_momentum` must be False unless the optimizer has one of {NAMES} above 0. Received: "
                f"inner_optimizer={type(optimizer).__name__}. Write for instance keras.optimizers.SGD(momentum=0.9)."
            )
        self.own = float(getattr(optimizer, self.attribute))
        # As the count of iterations is: on each replica of a tf.distribute strategy, where all write the same.
        once = {"trainable": False, "aggregation": "only_first_replica"}
        super().__init__(self.own, name=self.attribute, dtype="float32", **once)

    # SGD and RMSprop ask with a Python `if` whether there is momentum, which a tensor cannot answer while a step is
    # compiled. There is, or `__init__` would have refused.
    def __ne__(self, other: object) -> bool:
        return True

    def __gt__(self, other: object) -> bool:
        return True


@contextmanager
def moved_momentum(optimizer: Any) -> Iterator[None]:
    """Makes an update use the momentum of `optimizer.momentum_variable`, if there is one, and sets that back."""
    momentum: MovableMomentum | None = optimizer.momentum_variable
    if momentum is None:
        yield
        return
    state, name = vars(optimizer), momentum.attribute
    if state[name] is not momentum:  # else another replica of a tf.distribute strategy, which come by turns, is within
        momentum.own = float(state[name])
    # PyTorch's optimizers update all weights in one call, which takes numbers only; there no step is compiled.
    on_torch = keras.backend.backend() == "torch"
    state[name] = float(keras.ops.convert_to_numpy(momentum)) if on_torch else momentum
    try:
        yield
    finally:
        state[name] = momentum.own
        momentum.assign(momentum.own)
