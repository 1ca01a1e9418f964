"""`BatchScheduler`: the base class of the callbacks that set the learning rate before each batch."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras

from keras_sgdr.optimizers.access import (
    accumulation_steps,
    has_settable_rate,
    held_batches,
    momentum_variable,
    optimizer_chain,
    read_learning_rate,
    sync_variables,
)
from keras_sgdr.validation import InvalidValueError, require, require_integer, require_numbers


class BatchScheduler(keras.callbacks.Callback):
    """Sets the learning rate before every batch, and on request the momentum, from the batch's place in training alone.

    The place is `epoch * steps_per_epoch + batch`, and so `initial_epoch` goes on where the schedule would be, a
    repeated epoch runs at its own rates again, and a second `fit` starts the schedule anew. With gradient
    accumulation (`held_batches`) all batches of one update run at one rate, that of the first of them.

    Subclasses define `rate_at`, and `momentum_at` where they take `momentum`.

    Attributes:
        present_momentum: The momentum of the batch that was begun last; None where none is moved.
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
        self.present_momentum: float | None = None
        self.given_steps_per_epoch = steps_per_epoch
        self.steps_per_epoch: int | None = None
        self._epoch = self._first_batch = self._batches = 0
        self._accumulates = False
        self._written: float | None = None
        self._warned = self._warned_of_another = False

    def rate_at(self, epoch: int, batch: int, *, held: int) -> float:
        """Returns the rate of one batch of one epoch, `held` batches into an update."""
        raise NotImplementedError

    def momentum_at(self, epoch: int, batch: int, *, held: int) -> float:
        """Returns the momentum of one batch, where `momentum` is given."""
        raise NotImplementedError

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks, before any work, that the rate can be set before each batch."""
        super().on_train_begin(logs)
        name = type(self).__name__
        begun = self.params.setdefault("begun_schedulers", [])  # which all callbacks of a `fit` share
        if any(each is self for each in begun):
            raise InvalidValueError(
                f"`callbacks` must hold each scheduler once. Received: the same {name} twice. Leave one of them out."
            )
        begun.append(self)
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
        self._written = self.present_momentum = None
        if self.momentum is not None and momentum_variable(self.model.optimizer) is None:
            *_, innermost = optimizer_chain(self.model.optimizer)
            raise InvalidValueError(
                "The optimizer must be a DifferentialLR with movable_momentum=True for `momentum` to be moved. "
                f"Received: optimizer={type(innermost).__name__}. Compile with keras_sgdr.DifferentialLR("
                "keras.optimizers.SGD(momentum=0.9), [model.layers], 0.01, movable_momentum=True), or one of more "
                "groups, or leave `momentum` out."
            )

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
        # Of a TrainingCheckpoint. Keras gives a callback no way to the others of its `fit`; `params` is all that they
        # share. To name the schedulers to the checkpoint would be a step to forget, and then a resumed epoch would
        # silently run at the rates of its first batches.
        start = self.params.get("resumed_at")
        self._first_batch = start.batch if start is not None and start.epoch == epoch else 0
        self._epoch, self._batches = epoch, self._first_batch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the batch's rate and momentum."""
        super().on_train_batch_begin(batch, logs)
        optimizer = self.model.optimizer
        sync_variables(self.model)
        batch += self._first_batch
        if batch == self._first_batch:
            self._check_sole_writer(read_learning_rate(optimizer))
        held = held_batches(optimizer) if self._accumulates else 0
        self._written = optimizer.learning_rate = self.rate_at(self._epoch, batch, held=held)
        if self.momentum is not None:
            self.present_momentum = self.momentum_at(self._epoch, batch, held=held)
            momentum_variable(optimizer).assign(self.present_momentum)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the batches; at their ends, for with data of unknown length one more is begun than run."""
        super().on_train_batch_end(batch, logs)
        self._batches = self._first_batch + batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the rate of the last batch, and learns the number of batches where it was not known."""
        self._leave_momentum()
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

    def _check_sole_writer(self, rate: float) -> None:
        if self._written is None or self._warned_of_another:
            return
        dtype = self.model.optimizer.learning_rate.dtype  # which may round what was written
        written = keras.ops.cast(keras.ops.cast(self._written, dtype), "float32")
        if math.isclose(rate, float(keras.ops.convert_to_numpy(written)), rel_tol=1e-6):
            return
        self._warned_of_another = True
        name = type(self).__name__
        warnings.warn(
            f"Another callback sets the learning rate too, in vain or over {name}, which sets it before every batch. "
            f"Received: learning_rate={rate:.6g} where {name} had set {self._written:.6g}. Leave one of them out.",
            stacklevel=2,
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the momentum."""
        super().on_train_end(logs)
        self._leave_momentum()
        self.present_momentum = None

    def _leave_momentum(self) -> None:
        # A step sets it back; but with data of unknown length Keras begins one batch more than it runs.
        if self.momentum is not None:
            variable = momentum_variable(self.model.optimizer)
            variable.assign(variable.own)
