"""The one knob, `optimizer.learning_rate`: read and written, before each batch, on every backend."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import keras


def read_learning_rate(optimizer: Any) -> float:
    """The optimizer's present rate as a float; a schedule is evaluated at the present step."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def write_learning_rate(model: Any, rate: float) -> None:
    """Sets the rate of the next batch, in the midst of an epoch too."""
    sync_variables(model)
    model.optimizer.learning_rate = rate


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


class BatchRates(keras.callbacks.Callback):
    """Sets the learning rate before every batch, from the batch's place in the training alone.

    The place is `epoch * steps_per_epoch + batch`, and so `initial_epoch` goes on where the schedule would be, a
    repeated epoch runs at its own rates again, and a second `fit` starts the schedule anew. With gradient
    accumulation (`held_batches`) all batches of one update run at one rate, that of the first of them.

    Subclasses define `rate_at`.
    """

    def __init__(self, *, steps_per_epoch: int | None = None) -> None:
        super().__init__()
        if steps_per_epoch is not None and not steps_per_epoch >= 1:
            raise ValueError(f"`steps_per_epoch` must be an integer >= 1. Received: steps_per_epoch={steps_per_epoch}.")
        self.given_steps_per_epoch = steps_per_epoch
        self.steps_per_epoch: int | None = None
        self._epoch = self._first_batch = self._batches = 0
        self._warned = False

    def rate_at(self, epoch: int, batch: int, *, held: int) -> float:
        """The rate of one batch of one epoch, `held` batches into an update."""
        raise NotImplementedError

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks, before any work, that the rate can be set before each batch."""
        super().on_train_begin(logs)
        name = type(self).__name__
        steps_per_execution = self.model.steps_per_execution
        if steps_per_execution != 1:
            raise ValueError(
                f"`steps_per_execution` must be 1 for {name}: Keras calls it once in so many batches. Received: "
                f"steps_per_execution={steps_per_execution}. Compile with steps_per_execution=1, or put the schedule "
                "into the optimizer: learning_rate=keras_sgdr.SGDR(...)."
            )
        if not has_settable_rate(self.model.optimizer):
            raise ValueError(
                f"`optimizer.learning_rate` must be a number for {name} to set. Received: a schedule or function. "
                "Compile with a number, for instance keras.optimizers.SGD(0.1), or leave the callback out."
            )
        self.steps_per_epoch = self._agreed_steps_per_epoch()

    def _agreed_steps_per_epoch(self) -> int | None:
        given, found = self.given_steps_per_epoch, self.params.get("steps")
        if given and found and given != found:
            raise ValueError(
                f"`steps_per_epoch` must be the number of batches that `fit` runs in an epoch, {found}. Received: "
                f"steps_per_epoch={given}. Leave it out where `fit` knows the number."
            )
        return found or given

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the epoch, and with which of its batches it begins."""
        super().on_epoch_begin(epoch, logs)
        start = self.params.get("resumed_at")  # of a TrainingCheckpoint
        self._first_batch = start.batch if start is not None and start.epoch == epoch else 0
        self._epoch, self._batches = epoch, self._first_batch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the batch's rate."""
        super().on_train_batch_begin(batch, logs)
        sync_variables(self.model)
        held = held_batches(self.model.optimizer)
        self.model.optimizer.learning_rate = self.rate_at(self._epoch, self._first_batch + batch, held=held)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts; here, for data of unknown length have one `on_train_batch_begin` more than batches."""
        super().on_train_batch_end(batch, logs)
        self._batches = self._first_batch + batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the rate of the last batch, and learns the number of batches where it was not known."""
        if logs is not None:
            logs["learning_rate"] = read_learning_rate(self.model.optimizer)
        if self.steps_per_epoch is None:
            self.steps_per_epoch = self._batches
        elif self._batches != self.steps_per_epoch and not (self.model.stop_training or self._warned):
            self._warned = True
            warnings.warn(
                f"Epoch {epoch + 1} had {self._batches} batches where {self.steps_per_epoch} were expected; its rates "
                f"end early or stay at the last one. Received: steps_per_epoch={self.steps_per_epoch}.",
                stacklevel=2,
            )
