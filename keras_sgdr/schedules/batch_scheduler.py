"""`BatchScheduler`: what the schedulers have in common."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras

from keras_sgdr.optimizers.access import (
    NumberWriter,
    accumulation_steps,
    has_settable_rate,
    held_batches,
    read_learning_rate,
    sync_variables,
)
from keras_sgdr.schedules.momentum import MovableMomentum
from keras_sgdr.validation import InvalidValueError, require, require_integer, require_numbers

# Batches whose rates are computed at once.
AHEAD = 100


class BatchScheduler(keras.callbacks.Callback):
    """Sets the learning rate before every batch, and on request the momentum, from the batch's place in training alone.

    The place is `epoch * steps_per_epoch + batch`, and so `initial_epoch` goes on where the schedule would be, a
    repeated epoch runs at its own rates again, and a second `fit` starts the schedule anew. With gradient
    accumulation (`held_batches`) all batches of one update run at one rate, that of the first of them.

    Subclasses define `rate_at`, a function of its arguments alone while an epoch runs.
    """

    def __init__(self, *, steps_per_epoch: int | None = None, momentum: tuple[float, float] | None = None) -> None:
        super().__init__()
        if steps_per_epoch is not None:
            require_integer("steps_per_epoch", steps_per_epoch)
        if momentum is not None:
            must = "`momentum` must be (highest, lowest) in (0, 1)"
            require(isinstance(momentum, (tuple, list)) and len(momentum) == 2, must, momentum=momentum)
            highest, lowest = momentum
            require_numbers(highest=highest, lowest=lowest)
            require(0 < lowest <= highest < 1, must, momentum=momentum)
        self.momentum = momentum
        self._moved: MovableMomentum | None = None
        self.given_steps_per_epoch = steps_per_epoch
        self.steps_per_epoch: int | None = None
        self._epoch = self._first_batch = self._batches = 0
        self._accumulates = False
        self._forget_ahead()
        self._written: float | None = None
        self._warned = self._warned_of_another = False

    @property
    def present_momentum(self) -> float | None:
        """The momentum of the batch that was begun last; None where none is moved."""
        return None if self._moved is None else self._moved.present

    def rate_at(self, epoch: int, batch: int, *, held: int) -> float:
        """The rate of one batch of one epoch, `held` batches into an update."""
        raise NotImplementedError

    def momentum_at(self, epoch: int, batch: int, *, held: int) -> float:
        """The momentum of one batch, where `momentum` is given."""
        raise NotImplementedError

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks, before any work, that the rate can be set before each batch."""
        super().on_train_begin(logs)
        name = type(self).__name__
        steps_per_execution = self.model.steps_per_execution
        if steps_per_execution != 1:
            raise InvalidValueError(
                f"`steps_per_execution` must be 1 for {name}: Keras calls it once in so many batches. Received: "
                f"steps_per_execution={steps_per_execution}. Compile with steps_per_execution=1, or put the schedule "
                "into the optimizer: learning_rate=keras_sgdr.SGDR(...)."
            )
        if not has_settable_rate(self.model.optimizer):
            raise InvalidValueError(
                f"`optimizer.learning_rate` must be a number for {name} to set. Received: a schedule or function. "
                "Compile with a number, for instance keras.optimizers.SGD(0.1), or leave the callback out."
            )
        self.steps_per_epoch = self._agreed_steps_per_epoch()
        self._accumulates = accumulation_steps(self.model.optimizer) > 1
        self._forget_ahead()
        self._written = None
        if self.momentum is not None:
            self._moved = MovableMomentum(self.model)

    def _agreed_steps_per_epoch(self) -> int | None:
        given, found = self.given_steps_per_epoch, self.params.get("steps")
        if given and found and given != found:
            raise InvalidValueError(
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
        self._forget_ahead()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the batch's rate and momentum."""
        super().on_train_batch_begin(batch, logs)
        sync_variables(self.model)
        batch += self._first_batch
        if batch == self._first_batch:
            self._check_sole_writer(read_learning_rate(self.model.optimizer))
        held = held_batches(self.model.optimizer) if self._accumulates else 0
        if batch not in self._ahead or self._accumulates:
            self._look_ahead(batch, held=held)
        place = batch - self._ahead.start
        self._rates.write(place)
        self._written = self._numbers[place]
        if self._moved is not None:
            self._moved.write(self.momentum_at(self._epoch, batch, held=held))

    def _forget_ahead(self) -> None:
        self._ahead = range(0)
        self._rates: Any = None
        self._numbers: list[float] = []

    def _look_ahead(self, batch: int, *, held: int) -> None:
        num_left = (self.steps_per_epoch or batch + AHEAD) - batch
        # Which batches make up an update is known from one to the next only: a loss scale may skip some.
        num_batches = 1 if self._accumulates else max(1, min(AHEAD, num_left))
        self._ahead = range(batch, batch + num_batches)
        self._numbers = [self.rate_at(self._epoch, each, held=held) for each in self._ahead]
        self._rates = NumberWriter(self.model.optimizer.learning_rate, self._numbers)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts; here, for data of unknown length have one `on_train_batch_begin` more than batches."""
        super().on_train_batch_end(batch, logs)
        self._batches = self._first_batch + batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the rate of the last batch, and learns the number of batches where it was not known."""
        rate = read_learning_rate(self.model.optimizer)
        self._check_sole_writer(rate)
        if logs is not None:
            logs["learning_rate"] = rate
        if self.steps_per_epoch is None:
            self.steps_per_epoch = self._batches
        elif self._batches != self.steps_per_epoch and not (self.model.stop_training or self._warned):
            self._warned = True
            warnings.warn(
                f"Epoch {epoch + 1} had {self._batches} batches where {self.steps_per_epoch} were expected; its rates "
                f"end early or stay at the last one. Received: steps_per_epoch={self.steps_per_epoch}.",
                stacklevel=2,
            )

    def has_written(self, rate: float) -> bool:
        """Whether this was the last rate that was written, as far as the optimizer's dtype tells."""
        if self._written is None:
            return False
        held = keras.ops.cast(keras.ops.cast(self._written, self.model.optimizer.learning_rate.dtype), "float32")
        return math.isclose(rate, float(keras.ops.convert_to_numpy(held)), rel_tol=1e-6)

    def _check_sole_writer(self, rate: float) -> None:
        if self._written is None or self.has_written(rate) or self._warned_of_another:
            return
        self._warned_of_another = True
        name = type(self).__name__
        warnings.warn(
            f"Another callback sets the learning rate too, in vain or over {name}, which sets it before every batch. "
            f"Received: learning_rate={rate:.6g} where {name} had set {self._written:.6g}. Leave one of them out.",
            stacklevel=2,
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the optimizer's momentum alone again."""
        super().on_train_end(logs)
        self._forget_ahead()
        if self._moved is not None:
            self._moved.put_back()
            self._moved = None
