"""Imports TensorFlow and Keras without the lines that they write about themselves, or says why that cannot be done."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def starts_quietly(command: click.Command) -> click.Command:
    """Makes a command, or each command of a group, import Keras quietly before it begins."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            starts_quietly(each)
    elif command.callback is not None:
        command.callback = _after_import(command.callback)
    return command


def _after_import(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def begin(*arguments: Any, **options: Any) -> Any:
        import_keras()
        return callback(*arguments, **options)

    return begin


def import_keras() -> None:
    """Imports Keras, which must compute with TensorFlow here: images are read and models are exported by it.

    Raises:
        ClickException: If it cannot be imported or has another backend; it says what to do.
    """
    chosen = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if chosen != "tensorflow":
        raise click.ClickException(
            "`keras-sgdr` needs Keras's TensorFlow backend. Received: KERAS_BACKEND="
            f"{chosen}. Unset that variable, or set KERAS_BACKEND=tensorflow."
        )
    try:
        import_tensorflow()
        import keras
    except Exception as error:
        remedy = "Install the packages anew: pip install --force-reinstall keras-sgdr"
        if not isinstance(error, ImportError):
            remedy = f"Mend or remove {_keras_json()}, or set KERAS_HOME to another directory."
        raise click.ClickException(f"Keras cannot be imported: {type(error).__name__}: {error}. {remedy}") from error
    for name, needed, present in (
        ("backend", "tensorflow", keras.config.backend()),
        ("image_data_format", "channels_last", keras.config.image_data_format()),
    ):
        if present != needed:
            raise click.ClickException(
                f"`keras-sgdr` needs the {name} {needed} of Keras. Received: {name}={present!r} in {_keras_json()}. "
                "Change it there, or set KERAS_HOME to another directory."
            )


def _keras_json() -> Path:
    return keras_home() / "keras.json"


def keras_home() -> Path:
    """Returns the directory of Keras's settings and downloads."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


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
