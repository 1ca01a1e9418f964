"""Keeps decoded images for later epochs and later runs, so that a file is decoded once."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_sgdr.array_store import ArrayWriter, open_arrays, writing_arrays
from keras_sgdr.data.decode.corrupt_images import check_images
from keras_sgdr.data.decode.decode_spec import DecodeSpec
from keras_sgdr.data.index.file_names import printable
from keras_sgdr.data.index.files import file_stamps, is_remote
from keras_sgdr.validation import InvalidValueError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Sizes: TypeAlias = npt.NDArray[np.int32]

# Counts up whenever the same file would be decoded to other pixels, or be written in another way.
_VERSION = 2
_NUM_SAMPLED = 64
_WRITTEN_BYTES = 1 << 25  # images are written when there are so many, for a batch costs a line in the journal
_ADVICE = (
    "the decoded images could not be kept. Those that are written count for the next run. Free some room, or give "
    "another `cache`"
)


class MemoryImages:
    """Images in memory.

    Attributes:
        sizes: The height and width of each image, int32 of shape `(images, 2)`.
    """

    def __init__(self, images: Sequence[Pixels]) -> None:
        self.sizes = np.array([image.shape[:2] for image in images], np.int32).reshape(-1, 2)
        self._pixels = [image.reshape(-1) for image in images]

    def read_into(self, pixels: Pixels, position: int, start: int) -> None:
        """Fills an array with the pixel values of an image, from the one at `start` on."""
        pixels[:] = self._pixels[position][start : start + len(pixels)]


class StoredImages:
    """Images in a folder: the pixel values of all, one image after the other, and their sizes.

    Args:
        folder: Where they are.

    Attributes:
        sizes: The height and width of each image, int32 of shape `(images, 2)`.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are not all that was written.
    """

    def __init__(self, folder: Path) -> None:
        self._pixels, sizes = open_arrays(folder)
        self.sizes: Sizes = sizes[:]
        lengths = 3 * self.sizes.astype(np.int64).prod(axis=1)
        self._starts = np.cumsum(lengths) - lengths

    def read_into(self, pixels: Pixels, position: int, start: int) -> None:
        """Fills an array with the pixel values of an image, from the one at `start` on.

        Raises:
            OSError: If the file has become shorter.
        """
        self._pixels.read_into(pixels, int(self._starts[position]) + start)


class CachedImages:
    """Returns decoded images by their index.

    Args:
        decode_spec: What they are.
        store: Their pixels.
        positions: Where in the store an image is, by its index.
    """

    def __init__(
        self, decode_spec: DecodeSpec, store: MemoryImages | StoredImages, positions: npt.NDArray[np.int64]
    ) -> None:
        self._decode_spec = decode_spec
        self._store = store
        self._positions = positions
        self._sizes = store.sizes
        self._is_finished = decode_spec.is_finished(self._sizes)

    def batch(self, indices: Any, crop_positions: Any) -> Any:
        """Returns, in graph operations, a batch of images as `DecodeSpec.spec` describes them.

        Args:
            indices: int64 tensor of shape `(batch,)`.
            crop_positions: float32 tensor of shape `(batch,)`.
        """
        positions = tf.gather(self._positions, indices)
        sizes = tf.gather(self._sizes, positions)
        windows = self._decode_spec.parts(sizes, crop_positions)
        spec = self._decode_spec.spec
        if not self._is_finished:
            return tf.map_fn(self._finished, (positions, windows), fn_output_signature=spec)
        are_whole = self._decode_spec.are_left_whole(sizes)[:, None]
        windows = tf.where(are_whole, tf.pad(sizes, [[0, 0], [2, 0]]), windows)
        # One call of Python for a batch takes no longer than graph operations for each image, which copy three times;
        # and the copying itself is done without Python's lock.
        batch = tf.numpy_function(self._read_batch, [positions, windows], tf.uint8, stateful=False)
        if not self._decode_spec.is_resampled:
            return tf.reshape(batch, [-1, *spec.shape])
        frames = tf.concat([windows[:, 2:], tf.cast(~are_whole, tf.int32)], axis=1)
        return tf.reshape(batch, [-1, *spec[0].shape]), frames

    def _finished(self, image: tuple[Any, Any]) -> Any:
        part = tf.numpy_function(self._read_part, image, tf.uint8, stateful=False)
        return self._decode_spec.finish(tf.ensure_shape(part, (None, None, 3)))

    def _read_part(self, position: Any, window: Sizes) -> Pixels:
        part = np.empty(3 * window[2] * window[3], np.uint8)
        self._read_into(part, position, window, self._scratch(window[None], position[None]))
        return part.reshape(window[2], window[3], 3)

    def _read_batch(self, positions: npt.NDArray[np.int64], windows: Sizes) -> Pixels:
        spec = self._decode_spec.spec[0] if self._decode_spec.is_resampled else self._decode_spec.spec
        batch = _aligned_empty(len(positions), spec.shape.num_elements())
        scratch = self._scratch(windows, positions)
        for row, position, window in zip(batch, positions, windows, strict=True):
            self._read_into(row[: 3 * window[2] * window[3]], position, window, scratch)
        return batch

    def _scratch(self, windows: Sizes, positions: npt.NDArray[np.int64]) -> Pixels:
        """Returns room for the whole rows of any of these windows; new for each would be new memory for each."""
        return np.empty(3 * int(np.max(windows[:, 2] * self._sizes[positions, 1])), np.uint8)

    def _read_into(self, part: Pixels, position: Any, window: Sizes, scratch: Pixels) -> None:
        top, left, height, width = window.tolist()
        whole_width = int(self._sizes[position, 1])
        if width == whole_width:
            self._store.read_into(part, position, 3 * top * width)
            return
        rows = scratch[: 3 * height * whole_width]
        self._store.read_into(rows, position, 3 * top * whole_width)
        part.reshape(height, width, 3)[:] = rows.reshape(height, whole_width, 3)[:, left : left + width]


def cached_images(
    paths: Sequence[str], decode_spec: DecodeSpec, *, cache: str | os.PathLike[str], verbose: int
) -> CachedImages:
    """Decodes files, unless that has been done, and keeps the result.

    Args:
        paths: The files, some of them perhaps more than once.
        decode_spec: What to make of them.
        cache: "memory", or a directory on this machine.
        verbose: Whether to say how much room it takes, and to show the progress (1), or nothing (0).

    Raises:
        ValueError: If there is not the room; if files are not images, naming them.
        FileNotFoundError: If a file is missing.
        OSError: If the disk is full all the same.
    """
    if not isinstance(cache, (str, os.PathLike)) or not os.fspath(cache) or is_remote(os.fspath(cache)):
        raise InvalidValueError(
            f'`cache` must be None, "memory" or a directory on this machine. Received: cache={cache!r}.'
        )
    unique = sorted(set(paths))
    decoder = _Decoder(unique, decode_spec, verbose)
    store = _in_memory(decoder) if cache == "memory" else _on_disk(decoder, Path(cache))
    position_of = {path: position for position, path in enumerate(unique)}
    return CachedImages(decode_spec, store, np.array([position_of[path] for path in paths], np.int64))


def _in_memory(decoder: "_Decoder") -> MemoryImages:
    decoder.check_room("memory", available_memory(), done=0)
    # Copies, because what TensorFlow cut out of a larger tensor keeps that in memory.
    return MemoryImages([np.array(image) for image in decoder.images(first=0)])


def _on_disk(decoder: "_Decoder", directory: Path) -> StoredImages:
    folder = directory / decoder.key()
    store = _opened(folder)
    if store is None:
        with writing_arrays(folder, advice=_ADVICE) as writer:
            # Another process may have completed it while this one waited for its turn.
            store = _opened(folder)
            if store is None:
                decoder.check_room(str(directory), available_disk(directory), done=writer.num_bytes)
                _write(decoder, writer)
                store = StoredImages(folder)
    return store


def _opened(folder: Path) -> StoredImages | None:
    try:
        return StoredImages(folder)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(decoder: "_Decoder", writer: ArrayWriter) -> None:
    """Appends the images that the writer does not have, and completes it."""
    first = writer.num_rows[1] if writer.num_rows else 0
    waiting: list[Pixels] = []
    num_bytes = 0
    for position, image in enumerate(decoder.images(first=first), start=first):
        waiting.append(image)
        num_bytes += image.nbytes
        if num_bytes >= _WRITTEN_BYTES or position == len(decoder.paths) - 1:
            sizes = np.array([image.shape[:2] for image in waiting], np.int32)
            writer.append([np.concatenate([image.reshape(-1) for image in waiting]), sizes])
            waiting, num_bytes = [], 0
    writer.complete({"images": len(decoder.paths)})


class _Decoder:
    """Decodes files in their order."""

    def __init__(self, paths: Sequence[str], decode_spec: DecodeSpec, verbose: int) -> None:
        self.paths = paths
        self.decode_spec = decode_spec
        self.verbose = verbose

    def key(self) -> str:
        """Hashes all that the pixels depend on."""
        digest = sha256(repr((_VERSION, tf.__version__, astuple(self.decode_spec))).encode())
        for path, stamp in zip(self.paths, file_stamps(self.paths), strict=True):
            name = path if is_remote(path) else os.path.abspath(path)  # noqa: PTH100 (a link is another file)
            digest.update(f"{name}\0{stamp}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()[:32]

    def check_room(self, where: str, available: int | None, *, done: int) -> None:
        """Says how much room the images take, less what is `done`, and refuses if there is not as much."""
        needed = max(self._num_bytes() - done, 0)
        if available is not None and needed > available:
            raise InvalidValueError(
                f"`cache` must have room for the decoded images. Received: cache={where!r} with "
                f"{_megabytes(available)} available and {_megabytes(needed)} needed. Give another place, or a smaller "
                "`image_size`."
            )
        if self.verbose:
            known = "" if available is None else f" of {_megabytes(available)} available"
            sys.stdout.write(f"Caching {len(self.paths)} images in {where}: {_megabytes(needed)}{known}\n")

    def images(self, *, first: int) -> Iterator[Pixels]:
        """Yields the images from the one at `first` on.

        Raises:
            ValueError: If files are not images, naming them; all that follow the first such file are tried before.
        """
        progress = keras.utils.Progbar(len(self.paths), verbose=self.verbose, unit_name="image", interval=0.5)
        expected = first
        bad: list[int] = []
        for position, image in self._decoded(np.arange(first, len(self.paths))):
            bad += range(expected, position)
            expected = position + 1
            if not bad:
                yield image
            progress.update(expected)
        bad += range(expected, len(self.paths))
        if bad:
            self._refuse([self.paths[position] for position in bad])

    def _num_bytes(self) -> int:
        """Returns how much all images take: known if they have one size, and else judged by some of them."""
        count = len(self.paths)
        if not (self.decode_spec.is_cropped_anywhere or self.decode_spec.is_resampled):
            return 3 * self.decode_spec.image_size[0] * self.decode_spec.image_size[1] * count
        sampled = np.unique(np.linspace(0, count - 1, min(count, _NUM_SAMPLED)).astype(np.int64))
        lengths = [image.nbytes for _, image in self._decoded(sampled)]
        return int(np.mean(lengths) * count) if lengths else 0

    def _decoded(self, positions: npt.NDArray[np.int64]) -> Iterator[tuple[int, Pixels]]:
        """Yields the position of each file that can be decoded, and its image."""
        paths = tf.constant([os.fsencode(path) for path in self.paths])

        @tf.autograph.experimental.do_not_convert
        def decode(position: Any) -> Any:
            return position, self.decode_spec.decode_kept(paths[position])

        dataset = tf.data.Dataset.from_tensor_slices(positions).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        yield from dataset.ignore_errors().prefetch(tf.data.AUTOTUNE).as_numpy_iterator()

    @staticmethod
    def _refuse(bad: Sequence[str]) -> None:
        check_images(bad)
        # They fail at their full size alone.
        named = ", ".join(map(printable, bad[:10]))
        raise InvalidValueError(
            f"Every file must be an image that can be decoded. Received: {len(bad)} that cannot at their full size, "
            f"such as {named}. Remove them, or train without `cache`."
        )


def _aligned_empty(rows: int, columns: int) -> Pixels:
    """Returns an array that TensorFlow takes as it is; it copies what does not begin at a multiple of 64 bytes."""
    memory = np.empty(rows * columns + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + rows * columns].reshape(rows, columns)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def available_memory() -> int | None:
    """Returns the memory that can be had without swapping, in bytes; None where the system does not say."""
    found = []
    with suppress(OSError, KeyError, ValueError):
        found.append(1024 * int(_table("/proc/meminfo")["MemAvailable:"]))
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, KeyError, ValueError):  # in a group without a limit, "max" stands there
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        # What was read from files counts as used, and makes way.
        found.append(limit - used + int(_table(str(group / "memory.stat"))["inactive_file"]))
    return min(found, default=None)


def available_disk(directory: Path) -> int:
    """Returns the room on the disk that a directory is on, or will be, in bytes."""
    existing = next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _table(path: str) -> dict[str, str]:
    lines = (line.split() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return {words[0]: words[1] for words in lines if len(words) > 1}
