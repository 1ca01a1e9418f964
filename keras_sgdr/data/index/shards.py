"""TFRecord shards of images: each image is read at its offset, which an index on the disk knows.

A folder of shards holds `train-00000.tfrecord` and so on, and the arrays of `INDEX`: a row for each image, first those
of train, then those of valid and test. Nothing of an image but its label is held in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from keras_sgdr.data.index import remote
from keras_sgdr.data.index.files import is_folder, is_remote, is_there
from keras_sgdr.validation import InvalidValueError

INDEX = "shards.index"
# What a row of the index holds: the number of the shard, where the image's bytes begin in it, how many they are, their
# CRC-32, where the name begins among all names, and how long it is.
Records: TypeAlias = npt.NDArray[np.int64]

_RECORD = re.compile(r"(.*?)/\w+-\d{5,}\.tfrecord/(\d+)/", re.DOTALL)
_AT_ONCE = 1024
_AGAIN = "Write the shards again, with `keras-sgdr shard`, or copy them again"

_open: dict[str, Shards] = {}


def is_shards(directory: str) -> bool:
    """Whether `directory` is a folder of shards, complete or not."""
    return is_there(f"{directory}/{INDEX}") or is_there(f"{directory}/{INDEX}.partial")


def is_record(path: str) -> bool:
    """Whether a path is that of an image in a shard, `FOLDER/train-00003.tfrecord/ROW/NAME`."""
    return ".tfrecord/" in path and _RECORD.match(path) is not None


def shard_name(split: str, number: int) -> str:
    """Returns the name of a split's shard."""
    return f"{split}-{number:05}.tfrecord"


class Shards:
    """A complete folder of shards.

    Attributes:
        directory: The folder.
        class_names: The names of the classes.
        splits: Of each split the name, its rows, and whether its images have labels.
        labels: One for each row: int32 of shape `(rows,)`, or float32 of shape `(rows, classes)`.
        digest: A hash of all images, names and labels.

    Raises:
        ValueError: If the folder is incomplete, or a shard has another size than it was written with.
    """

    def __init__(self, directory: str) -> None:
        from keras_sgdr.array_store import describe_arrays, open_arrays  # the index of a folder does without

        with contextlib.ExitStack() as stack:
            folder = Path(directory, INDEX)
            if is_remote(directory):
                # The arrays stay open when their folder is gone.
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                if is_folder(f"{directory}/{INDEX}"):
                    remote.fetch(f"{directory}/{INDEX}", folder)
            described = describe_arrays(folder)
            arrays = open_arrays(folder) if described else []
        if not described:
            raise InvalidValueError(
                f"Shards must be complete. Received: {directory}, whose writing was stopped, or whose index is "
                "damaged. Run `keras-sgdr shard` again, which goes on where it was."
            )
        self.directory = directory
        self.class_names = tuple(described["class_names"])
        self._records, labels, self._names, shards, digests = arrays
        self.labels: npt.NDArray[Any] = labels[:]
        self.digest = hashlib.sha256(digests[:].tobytes()).hexdigest()
        self.splits: list[tuple[str, range, bool]] = []
        self._shards: list[str] = []
        found = _sizes_of(directory)
        first = 0
        for place, split in enumerate(described["splits"]):
            rows = range(first, first + split["images"])
            self.splits.append((split["name"], rows, split["is_labelled"]))
            first = rows.stop
            sizes = [int(size) for belongs_to, size in shards[:] if belongs_to == place]
            names = [shard_name(split["name"], number) for number in range(len(sizes))]
            for name, size in zip(names, sizes, strict=True):
                if found.get(name) != size:
                    received = (
                        f"{directory}/{name} with {found[name]}" if name in found else f"no file {directory}/{name}"
                    )
                    raise InvalidValueError(
                        f"Every shard must be as it was written, with {size} bytes. Received: {received}. {_AGAIN}."
                    )
            self._shards += names

    def paths(self, rows: range | npt.NDArray[np.int64]) -> list[str]:
        """Returns what the images of some rows are called: the shard, the row, and the name that the file had."""
        records = self._taken(rows)
        starts, lengths = records[:, 4], records[:, 5]
        first, last = int(np.min(starts, initial=2**62)), int(np.max(starts + lengths, initial=0))
        if last - first <= 4 * int(lengths.sum()):  # neighbours, in one read
            block = self._names[first:last].tobytes()
            names = [block[start - first : start - first + length] for start, length in records[:, 4:].tolist()]
        else:
            names = [self._names[start : start + length].tobytes() for start, length in records[:, 4:].tolist()]
        return [
            f"{self.directory}/{self._shards[shard]}/{row}/{os.fsdecode(name)}"
            for row, shard, name in zip(rows, records[:, 0].tolist(), names, strict=True)
        ]

    def read(self, rows: range | npt.NDArray[np.int64]) -> list[bytes | OSError]:
        """Reads the bytes of images; where that fails, there is an error that says why, and names the shard."""
        records = self._taken(rows).tolist()
        paths = [f"{self.directory}/{self._shards[record[0]]}" for record in records]
        if is_remote(self.directory):
            found = remote.read(paths, [record[1] for record in records], [record[2] for record in records])
        else:
            found = [_read_part(path, *record[1:3]) for path, record in zip(paths, records, strict=True)]
        return [
            OSError(f"{path} is damaged: the checksum of this image is wrong. {_AGAIN}")
            if isinstance(encoded, bytes) and zlib.crc32(encoded) != record[3]
            else encoded
            for path, encoded, record in zip(paths, found, records, strict=True)
        ]

    def stamps(self, rows: range | npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Returns the size and the checksum of images."""
        return [(length, checksum) for length, checksum in self._taken(rows)[:, 2:4].tolist()]

    def _taken(self, rows: range | npt.NDArray[np.int64]) -> Records:
        return self._records[slice(rows.start, rows.stop) if isinstance(rows, range) else rows]


def _read_part(path: str, offset: int, length: int) -> bytes | OSError:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        return error


def _sizes_of(directory: str) -> dict[str, int]:
    """Returns the size of each file in a folder."""
    if is_remote(directory):
        return remote.sizes(directory)
    return {each.name: each.stat().st_size for each in Path(directory).iterdir() if each.is_file()}


class ShardPaths(Sequence[str]):
    """The paths of images in shards, made when they are asked for.

    Args:
        shards: Where the images are.
        rows: Their rows there, in this order.
    """

    def __init__(self, shards: Shards, rows: range | npt.NDArray[np.int64]) -> None:
        self.shards = shards
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> ShardPaths: ...
    def __getitem__(self, position: int | slice) -> str | ShardPaths:
        if isinstance(position, slice):
            # A range with a step is no slice of the index.
            rows = self.rows[position]
            return ShardPaths(self.shards, np.array(rows) if isinstance(rows, range) and rows.step != 1 else rows)
        return self.shards.paths(np.array([self.rows[position]]))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.shards.paths(self.rows[start : start + _AT_ONCE])

    def take(self, positions: npt.NDArray[np.int64]) -> ShardPaths:
        """Returns the paths at some positions, in their order."""
        return ShardPaths(self.shards, np.asarray(self.rows)[positions])

    def unique(self) -> tuple[ShardPaths, npt.NDArray[np.int64]]:
        """Returns each path once, and where among those each of these paths is."""
        if isinstance(self.rows, range):
            return self, np.arange(len(self))
        rows, positions = np.unique(self.rows, return_inverse=True)
        return ShardPaths(self.shards, rows), positions

    def digest(self) -> bytes:
        """Returns a hash of what these images are, their names and their labels, and of their order."""
        rows = repr(self.rows).encode() if isinstance(self.rows, range) else self.rows.tobytes()
        return hashlib.sha256(self.shards.digest.encode() + rows).digest()


def open_shards(directory: str) -> Shards:
    """Opens a folder of shards, for `row_of` too."""
    _open[directory] = Shards(directory)
    return _open[directory]


def row_of(path: str) -> tuple[Shards, npt.NDArray[np.int64]]:
    """Returns the shards and the row that a path names for which `is_record` holds."""
    found = _RECORD.match(path)
    assert found is not None
    directory, row = found.groups()
    return _open.get(directory) or open_shards(directory), np.array([int(row)])
