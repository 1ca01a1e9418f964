"""What can be told about a picture file at one look: its format, its size, its content, whom it resembles."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_sgdr.data.bad_pictures import BadPicture, reason_of
from keras_sgdr.data.decoding import decode_image
from keras_sgdr.data.file_names import as_bytes

SIDE = 16
_BAND_BITS, _MAX_HASH_DISTANCE = 16, 16
_REPRESENTATIVES = 20
# Measured on scikit-image's photographs and scikit-learn's digits: copies of JPEG quality 30, of WebP quality 50 and of
# half the size differ by less; no two different photographs do, and 1 of 1.6 million pairs of digits.
_PART_OF_CONTRAST, _MIN_DIFFERENCE, _MAX_BRIGHTNESS = 0.1, 1.5, 12.0

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_SUFFIXES = {
    "JPEG": {"jpg", "jpeg", "jpe", "jfif"},
    "PNG": {"png"},
    "GIF": {"gif"},
    "BMP": {"bmp", "dib"},
    "WebP": {"webp"},
    "TIFF": {"tif", "tiff"},
    "HEIC": {"heic", "heif"},
}


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """One picture, small enough to keep for every file of a folder.

    Attributes:
        path: the file.
        picture_format: "JPEG", "PNG", …, by content; None if it is none that is known.
        size: `(height, width)` in pixels as stored, where the header tells.
        digest: a hash of the bytes.
        thumbnail: uint8 of shape `(16, 16, 3)`: the whole picture, upright.
    """

    path: str
    picture_format: str | None
    size: tuple[int, int] | None
    digest: bytes
    thumbnail: npt.NDArray[np.uint8]

    @property
    def has_wrong_suffix(self) -> bool:
        """Whether the file's name promises another format than it holds."""
        known = _SUFFIXES.get(self.picture_format or "")
        return known is not None and self.path.rpartition(".")[2].lower() not in known


def fingerprint(path: str) -> Fingerprint | BadPicture:
    """Reads and decodes a file, and gives its fingerprint, or why there is none."""
    try:
        encoded = tf.io.read_file(as_bytes(path)).numpy()
        found = format_of(encoded)
        if not encoded:
            return BadPicture(path, "the file is empty")
        if found in ("TIFF", "HEIC"):
            return BadPicture(path, f"{found} cannot be decoded; convert it to JPEG or PNG")
        thumbnail = _thumbnail()(encoded).numpy()
    except tf.errors.OpError as error:
        return BadPicture(path, reason_of(error))
    digest = blake2b(encoded, digest_size=16).digest()
    return Fingerprint(path, found, size_of(encoded, found), digest, thumbnail)


def format_of(encoded: bytes) -> str | None:
    """Tells a format by the first bytes of a file."""
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WebP"
    if encoded[4:8] == b"ftyp":
        return "HEIC"
    return next((name for magic, name in _MAGIC.items() if encoded.startswith(magic)), None)


def size_of(encoded: bytes, picture_format: str | None) -> tuple[int, int] | None:
    """Reads `(height, width)` from the header of a JPEG, PNG, GIF or BMP; None for others."""
    if picture_format == "JPEG":
        height, width = tf.io.extract_jpeg_shape(encoded).numpy()[:2]
        return int(height), int(width)
    layout = {"PNG": (">II", 16), "GIF": ("<HH", 6), "BMP": ("<ii", 18)}.get(picture_format or "")
    if layout is None:
        return None
    width, height = struct.unpack_from(layout[0], encoded, layout[1])
    return abs(height), width


def alike(prints: Sequence[Fingerprint], *, max_difference: float = 5.0) -> Iterator[tuple[int, int]]:
    """Finds pictures that look the same: re-encoded, resized, a little brighter, slightly retouched.

    Two pictures are compared if their difference hashes of 64 bits differ by at most one in a quarter, which is sure up
    to 7 bits in all, and by at most 16 altogether. They look the same if their thumbnails, brought to the same mean
    colour, differ by at most a tenth of their contrast on average. Among hundreds of pictures with the same part of a
    hash (blank pages, say), each is compared with twenty of them only.

    Args:
        prints: the pictures.
        max_difference: the mean absolute difference of two thumbnails, in levels of 255, that is too much at any
            contrast.

    Yields:
        Pairs of positions, the earlier one first, each later one once.
    """
    if not prints:
        return
    thumbnails = np.stack([each.thumbnail for each in prints])
    hashes = _hashes(thumbnails)
    buckets: dict[tuple[int, int], list[int]] = {}
    for later, bands in enumerate(hashes.tolist()):
        candidates = sorted({earlier for key in _near(bands) for earlier in buckets.get(key, ())})
        # Most of them have only that part of the hash in common, and to compare thumbnails takes longer.
        is_near = _distances(hashes[candidates], hashes[later]) <= _MAX_HASH_DISTANCE
        candidates = [candidates[place] for place in np.flatnonzero(is_near)]
        if candidates:
            match = np.flatnonzero(_is_same(thumbnails[candidates], thumbnails[later], max_difference))
            yield from ((candidates[place], later) for place in match[:1])
        for key in enumerate(bands):
            bucket = buckets.setdefault(key, [])
            if len(bucket) < _REPRESENTATIVES:
                bucket.append(later)


def _is_same(
    thumbnails: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8], max_difference: float
) -> npt.NDArray[np.bool_]:
    first, second = thumbnails.astype(np.float32), other.astype(np.float32)
    offsets = first.mean(axis=(1, 2), keepdims=True) - second.mean(axis=(0, 1))
    differences = np.abs(first - offsets - second).mean(axis=(1, 2, 3))
    contrasts = np.minimum(first.std(axis=(1, 2)).mean(axis=-1), second.std(axis=(0, 1)).mean())
    limits = np.clip(_PART_OF_CONTRAST * contrasts, min(_MIN_DIFFERENCE, max_difference), max_difference)
    is_as_bright = np.abs(offsets).max(axis=(1, 2, 3)) <= _MAX_BRIGHTNESS
    is_same: npt.NDArray[np.bool_] = is_as_bright & (differences <= limits)
    return is_same


def _distances(hashes: npt.NDArray[np.uint16], other: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """Counts the bits in which hashes differ."""
    bits: npt.NDArray[np.int64] = np.unpackbits((hashes ^ other).view(np.uint8), axis=1).sum(axis=1, dtype=np.int64)
    return bits


def _near(bands: list[int]) -> Iterator[tuple[int, int]]:
    """Yields each band with its place, as it is and with one bit turned."""
    for place, band in enumerate(bands):
        yield place, band
        yield from ((place, band ^ (1 << bit)) for bit in range(_BAND_BITS))


def _hashes(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Hashes thumbnails by which of two neighbours is lighter; gives the 64 bits as four numbers."""
    grey = thumbnails.sum(axis=-1, dtype=np.int32).reshape(-1, 8, 2, 8, 2).sum(axis=(2, 4))
    bits = grey > np.roll(grey, -1, axis=2)
    return np.packbits(bits.reshape(len(bits), -1), axis=1).view(np.uint16)


@lru_cache(maxsize=1)
def _thumbnail() -> Any:
    def decode(encoded: Any) -> Any:
        # Larger, and then averaged, because formats are shrunk in different ways on the way to the size asked for.
        picture = tf.cast(decode_image(encoded, image_size=4 * SIDE, resize="squish"), tf.float32)
        means = tf.reduce_mean(tf.reshape(picture, [SIDE, 4, SIDE, 4, 3]), axis=[1, 3])
        return tf.cast(tf.round(means), tf.uint8)

    return tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])
