"""Checks of arguments, and the errors that the package raises on purpose.

Each error is a subclass of the built-in one that a Keras user expects, and of `KerasSgdrError`, which tells it from a
bug: the command line prints it as one line, and leaves a bug its traceback.
"""

from __future__ import annotations

import numbers


class KerasSgdrError(Exception):
    """An error that the caller can mend, and whose message says how."""


class InvalidValueError(KerasSgdrError, ValueError):
    """A value, a file's content or a combination of arguments that cannot be used."""


class InvalidTypeError(KerasSgdrError, TypeError):
    """An argument of the wrong kind."""


class MissingFileError(KerasSgdrError, FileNotFoundError):
    """A file or directory that is not there."""


class FileThereError(KerasSgdrError, FileExistsError):
    """A file or directory that would be overwritten."""


class NotReadyError(KerasSgdrError, RuntimeError):
    """A call that comes too early, or a model in a state that does not allow it."""


class MissingPackageError(KerasSgdrError, ImportError):
    """An optional package that is not installed."""


class WorkerLostError(KerasSgdrError, ConnectionError):
    """One of several workers has ended, or is not heard of."""


class ServerError(KerasSgdrError, ConnectionError):
    """A server's refusal, or silence."""


def require(holds: bool, must: str, **received: object) -> None:
    """Raises InvalidValueError with what must hold and what was received, unless it holds."""
    if not holds:
        values = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise InvalidValueError(f"{must}. Received: {values}.")


def require_numbers(**values: object) -> None:
    """Refuses anything but real numbers, Python's or NumPy's; True is none."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise InvalidTypeError(f"`{name}` must be a number. Received: {name}={value!r}.")


def require_integer(name: str, value: object, *, low: int = 1) -> None:
    """Refuses anything but an integer >= `low`, Python's or NumPy's; True is none."""
    holds = isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= low
    require(holds, f"`{name}` must be an integer >= {low}", **{name: value})
