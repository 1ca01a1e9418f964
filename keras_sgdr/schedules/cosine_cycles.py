"""Cosine cycles as pure functions of the step: integers, a loop, and the standard library."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass

from keras_sgdr.validation import require, require_integer, require_numbers

WARMUPS = ("start", "restarts", "fastai07")


@dataclass(frozen=True)
class Cycle:
    """One cycle: its number from 0, its first epoch, and its length in whole epochs."""

    index: int
    first_epoch: int
    num_epochs: int

    @property
    def end_epoch(self) -> int:
        """The epoch after the cycle's last one, where the next cycle starts."""
        return self.first_epoch + self.num_epochs


def cycle_epochs(index: int, *, cycle_len: int, cycle_mult: float) -> int:
    """Returns the length of cycle `index` in epochs: `cycle_len * cycle_mult**index`, half rounded up."""
    if isinstance(cycle_mult, numbers.Integral):
        return int(cycle_len * cycle_mult**index)
    return math.floor(cycle_len * cycle_mult**index + 0.5)


def iterate_cycles(*, cycle_len: int, cycle_mult: float) -> Iterator[Cycle]:
    """Yields the cycles one after the other, without end."""
    index = first_epoch = 0
    while True:
        cycle = Cycle(index, first_epoch, cycle_epochs(index, cycle_len=cycle_len, cycle_mult=cycle_mult))
        yield cycle
        index, first_epoch = index + 1, cycle.end_epoch


def cycle_at(epoch: int, *, cycle_len: int, cycle_mult: float) -> Cycle:
    """Returns the cycle to which `epoch` (from 0) belongs."""
    if cycle_mult == 1:
        return Cycle(epoch // cycle_len, epoch - epoch % cycle_len, cycle_len)
    # A loop: the float logarithm of timm and torch is off by one cycle at some restarts.
    cycles = iterate_cycles(cycle_len=cycle_len, cycle_mult=cycle_mult)
    return next(cycle for cycle in cycles if epoch < cycle.end_epoch)


def total_epochs(n_cycles: int, cycle_len: int = 1, cycle_mult: float = 1) -> int:
    """Returns the number of epochs that `n_cycles` whole cycles take.

    `cycle_len * (1 + cycle_mult + … + cycle_mult**(n_cycles - 1))`, each cycle rounded to whole epochs.

    Args:
        n_cycles: Number of cycles, an integer >= 1.
        cycle_len: Length of the first cycle in epochs, an integer >= 1.
        cycle_mult: Factor from one cycle's length to the next, a number >= 1.

    Returns:
        A number of epochs, an integer.

    Example:
        ```pycon
        >>> total_epochs(3, cycle_len=1, cycle_mult=2)
        7
        ```

    Reference:
        fast.ai 0.7, `fit(lrs, n_cycle, cycle_len=…, cycle_mult=…)`.
    """
    require_integer("n_cycles", n_cycles)
    _check_cycles(cycle_len, cycle_mult)
    return sum(cycle_epochs(index, cycle_len=cycle_len, cycle_mult=cycle_mult) for index in range(n_cycles))


@dataclass(frozen=True)
class CosineCycles:
    """Stochastic gradient descent with warm restarts (SGDR), as a function of the global step.

    Batch `i` of a cycle of `n` batches runs at

        min_lr + (peak - min_lr) / 2 * (1 + cos(pi * i / n))        with i = 0 … n - 1

    so that every cycle starts at exactly its peak, and the rate never quite reaches `min_lr`. The peak of cycle `c` is
    `max_lr * peak_decay**c`, but not below `min_lr`. Cycle `c` takes `cycle_len * cycle_mult**c` epochs, rounded to
    whole ones. After `n_cycles` the rate stays at `min_lr`.

    Args:
        max_lr: The rate at the start of the first cycle, > 0.
        cycle_len: Length of the first cycle in epochs, an integer >= 1.
        cycle_mult: Factor from one cycle's length to the next, a number >= 1; it need not be an integer.
        n_cycles: Number of cycles, or None for no end.
        min_lr: The rate to which a cycle falls, in [0, max_lr].
        peak_decay: Factor from one cycle's peak to the next, in (0, 1].
        warmup: None, or one of

            - `"start"`: the rate rises in a line over the first `warmup_steps` batches,
              `min_lr + (peak - min_lr) * (i + 1) / (warmup_steps + 1)`, and the cosine takes the rest of the cycle. The
              peak is at batch `warmup_steps`.
            - `"restarts"`: the same in every cycle.
            - `"fastai07"`: as fast.ai 0.7 does, the first twentieth (rounded up) of the first cycle's batches run at
              `peak / 100`; the cosine is not moved.
        warmup_steps: Batches of `"start"` and `"restarts"`, an integer >= 1; less than the first cycle has.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        ```pycon
        >>> CosineCycles(0.1, cycle_mult=2).learning_rate(5, steps_per_epoch=5)
        0.1
        ```

    Reference:
        Loshchilov and Hutter, SGDR, https://arxiv.org/abs/1608.03983; the cycle arguments are fast.ai 0.7's.
    """

    max_lr: float
    cycle_len: int = 1
    cycle_mult: float = 1
    n_cycles: int | None = None
    min_lr: float = 0.0
    peak_decay: float = 1.0
    warmup: str | None = None
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        require_numbers(max_lr=self.max_lr, min_lr=self.min_lr, peak_decay=self.peak_decay)
        require(0 < self.max_lr < math.inf, "`max_lr` must be a finite number > 0", max_lr=self.max_lr)
        ordered = 0 <= self.min_lr <= self.max_lr
        require(ordered, "`min_lr` must be in [0, max_lr]", min_lr=self.min_lr, max_lr=self.max_lr)
        require(0 < self.peak_decay <= 1, "`peak_decay` must be in (0, 1]", peak_decay=self.peak_decay)
        _check_cycles(self.cycle_len, self.cycle_mult)
        if self.n_cycles is not None:
            require_integer("n_cycles", self.n_cycles)
        _check_warmup(self.warmup, self.warmup_steps)

    @property
    def epochs(self) -> int | None:
        """Epochs of all `n_cycles`, or None for no end."""
        return None if self.n_cycles is None else total_epochs(self.n_cycles, self.cycle_len, self.cycle_mult)

    def cycle(self, epoch: int) -> Cycle:
        """Returns the cycle to which `epoch` (from 0) belongs."""
        return cycle_at(epoch, cycle_len=self.cycle_len, cycle_mult=self.cycle_mult)

    def cycles(self, epochs: int) -> list[Cycle]:
        """Returns the cycles that a training of `epochs` epochs begins; the last one may go on beyond it."""
        cycles: list[Cycle] = []
        for cycle in iterate_cycles(cycle_len=self.cycle_len, cycle_mult=self.cycle_mult):
            if cycle.first_epoch >= epochs or cycle.index == self.n_cycles:
                break
            cycles.append(cycle)
        return cycles

    def ends_cycle(self, epoch: int) -> bool:
        """Returns whether `epoch` (from 0) is the last one of its cycle."""
        return self.cycle(epoch).end_epoch == epoch + 1

    def peak(self, cycle_index: int) -> float:
        """Returns the highest rate of a cycle."""
        return max(self.min_lr, self.max_lr * self.peak_decay**cycle_index)

    def learning_rate(self, step: int, *, steps_per_epoch: int, held: int = 0) -> float:
        """Returns the rate of one batch.

        Args:
            step: The batch's number in the whole training, from 0.
            steps_per_epoch: Batches in an epoch, an integer >= 1.
            held: Batches before this one whose gradients wait for the same update; they all have the rate of the first
                of them in this cycle.

        Returns:
            The learning rate, a float in [min_lr, max_lr] (or `max_lr / 100` in fast.ai 0.7's warm-up).
        """
        cycle = self.cycle(step // steps_per_epoch)
        if self.n_cycles is not None and cycle.index >= self.n_cycles:
            return self.min_lr
        position = max(0, step - cycle.first_epoch * steps_per_epoch - held)
        return self._rate_in_cycle(position, cycle.num_epochs * steps_per_epoch, cycle.index)

    def momentum(self, step: int, *, steps_per_epoch: int, highest: float, lowest: float, held: int = 0) -> float:
        """Returns the momentum of one batch: `lowest` at its cycle's peak, and toward `highest` as the rate falls.

        It is linear in the rate, `highest - (highest - lowest) * (rate - min_lr) / (peak - min_lr)`.
        """
        rate = self.learning_rate(step, steps_per_epoch=steps_per_epoch, held=held)
        span = self.peak(self.cycle(step // steps_per_epoch).index) - self.min_lr
        height = max(0.0, rate - self.min_lr) / span if span else 1.0
        return lowest * height + highest * (1 - height)

    def warmup_steps_of(self, cycle_index: int, cycle_steps: int) -> int:
        """Number of warm-up batches at the start of a cycle of `cycle_steps` batches."""
        if self.warmup is None or (cycle_index > 0 and self.warmup != "restarts"):
            return 0
        return -(-cycle_steps // 20) if self.warmup == "fastai07" else int(self.warmup_steps or 0)

    def check_warmup(self, steps_per_epoch: int) -> None:
        """Refuses a warm-up that leaves the first cycle no batch, and so no peak."""
        steps = self.cycle_len * steps_per_epoch
        must = f"`warmup_steps` must be below the {steps} batches of the first cycle"
        require((self.warmup_steps or 0) < steps, must, warmup_steps=self.warmup_steps)

    def _rate_in_cycle(self, position: int, cycle_steps: int, cycle_index: int) -> float:
        peak, warm = self.peak(cycle_index), self.warmup_steps_of(cycle_index, cycle_steps)
        if self.warmup == "fastai07":
            return peak / 100 if position < warm else cosine(position, cycle_steps, start=peak, end=self.min_lr)
        if position < warm:
            return self.min_lr + (peak - self.min_lr) * (position + 1) / (warm + 1)
        return cosine(position - warm, cycle_steps - warm, start=peak, end=self.min_lr)


def cosine(position: float, length: float, *, start: float, end: float) -> float:
    """Returns half a cosine wave from `start` (at 0, exactly) to `end` (at `length`)."""
    share = (1 + math.cos(math.pi * position / length)) / 2
    # Not end + (start - end) * share: that is a rounding error off `start` where share is 1.
    return start * share + end * (1 - share)


@dataclass(frozen=True)
class CyclePlan:
    """Three numbers that end a training with a cycle."""

    n_cycles: int
    cycle_len: int
    cycle_mult: float

    @property
    def epochs(self) -> int:
        """Epochs of all cycles."""
        return total_epochs(self.n_cycles, self.cycle_len, self.cycle_mult)

    def __str__(self) -> str:
        numbers = f"n_cycles={self.n_cycles}, cycle_len={self.cycle_len}, cycle_mult={self.cycle_mult}"
        return f"{self.epochs} epochs ({numbers})"


def nearest_plans(epochs: int, *, cycle_len: int, cycle_mult: float) -> list[CyclePlan]:
    """Returns the plans nearest to one that `epochs` would cut short.

    With the same cycles, the longest below `epochs` and the shortest above; then one of exactly `epochs`, with the same
    multiplier if there is one of two cycles or more.
    """
    here = cycle_at(epochs - 1, cycle_len=cycle_len, cycle_mult=cycle_mult)
    near = [CyclePlan(n_cycles, cycle_len, cycle_mult) for n_cycles in (here.index, here.index + 1) if n_cycles > 0]
    exact = [
        CyclePlan(here.index + 1, first, mult)
        for mult in (cycle_mult, 2, 1)
        for first in range(1, epochs + 1)
        if (here := cycle_at(epochs - 1, cycle_len=first, cycle_mult=mult)).end_epoch == epochs
    ]
    best = min(exact, key=lambda p: (p.n_cycles == 1, p.cycle_mult != cycle_mult, abs(p.cycle_len - cycle_len)))
    return [*near, best]


def _check_cycles(cycle_len: int, cycle_mult: float) -> None:
    require_integer("cycle_len", cycle_len)
    require_numbers(cycle_mult=cycle_mult)
    require(1 <= cycle_mult < math.inf, "`cycle_mult` must be a finite number >= 1", cycle_mult=cycle_mult)


def _check_warmup(warmup: str | None, warmup_steps: int | None) -> None:
    require(warmup in (None, *WARMUPS), f"`warmup` must be None or one of {WARMUPS}", warmup=warmup)
    if warmup in ("start", "restarts"):
        require_integer("warmup_steps", warmup_steps)
    else:
        must = "`warmup_steps` must be None unless `warmup` is 'start' or 'restarts'"
        require(warmup_steps is None, must, warmup=warmup, warmup_steps=warmup_steps)
