"""Imports TensorFlow without the lines that it writes about itself."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import click


def starts_quietly(command: click.Command) -> click.Command:
    """Makes a command, or each command of a group, import TensorFlow quietly before it begins."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            starts_quietly(each)
    elif command.callback is not None:
        command.callback = _after_import(command.callback)
    return command


def _after_import(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def begin(*arguments: Any, **options: Any) -> Any:
        import_tensorflow()
        return callback(*arguments, **options)

    return begin


def import_tensorflow() -> None:
    """Imports TensorFlow; what it writes to standard error meanwhile is shown only if the import fails.

    Its libraries write to the file descriptor before they read TF_CPP_MIN_LOG_LEVEL
    (https://github.com/tensorflow/tensorflow/issues/62770), so nothing but the descriptor itself can be silenced.
    """
    if "tensorflow" in sys.modules or sys.stderr is None:
        return
    sys.stderr.flush()
    descriptor = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()  # looks for GPUs, and writes about that too
        except BaseException:
            written.seek(0)
            os.write(descriptor, written.read())
            raise
        finally:
            os.dup2(descriptor, 2)
            os.close(descriptor)
