"""Decodes WebP safely: TensorFlow 2.21 corrupts the heap when it decodes an animation of unstated channels."""

from typing import Any

import tensorflow as tf

from keras_sgdr.data.decode.pixel_limit import header_bytes, within_limit

_FIRST_CHUNK = 12  # after "RIFF", a size and "WEBP"
_CHUNK_HEADER = 8
_FRAME_HEADER = 16  # x, y, width - 1, height - 1, duration (3 bytes each), flags
_IS_ANIMATED, _HAS_EXIF, _HAS_ALPHA = 0x02, 0x08, b"\x10\0\0\0"


def decode_webp(encoded: Any) -> Any:
    """Decodes a WebP image, or the first frame of an animation.

    Args:
        encoded: The file's bytes, a scalar string tensor.

    Returns:
        uint8 tensor of shape `(height, width, 3 or 4)`.
    """
    encoded = _still(encoded)
    encoded = within_limit(encoded, _shape(encoded))
    # Not `tf.io.decode_webp`, whose graph says that every image has four dimensions.
    return tf.ensure_shape(tf.io.decode_image(encoded, expand_animations=False), (None, None, None))


def shape_in_webp(encoded: Any) -> tuple[Any, Any]:
    """Returns the height and width of an image, or of an animation's first frame."""
    return _shape(_still(encoded))


def _still(encoded: Any) -> Any:
    return tf.cond(_has(encoded, _IS_ANIMATED), lambda: _first_frame(encoded), lambda: encoded)


def _shape(encoded: Any) -> tuple[Any, Any]:
    """Returns the height and width that the first chunk of a file states."""
    header = header_bytes(encoded, _FIRST_CHUNK, 18)
    data = header[_CHUNK_HEADER:]
    pair = lambda place: data[place] + 256 * data[place + 1]  # noqa: E731
    # Lossy: behind a tag of 3 bytes and 3 that are always the same. Lossless: 14 bits each, less one, behind a byte.
    lossy = pair(8) % (1 << 14), pair(6) % (1 << 14)
    bits = _little_endian(data[1:5])
    lossless = tf.bitwise.right_shift(bits, 14) % (1 << 14) + 1, bits % (1 << 14) + 1
    extended = [_little_endian(tf.concat([data[place : place + 3], [0]], axis=0)) + 1 for place in (7, 4)]
    kind = header[3]
    return tuple(
        tf.where(kind == ord("X"), extended[axis], tf.where(kind == ord("L"), lossless[axis], lossy[axis]))
        for axis in (0, 1)
    )


def exif_in_webp(encoded: Any) -> Any:
    """Returns where the TIFF header of a WebP's EXIF chunk is, or 0."""
    return tf.cond(_has(encoded, _HAS_EXIF), lambda: _exif_chunk(encoded), lambda: tf.constant(0))


def _exif_chunk(encoded: Any) -> Any:
    start = _chunk_offset(encoded, b"EXIF") + _CHUNK_HEADER
    # What JPEG demands before the TIFF header, some put here too.
    return start + tf.where(_slice(encoded, start, 6) == b"Exif\0\0", 6, 0)


def _has(encoded: Any, feature: int) -> Any:
    header = header_bytes(encoded, _FIRST_CHUNK, 9)
    is_extended = tf.reduce_all(header[:4] == tf.constant([*b"VP8X"]))
    return is_extended & (tf.bitwise.bitwise_and(header[8], feature) > 0)


def _first_frame(encoded: Any) -> Any:
    """Puts an animation's first frame into a file of its own."""
    offset = _chunk_offset(encoded, b"ANMF")
    payload = _little_endian(header_bytes(encoded, offset + 4, 4)) - _FRAME_HEADER
    size = _slice(encoded, offset + _CHUNK_HEADER + 6, 6)
    data = _slice(encoded, offset + _CHUNK_HEADER + _FRAME_HEADER, tf.maximum(payload, 0))
    chunks = tf.strings.join([b"WEBPVP8X\x0a\0\0\0", _HAS_ALPHA, size, data])
    return tf.strings.join([b"RIFF", _four_bytes(tf.strings.length(chunks)), chunks])


def _chunk_offset(encoded: Any, name: bytes) -> Any:
    """Returns where the first chunk of a name is; the file's length if there is none."""
    length = tf.strings.length(encoded)

    def is_before(offset: Any) -> Any:
        is_found = tf.reduce_all(header_bytes(encoded, offset, 4) == tf.constant([*name]))
        return (offset < length) & ~is_found

    def next_chunk(offset: Any) -> list[Any]:
        size = _little_endian(header_bytes(encoded, offset + 4, 4))
        return [tf.where((size >= 0) & (size < length), offset + _CHUNK_HEADER + size + size % 2, length)]

    return tf.while_loop(is_before, next_chunk, [tf.constant(_FIRST_CHUNK)], maximum_iterations=1000)[0]


def _slice(encoded: Any, start: Any, size: Any) -> Any:
    """Cuts bytes out of a string; fewer where it ends before."""
    return tf.strings.substr(encoded, tf.minimum(start, tf.strings.length(encoded)), size)


def _little_endian(values: Any) -> Any:
    return tf.reduce_sum(values * tf.constant([1, 1 << 8, 1 << 16, 1 << 24]))


def _four_bytes(number: Any) -> Any:
    characters = tf.constant([bytes([value]) for value in range(256)])
    parts = [tf.bitwise.right_shift(number, shift) % 256 for shift in (0, 8, 16, 24)]
    return tf.strings.reduce_join(tf.gather(characters, tf.stack(parts)))
