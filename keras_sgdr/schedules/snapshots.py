"""What is done at the ends of cycles: `CycleSnapshots`, `StopWhenOverfitting`; and `SnapshotEnsemble`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.validation import InvalidTypeError, InvalidValueError, require, require_integer


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The weights at the end of a cycle.

    Attributes:
        cycle: The cycle's number, from 0.
        epoch: Its last epoch, from 0.
        value: What was monitored, after that epoch.
        weights: The arrays of `model.get_weights()`, or the file that holds them.
    """

    cycle: int
    epoch: int
    value: float
    weights: list[NDArray[Any]] | Path

    def load(self, model: Any) -> None:
        """Loads the weights into a model of the same architecture."""
        load_weights(model, self.weights)


class _AtCycleEnd(keras.callbacks.Callback):
    """Calls `on_cycle_end` after the last epoch of each cycle and its validation."""

    def __init__(self, scheduler: Any, *, monitor: str) -> None:
        super().__init__()
        if not hasattr(scheduler, "ends_cycle") or isinstance(scheduler, type):
            raise InvalidTypeError(
                "`scheduler` must be the SGDRScheduler of the same `fit`. Received: "
                f"scheduler={scheduler!r}. Pass the object itself."
            )
        self.scheduler = scheduler
        self.monitor = monitor

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that the scheduler is of the same `fit`."""
        super().on_train_begin(logs)
        if getattr(self.scheduler, "params", self.params) is not self.params:
            raise InvalidValueError(
                "`scheduler` must be the SGDRScheduler of the same `fit`. Received: "
                f"scheduler={self.scheduler!r}, which is not among its callbacks. Pass both."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks whether a cycle ends, and from the first epoch on whether what is to be monitored is there."""
        super().on_epoch_end(epoch, logs)
        logs = logs or {}
        if self.monitor not in logs:
            raise InvalidValueError(
                f"`monitor` must be one of what `fit` logs, {sorted(logs)}. Received: monitor={self.monitor!r}. Give "
                "`fit` its `validation_data` (and `validation_freq=1`), or name another."
            )
        if self.scheduler.ends_cycle(epoch):
            self.on_cycle_end(epoch, float(logs[self.monitor]))

    def on_cycle_end(self, epoch: int, value: float) -> None:
        """Called after the last epoch of a cycle."""
        raise NotImplementedError


class CycleSnapshots(_AtCycleEnd):
    """Keeps the weights at the end of each cycle, after its last batch and its validation.

    A cycle that training does not finish leaves none. Writes no rate and changes nothing in the training, but for
    `restore_best_cycle` at its end.

    Args:
        scheduler: The `SGDRScheduler` of the same `fit`.
        directory: Where the files `cycle-01.weights.h5`, `cycle-02.weights.h5`, … go, in place of those of a training
            before, of which later cycles stay; None keeps the weights in memory.
        monitor: What tells a good cycle, a name that `fit` logs.
        mode: "min" if less of it is better, or "max".
        restore_best_cycle: Whether to give the model the weights of the best cycle when training ends.

    Attributes:
        snapshots: The `Snapshot`s of this training, in order.

    Raises:
        TypeError: If `scheduler` is none.
        ValueError: If `mode` is unknown; when training begins, if `scheduler` is not of the same `fit`; after the first
            epoch, if `monitor` is not logged.

    Reference:
        Huang et al., Snapshot Ensembles, https://arxiv.org/abs/1704.00109; fast.ai 0.7's `cycle_save_name`.
    """

    def __init__(
        self,
        scheduler: Any,
        *,
        directory: str | os.PathLike[str] | None = None,
        monitor: str = "val_loss",
        mode: str = "min",
        restore_best_cycle: bool = False,
    ) -> None:
        super().__init__(scheduler, monitor=monitor)
        require(mode in ("min", "max"), "`mode` must be 'min' or 'max'", mode=mode)
        self.mode = mode
        self.directory = None if directory is None else Path(directory)
        self.restore_best_cycle = restore_best_cycle
        self.snapshots: list[Snapshot] = []

    @property
    def best(self) -> Snapshot | None:
        """The snapshot with the best value, the first of equals; None before the end of a cycle."""
        sign = 1 if self.mode == "min" else -1
        return min(self.snapshots, key=lambda s: _worst_if_nan(sign * s.value), default=None)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the snapshots of a training before."""
        super().on_train_begin(logs)
        self.snapshots = []

    def get_state(self) -> dict[str, Any]:
        """Returns the snapshots, for a `TrainingCheckpoint`; of those on disk, where they are."""
        kept = [
            {**vars(s), "weights": s.weights if isinstance(s.weights, list) else str(s.weights)} for s in self.snapshots
        ]
        return {"snapshots": kept}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the snapshots."""
        for kept in state["snapshots"]:
            weights = kept["weights"]
            self.snapshots.append(
                Snapshot(**{**kept, "weights": Path(weights) if isinstance(weights, str) else weights})
            )

    def on_cycle_end(self, epoch: int, value: float) -> None:
        """Takes the snapshot."""
        cycle = self.scheduler.cycles.cycle(epoch).index
        weights = self.model.get_weights() if self.directory is None else self._save(self.directory, cycle)
        self.snapshots.append(Snapshot(cycle, epoch, value, weights))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the best cycle, if asked to."""
        super().on_train_end(logs)
        if self.restore_best_cycle and self.best is not None:
            self.best.load(self.model)

    def _save(self, directory: Path, cycle: int) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"cycle-{cycle + 1:02}.weights.h5"
        with atomic_write(path) as aside:
            self.model.save_weights(aside)
        return path


class StopWhenOverfitting(_AtCycleEnd):
    """Stops training when the validation loss at the end of cycles no longer improves, the eighth step of the course.

    Only ends of cycles are compared: within a cycle the loss rises with every restart.

    Args:
        scheduler: The `SGDRScheduler` of the same `fit`.
        patience: Number of cycles in a row that may end worse than the best before, an integer >= 1; at the end of the
            last of them training stops.
        monitor: What must fall, a name that `fit` logs.

    Raises:
        TypeError: If `scheduler` is none.
        ValueError: If `patience` is out of range; when training begins, if `scheduler` is not of the same `fit`; after
            the first epoch, if `monitor` is not logged.
    """

    def __init__(self, scheduler: Any, *, patience: int = 1, monitor: str = "val_loss") -> None:
        super().__init__(scheduler, monitor=monitor)
        require_integer("patience", patience)
        self.patience = patience
        self._values: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the cycles of a training before."""
        super().on_train_begin(logs)
        self._values = []

    def get_state(self) -> dict[str, Any]:
        """Returns how the cycles ended, for a `TrainingCheckpoint`."""
        return {"values": self._values}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores that."""
        self._values = list(state["values"])

    def on_cycle_end(self, epoch: int, value: float) -> None:  # noqa: ARG002
        """Stops the training where the last cycles were no better than the best before them."""
        self._values.append(_worst_if_nan(value))
        if len(self._values) - 1 - int(np.argmin(self._values)) >= self.patience:
            self.model.stop_training = True


class SnapshotEnsemble:
    """Predicts with the mean of what several snapshots predict.

    Args:
        model: A model of the snapshots' architecture; it has its own weights again after each prediction.
        snapshots: Snapshots of `CycleSnapshots`, or their files.
        last: Use the last so many, an integer >= 1; None uses all.

    Raises:
        TypeError: If `snapshots` is one file and no list.
        ValueError: If there is no snapshot, or `last` is out of range.

    Example:
        ```python
        snapshots = CycleSnapshots(scheduler)
        model.fit(dataset, validation_data=valid, epochs=scheduler.epochs, callbacks=[scheduler, snapshots])
        probabilities = SnapshotEnsemble(model, snapshots.snapshots, last=3).predict(valid)
        ```
    """

    def __init__(
        self, model: Any, snapshots: Sequence[Snapshot | str | os.PathLike[str]], *, last: int | None = None
    ) -> None:
        if last is not None:
            require_integer("last", last)
        if isinstance(snapshots, str | os.PathLike):
            raise InvalidTypeError(f"`snapshots` must be a list. Received: snapshots={snapshots!r}. Put it in one.")
        require(len(snapshots) > 0, "`snapshots` must hold at least one", snapshots=snapshots)
        self.model = model
        self.snapshots = list(snapshots)[-(last or 0) :]

    def predict(self, x: Any, **arguments: Any) -> Any:
        """Returns the mean over the snapshots of `model.predict(x, **arguments)`.

        Args:
            x: What `model.predict` takes; gone through once for each snapshot, so it must not shuffle.
            arguments: More of what it takes.

        Returns:
            Predictions, structure, shape and dtype as those of the model: for a classifier probabilities,
            `(n, num_classes)`.
        """
        with _kept_weights(self.model):
            total: Any = None
            for snapshot in self.snapshots:
                load_weights(self.model, snapshot.weights if isinstance(snapshot, Snapshot) else snapshot)
                # Shares of the mean, whose sum fits into float16 where that of the predictions would not.
                share = keras.tree.map_structure(
                    lambda each: each / len(self.snapshots), self.model.predict(x, **arguments)
                )
                total = share if total is None else keras.tree.map_structure(np.add, total, share)
        return total


def load_weights(model: Any, weights: Any) -> None:
    """Loads a model's weights from arrays or from a file."""
    if isinstance(weights, list):
        model.set_weights(weights)
    else:
        model.load_weights(weights)


@contextmanager
def _kept_weights(model: Any) -> Iterator[None]:
    weights = model.get_weights()
    try:
        yield
    finally:
        model.set_weights(weights)


def _worst_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
