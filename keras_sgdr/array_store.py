"""Arrays in files: appended to batch by batch, resumed after a kill, read row by row.

A folder that is being written is called `NAME.partial`: a file for each array, and a journal with the checksum of each
batch that is whole. When all is there, it is renamed to `NAME`, so that a reader finds all of it or nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from keras_sgdr.validation import InvalidTypeError, InvalidValueError

ENTRY_FILE, JOURNAL_FILE, PARTIAL = "entry.json", "journal.jsonl", ".partial"


class StoredArray:
    """An array in a file, of which only the rows that are asked for come to memory.

    Attributes:
        dtype: The type of its numbers.
        shape: Its shape, rows first.

    Raises:
        ValueError: If the file has another size.
    """

    def __init__(self, path: Path, *, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape
        self._row_bytes = int(dtype.itemsize * np.prod(shape[1:], dtype=int))
        self._reading = Lock()
        # Held open: whoever removes the folder does not take the array away from those who read it.
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        found, expected = os.fstat(self._file.fileno()).st_size, shape[0] * self._row_bytes
        if found != expected:
            raise InvalidValueError(f"{path} must hold {expected} bytes. Received: {found} bytes. Remove its folder.")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Returns a copy of some rows, given by a slice or an array of numbers >= 0."""
        if isinstance(rows, slice):
            chosen = range(*rows.indices(len(self)))
            taken = np.empty((len(chosen), *self.shape[1:]), self.dtype)
            if chosen.step == 1:
                self.read_into(taken, chosen.start)
                return taken
            rows = chosen
        numbers = np.asarray(rows)
        if numbers.size and (numbers.dtype.kind not in "iu" or not (0 <= numbers.min() <= numbers.max() < len(self))):
            raise IndexError(f"`rows` must be numbers in [0, {len(self)}). Received: rows={rows!r}.")
        taken = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for place, row in enumerate(numbers.tolist()):
            self.read_into(taken[place : place + 1], row)
        return taken

    def read_into(self, rows: np.ndarray, start: int) -> None:
        """Fills an array, of this one's type and in C order, with the rows from `start` on.

        Raises:
            OSError: If the file has become shorter.
        """
        # Not a memory map: a file cut short, or a drive that goes away, would kill the process (SIGBUS) instead of
        # raising an error; its page faults take longer than the copy; and its pages count as the process's memory.
        unread, place = rows.reshape(-1).view(np.uint8), start * self._row_bytes
        while len(unread):
            count = self._read_at(place, unread)  # on Linux never more than 2 GB at once
            if not count:
                raise OSError(f"{self._file.name} has become shorter while it was read. Remove its folder.")
            unread, place = unread[count:], place + count

    def _read_at(self, place: int, content: np.ndarray) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [content.data], place)
        with self._reading:  # Windows: the file has one position, which all threads share
            self._file.seek(place)
            return self._file.readinto(content.data) or 0


class ArrayWriter:
    """Appends batches of rows to the arrays of an incomplete folder, and completes it; see `writing_arrays`.

    Attributes:
        num_batches: How many batches are in it; those of an interrupted writer count if they are whole.
        num_rows: How many rows each array has; empty before the first batch.
        num_bytes: The size of all arrays.
    """

    def __init__(self, folder: Path, *, advice: str) -> None:
        self._folder = folder
        self._aside = partial_of(folder)
        self._advice = advice
        self._aside.mkdir(parents=True, exist_ok=True)
        self._columns, batches = _read_journal(self._aside)
        self.num_batches = 0
        self.num_rows = [0] * len(self._columns)
        for batch in batches[: _count_whole(self._aside, self._columns, batches)]:
            self._count(batch["rows"])
        self._truncate()

    @property
    def num_bytes(self) -> int:
        """The size of all arrays."""
        return sum(rows * _row_bytes(column) for rows, column in zip(self.num_rows, self._columns, strict=True))

    def append(self, columns: Sequence[np.ndarray]) -> None:
        """Writes the next batch.

        Args:
            columns: Arrays of numbers, each with the rows that are added to it; in every batch of the same types and
                row shapes. They need not have the same number of rows.

        Raises:
            TypeError: If an array holds strings or other objects.
            OSError: If the disk is full, with the advice.
        """
        for column in columns:
            if column.dtype.kind not in "biufc":
                raise InvalidTypeError(
                    f"`columns` must be arrays of numbers. Received: columns of {column.dtype}. "
                    "Let the dataset give classes as integers."
                )
        if self.num_batches == 0:
            self._columns = [{"dtype": column.dtype.str, "shape": column.shape[1:]} for column in columns]
            self.num_rows = [0] * len(columns)
            self._append(JOURNAL_FILE, _line(self._columns))
        checksum = 0
        for number, column in enumerate(columns):
            content = np.ascontiguousarray(column).reshape(-1).view(np.uint8).data
            checksum = zlib.crc32(content, checksum)
            self._append(_file_of(number), content)
        # Only now does the batch count: whoever is killed above has written bytes that no line vouches for.
        rows = [len(column) for column in columns]
        self._append(JOURNAL_FILE, _line({"rows": rows, "crc32": checksum}))
        self._count(rows)

    def complete(self, description: Mapping[str, Any]) -> None:
        """Makes the arrays readable under the folder's name, when all of them is on the disk.

        Args:
            description: What `describe_arrays` returns: anything that JSON holds.
        """
        described = [{**column, "rows": rows} for column, rows in zip(self._columns, self.num_rows, strict=True)]
        entry = {"columns": described, "description": dict(description), "created": time.time()}
        (self._aside / ENTRY_FILE).write_text(json.dumps(entry), encoding="utf-8")
        for path in self._aside.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        shutil.rmtree(self._folder, ignore_errors=True)
        self._aside.rename(self._folder)

    def _count(self, rows: Sequence[int]) -> None:
        self.num_batches += 1
        self.num_rows = [before + added for before, added in zip(self.num_rows, rows, strict=True)]

    def _truncate(self) -> None:
        """Leaves of the files what belongs to the batches that count."""
        for path in self._aside.glob("column_*.bin"):
            number = int(path.stem.removeprefix("column_"))
            is_known = self.num_batches > 0 and number < len(self._columns)
            os.truncate(path, self.num_rows[number] * _row_bytes(self._columns[number]) if is_known else 0)
        journal = self._aside / JOURNAL_FILE
        if journal.is_file():
            lines = journal.read_bytes().splitlines(keepends=True)
            os.truncate(journal, sum(map(len, lines[: self.num_batches + 1])) if self.num_batches else 0)

    def _append(self, name: str, content: bytes | memoryview) -> None:
        path = self._aside / name
        try:
            with path.open("ab") as file:
                file.write(content)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: {self._advice}", str(path)) from error


@contextlib.contextmanager
def writing_arrays(folder: Path, *, advice: str) -> Iterator[ArrayWriter]:
    """Opens a folder to be, new or left by an interrupted writer, for this process alone.

    Args:
        folder: The folder that is there when it has been completed.
        advice: What to do if it cannot be written, for the error's message.

    Yields:
        The writer. Another process, or thread, that wants to write the same folder waits; when its turn comes, the
        folder may be complete.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock_of(folder):
        writer = ArrayWriter(folder, advice=advice)
        try:
            yield writer
        finally:
            if not writer.num_batches:
                _remove_files(partial_of(folder))
            _remove_lock(folder)


def open_arrays(folder: Path) -> list[StoredArray]:
    """Opens the arrays of a complete folder, in the order in which they were written.

    Raises:
        FileNotFoundError: If there is none.
        ValueError, KeyError, TypeError: If it is damaged.
    """
    entry = json.loads((folder / ENTRY_FILE).read_text(encoding="utf-8"))
    return [
        StoredArray(
            folder / _file_of(number), dtype=np.dtype(column["dtype"]), shape=(column["rows"], *column["shape"])
        )
        for number, column in enumerate(entry["columns"])
    ]


def describe_arrays(folder: Path) -> Mapping[str, Any]:
    """Returns what `complete` was given for a folder; nothing if it is incomplete or damaged."""
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        described: Mapping[str, Any] = json.loads((folder / ENTRY_FILE).read_text(encoding="utf-8"))["description"]
        return described
    return {}


def remove_arrays(folder: Path) -> bool:
    """Removes a folder, complete or not; returns whether it is gone. Nothing is removed while somebody writes it."""
    try:
        with _lock_of(folder).acquire(blocking=False):
            _remove_files(folder)
            _remove_files(partial_of(folder))
            _remove_lock(folder)
    except (Timeout, PermissionError):
        return False
    return not (folder.exists() or partial_of(folder).exists())


def partial_of(folder: Path) -> Path:
    """Returns where a folder is while it is incomplete."""
    return folder.with_name(folder.name + PARTIAL)


def _lock_of(folder: Path) -> FileLock:
    # Beside the folder, which could not be renamed on Windows with an open file in it. The system releases the lock
    # of a process that is killed.
    return FileLock(folder.with_name(folder.name + ".lock"))


def _remove_lock(folder: Path) -> None:
    """Removes a lock's file while the lock is held: whoever waits for it notices, and makes a new one."""
    with contextlib.suppress(OSError):  # Windows removes no open file
        Path(_lock_of(folder).lock_file).unlink()


def _remove_files(folder: Path) -> None:
    """Removes a folder so that one who is killed at it leaves what cannot be read, but has a journal to the last."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == JOURNAL_FILE, path.name != ENTRY_FILE)):
            path.unlink()
        folder.rmdir()


def _file_of(number: int) -> str:
    return f"column_{number}.bin"


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _read_journal(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns what the columns are, and rows and checksum of each batch, up to the last line that is whole."""
    path = folder / JOURNAL_FILE
    content = path.read_bytes() if path.is_file() else b""
    try:
        columns, *batches = map(json.loads, content.split(b"\n")[:-1])
        for column in columns:
            _row_bytes(column)
        for batch in batches:
            batch["crc32"], sum(batch["rows"])
    except (ValueError, TypeError, KeyError):  # not as this module writes it
        return [], []
    return columns, batches


def _row_bytes(column: Mapping[str, Any]) -> int:
    return int(np.dtype(column["dtype"]).itemsize * np.prod(column["shape"], dtype=int))


def _count_whole(folder: Path, columns: Sequence[dict[str, Any]], batches: Sequence[dict[str, Any]]) -> int:
    """Counts the batches, from the first on, that are as their checksums say."""
    with contextlib.ExitStack() as stack:
        paths = [folder / _file_of(number) for number in range(len(columns))]
        if not all(path.is_file() for path in paths):
            return 0
        files = [stack.enter_context(path.open("rb")) for path in paths]
        for number, batch in enumerate(batches):
            checksum = 0
            for file, column, rows in zip(files, columns, batch["rows"], strict=True):
                checksum = zlib.crc32(file.read(rows * _row_bytes(column)), checksum)
            if checksum != batch["crc32"]:
                return number
    return len(batches)
