"""`SGDR`: the cosine cycles as a schedule inside the optimizer, evaluated in the graph."""

from __future__ import annotations

import itertools
from typing import Any

import keras

from keras_sgdr.schedules.cosine_cycles import CosineCycles, iterate_cycles
from keras_sgdr.validation import require_integer

LAST_STEP = 2**31 - 1
"""The last step that an int32 counts."""


@keras.saving.register_keras_serializable(package="keras_sgdr")
class SGDR(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine annealing with warm restarts as an optimizer's `learning_rate`.

    The values are those of `SGDRScheduler`, to float32. It needs no callback and is exact under
    `steps_per_execution > 1`, but its clock is the optimizer's own: it counts every batch that the optimizer has seen,
    goes on over several `fit`s, and cannot be set. A batch that a `LossScaleOptimizer` skips is not counted.

    After `n_cycles` the rate stays at `min_lr`. Called with a step, an integer scalar or tensor, it returns the rate as
    a float32 of the same shape.

    Args:
        max_lr: The rate at the first restart, > 0.
        steps_per_epoch: Batches in an epoch, an integer >= 1.
        cycle_len: Length of the first cycle in epochs, an integer >= 1.
        cycle_mult: Factor from one cycle's length to the next, a number >= 1; cycles are rounded to whole epochs.
        n_cycles: Number of cycles, or None for no end.
        min_lr: The rate to which a cycle falls, in [0, max_lr].
        peak_decay: Factor from one cycle's peak to the next, in (0, 1].
        warmup: None, "start", "restarts" or "fastai07"; see `CosineCycles`.
        warmup_steps: Batches of the warm-ups "start" and "restarts".
        gradient_accumulation_steps: The optimizer's own; all batches of one update then have the rate of the first
            of them. The clock counts batches, not updates, in any case.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        ```python
        optimizer = keras.optimizers.SGD(SGDR(0.1, steps_per_epoch=len(dataset), cycle_mult=2))
        ```

    Reference:
        Loshchilov and Hutter, SGDR, https://arxiv.org/abs/1608.03983.
    """

    def __init__(
        self,
        max_lr: float,
        *,
        steps_per_epoch: int,
        cycle_len: int = 1,
        cycle_mult: float = 1,
        n_cycles: int | None = None,
        min_lr: float = 0.0,
        peak_decay: float = 1.0,
        warmup: str | None = None,
        warmup_steps: int | None = None,
        gradient_accumulation_steps: int = 1,
    ) -> None:
        super().__init__()
        require_integer("steps_per_epoch", steps_per_epoch)
        require_integer("gradient_accumulation_steps", gradient_accumulation_steps)
        self._config = {
            "max_lr": max_lr,
            "cycle_len": cycle_len,
            "cycle_mult": cycle_mult,
            "n_cycles": n_cycles,
            "min_lr": min_lr,
            "peak_decay": peak_decay,
            "warmup": warmup,
            "warmup_steps": warmup_steps,
        }
        self.cycles = CosineCycles(**self._config)  # type: ignore[arg-type]
        self.cycles.check_warmup(steps_per_epoch)
        self.steps_per_epoch = steps_per_epoch
        self.gradient_accumulation_steps = gradient_accumulation_steps

    def __call__(self, step: Any) -> Any:
        """Returns the rate of a step, or of a tensor of steps."""
        step = keras.ops.cast(step, "int32")
        start, length, index = self._cycle(step)
        held = step % self.gradient_accumulation_steps
        position = keras.ops.maximum(step - start - held, 0)
        peak = self._peak(index)
        rate = self._rate_in_cycle(position, length, index, peak)
        epochs = self.cycles.epochs
        if epochs is not None:
            rate = keras.ops.where(step < epochs * self.steps_per_epoch, rate, self.cycles.min_lr)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, for saving."""
        return self._config | {
            "steps_per_epoch": self.steps_per_epoch,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
        }

    def _cycle(self, step: Any) -> tuple[Any, Any, Any]:
        """First step, length in steps, and number of the cycle that holds a step."""
        first_length = self.cycles.cycle_len * self.steps_per_epoch
        if self.cycles.cycle_mult == 1:
            index = step // first_length
            return index * first_length, first_length, index
        starts, lengths = zip(*self._boundaries(), strict=True)
        # Integers and a comparison with each, for a float logarithm is off by one cycle at some restarts.
        index = keras.ops.sum(keras.ops.cast(step[..., None] >= keras.ops.array(starts, "int32"), "int32"), axis=-1) - 1
        take = keras.ops.take
        return take(keras.ops.array(starts, "int32"), index), take(keras.ops.array(lengths, "int32"), index), index

    def _boundaries(self) -> list[tuple[int, int]]:
        cycles = iterate_cycles(cycle_len=self.cycles.cycle_len, cycle_mult=self.cycles.cycle_mult)
        steps = ((c.first_epoch * self.steps_per_epoch, c.num_epochs * self.steps_per_epoch) for c in cycles)
        inside = itertools.takewhile(lambda cycle: cycle[0] <= LAST_STEP, steps)
        return [(start, min(length, LAST_STEP)) for start, length in itertools.islice(inside, self.cycles.n_cycles)]

    def _peak(self, index: Any) -> Any:
        decay = keras.ops.power(self.cycles.peak_decay, keras.ops.cast(index, "float32"))
        return keras.ops.maximum(self.cycles.max_lr * decay, self.cycles.min_lr)

    def _rate_in_cycle(self, position: Any, length: Any, index: Any, peak: Any) -> Any:
        cycles, low, where = self.cycles, self.cycles.min_lr, keras.ops.where
        if cycles.warmup is None:
            return _cosine(position, length, start=peak, end=low)
        if cycles.warmup == "fastai07":
            warm = where(index == 0, (length + 19) // 20, 0)
            return where(position < warm, peak / 100, _cosine(position, length, start=peak, end=low))
        steps = int(cycles.warmup_steps or 0)
        warm = steps if cycles.warmup == "restarts" else where(index == 0, steps, 0)
        rising = low + (peak - low) * (keras.ops.cast(position, "float32") + 1) / (steps + 1)
        return where(position < warm, rising, _cosine(position - warm, length - warm, start=peak, end=low))


def _cosine(position: Any, length: Any, *, start: Any, end: float) -> Any:
    share = keras.ops.cast(position, "float32") / keras.ops.cast(length, "float32")
    weight = (1 + keras.ops.cos(3.141592653589793 * share)) / 2
    return start * weight + end * (1 - weight)
