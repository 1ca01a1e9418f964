"""The command group, which prints errors as one line."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from typing import Any

import click

from .data import check, relabel, shard, show
from .data_service import data_service
from .demo import demo
from .doctor import doctor
from .inference import compare, evaluate, predict, report
from .machine import backbones, cache, completion
from .serving import export, serve
from .startup import starts_quietly
from .train import lr_find, train

# Before TensorFlow is imported by a command: its remarks on itself would stand between the user and the answer. What is
# wrong with the user's call comes as an exception.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On processors without VNNI, TensorFlow leaves off what makes a training step cost half.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
logging.getLogger("tensorflow").setLevel(logging.ERROR)


class _OneLineErrors(click.Group):
    """Prints an error that this package raises on purpose as one line; a bug keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.ClickException(f"interrupted. {_resume_hint(ctx)}".rstrip()) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # `keras-sgdr backbones | head`: click ends in silence
                raise
            raise _one_line(_os_error_line(error)) from error
        except Exception as error:
            if not (_is_deliberate(error) or _is_tensorflows(error)):
                raise
            raise _one_line(_line_of(error)) from error


def _one_line(message: str) -> click.ClickException:
    """Keeps an error on one line of any terminal: the name of a class or a file may hold a line's end."""
    from keras_sgdr.data.index.file_names import printable

    return click.ClickException(printable(message))


def _is_tensorflows(error: Exception) -> bool:
    """Whether TensorFlow refused an input in the graph: a file that is no image, a disk that is full."""
    return type(error).__module__ == "tensorflow.python.framework.errors_impl"


def _line_of(error: Exception) -> str:
    if not _is_tensorflows(error):
        return str(error)
    from keras_sgdr.data.decode.corrupt_images import reason_of

    hint = "`keras-sgdr check` names the files of a folder that cannot be read."
    return f"{reason_of(error)}. {hint}" if type(error).__name__ == "InvalidArgumentError" else reason_of(error)


def _is_deliberate(error: Exception) -> bool:
    """Whether this package raised it on purpose, which its class tells."""
    if isinstance(error, (click.ClickException, click.exceptions.Exit)):  # and --help need not wait for the library
        return False
    from keras_sgdr.validation import KerasSgdrError

    return isinstance(error, KerasSgdrError)


def _os_error_line(error: OSError) -> str:
    if error.filename is not None and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return str(error)


def _resume_hint(ctx: click.Context) -> str:
    if ctx.invoked_subcommand in ("train", "demo"):
        return "What is done is kept; the same command with --resume goes on from there."
    return ""


@click.group(
    cls=_OneLineErrors,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="\b\nExamples:\n"
    "  keras-sgdr train pets -o runs/pets\n"
    "  keras-sgdr predict runs/pets rex.jpg\n"
    "  keras-sgdr train --help",
)
@click.version_option(package_name="keras-sgdr")
def cli() -> None:
    """Turns a folder of images into a served image classifier, the way the fast.ai course teaches it."""


for command in (
    check,
    relabel,
    shard,
    show,
    train,
    lr_find,
    evaluate,
    report,
    compare,
    predict,
    export,
    serve,
    demo,
    backbones,
    cache,
    data_service,
):
    cli.add_command(starts_quietly(command))
# These do not begin with TensorFlow: one tells what is wrong with it, the other needs none.
cli.add_command(doctor)
cli.add_command(completion)


def main() -> None:
    """Runs the command line; the exit code is 0, 1 (an error, in one line) or 2 (a wrong call)."""
    for stream in (sys.stdout, sys.stderr):
        # A file's name need not be UTF-8, nor the terminal's encoding have every letter.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(cli())
