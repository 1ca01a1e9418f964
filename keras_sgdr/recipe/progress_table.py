"""A table with one line per epoch, as the course shows it, and a bar while an epoch runs."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any, TextIO

import keras

from keras_sgdr.optimizers.access import read_learning_rate

_COLUMNS = ("epoch", "train_loss", "valid_loss", "accuracy", "seconds", "rate")


class ProgressTable(keras.callbacks.Callback):
    """Prints a table with one line per epoch: losses, accuracy, seconds, and the rate of its first batch.

    While an epoch runs, a bar with batches, time left, loss and rate stands in the last line, on a terminal only.
    Use it with `fit(..., verbose=0)`. Reads `optimizer.learning_rate`, writes nothing.

    Args:
        title: A line above the table.
        stream: A text stream. Defaults to `sys.stdout` at the time of printing.
    """

    def __init__(self, title: str = "", *, stream: TextIO | None = None) -> None:
        super().__init__()
        self.title = title
        self._stream = stream

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 (the names are Keras's)
        """Prints the title and the column heads."""
        if self.title:
            self._write(f"{self.title}\n")
        self._write("  ".join(f"{name:>10}" for name in _COLUMNS) + "\n")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Starts the epoch's clock."""
        self._epoch = epoch
        self._started = time.monotonic()
        self._shown = 0.0
        self._rate = float("nan")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar."""
        if batch == 0:
            self._rate = read_learning_rate(self.model.optimizer)
        now = time.monotonic()
        if self._out.isatty() and now - self._shown > 0.2:
            self._shown = now
            self._write(f"\r{self._bar(batch + 1, logs or {})}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prints the epoch's line over the bar."""
        logs = logs or {}
        seconds = time.monotonic() - self._started
        cells = [f"{epoch + 1:>10}"]
        cells += [_cell(value) for value in (logs.get("loss"), logs.get("val_loss"), _accuracy(logs))]
        cells += [f"{seconds:>10.1f}", f"{self._rate:>10.2e}"]
        self._clear()
        self._write("  ".join(cells) + "\n")

    @property
    def _out(self) -> TextIO:
        return self._stream or sys.stdout

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _clear(self) -> None:
        if self._out.isatty():
            self._write("\r\x1b[K")

    def _bar(self, done: int, logs: dict[str, Any]) -> str:
        total = self.params.get("steps")
        elapsed = time.monotonic() - self._started
        text = f"epoch {self._epoch + 1}/{self.params.get('epochs')}"
        if total:
            filled = 24 * done // total
            left = elapsed / done * (total - done)
            text += f" [{'=' * filled}{'.' * (24 - filled)}] {done}/{total}, {left:.0f} s left"
        else:
            text += f" {done} batches"
        rate = read_learning_rate(self.model.optimizer)
        text += f", loss {float(logs.get('loss', float('nan'))):.4f}, rate {rate:.1e}"
        return f"{text[: shutil.get_terminal_size().columns - 1]}\x1b[K"


def _accuracy(logs: dict[str, Any]) -> Any:
    for prefix in ("val_", ""):
        for name, value in logs.items():
            if name.startswith(prefix) and name.endswith(("accuracy", "acc")):
                return value
    return None


def _cell(value: Any) -> str:
    return f"{'':>10}" if value is None else f"{float(value):>10.4f}"
