"""One-cycle and flat-cosine training: `OneCycleScheduler`."""

from __future__ import annotations

import math
from typing import Any

from keras_sgdr.schedules.batch_scheduler import BatchScheduler
from keras_sgdr.schedules.cosine_cycles import cosine
from keras_sgdr.validation import require, require_numbers


def one_cycle(position: float, *, start: float, peak: float, end: float, warmup_share: float) -> float:
    """Returns half a cosine from `start` up to `peak`, at `warmup_share`, and half a cosine down to `end`, at 1."""
    if position < warmup_share:
        return cosine(position, warmup_share, start=start, end=peak)
    return cosine(position - warmup_share, 1 - warmup_share, start=peak, end=end)


def flat_cosine(position: float, *, peak: float, end: float, flat_share: float) -> float:
    """Returns `peak` up to `flat_share`, then half a cosine to `end` at 1."""
    return peak if position < flat_share else cosine(position - flat_share, 1 - flat_share, start=peak, end=end)


class OneCycleScheduler(BatchScheduler):
    """Raises the learning rate once and lets it fall over the whole training, and moves momentum against it.

    Batch `i` of `n` stands at `p = i / n`. Shape "one_cycle" goes along half a cosine from `max_lr / div` to `max_lr`,
    reached at `warmup_share`, and from there to `max_lr / final_div`. Shape "flat_cosine" stays at `max_lr` up to
    `flat_share` and then falls to `max_lr / final_div`. `n` is `fit`'s `epochs` times its batches, so that with
    `initial_epoch`, and `epochs` as before, it goes on where it would have been.

    Momentum falls from `momentum[0]` to `momentum[1]` while the rate rises and comes back while it falls. The optimizer
    must be a `DifferentialLR` with `movable_momentum=True`. Only training steps see the momentum: the optimizer's
    attribute, and a file that is saved, keep the optimizer's own.

    Like `SGDRScheduler`, it refuses `steps_per_execution > 1` and a rate that cannot be set, and gives all batches of
    one update the same rate under gradient accumulation.

    Writes: `optimizer.learning_rate` before every batch; `logs["learning_rate"]` at the end of an epoch.

    Args:
        max_lr: The highest rate, > 0.
        shape: "one_cycle" or "flat_cosine".
        warmup_share: Share of the training in which the rate rises, in (0, 1).
        flat_share: Share of the training in which it is flat, in [0, 1).
        div: `max_lr` over the first rate, >= 1.
        final_div: `max_lr` over the rate toward which it falls, >= 1.
        momentum: Highest and lowest momentum, in (0, 1), for "one_cycle"; None leaves it alone.
        steps_per_epoch: Batches in an epoch; needed only where `fit` does not know it.

    Attributes:
        present_momentum: The momentum of the batch that was begun last; None where none is moved.

    Raises:
        TypeError: If a rate, share, divisor or momentum is no number.
        ValueError: If an argument is out of its range; before the first batch, if the number of batches is unknown, or
            the optimizer has no momentum that can be moved.

    Example:
        ```python
        model.fit(dataset, epochs=5, callbacks=[OneCycleScheduler(0.01, momentum=(0.95, 0.85))])
        ```

    Reference:
        Smith, https://arxiv.org/abs/1803.09820; fastai 2.8, `fit_one_cycle` and `fit_flat_cos`.
    """

    def __init__(
        self,
        max_lr: float,
        *,
        shape: str = "one_cycle",
        warmup_share: float = 0.25,
        flat_share: float = 0.75,
        div: float = 25.0,
        final_div: float = 1e5,
        momentum: tuple[float, float] | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__(steps_per_epoch=steps_per_epoch, momentum=momentum)
        require_numbers(max_lr=max_lr, warmup_share=warmup_share, flat_share=flat_share, div=div, final_div=final_div)
        require(0 < max_lr < math.inf, "`max_lr` must be a finite number > 0", max_lr=max_lr)
        require(shape in ("one_cycle", "flat_cosine"), "`shape` must be 'one_cycle' or 'flat_cosine'", shape=shape)
        require(0 < warmup_share < 1, "`warmup_share` must be in (0, 1)", warmup_share=warmup_share)
        require(0 <= flat_share < 1, "`flat_share` must be in [0, 1)", flat_share=flat_share)
        require(1 <= div < math.inf, "`div` must be a finite number >= 1", div=div)
        require(1 <= final_div < math.inf, "`final_div` must be a finite number >= 1", final_div=final_div)
        must = "`momentum` must be None unless `shape` is 'one_cycle'"
        require(momentum is None or shape == "one_cycle", must, momentum=momentum, shape=shape)
        self.max_lr, self.shape = max_lr, shape
        self.warmup_share, self.flat_share = warmup_share, flat_share
        self.first_rate, self.last_rate = max_lr / div, max_lr / final_div

    def position(self, epoch: int, batch: int, *, held: int = 0) -> float:
        """Returns the place of a batch in the training, in [0, 1)."""
        steps = int(self.steps_per_epoch or 1)
        step = max(0, epoch * steps + min(batch, steps - 1) - held)
        return step / (steps * int(self.params["epochs"]))

    def rate_at(self, epoch: int, batch: int, *, held: int) -> float:
        """Returns the rate of one batch, `held` batches into an update."""
        position = self.position(epoch, batch, held=held)
        if self.shape == "flat_cosine":
            return flat_cosine(position, peak=self.max_lr, end=self.last_rate, flat_share=self.flat_share)
        ends = {"start": self.first_rate, "end": self.last_rate}
        return one_cycle(position, peak=self.max_lr, warmup_share=self.warmup_share, **ends)

    def momentum_at(self, epoch: int, batch: int, *, held: int) -> float:
        """Returns the momentum of one batch, `held` batches into an update."""
        high, low = self.momentum or (0.0, 0.0)
        position = self.position(epoch, batch, held=held)
        return one_cycle(position, start=high, peak=low, end=high, warmup_share=self.warmup_share)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that the end is known."""
        super().on_train_begin(logs)
        must = "`steps_per_epoch` must be given for data of unknown length"
        require(self.steps_per_epoch is not None, must, steps_per_epoch=None)
