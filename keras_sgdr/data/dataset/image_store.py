"""Decoded images one after the other, in memory or in a file: written in order, read in any."""

import contextlib
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_sgdr.validation import InvalidValueError

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, two processes at once must not write the same images.
    fcntl = None  # type: ignore[assignment]

Pixels: TypeAlias = npt.NDArray[np.uint8]
Sizes: TypeAlias = npt.NDArray[np.int32]

_PIXELS, _SIZES, _PARTIAL = "pixels.bin", "sizes.bin", ".partial"
_FLUSHED_BYTES = 1 << 25


class MemoryStore:
    """Images in memory: takes them, and gives them back."""

    def __init__(self) -> None:
        self._images: list[Pixels] = []
        self._sizes: list[Sizes] = []

    @property
    def num_images(self) -> int:
        """How many there are."""
        return len(self._images)

    @property
    def sizes(self) -> Sizes:
        """The height and width of each image, int32 of shape `(images, 2)`."""
        return np.array(self._sizes, np.int32).reshape(-1, 2)

    def append(self, pixels: Pixels, size: Sizes) -> None:
        """Takes the next image: its pixels, and its height and width."""
        # A copy, because what TensorFlow cut out of a larger tensor keeps that in memory.
        self._images.append(np.array(pixels).reshape(-1))
        self._sizes.append(size)

    def read_into(self, pixels: Pixels, position: int, start: int = 0) -> None:
        """Fills an array with the pixel values of an image, from the one at `start` on."""
        pixels[:] = self._images[position][start : start + len(pixels)]


class FileStore:
    """The images that a `FileWriter` has completed.

    Args:
        folder: where they are.

    Attributes:
        sizes: the height and width of each image, int32 of shape `(images, 2)`.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are not all that was written.
    """

    def __init__(self, folder: Path) -> None:
        self.sizes: Sizes = np.fromfile(folder / _SIZES, np.int32).reshape(-1, 2)
        lengths = _num_values(self.sizes)
        self._starts = np.cumsum(lengths) - lengths
        self._reading = Lock()
        # Held open: whoever removes the folder does not take the images away from those who read them.
        self._file = (folder / _PIXELS).open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        found = os.fstat(self._file.fileno()).st_size
        if found != lengths.sum():
            raise InvalidValueError(
                f"{folder} must hold {lengths.sum()} bytes of pixels. Received: {found} bytes. Remove it."
            )

    def read_into(self, pixels: Pixels, position: int, start: int = 0) -> None:
        """Fills an array with the pixel values of an image, from the one at `start` on.

        Raises:
            OSError: if the file has become shorter.
        """
        # Not a memory map: its page faults take longer than the copy, and a file cut short would kill the process.
        if self._read_at(int(self._starts[position]) + start, pixels) != len(pixels):
            raise OSError(f"{self._file.name} has become shorter while it was read. Remove its folder.")

    def _read_at(self, start: int, pixels: Pixels) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [pixels.data], start)
        with self._reading:
            self._file.seek(start)
            return self._file.readinto(pixels.data) or 0


class FileWriter:
    """Writes images to a folder aside, which takes the place of the real one when it is complete.

    What an interrupted writer has left there counts as written.

    Args:
        folder: the folder to be.

    Attributes:
        num_images: how many are written; where writing goes on.
        num_bytes: how much of the disk they take.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._aside = folder.with_name(folder.name + _PARTIAL)
        self._aside.mkdir(parents=True, exist_ok=True)
        self._pixels = (self._aside / _PIXELS).open("ab")
        self._sizes = (self._aside / _SIZES).open("ab")
        self._waiting: list[tuple[Pixels, Sizes]] = []
        self._waiting_bytes = 0
        sizes = self._vouched_for()
        self.num_images = len(sizes)
        self.num_bytes = int(_num_values(sizes).sum())
        self._pixels.truncate(self.num_bytes)
        self._sizes.truncate(sizes.nbytes)

    def append(self, pixels: Pixels, size: Sizes) -> None:
        """Takes the next image: its pixels, and its height and width.

        Raises:
            OSError: if the disk is full.
        """
        self._waiting.append((pixels, size))
        self._waiting_bytes += pixels.nbytes
        if self._waiting_bytes >= _FLUSHED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what has been taken, so that it outlasts the process and the machine."""
        for pixels, _ in self._waiting:
            self._pixels.write(pixels.data)
        _to_disk(self._pixels)
        # Only now, for sizes vouch for their pixels.
        sizes = np.array([size for _, size in self._waiting], np.int32)
        self._sizes.write(sizes.tobytes())
        _to_disk(self._sizes)
        self.num_images += len(self._waiting)
        self.num_bytes += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0

    def complete(self) -> None:
        """Makes the folder what was to be."""
        self.flush()
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._aside.rename(self._folder)

    def close(self) -> None:
        """Closes the files; what has been flushed is there for the next writer."""
        # After an error, they fail once more, over the error that says why.
        for file in (self._pixels, self._sizes):
            with contextlib.suppress(OSError):
                file.close()

    def _vouched_for(self) -> Sizes:
        """Gives the sizes of the images that are whole."""
        content = (self._aside / _SIZES).read_bytes()
        sizes = np.frombuffer(content[: len(content) // 8 * 8], np.int32).reshape(-1, 2)
        ends = np.cumsum(_num_values(sizes))
        return sizes[: np.searchsorted(ends, (self._aside / _PIXELS).stat().st_size, side="right")]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time write a folder; the system gives the lock back even if the process is killed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _num_values(sizes: Sizes) -> npt.NDArray[Any]:
    return 3 * sizes.astype(np.int64).prod(axis=1)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
