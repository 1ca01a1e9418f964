"""Keeps decoded images for later epochs and later runs, so that a file is decoded once."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakMethod

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_sgdr.array_store import ArrayWriter, open_arrays, writing_arrays
from keras_sgdr.data.dataset.file_decoder import FileDecoder, Pixels
from keras_sgdr.data.dataset.free_space import available_disk, available_memory
from keras_sgdr.data.decode.decode_spec import DecodeSpec
from keras_sgdr.data.index.files import is_remote
from keras_sgdr.data.index.shards import ShardPaths
from keras_sgdr.validation import InvalidValueError, NotReadyError

Sizes: TypeAlias = npt.NDArray[np.int32]

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
        batch = tf.numpy_function(_weakly(self._read_batch), [positions, windows], tf.uint8, stateful=False)
        if not self._decode_spec.is_resampled:
            return tf.reshape(batch, [-1, *spec.shape])
        frames = tf.concat([windows[:, 2:], tf.cast(~are_whole, tf.int32)], axis=1)
        return tf.reshape(batch, [-1, *spec[0].shape]), frames

    def _finished(self, image: tuple[Any, Any]) -> Any:
        part = tf.numpy_function(_weakly(self._read_part), image, tf.uint8, stateful=False)
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


class ImageMemory:
    """Room for decoded images in memory, which the datasets share that are given it as their `cache`.

    Args:
        max_bytes: How much is kept. Of a dataset whose images do not fit, none are: they are decoded in every epoch.
    """

    def __init__(self, max_bytes: int) -> None:
        self._bytes_left = max_bytes
        self._stores: dict[str, MemoryImages | None] = {}

    def images(self, decoder: FileDecoder) -> MemoryImages | None:
        """Returns the images of a decoder, decoded when they are first asked for; None if they do not fit."""
        key = decoder.key()
        if key not in self._stores:
            self._stores[key] = self._decoded(decoder)
        return self._stores[key]

    def _decoded(self, decoder: FileDecoder) -> MemoryImages | None:
        if decoder.num_bytes(at_most=self._bytes_left) > self._bytes_left:
            return None
        decoder.say(f"Decoding {len(decoder.paths)} images, to keep them in memory")
        images: list[Pixels] = []
        left = self._bytes_left
        for image in decoder.images(first=0):
            left -= image.nbytes
            if left < 0:
                decoder.say("They do not fit, and are decoded in every epoch")
                return None
            images.append(np.array(image))  # a copy, see `_in_memory`
        self._bytes_left = left
        return MemoryImages(images)


def cached_images(
    paths: Sequence[str], decode_spec: DecodeSpec, *, cache: str | os.PathLike[str] | ImageMemory, verbose: int
) -> CachedImages | None:
    """Decodes files, unless that has been done, and keeps the result.

    Args:
        paths: The files, some of them perhaps more than once.
        decode_spec: What to make of them.
        cache: "memory", a directory on this machine, or an `ImageMemory`.
        verbose: Whether to say how much room it takes, and to show the progress (1), or nothing (0).

    Returns:
        The images; None if they do not fit into an `ImageMemory`.

    Raises:
        ValueError: If there is not the room; if files are not images, naming them.
        FileNotFoundError: If a file is missing.
        OSError: If the disk is full all the same.
    """
    unique, positions = _each_once(paths)
    decoder = FileDecoder(unique, decode_spec, verbose)
    store: MemoryImages | StoredImages | None
    if isinstance(cache, ImageMemory):
        store = cache.images(decoder)
    elif not isinstance(cache, (str, os.PathLike)) or not os.fspath(cache) or is_remote(os.fspath(cache)):
        raise InvalidValueError(
            f'`cache` must be None, "memory" or a directory on this machine. Received: cache={cache!r}.'
        )
    else:
        store = _in_memory(decoder) if cache == "memory" else _on_disk(decoder, Path(cache))
    if store is None:
        return None
    return CachedImages(decode_spec, store, positions)


def _each_once(paths: Sequence[str]) -> tuple[Sequence[str], npt.NDArray[np.int64]]:
    """Returns the paths without repetitions, and where among those each of `paths` is."""
    if isinstance(paths, ShardPaths):
        return paths.unique()
    unique = sorted(set(paths))
    position_of = {path: position for position, path in enumerate(unique)}
    return unique, np.array([position_of[path] for path in paths], np.int64)


def _in_memory(decoder: FileDecoder) -> MemoryImages:
    decoder.check_room("memory", available_memory(), done=0)
    # Copies, because what TensorFlow cut out of a larger tensor keeps that in memory.
    return MemoryImages([np.array(image) for image in decoder.images(first=0)])


def _on_disk(decoder: FileDecoder, directory: Path) -> StoredImages:
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


def _write(decoder: FileDecoder, writer: ArrayWriter) -> None:
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


def _weakly(method: Callable[..., Pixels]) -> Callable[..., Pixels]:
    """Returns a function that calls a method for as long as its object lives: TensorFlow never forgets a function."""
    reference = WeakMethod(method)

    def call(*arguments: Any) -> Pixels:
        found = reference()
        if found is None:
            raise NotReadyError(
                "The dataset of `load_dataset` must be kept while one that captured it is read. Received: one whose "
                "decoded images are gone. Keep it in a variable."
            )
        return found(*arguments)

    return call


def _aligned_empty(rows: int, columns: int) -> Pixels:
    """Returns an array that TensorFlow takes as it is; it copies what does not begin at a multiple of 64 bytes."""
    memory = np.empty(rows * columns + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + rows * columns].reshape(rows, columns)
