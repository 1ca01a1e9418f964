"""Lists what is in a folder, on this machine or behind a URL that TensorFlow can open (`gs://…`)."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Finder's zip files and Synology's drives carry a shadow of every image; Windows leaves notes of its own.
_SHADOWS = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


def is_remote(path: str) -> bool:
    """Whether the path is a URL, for `tf.io.gfile`."""
    return "://" in path


def is_folder(path: str) -> bool:
    """Whether there is a folder at `path`."""
    return bool(_gfile().isdir(path)) if is_remote(path) else Path(path).is_dir()


def is_there(path: str) -> bool:
    """Whether there is a file or a folder at `path`."""
    return bool(_gfile().exists(path)) if is_remote(path) else Path(path).exists()


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
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(path, "rb") as remote:
            return bytes(remote.read(length))
    except tf.errors.OpError:
        return b""


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
    """Yields the names in a folder that are not hidden, each with whether it is a folder."""
    listed = _remote_entries(folder) if is_remote(folder) else _local_entries(folder)
    for name, is_dir in listed:
        if not name.startswith(".") and name not in _SHADOWS:
            yield name, is_dir


def _local_entries(folder: str) -> Iterator[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            # Not `entry.is_dir()`, which raises at a link to itself.
            yield entry.name, entry.is_dir() if not entry.is_symlink() else os.path.isdir(entry.path)  # noqa: PTH112


def _remote_entries(folder: str) -> Iterator[tuple[str, bool]]:
    gfile = _gfile()
    for name in gfile.listdir(folder):
        # Object stores end a folder's name with a slash; to ask about every file would be a request for each.
        stem = name.rstrip("/")
        yield stem, name.endswith("/") or ("." not in stem and gfile.isdir(f"{folder}/{stem}"))


def _gfile() -> Any:
    # Imported here, so that folders on this machine are indexed without TensorFlow.
    import tensorflow as tf

    return tf.io.gfile
