"""Arrays of rows kept on disk under a key: written batch by batch, resumed after a kill, read at random."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_ENTRY_FILE, _JOURNAL_FILE, _LOCK_FILE, _PARTIAL = "entry.json", "journal.jsonl", "lock", ".partial"


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
    """A directory of entries, each a list of arrays with one row per picture.

    An entry appears under its key when it is complete, by one renaming; before that it is a `.partial` folder with a
    journal of the batches that are in it, each with its checksum.

    Args:
        directory: Where the entries are; made when the first is written.
        max_bytes: The size above which the least recently used entries are removed when one has been written. The
            newest stays, whatever its size. `None` for no limit.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int | None = None) -> None:
        if max_bytes is not None and not max_bytes > 0:
            raise ValueError(f"`max_bytes` must be positive or None. Received: max_bytes={max_bytes}.")
        self.directory = Path(directory)
        self.max_bytes = max_bytes

    def entries(self) -> list[CacheEntry]:
        """Lists the entries, the most recently used first."""
        folders = [folder for folder in self.directory.glob("*") if (folder / _LOCK_FILE).is_file()]
        return sorted((_describe(folder) for folder in folders), key=lambda entry: -entry.last_used)

    def clear(self) -> int:
        """Removes all entries, the incomplete ones too.

        Returns:
            The number of bytes that were freed.
        """
        return sum(self._remove(entry) for entry in self.entries())

    def read(self, key: str) -> list[np.ndarray] | None:
        """Opens a complete entry and notes that it was used.

        Args:
            key: The key.

        Returns:
            The arrays, mapped from disk and read only; `None` if there is no such entry. A damaged one is removed.
        """
        folder = self.directory / key
        try:
            entry = json.loads((folder / _ENTRY_FILE).read_text(encoding="utf-8"))
            arrays = [_map_column(folder, number, column) for number, column in enumerate(entry["columns"])]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, OSError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        os.utime(folder / _ENTRY_FILE)
        return arrays

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[EntryWriter]:
        """Opens an incomplete entry, new or left by an interrupted run, for this process alone.

        Args:
            key: The key.

        Yields:
            The writer. Another process that wants to write the same entry waits.
        """
        folder = self.directory / (key + _PARTIAL)
        with _locked(folder):
            writer = EntryWriter(folder)
            try:
                yield writer
            finally:
                if not writer.num_batches:
                    shutil.rmtree(folder, ignore_errors=True)

    def complete(self, key: str, description: Mapping[str, Any]) -> None:
        """Makes what a writer wrote readable under its key, and removes what exceeds the limit.

        Args:
            key: The key.
            description: Anything that JSON holds.
        """
        partial = self.directory / (key + _PARTIAL)
        columns, batches = _read_journal(partial)
        entry = {"columns": _with_rows(columns, batches), "description": dict(description), "created": time.time()}
        (partial / _ENTRY_FILE).write_text(json.dumps(entry), encoding="utf-8")
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(self.directory / key, ignore_errors=True)
        partial.rename(self.directory / key)
        self._evict(keep=key)

    def _evict(self, *, keep: str) -> None:
        entries = self.entries()
        excess = sum(entry.num_bytes for entry in entries) - (self.max_bytes or float("inf"))
        for entry in reversed([entry for entry in entries if entry.key != keep]):
            if excess > 0:
                excess -= self._remove(entry)

    def _remove(self, entry: CacheEntry) -> int:
        shutil.rmtree(self.directory / (entry.key + ("" if entry.complete else _PARTIAL)), ignore_errors=True)
        return entry.num_bytes


def default_cache_directory() -> Path:
    """Returns where the command line keeps features: `$XDG_CACHE_HOME/keras_sgdr`, or `~/.cache/keras_sgdr`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_sgdr"


class EntryWriter:
    """Appends batches to an incomplete entry.

    Attributes:
        num_batches: How many batches are in it; those of an interrupted run count if they are whole.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        columns, batches = _read_journal(folder)
        whole = _whole_batches(folder, columns, batches)
        self.num_batches = whole
        _truncate(folder, columns, batches[:whole])

    def append(self, columns: Sequence[np.ndarray]) -> None:
        """Writes the next batch.

        Args:
            columns: Arrays of numbers with the same number of rows; of the same types and row shapes in every batch.

        Raises:
            TypeError: If an array holds strings or other objects.
        """
        for column in columns:
            if column.dtype.kind not in "biufc":
                raise TypeError(
                    f"`columns` must be arrays of numbers. Received: columns of {column.dtype}. "
                    "Let the dataset give classes as integers."
                )
        if self.num_batches == 0:
            described = [{"dtype": column.dtype.str, "shape": column.shape[1:]} for column in columns]
            _append(self._folder / _JOURNAL_FILE, _line(described))
        checksum = 0
        for number, column in enumerate(columns):
            content = np.ascontiguousarray(column).tobytes()
            checksum = zlib.crc32(content, checksum)
            _append(self._folder / f"column_{number}.bin", content)
        # Only now does the batch count: whoever is killed above has written bytes that no line vouches for.
        _append(self._folder / _JOURNAL_FILE, _line({"rows": len(columns[0]), "crc32": checksum}))
        self.num_batches += 1


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock in a folder, which the system gives back even if the process is killed."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK_FILE).open("w") as lock:
            _wait_for(lock)
            # Whoever held it before may have completed the entry, and so moved the folder with the lock away.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK_FILE).stat()):
                    yield
                    return


def _wait_for(lock: Any) -> None:
    try:
        import fcntl
    except ImportError:
        return  # Windows has no such locks: there, two runs at once must not share a directory.
    fcntl.flock(lock, fcntl.LOCK_EX)


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def _read_journal(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The columns, and rows and checksum of each batch, up to the last line that is whole."""
    path = folder / _JOURNAL_FILE
    content = path.read_bytes() if path.is_file() else b""
    lines = content.split(b"\n")[:-1]
    try:
        columns, *batches = map(json.loads, lines)
    except ValueError:
        return [], []
    return columns, batches


def _row_bytes(column: Mapping[str, Any]) -> int:
    return int(np.dtype(column["dtype"]).itemsize * np.prod(column["shape"], dtype=int))


def _whole_batches(folder: Path, columns: Sequence[dict[str, Any]], batches: Sequence[dict[str, Any]]) -> int:
    """How many batches are as their checksums say."""
    with contextlib.ExitStack() as stack:
        paths = [folder / f"column_{number}.bin" for number in range(len(columns))]
        if not all(path.is_file() for path in paths):
            return 0
        files = [stack.enter_context(path.open("rb")) for path in paths]
        for number, batch in enumerate(batches):
            checksum = 0
            for file, column in zip(files, columns, strict=True):
                checksum = zlib.crc32(file.read(batch["rows"] * _row_bytes(column)), checksum)
            if checksum != batch["crc32"]:
                return number
    return len(batches)


def _truncate(folder: Path, columns: Sequence[dict[str, Any]], batches: Sequence[dict[str, Any]]) -> None:
    rows = sum(batch["rows"] for batch in batches)
    for path in folder.glob("column_*.bin"):
        number = int(path.stem.removeprefix("column_"))
        os.truncate(path, rows * _row_bytes(columns[number]) if rows else 0)
    aside = folder / (_JOURNAL_FILE + ".new")
    aside.write_bytes(b"".join(map(_line, [columns, *batches] if batches else [])))
    aside.replace(folder / _JOURNAL_FILE)


def _with_rows(columns: Sequence[dict[str, Any]], batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = sum(batch["rows"] for batch in batches)
    return [{**column, "rows": rows} for column in columns]


def _map_column(folder: Path, number: int, column: Mapping[str, Any]) -> np.ndarray:
    path, shape = folder / f"column_{number}.bin", (column["rows"], *column["shape"])
    if path.stat().st_size != column["rows"] * _row_bytes(column):
        raise ValueError(f"{path} has another size than its entry says")
    return np.memmap(path, np.dtype(column["dtype"]), "r", shape=shape)


def _describe(folder: Path) -> CacheEntry:
    files = [path for path in folder.iterdir() if path.is_file()]
    entry_file = folder / _ENTRY_FILE
    complete = not folder.name.endswith(_PARTIAL)
    description: Mapping[str, Any] = {}
    with contextlib.suppress(ValueError, KeyError, OSError):
        description = json.loads(entry_file.read_text(encoding="utf-8"))["description"]
    used = entry_file if complete and entry_file.is_file() else folder
    num_bytes = sum(path.stat().st_size for path in files)
    return CacheEntry(folder.name.removesuffix(_PARTIAL), complete, num_bytes, used.stat().st_mtime, description)
