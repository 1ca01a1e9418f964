"""Reads and writes what schedulers, finders and checkpoints need of an optimizer, on every backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


def read_learning_rate(optimizer: Any) -> float:
    """Returns the optimizer's present rate as a float; a schedule is evaluated at the present step."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def sync_variables(model: Any) -> None:
    """Makes the model's and optimizer's variables hold the values of the running epoch.

    JAX's trainer takes them out for an epoch and passes them from step to step, where what is written to a variable
    is lost. Keras's own call puts them back, and the trainer then reads them anew.
    """
    sync = getattr(model, "jax_state_sync", None)
    if sync is not None:
        sync()


def optimizer_chain(optimizer: Any) -> Iterator[Any]:
    """Yields the optimizer, and from the outside in those which it wraps (`inner_optimizer`)."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def has_settable_rate(optimizer: Any) -> bool:
    """Returns whether the rate is a variable; a `LearningRateSchedule` or a function is none."""
    return isinstance(optimizer.learning_rate, keras.Variable)


def momentum_variable(optimizer: Any) -> Any:
    """Returns the variable of a DifferentialLR's momentum, also inside a LossScaleOptimizer; None if there is none."""
    variables = (getattr(each, "momentum_variable", None) for each in optimizer_chain(optimizer))
    return next((variable for variable in variables if variable is not None), None)


def rate_as_variable(optimizer: Any) -> Any:
    """Makes the rate settable; returns the schedule or function that it was, or None if it was settable already.

    What it returns is to be put back with `optimizer.learning_rate = …`. Training functions compiled before know
    nothing of the variable.
    """
    if has_settable_rate(optimizer):
        return None
    *_, innermost = optimizer_chain(optimizer)
    # Private, for the getter evaluates a schedule, and the setter refuses to put a number in its place (Keras: "its
    # learning rate is not settable"). Optimizers track any attribute that is a variable, so that it is part of the
    # state that JAX's trainer passes on.
    schedule = innermost._learning_rate
    innermost._learning_rate = keras.Variable(0.0, name="learning_rate", trainable=False, dtype=keras.config.floatx())
    return schedule


def accumulation_steps(optimizer: Any) -> int:
    """Returns how many batches' gradients make up one update; 1 without gradient accumulation."""
    steps = (each.gradient_accumulation_steps for each in optimizer_chain(optimizer))
    return next((int(count) for count in steps if count), 1)


def held_batches(optimizer: Any) -> int:
    """Returns how many batches' gradients wait for the next update; 0 without gradient accumulation."""
    for each in optimizer_chain(optimizer):
        if each.gradient_accumulation_steps:
            # `optimizer.iterations` counts updates; the variable itself counts batches.
            batches = next(v for v in each.variables if v.name == "iteration")
            return int(keras.ops.convert_to_numpy(batches)) % int(each.gradient_accumulation_steps)
    return 0
