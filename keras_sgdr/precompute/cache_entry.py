"""One entry of the feature cache as files: written batch by batch, resumed after a kill, read row by row."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.validation import InvalidTypeError, InvalidValueError

ENTRY_FILE, _JOURNAL_FILE = "entry.json", "journal.jsonl"


class StoredArray:
    """An array in a file, of which only the rows that are asked for come to memory.

    It can be read even when the file has been removed meanwhile.

    Attributes:
        dtype: The type of its numbers.
        shape: Its shape, rows first.
    """

    def __init__(self, path: Path, *, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._rows = np.frombuffer(self._map, dtype).reshape(shape)
        self.dtype = dtype
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Returns a copy of some rows, given by a slice or an array of numbers."""
        taken = np.array(self._rows[rows])
        # Pages of a mapped file count as memory of the process until it gives them back.
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)
        return taken


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
            OSError: If the disk is full.
        """
        for column in columns:
            if column.dtype.kind not in "biufc":
                raise InvalidTypeError(
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


def finish_entry(folder: Path, description: Mapping[str, Any]) -> None:
    """Writes down what an entry holds, and sees to it that all of it is on the disk.

    Args:
        folder: Where a writer wrote it.
        description: Anything that JSON holds.
    """
    columns, batches = _read_journal(folder)
    rows = sum(batch["rows"] for batch in batches)
    described = [{**column, "rows": rows} for column in columns]
    entry = {"columns": described, "description": dict(description), "created": time.time()}
    (folder / ENTRY_FILE).write_text(json.dumps(entry), encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def open_entry(folder: Path) -> list[StoredArray]:
    """Opens the arrays of a finished entry.

    Args:
        folder: Where it is.

    Returns:
        The arrays, in the order in which they were written.

    Raises:
        FileNotFoundError: If there is no entry.
        ValueError, KeyError, OSError: If it is damaged.
    """
    entry = json.loads((folder / ENTRY_FILE).read_text(encoding="utf-8"))
    return [_open_column(folder, number, column) for number, column in enumerate(entry["columns"])]


def describe_entry(folder: Path) -> Mapping[str, Any]:
    """Returns what the writer of an entry said of it; nothing if the entry is incomplete or damaged."""
    with contextlib.suppress(ValueError, KeyError, OSError):
        described: Mapping[str, Any] = json.loads((folder / ENTRY_FILE).read_text(encoding="utf-8"))["description"]
        return described
    return {}


def _open_column(folder: Path, number: int, column: Mapping[str, Any]) -> StoredArray:
    path = folder / f"column_{number}.bin"
    if path.stat().st_size != column["rows"] * _row_bytes(column):
        raise InvalidValueError(f"{path} has another size than its entry says")
    return StoredArray(path, dtype=np.dtype(column["dtype"]), shape=(column["rows"], *column["shape"]))


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _append(path: Path, content: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}: activations could not be kept; what is written counts for the next run. Free space, "
            "or set KERAS_SGDR_CACHE to another directory, or to 'off' to keep them in memory",
            str(path),
        ) from error


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
    """Leaves of the files what belongs to these batches."""
    rows = sum(batch["rows"] for batch in batches)
    for path in folder.glob("column_*.bin"):
        number = int(path.stem.removeprefix("column_"))
        os.truncate(path, rows * _row_bytes(columns[number]) if rows else 0)
    with atomic_write(folder / _JOURNAL_FILE) as aside:
        aside.write_bytes(b"".join(map(_line, [columns, *batches] if batches else [])))
