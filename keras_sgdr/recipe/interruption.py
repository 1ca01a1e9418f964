"""Ends a training at the next batch after Ctrl-C or SIGTERM, with all that it has done on the disk."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_sgdr.checkpoint.training_checkpoint import TrainingCheckpoint


class Interruption:
    """Takes note of SIGINT (Ctrl-C) and SIGTERM while a model trains; elsewhere they interrupt at once.

    A second signal interrupts at once anyhow. One that is ignored, as a shell does with SIGINT for what it starts in
    the background, stays ignored.

    Args:
        at_once: True to interrupt a training at once too. Of several workers each may have its signal in another batch,
            where what one of them writes would wait for the others.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._is_training = self._is_asked = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the signals; Python lets only its first thread do so, in others nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)

    def _handle(self, _number: int, _frame: Any) -> None:
        if not self._is_training or self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True

    def callback(self, checkpoint: TrainingCheckpoint, say: Callable[[str], None]) -> keras.callbacks.Callback:
        """Returns what ends a training at the next batch; it must come after the checkpoint, which it writes."""
        return _EndAtBatch(self, checkpoint, say)

    def begin(self) -> None:
        """Begins to wait for the end of a batch."""
        self._is_training = not self._at_once

    def end(self) -> None:
        """Interrupts at once again."""
        self._is_training = False

    @property
    def is_asked(self) -> bool:
        """Whether the run is to end."""
        return self._is_asked


class _EndAtBatch(keras.callbacks.Callback):
    def __init__(self, interruption: Interruption, checkpoint: TrainingCheckpoint, say: Callable[[str], None]) -> None:
        super().__init__()
        self._interruption, self._checkpoint, self._say = interruption, checkpoint, say

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self._interruption.begin()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self._interruption.is_asked and self._checkpoint.save():
            self._end()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self._interruption.is_asked:  # in the last batch, or while it validated
            self._end()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        self._interruption.end()

    def _end(self) -> None:
        self._say("interrupted: saved what was trained up to this batch")
        raise KeyboardInterrupt
