"""Fingerprints of image files (format, size, hash, thumbnail), and which of them look the same."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_sgdr.data.decode.corrupt_images import BadImage, BadImageError, read_image, reason_of
from keras_sgdr.data.decode.decode_image import decode_image
from keras_sgdr.data.index.formats import HEAD_LENGTH, SUFFIXES, format_of

SIDE = 16
_BAND_BITS, _MAX_HASH_DISTANCE = 16, 16
_REPRESENTATIVES = 20
_OS2_HEADER = 12
_CHUNK = 1 << 16  # pairs of thumbnails in memory at once
# Measured on scikit-image's photographs and scikit-learn's digits: copies of JPEG quality 30, of WebP quality 50 and of
# half the size differ by less; no two different photographs do, and 1 of 1.6 million pairs of digits.
_PART_OF_CONTRAST, _MIN_DIFFERENCE, _MAX_BRIGHTNESS = 0.1, 1.5, 12.0


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """One image, small enough to keep for every file of a folder.

    Attributes:
        path: The file.
        image_format: "JPEG", "PNG", …, by content; None if it is none that is known.
        size: `(height, width)` in pixels as stored, where the header tells.
        digest: A hash of the bytes.
        thumbnail: uint8 of shape `(16, 16, 3)`: the whole image, upright.
    """

    path: str
    image_format: str | None
    size: tuple[int, int] | None
    digest: bytes
    thumbnail: npt.NDArray[np.uint8]

    @property
    def has_wrong_suffix(self) -> bool:
        """Whether the file's name promises another format than it holds."""
        known = SUFFIXES.get(self.image_format or "")
        return known is not None and self.path.rpartition(".")[2].lower() not in known


def fingerprint(path: str) -> Fingerprint | BadImage:
    """Reads and decodes a file, and returns its fingerprint, or why there is none."""
    try:
        encoded = read_image(path)
        found = format_of(encoded[:HEAD_LENGTH])
        thumbnail = _thumbnail()(encoded).numpy()
    except BadImageError as error:
        return BadImage(path, str(error))
    except tf.errors.OpError as error:
        return BadImage(path, reason_of(error))
    digest = blake2b(encoded, digest_size=16).digest()
    return Fingerprint(path, found, size_of(encoded, found), digest, thumbnail)


def size_of(encoded: bytes, image_format: str | None) -> tuple[int, int] | None:
    """Reads `(height, width)` from the header of a JPEG, PNG, GIF or BMP; None for others."""
    if image_format == "JPEG":
        height, width = tf.io.extract_jpeg_shape(encoded).numpy()[:2]
        return int(height), int(width)
    layout = {"PNG": (">II", 16), "GIF": ("<HH", 6), "BMP": ("<ii", 18)}.get(image_format or "")
    if layout is None:
        return None
    if image_format == "BMP" and encoded[14] == _OS2_HEADER:
        layout = ("<HH", 18)
    width, height = struct.unpack_from(layout[0], encoded, layout[1])
    return abs(height), width


def alike(prints: Sequence[Fingerprint], *, max_difference: float = 5.0) -> Iterator[tuple[int, int]]:
    """Finds images that look the same: re-encoded, resized, a little brighter, slightly retouched.

    Two images are compared if their difference hashes of 64 bits differ by at most one in a quarter, which is sure up
    to 7 bits in all, and by at most 16 altogether. They look the same if their thumbnails, brought to the same mean
    colour, differ by at most a tenth of their contrast on average. Among hundreds of images with the same part of a
    hash (blank pages, say), each is compared with twenty of them only.

    Args:
        prints: The images.
        max_difference: The mean absolute difference of two thumbnails, in levels of 255, that is too much at any
            contrast.

    Yields:
        Pairs of positions, the earlier one first, each later one once.
    """
    if not prints:
        return
    thumbnails = _Thumbnails(np.stack([each.thumbnail for each in prints]))
    earlier, later = _near_pairs(_hashes(thumbnails.pixels))
    found = -1
    for start in range(0, len(later), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        for first, second in zip(*thumbnails.alike(earlier[chunk], later[chunk], max_difference), strict=True):
            if second != found:  # each later one once, with the first that it resembles
                found = second
                yield first, second


class _Thumbnails:
    """Thumbnails of shape `(n, 16, 16, 3)`, and what tells most of them apart without a look at every pixel."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels = pixels
        values = pixels.astype(np.float32)
        self.colours = values.mean(axis=(1, 2))
        self.contrasts = values.std(axis=(1, 2)).mean(axis=-1)
        blocks = values.reshape(-1, 4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(2, 4)) - self.colours[:, None, None]
        self.blocks = blocks.reshape(len(pixels), -1)

    def alike(
        self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], max_difference: float
    ) -> tuple[list[int], list[int]]:
        """Returns the pairs of positions whose thumbnails look the same."""

        def keep(is_kept: npt.NDArray[np.bool_]) -> None:
            nonlocal first, second
            first, second = first[is_kept], second[is_kept]

        keep(np.abs(self.colours[first] - self.colours[second]).max(axis=1) <= _MAX_BRIGHTNESS)
        # A mean of differences is no less than the difference of means.
        keep(
            np.abs(self.blocks[first] - self.blocks[second]).mean(axis=1) <= self._limits(first, second, max_difference)
        )
        differences = self._centred(first) - self._centred(second)
        keep(np.abs(differences).mean(axis=(1, 2, 3)) <= self._limits(first, second, max_difference))
        return first.tolist(), second.tolist()

    def _limits(
        self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], max_difference: float
    ) -> npt.NDArray[np.float32]:
        contrasts = np.minimum(self.contrasts[first], self.contrasts[second])
        return np.clip(_PART_OF_CONTRAST * contrasts, min(_MIN_DIFFERENCE, max_difference), max_difference)

    def _centred(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self.pixels[positions].astype(np.float32) - self.colours[positions][:, None, None]


def _near_pairs(hashes: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the pairs of positions that are worth a look at their thumbnails, in the order of the later one."""
    everyone = np.arange(len(hashes), dtype=np.int32)
    whole = hashes.view(np.uint64)[:, 0]
    pairs: list[npt.NDArray[np.int64]] = []
    for band in hashes.T:
        order = np.argsort(band, kind="stable").astype(np.int32)
        counts = np.bincount(band, minlength=1 << _BAND_BITS)
        starts = np.cumsum(counts) - counts
        counts = np.minimum(counts, _REPRESENTATIVES)
        for turned in (0, *(1 << bit for bit in range(_BAND_BITS))):
            keys = band ^ np.uint16(turned)
            found = counts[keys]
            later = np.repeat(everyone, found)
            place = np.arange(len(later)) - np.repeat(np.cumsum(found) - found, found)
            earlier = order[np.repeat(starts[keys], found) + place]
            is_before = earlier < later
            earlier, later = earlier[is_before], later[is_before]
            # Most of them have only that part of the hash in common, and to compare thumbnails takes longer.
            is_near = np.bitwise_count(whole[earlier] ^ whole[later]) <= _MAX_HASH_DISTANCE
            pairs.append(later[is_near].astype(np.int64) * len(hashes) + earlier[is_near])
    # Not np.unique: on millions of numbers its hash table takes five times as long as NumPy's sort.
    found_pairs = np.sort(np.concatenate(pairs))
    found_pairs = found_pairs[np.diff(found_pairs, prepend=-1) > 0]
    return found_pairs % len(hashes), found_pairs // len(hashes)


def _hashes(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Hashes thumbnails by which of two neighbours is lighter; returns the 64 bits as four numbers."""
    grey = thumbnails.sum(axis=-1, dtype=np.int32).reshape(-1, 8, 2, 8, 2).sum(axis=(2, 4))
    bits = grey > np.roll(grey, -1, axis=2)
    return np.packbits(bits.reshape(len(bits), -1), axis=1).view(np.uint16)


@lru_cache(maxsize=1)
def _thumbnail() -> Any:
    def decode(encoded: Any) -> Any:
        # Larger, and then averaged, because formats are shrunk in different ways on the way to the size asked for.
        image = tf.cast(decode_image(encoded, image_size=4 * SIDE, resize="squish"), tf.float32)
        means = tf.reduce_mean(tf.reshape(image, [SIDE, 4, SIDE, 4, 3]), axis=[1, 3])
        return tf.cast(tf.round(means), tf.uint8)

    return tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])
