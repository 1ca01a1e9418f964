"""`SchedulePreview`: a schedule as a table and a figure, without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sgdr.schedules.cosine_cycles import CosineCycles, Cycle
from keras_sgdr.validation import require_integer


class SchedulePreview:
    """The learning rates of a training with cosine cycles, without training; printed, a table of its cycles.

    Args:
        cycles: The schedule.
        epochs: Epochs of the training, an integer >= 1.
        steps_per_epoch: Batches in an epoch, an integer >= 1.
        multipliers: The rate of each layer group as a multiple of the schedule's.

    Attributes:
        learning_rates: The rate of each batch and group, shape `(epochs * steps_per_epoch, groups)`.
        cycle_ends: Number of epochs after which each finished cycle ends.

    Raises:
        ValueError: If a count is out of range, or a warm-up leaves the first cycle no batch.
    """

    def __init__(
        self, cycles: CosineCycles, *, epochs: int, steps_per_epoch: int, multipliers: Sequence[float] = (1.0,)
    ) -> None:
        require_integer("epochs", epochs)
        require_integer("steps_per_epoch", steps_per_epoch)
        cycles.check_warmup(steps_per_epoch)
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.cycles = cycles.cycles(epochs)
        rates = [
            cycles.learning_rate(step, steps_per_epoch=steps_per_epoch) for step in range(epochs * steps_per_epoch)
        ]
        self.learning_rates: NDArray[np.float64] = np.outer(rates, multipliers)
        self.cycle_ends = [cycle.end_epoch for cycle in self.cycles if cycle.end_epoch <= epochs]

    def plot(self) -> Any:
        """Returns a matplotlib figure of each group's rate over the epochs, with the ends of the cycles."""
        from keras_sgdr.plots import plot_schedule

        return plot_schedule(self.learning_rates, steps_per_epoch=self.steps_per_epoch, cycle_ends=self.cycle_ends)

    def __str__(self) -> str:
        groups = self.learning_rates.shape[1]
        epochs, batches = _counted(self.epochs, "epoch"), _counted(self.steps_per_epoch, "batch", "batches")
        title = f"{epochs} of {batches} in {_counted(len(self.cycles), 'cycle')}"
        names = ["rate"] if groups == 1 else [f"group {group}" for group in range(groups)]
        head = f"{'cycle':>5}  {'epochs':>9}  {'batches':>8}  " + "  ".join(f"{name:>20}" for name in names)
        return "\n".join([title, head, *map(self._row, self.cycles)])

    def _row(self, cycle: Cycle) -> str:
        end = min(cycle.end_epoch, self.epochs)
        rates = self.learning_rates[cycle.first_epoch * self.steps_per_epoch : end * self.steps_per_epoch]
        # The highest is the first one, unless the cycle is warmed up.
        spans = "  ".join(
            f"{peak:>8.2e} to {last:8.2e}" for peak, last in zip(rates.max(axis=0), rates[-1], strict=True)
        )
        epochs = f"{cycle.first_epoch + 1}-{end}" if end > cycle.first_epoch + 1 else str(end)
        cut = "  (cut short)" if end < cycle.end_epoch else ""
        return f"{cycle.index + 1:>5}  {epochs:>9}  {len(rates):>8}  {spans}{cut}"


def _counted(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
