"""`LRFinder`: the learning-rate range test as a callback."""

from __future__ import annotations

import math
import statistics
from typing import Any, Self

import keras
import numpy as np
from numpy.typing import NDArray

from keras_sgdr.checkpoint.training_state import TrainingState, require_built
from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.optimizers.access import (
    accumulation_steps,
    has_settable_rate,
    held_batches,
    rate_as_variable,
    sync_variables,
)
from keras_sgdr.validation import InvalidValueError, NotReadyError, require, require_integer, require_numbers

MODES = ("exponential", "linear")


class LRFinder(keras.callbacks.Callback):
    """Trains a few batches at ever higher learning rates, notes their losses, and puts everything back.

    Batch `i` of `num_steps` runs at

        start_lr * (end_lr / start_lr) ** (i / num_steps)           "exponential"
        start_lr + (end_lr - start_lr) * i / num_steps              "linear"

    and its own loss, not the mean since the epoch began, goes into the curve. The finder stops the training after
    `num_steps` batches, at a loss that is not finite, or where the smoothed loss is over `stop_factor` times its best
    and, for a cross-entropy, most of the last five losses are over that of guessing, `log(classes)`.
    With gradient accumulation a step is one update, and its loss the mean of its batches'.

    On its end it restores weights, batch-norm statistics, seed generators, optimizer slots and iterations, loss scale,
    rate, metrics and `stop_training`, so that training goes on as if it had not been. The data cannot be put back by a
    callback: after it they are one epoch on. `lr_find` does that too. Keras tells no callback when `fit` fails; so use
    it as

        with LRFinder() as finder:
            model.fit(dataset, epochs=5, callbacks=[finder])

    and Ctrl-C or an error in another callback restores everything as well. Without `with`, call `finder.restore()`.
    Give it as the last callback: one that sets weights at the end, as `EarlyStopping(restore_best_weights=True)` does,
    would set those of the finder's training. One that stops the training ends the finder too; `is_over` is then False.

    Writes: `optimizer.learning_rate` before every batch.

    Args:
        start_lr: The first rate, > 0.
        end_lr: The rate toward which it goes, > start_lr; it is not reached.
        num_steps: Number of updates, an integer >= 1.
        mode: "exponential" or "linear".
        smoothing: Weight of the past in the smoothed losses, in [0, 1).
        stop_factor: Multiple of the best smoothed loss at which to stop, > 1; infinity never does.
        validation_batch: Arrays `(x, y)`, the loss on which is noted too, after each update.

    Attributes:
        curve: The `LRCurve`, after training.
        is_over: Whether it has seen enough, and has not been left without data before.

    Raises:
        TypeError: If a rate, `smoothing` or `stop_factor` is no number.
        ValueError: On construction or before the first batch, if an argument is out of its range, the rate cannot be
            set before each batch, or every layer is frozen; if the data has no batches or the first loss is not finite.
        RuntimeError: If `curve` is read before a batch was trained.

    Example:
        ```python
        finder = LRFinder()
        model.fit(dataset, epochs=5, callbacks=[finder])
        model.optimizer.learning_rate = finder.curve.suggest()
        ```

    Reference:
        Smith, https://arxiv.org/abs/1506.01186; fastai 2.8 for the range, the smoothing and the stop.
    """

    def __init__(
        self,
        *,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_steps: int = 100,
        mode: str = "exponential",
        smoothing: float = 0.98,
        stop_factor: float = 4.0,
        validation_batch: tuple[Any, Any] | None = None,
    ) -> None:
        super().__init__()
        require_numbers(start_lr=start_lr, end_lr=end_lr, smoothing=smoothing, stop_factor=stop_factor)
        require(0 < start_lr < end_lr < math.inf, "`end_lr` must be above `start_lr`", start_lr=start_lr, end_lr=end_lr)
        require_integer("num_steps", num_steps)
        require(mode in MODES, f"`mode` must be one of {MODES}", mode=mode)
        require(0 <= smoothing < 1, "`smoothing` must be in [0, 1)", smoothing=smoothing)
        require(stop_factor > 1, "`stop_factor` must be a number > 1", stop_factor=stop_factor)
        self.rates = rate_range(start_lr, end_lr, num_steps=num_steps, mode=mode)
        self.smoothing = smoothing
        self.stop_factor = stop_factor
        self.validation_batch = validation_batch
        self._losses: list[float] = []
        self._validation_losses: list[float] = []
        self._pending: list[float] = []
        self._state: TrainingState | None = None
        self._schedule: Any = None
        self._accumulates = False
        self._guessing_loss = 0.0
        self._is_pass_empty = True
        self.is_over = False

    @property
    def curve(self) -> LRCurve:
        """What was measured."""
        if not self._losses:
            raise NotReadyError("`curve` must be read after training. Received: no batch so far. Give it to `fit`.")
        rates, losses = self.rates[: len(self._losses)], np.array(self._losses)
        validation = np.array(self._validation_losses) if self._validation_losses else None
        return LRCurve(
            rates,
            losses,
            smoothing=self.smoothing,
            validation_losses=validation,
            guessing_loss=self._guessing_loss or None,
        )

    def keep(self, model: Any) -> TrainingState:
        """Copies what `restore` puts back, unless it has been; `fit` does so before its first batch."""
        if self._state is not None and self._state.model is not model:
            self.restore()  # another one, whose training was interrupted
        if self._state is None:
            require_built(model)
            self._state = TrainingState(model)
            self._state.attributes["stop_training"] = False
            if model.steps_per_execution == 1 and has_settable_rate(model.optimizer):
                # Then the training can use what the finder compiles.
                self._state.attributes = {"stop_training": False}
        return self._state

    def restore(self) -> None:
        """Puts model and optimizer back to where they were before the first batch; once, and harmless after that."""
        if self._state is None:
            return
        if self._schedule is not None:
            self._state.model.optimizer.learning_rate = self._schedule
        self._state.restore()
        # Last, so that it can be done again after a Ctrl-C in its midst.
        self._state = self._schedule = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.restore()
        finally:
            self.restore()  # again, if that was interrupted

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that the rate can be set before each batch, and copies what will be restored."""
        super().on_train_begin(logs)
        steps = self.model.steps_per_execution
        if steps != 1:
            raise InvalidValueError(
                "`steps_per_execution` must be 1 for LRFinder: Keras calls it once in so many batches. Received: "
                f"steps_per_execution={steps}. Compile with steps_per_execution=1."
            )
        if not self.model.trainable_variables:
            raise InvalidValueError(
                "`model` must have something to train. Received: a model of which every layer is frozen. Unfreeze some."
            )
        self._losses, self._validation_losses, self._pending = [], [], []
        self._average, self._best = 0.0, math.inf
        self._guessing_loss = _guessing_loss(self.model)
        self._accumulates = accumulation_steps(self.model.optimizer) > 1
        self.keep(self.model)
        self._schedule = rate_as_variable(self.model.optimizer)
        if self._schedule is not None:
            self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts to count the batches of a pass."""
        super().on_epoch_begin(epoch, logs)
        self._is_pass_empty = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Refuses data that has no batches, or none any more."""
        super().on_epoch_end(epoch, logs)
        if self._is_pass_empty:
            raise self.error_of_missing_batches()

    def error_of_missing_batches(self) -> ValueError:
        """Returns the error for data that has no batches, or none any more."""
        count = len(self._losses)
        ended = f"data that ended after {count} and cannot be begun again" if count else "none"
        return InvalidValueError(
            f"The data must have batches for {len(self.rates)} steps. Received: {ended}. Look whether it is empty or "
            "an iterator that is spent."
        )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the batch's rate, and resets the metrics, so that the loss is that of this batch alone."""
        super().on_train_batch_begin(batch, logs)
        sync_variables(self.model)
        self.model.reset_metrics()
        self.model.optimizer.learning_rate = self.rates[len(self._losses)]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the loss of an update, and stops when enough is known."""
        super().on_train_batch_end(batch, logs)
        self._is_pass_empty = False
        loss = _loss_in(logs or {})
        if not self._losses and not math.isfinite(loss):
            raise InvalidValueError(
                f"The first loss, before anything is learnt, must be finite. Received: loss={loss} at a learning rate "
                f"of {self.rates[0]:.1e}. Look for NaN or infinity in images, labels and weights."
            )
        if self._accumulates:
            self._pending.append(loss)
            if math.isfinite(loss) and self._waits_for_update():
                return
            loss, self._pending = sum(self._pending) / len(self._pending), []
        self._losses.append(loss)
        if self.validation_batch is not None:
            self._validation_losses.append(self._validation_loss(*self.validation_batch))
        self.is_over = self._is_over()
        if self.is_over:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restores everything."""
        super().on_train_end(logs)
        self.restore()

    def _waits_for_update(self) -> bool:
        sync_variables(self.model)
        return held_batches(self.model.optimizer) > 0

    def _validation_loss(self, x: Any, y: Any) -> float:
        sync_variables(self.model)
        self.model.reset_metrics()
        return _loss_in(self.model.test_on_batch(x, y, return_dict=True))

    def _is_over(self) -> bool:
        count, loss = len(self._losses), self._losses[-1]
        self._average = self.smoothing * self._average + (1 - self.smoothing) * loss
        smoothed = self._average / (1 - self.smoothing**count)
        self._best = min(self._best, smoothed)
        # For a positive best the product; for a negative one, as some losses have, as far above it.
        limit = self._best + (self.stop_factor - 1) * abs(self._best)
        # Of a network that has learnt, a few times next to nothing is noise, and so is one batch with a wrong label;
        # what diverges costs more than guessing, in most of the last five batches.
        diverges = smoothed > limit and statistics.median(self._losses[-5:]) > self._guessing_loss
        return count == len(self.rates) or not math.isfinite(loss) or diverges


def rate_range(start_lr: float, end_lr: float, *, num_steps: int, mode: str) -> NDArray[np.float64]:
    """The rates of a finder, shape `(num_steps,)`, without the end itself."""
    shares = np.arange(num_steps) / num_steps
    if mode == "linear":
        return np.asarray(start_lr + (end_lr - start_lr) * shares)
    return np.asarray(start_lr * (end_lr / start_lr) ** shares)


def _guessing_loss(model: Any) -> float:
    """The log of the number of classes, if the model is compiled with one cross-entropy; else 0."""
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or ""
    shape = getattr(model, "output_shape", None)
    if "crossentropy" not in name or not isinstance(shape, tuple) or not isinstance(shape[-1], int):
        return 0.0
    return math.log(max(2, shape[-1]))


def _loss_in(logs: dict[str, Any]) -> float:
    if "loss" not in logs:
        raise InvalidValueError(
            f"The model's `train_step` must report its `loss`. Received: {sorted(logs)}. Return it under that name."
        )
    return float(logs["loss"])
