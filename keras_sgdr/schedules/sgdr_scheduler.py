"""Cosine annealing with warm restarts as a callback: `SGDRScheduler`."""

from __future__ import annotations

import math
import warnings
from typing import Any

from keras_sgdr.schedules.batch_scheduler import BatchScheduler
from keras_sgdr.schedules.cosine_cycles import CosineCycles, nearest_plans
from keras_sgdr.schedules.preview import SchedulePreview
from keras_sgdr.validation import require


class SGDRScheduler(BatchScheduler):
    """Anneals the learning rate along a cosine, batch by batch, and restarts it at each cycle.

    The first batch of a cycle runs at exactly the cycle's peak, batch `i` of its `n` batches at

        min_lr + (peak - min_lr) / 2 * (1 + cos(pi * i / n))

    The rate is a function of `epoch * steps_per_epoch + batch` and of nothing else: with `initial_epoch`, or after
    Keras's `BackupAndRestore`, it goes on where it would have been; a second `fit` from epoch 0 starts anew.

    Training stops at the end of the last of `n_cycles`, whatever `epochs` says. If `epochs` ends within a cycle, a
    warning before the first batch names the plans near it that do not.

    With gradient accumulation a cycle is counted in batches as always, and all batches of one update run at the rate
    of the first of them; a restart takes the peak at once. Under `steps_per_execution > 1`, where Keras calls
    back too rarely, it refuses: use the schedule `SGDR` there.

    If the data's length is unknown and `steps_per_epoch` is not given, the first epoch runs at one rate, that of its
    first batch, and shows the length; a warning says so.

    Writes: `optimizer.learning_rate` before every batch; `logs["learning_rate"]` at the end of an epoch, the rate of
    its last batch. If another callback writes the rate too, a warning says so once.

    Args:
        max_lr: The rate at the first restart, > 0. The optimizer's own rate plays no part.
        cycle_len: Length of the first cycle in epochs, an integer >= 1.
        cycle_mult: Factor from one cycle's length to the next, a number >= 1; cycles are rounded to whole epochs.
        n_cycles: Number of cycles after which training stops, or None to go on to the end of `epochs`.
        min_lr: The rate to which a cycle falls, in [0, max_lr].
        peak_decay: Factor from one cycle's peak to the next, in (0, 1].
        steps_per_epoch: Batches in an epoch; needed only where `fit` does not know it.
        warmup: None, "start", "restarts" or "fastai07"; see `CosineCycles`.
        warmup_steps: Batches of the warm-ups "start" and "restarts".
        momentum: Highest and lowest momentum, in (0, 1): the lowest at the peak of each cycle, and from there in step
            with the rate toward the highest, as `CosineCycles.momentum` says; None leaves it alone. The optimizer must
            be a `DifferentialLR` with `movable_momentum=True`. Only training steps see it: the optimizer's attribute,
            and a file that is saved, keep the optimizer's own.

    Attributes:
        present_momentum: The momentum of the batch that was begun last; None where none is moved.

    Raises:
        TypeError: If a rate, factor or momentum is no number.
        ValueError: On construction or before the first batch, if an argument is out of its range, the optimizer's rate
            or momentum cannot be set, or `fit`'s arguments contradict.

    Example:
        ```python
        scheduler = SGDRScheduler(0.01, cycle_len=1, cycle_mult=2, n_cycles=3)
        model.fit(dataset, epochs=scheduler.epochs, callbacks=[scheduler])  # 7 epochs: 1 + 2 + 4
        ```

    Reference:
        Loshchilov and Hutter, SGDR, https://arxiv.org/abs/1608.03983; fast.ai 0.7 for the cycles' arguments.
    """

    def __init__(
        self,
        max_lr: float,
        *,
        cycle_len: int = 1,
        cycle_mult: float = 1,
        n_cycles: int | None = None,
        min_lr: float = 0.0,
        peak_decay: float = 1.0,
        steps_per_epoch: int | None = None,
        warmup: str | None = None,
        warmup_steps: int | None = None,
        momentum: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(steps_per_epoch=steps_per_epoch, momentum=momentum)
        self.cycles = CosineCycles(
            max_lr,
            cycle_len=cycle_len,
            cycle_mult=cycle_mult,
            n_cycles=n_cycles,
            min_lr=min_lr,
            peak_decay=peak_decay,
            warmup=warmup,
            warmup_steps=warmup_steps,
        )

    @property
    def epochs(self) -> int | None:
        """Epochs of all `n_cycles`, for `fit`; None if `n_cycles` is None."""
        return self.cycles.epochs

    def ends_cycle(self, epoch: int) -> bool:
        """Returns whether `epoch` (from 0) is the last of a cycle."""
        return self.cycles.ends_cycle(epoch)

    def preview(self, *, steps_per_epoch: int, epochs: int | None = None, optimizer: Any = None) -> SchedulePreview:
        """Returns the rates of a training without running it.

        Args:
            steps_per_epoch: Batches in an epoch, an integer >= 1.
            epochs: Epochs of the training; None for all `n_cycles`.
            optimizer: A `DifferentialLR`, to show the rate of each of its groups.

        Returns:
            A `SchedulePreview`: as text a table of the cycles; `.plot()` draws it.

        Raises:
            ValueError: If neither `epochs` nor `n_cycles` ends the training.
        """
        must = "`epochs` must be given where there is no end by `n_cycles`"
        require(epochs is not None or self.epochs is not None, must, epochs=None, n_cycles=None)
        ends = [count for count in (epochs, self.epochs) if count is not None]
        multipliers = getattr(optimizer, "multipliers", (1.0,))
        return SchedulePreview(self.cycles, epochs=min(ends), steps_per_epoch=steps_per_epoch, multipliers=multipliers)

    def rate_at(self, epoch: int, batch: int, *, held: int) -> float:
        """Returns the rate of one batch, `held` batches into an update."""
        return self.cycles.learning_rate(**self._place(epoch, batch, held))

    def momentum_at(self, epoch: int, batch: int, *, held: int) -> float:
        """Returns the momentum of one batch, `held` batches into an update."""
        highest, lowest = self.momentum or (0.0, 0.0)
        return self.cycles.momentum(**self._place(epoch, batch, held), highest=highest, lowest=lowest)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks the plan against `fit`'s."""
        super().on_train_begin(logs)
        if self.steps_per_epoch is None:
            self._accept_unknown_length()
        else:
            self.cycles.check_warmup(self.steps_per_epoch)
        self._warn_of_a_cycle_cut_short()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Refuses to start after the last cycle."""
        super().on_epoch_begin(epoch, logs)
        must = f"`initial_epoch` must be below the {self.epochs} epochs of the {self.cycles.n_cycles} cycles"
        require(epoch < (self.epochs or math.inf), must, initial_epoch=epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the rate, and stops the training after the last cycle."""
        super().on_epoch_end(epoch, logs)
        if epoch + 1 == self.epochs:
            self.model.stop_training = True

    def _place(self, epoch: int, batch: int, held: int) -> dict[str, int]:
        if self.steps_per_epoch is None:
            return {"step": epoch, "steps_per_epoch": 1}
        step = epoch * self.steps_per_epoch + min(batch, self.steps_per_epoch - 1)
        return {"step": step, "steps_per_epoch": self.steps_per_epoch, "held": held}

    def _accept_unknown_length(self) -> None:
        must = "`warmup` needs `steps_per_epoch` for data of unknown length"
        require(self.cycles.warmup is None, must, warmup=self.cycles.warmup, steps_per_epoch=None)
        warnings.warn(
            "The number of batches in an epoch is unknown: the first epoch runs at the rate of its first batch, the "
            "schedule follows from the second on. Give `steps_per_epoch` to have it from the start.",
            stacklevel=2,
        )

    def _warn_of_a_cycle_cut_short(self) -> None:
        epochs = min(self.params.get("epochs") or 1, self.epochs or math.inf)
        if not self.cycles.ends_cycle(int(epochs) - 1):
            plans = nearest_plans(int(epochs), cycle_len=self.cycles.cycle_len, cycle_mult=self.cycles.cycle_mult)
            warnings.warn(
                f"The last cycle is cut short: `epochs` ends within it. Received: epochs={epochs}. Plans that end "
                f"with a cycle: {'; '.join(map(str, plans))}.",
                stacklevel=2,
            )
