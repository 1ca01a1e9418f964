"""An optimizer's momentum, moved before each batch as its rate is."""

from __future__ import annotations

from typing import Any

import keras

from keras_sgdr.training.learning_rate import optimizer_chain, sync_variables, write_number
from keras_sgdr.training.schedules import require

MOMENTA = ("momentum", "beta_1")


class MomentumVariable(keras.Variable):
    """A variable that is known to be above 0 while a step is compiled: SGD and RMSprop ask, with a Python `if`."""

    own_value: float
    __hash__ = object.__hash__

    def __ne__(self, other: object) -> bool:
        return True

    def __gt__(self, other: object) -> bool:
        return True


class MovableMomentum:
    """An optimizer's momentum as a variable, for Keras makes it a constant of the compiled step.

    Args:
        model: A compiled model whose optimizer has a `momentum` or a `beta_1` above 0.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        *_, self.optimizer = optimizer_chain(model.optimizer)
        self._put_back_what_a_failed_training_left()
        self.name = next((name for name in MOMENTA if getattr(self.optimizer, name, 0)), "")
        must = f"The optimizer must have one of {MOMENTA} above 0 for `momentum` to be moved"
        require(bool(self.name), must, optimizer=type(self.optimizer).__name__)
        own_value = float(getattr(self.optimizer, self.name))
        variable = MomentumVariable(own_value, trainable=False, name=self.name)
        variable.own_value = own_value
        # As an attribute of the optimizer it becomes part of its state, which JAX's trainer passes from step to step.
        setattr(self.optimizer, self.name, variable)
        model.make_train_function(force=True)

    def write(self, value: float) -> None:
        """Sets the momentum of the next batch."""
        sync_variables(self.model)
        write_number(getattr(self.optimizer, self.name), value)

    def put_back(self) -> None:
        """Makes it the number again that it was."""
        sync_variables(self.model)
        self._put_back(self.name)
        self.model.make_train_function(force=True)

    def _put_back(self, name: str) -> None:
        variable = getattr(self.optimizer, name)
        setattr(self.optimizer, name, variable.own_value)
        # Private: Keras untracks by itself only the variable of a rate.
        self.optimizer._untrack_variable(variable)

    def _put_back_what_a_failed_training_left(self) -> None:
        for name in MOMENTA:
            if isinstance(getattr(self.optimizer, name, None), MomentumVariable):
                self._put_back(name)
