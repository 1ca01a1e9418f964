"""The one knob, `optimizer.learning_rate`: read and written, before each batch, on every backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras

# TensorFlow's classes of variables that are one; the second are made within a compiled step, as slots are.
ONE_HANDLE = ("ResourceVariable", "UnliftedInitializerVariable")


def read_learning_rate(optimizer: Any) -> float:
    """The optimizer's present rate as a float; a schedule is evaluated at the present step."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def write_value(variable: Any, value: Any) -> None:
    """Writes a number, or an array of the variable's shape and dtype, at a fraction of the cost of `assign`."""
    handle = tensorflow_handle(variable)
    if handle is not None:
        tensorflow = sys.modules["tensorflow"]
        tensor = tensorflow.constant(value, variable.value.dtype)
        tensorflow.raw_ops.AssignVariableOp(resource=handle, value=tensor)
    elif keras.backend.backend() == "tensorflow":
        variable.value.assign(value, read_value=False)
    else:
        variable.assign(value)


def tensorflow_handle(variable: Any) -> Any:
    """The handle of the TensorFlow variable in a `keras.Variable`; None on other backends.

    None also under a distribution strategy, where each device has one.
    """
    if keras.backend.backend() != "tensorflow" or type(variable.value).__name__ not in ONE_HANDLE:
        return None
    return variable.value.handle


class NumberWriter:
    """Writes into a scalar `keras.Variable`, before each batch, one of many numbers known beforehand.

    An operation that TensorFlow runs between two training steps finds its code out of the processor's caches, and
    `assign` takes a tenth of a small network's step. A third of that is the making of a tensor, done here for all
    numbers at once; a third is what `assign` does around the operation.

    Args:
        variable: The variable.
        numbers: What will be written into it.
    """

    def __init__(self, variable: Any, numbers: Sequence[float]) -> None:
        self._variable, self._handle = variable, tensorflow_handle(variable)
        self._numbers: Sequence[Any] = numbers
        if self._handle is not None:
            tensorflow = sys.modules["tensorflow"]
            self._assign = tensorflow.raw_ops.AssignVariableOp
            self._numbers = tensorflow.unstack(tensorflow.constant(numbers, variable.dtype))

    def write(self, index: int) -> None:
        """Writes the number at `index`."""
        if self._handle is None:
            write_value(self._variable, self._numbers[index])
        else:
            self._assign(resource=self._handle, value=self._numbers[index])


def sync_variables(model: Any) -> None:
    """Makes the model's and optimizer's variables hold the values of the running epoch.

    JAX's trainer takes them out for an epoch and passes them from step to step, where what is written to a variable
    is lost. Keras's own call puts them back, and the trainer then reads them anew.
    """
    sync = getattr(model, "jax_state_sync", None)
    if sync is not None:
        sync()


def optimizer_chain(optimizer: Any) -> Iterator[Any]:
    """The optimizer, and from the outside in those which it wraps (`inner_optimizer`)."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def has_settable_rate(optimizer: Any) -> bool:
    """Whether the rate is a variable; a `LearningRateSchedule` or a function is none."""
    rate = optimizer.learning_rate
    return isinstance(rate, keras.Variable)


def rate_as_variable(optimizer: Any) -> Any:
    """Makes the rate settable; returns the schedule or function that it was, or None if it was settable already.

    What it returns is to be put back with `optimizer.learning_rate = …`. Training functions compiled before know
    nothing of the variable.
    """
    if has_settable_rate(optimizer):
        return None
    *_, innermost = optimizer_chain(optimizer)
    # Private, for the setter refuses (Keras: "its learning rate is not settable"). Optimizers track any attribute that
    # is a variable, so that it is part of the state that JAX's trainer passes on.
    schedule = innermost._learning_rate
    innermost._learning_rate = keras.Variable(0.0, name="learning_rate", trainable=False, dtype=keras.config.floatx())
    return schedule


def accumulation_steps(optimizer: Any) -> int:
    """Batches whose gradients make up one update; 1 without gradient accumulation."""
    steps = (each.gradient_accumulation_steps for each in optimizer_chain(optimizer))
    return next((int(count) for count in steps if count), 1)


def held_batches(optimizer: Any) -> int:
    """Batches whose gradients wait in the accumulator for the next update; 0 without gradient accumulation."""
    for each in optimizer_chain(optimizer):
        if each.gradient_accumulation_steps:
            # `optimizer.iterations` counts updates; the variable itself counts batches.
            batches = next(v for v in each.variables if v.name == "iteration")
            return int(keras.ops.convert_to_numpy(batches)) % int(each.gradient_accumulation_steps)
    return 0
