"""A directory of arrays under keys: found again, resumed after a kill, limited in size."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_sgdr.array_store import (
    ENTRY_FILE,
    JOURNAL_FILE,
    PARTIAL,
    ArrayWriter,
    StoredArray,
    describe_arrays,
    open_arrays,
    remove_arrays,
    writing_arrays,
)
from keras_sgdr.validation import InvalidValueError

CACHE_VARIABLE = "KERAS_SGDR_CACHE"
# The folder, beside the entries, for what checks of folders have seen
CHECKS = "checks"
_ADVICE = (
    "activations could not be kept; what is written counts for the next run. Free space, or set KERAS_SGDR_CACHE to "
    "another directory, or to 'off' to keep them in memory"
)


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """What is known of one entry.

    Attributes:
        key: Its key.
        complete: Whether it can be read; an incomplete one is resumed by the next run that needs it.
        num_bytes: Its size on disk.
        last_used: When it was last written or opened, in seconds since 1970.
        description: What its writer said of it.
    """

    key: str
    complete: bool
    num_bytes: int
    last_used: float
    description: Mapping[str, Any]


class FeatureCache:
    """A directory of entries, each a list of arrays with one row per image.

    An entry appears under its key when it is complete, see `keras_sgdr.array_store`.

    Args:
        directory: Where the entries are; made when the first is written.
        max_bytes: The size above which the least recently used entries are removed when one has been written. The
            newest stays, whatever its size. `None` for no limit.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int | None = None) -> None:
        if max_bytes is not None and not max_bytes > 0:
            raise InvalidValueError(f"`max_bytes` must be positive or None. Received: max_bytes={max_bytes}.")
        self.directory = Path(directory)
        self.max_bytes = max_bytes

    def entries(self) -> list[CacheEntry]:
        """Lists the entries, the most recently used first."""
        folders = [folder for folder in self.directory.glob("*") if (folder / JOURNAL_FILE).is_file()]
        found = [entry for entry in map(_describe, folders) if entry is not None]
        return sorted(found, key=lambda entry: -entry.last_used)

    def clear(self) -> int:
        """Removes all entries but those that another process is writing, and what checks of folders have seen.

        Returns:
            The number of bytes that were freed.
        """
        checks = list((self.directory / CHECKS).glob("*.npz"))
        freed = sum(path.stat().st_size for path in checks)
        for path in checks:
            path.unlink(missing_ok=True)
        return freed + sum(self._remove(entry) for entry in self.entries())

    def read(self, key: str) -> list[StoredArray] | None:
        """Opens a complete entry and notes that it was used.

        Args:
            key: The key.

        Returns:
            The arrays, which stay on disk; `None` if there is no such entry. A damaged one is removed.
        """
        folder = self.directory / key
        try:
            arrays = open_arrays(folder)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):  # not OSError: a drive that is away for a moment damages nothing
            remove_arrays(folder)
            return None
        with contextlib.suppress(OSError):  # a cache may be shared that this user cannot write to
            os.utime(folder / ENTRY_FILE)
        return arrays

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[ArrayWriter]:
        """Opens an incomplete entry, new or left by an interrupted run, for this process alone.

        Args:
            key: The key.

        Yields:
            The writer. Its `complete(description)` makes the entry readable under the key. Another process that wants
            to write the same entry waits. At the end, entries that exceed the limit are removed.
        """
        with writing_arrays(self.directory / key, advice=_ADVICE) as writer:
            yield writer
        self._evict(keep=key)

    def _evict(self, *, keep: str) -> None:
        if self.max_bytes is None:
            return
        entries = self.entries()
        excess = sum(entry.num_bytes for entry in entries) - self.max_bytes
        for entry in reversed([entry for entry in entries if entry.key != keep]):
            if excess > 0:
                excess -= self._remove(entry)

    def _remove(self, entry: CacheEntry) -> int:
        return entry.num_bytes if remove_arrays(self.directory / entry.key) else 0


def user_cache(*, max_bytes: int | None = None) -> FeatureCache | None:
    """Opens the cache that runs of this user share.

    Args:
        max_bytes: As in `FeatureCache`.

    Returns:
        The cache in `default_cache_directory()`; `None`, which means memory, if `KERAS_SGDR_CACHE` is `"off"`. If
        nothing can be written there, it is a temporary one for this process, and a warning says so.
    """
    if os.environ.get(CACHE_VARIABLE) == "off":
        return None
    try:
        directory = default_cache_directory()
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, RuntimeError) as error:
        directory = _temporary_directory()
        warnings.warn(
            f"Activations are kept in {directory} until this process ends, for the user's cache cannot be written "
            f"({error}). Set {CACHE_VARIABLE} to a directory, or to 'off' to keep them in memory.",
            stacklevel=2,
        )
    return FeatureCache(directory, max_bytes=max_bytes)


def default_cache_directory() -> Path:
    """Says where runs and the command line keep features.

    Returns:
        `$KERAS_SGDR_CACHE`, unless it is not set or `"off"`; then `$XDG_CACHE_HOME/keras_sgdr` or
        `~/.cache/keras_sgdr`.

    Raises:
        RuntimeError: If the user has no home directory.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen and chosen != "off":
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_sgdr"


@functools.cache
def _temporary_directory() -> Path:
    directory = tempfile.mkdtemp(prefix="keras_sgdr-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def _describe(folder: Path) -> CacheEntry | None:
    """Describes an entry; None if another process has removed or completed it meanwhile."""
    complete = not folder.name.endswith(PARTIAL)
    entry_file = folder / ENTRY_FILE
    key = folder.name.removesuffix(PARTIAL)
    with contextlib.suppress(FileNotFoundError):
        used = entry_file if complete and entry_file.is_file() else folder
        num_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        return CacheEntry(key, complete, num_bytes, used.stat().st_mtime, describe_arrays(folder))
    return None
