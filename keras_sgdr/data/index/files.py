"""Lists what is in a folder, on this machine or behind a URL (`s3://…`, `gs://…`)."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_sgdr.data.index import remote
from keras_sgdr.validation import InvalidValueError

# Finder's zip files and Synology's drives carry a shadow of every image; Windows leaves notes of its own.
_SHADOWS = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


def is_remote(path: str) -> bool:
    """Whether the path is a URL."""
    return "://" in path


def require_local(name: str, path: str | os.PathLike[str]) -> None:
    """Refuses a URL where something is to be written, also one of whose slashes a `Path` has taken one away."""
    if re.match(r"\w\w+:/", os.fspath(path)):
        raise InvalidValueError(
            f"`{name}` must be on this machine. Received: {name}={os.fspath(path)!r}. Copy it there when it is done; "
            "`keras-sgdr train --upload` does that for a run."
        )


def is_folder(path: str) -> bool:
    """Whether there is a folder at `path`."""
    return remote.is_folder(path) if is_remote(path) else Path(path).is_dir()


def is_there(path: str) -> bool:
    """Whether there is a file or a folder at `path`."""
    return remote.exists(path) if is_remote(path) else Path(path).exists()


def subfolders(folder: str, skipped: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the sorted names of the folders in `folder` that are neither hidden nor in `skipped`."""
    return tuple(sorted(name for name, is_dir in _entries(folder) if is_dir and name not in skipped))


def files_below(folder: str, ancestors: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the files at any depth below `folder`, in no order, without hidden ones and each folder once.

    Args:
        folder: Where to look.
        ancestors: The folders that led here; a link back to one of them is not followed.
    """
    here = folder if is_remote(folder) else os.path.realpath(folder)
    if here in ancestors:
        return
    for name, is_dir in _entries(folder):
        if is_dir:
            yield from files_below(f"{folder}/{name}", (*ancestors, here))
        else:
            yield f"{folder}/{name}"


def files_in(folder: str) -> tuple[str, ...]:
    """Returns the sorted paths of the files in `folder` itself that are not hidden."""
    return tuple(sorted(f"{folder}/{name}" for name, is_dir in _entries(folder) if not is_dir))


def is_no_file(path: str) -> bool:
    """Whether a path is a pipe, a socket or a device, to read from which may take for ever."""
    try:
        return not is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 (a million files)
    except OSError:  # to open it says what is wrong
        return False


def head_of(path: str, length: int) -> bytes:
    """Reads the first bytes of a file; none where it cannot be read."""
    if not is_remote(path):
        try:
            if is_no_file(path):
                return b""
            with Path(path).open("rb") as file:
                return file.read(length)
        except OSError:
            return b""
    found = remote.read([path], [0], [length])[0]
    return b"" if isinstance(found, OSError) else found


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
    """Yields the names in a folder that are not hidden, each with whether it is a folder."""
    listed = remote.entries(folder) if is_remote(folder) else _local_entries(folder)
    for name, is_dir in listed:
        if not name.startswith(".") and name not in _SHADOWS:
            yield name, is_dir


def _local_entries(folder: str) -> Iterator[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            # Not `entry.is_dir()`, which raises at a link to itself.
            yield entry.name, entry.is_dir() if not entry.is_symlink() else os.path.isdir(entry.path)  # noqa: PTH112
