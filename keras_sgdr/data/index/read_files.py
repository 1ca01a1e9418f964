"""Reads image files of any kind, and what tells whether they have changed: on this machine, in shards, behind a URL."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_sgdr.data.index import remote
from keras_sgdr.data.index.files import is_remote
from keras_sgdr.data.index.shards import ShardPaths, is_record, row_of


def are_plain(paths: Sequence[str]) -> bool:
    """Whether all of these are files on this machine, each with a name of its own."""
    return not isinstance(paths, ShardPaths) and not any(is_remote(path) or is_record(path) for path in paths)


def read_files(paths: Sequence[str]) -> list[bytes | OSError]:
    """Reads files; where that fails, there is an error that says why."""
    at_urls = [path for path in paths if is_remote(path) and not is_record(path)]
    found = dict(zip(at_urls, remote.read(at_urls), strict=True)) if at_urls else {}
    return [found[path] if path in found else _read(path) for path in paths]


def file_stamps(paths: Sequence[str], *, missing: tuple[int, int] | None = None) -> Iterator[tuple[int, int]]:
    """Yields the size in bytes of each file, and the time of its last change in nanoseconds or a hash of what it holds.

    Args:
        paths: The files.
        missing: What a file has that cannot be looked at: one that is not there, or a link to nothing or to itself.
            None for an error.

    Raises:
        OSError: If there is such a file, and that is an error.
    """
    at_urls = remote.stamps([path for path in paths if is_remote(path) and not is_record(path)], missing)
    for path in paths:
        if is_record(path):
            shards, row = row_of(path)
            yield shards.stamps(row)[0]
        else:
            yield next(at_urls) if is_remote(path) else _local_stamp(path, missing)


def _local_stamp(path: str, missing: tuple[int, int] | None) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 (faster than by a Path, and there may be a million)
    except OSError:
        if missing is None:
            raise
        return missing
    return found.st_size, found.st_mtime_ns


def _read(path: str) -> bytes | OSError:
    if is_record(path):
        shards, row = row_of(path)
        return shards.read(row)[0]
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return error
