"""Decodes BMPs of every depth that are not compressed; TensorFlow knows 8, 24 and 32 bits, and no palettes."""

from functools import partial
from typing import Any

import tensorflow as tf

from keras_sgdr.data.decode.pixel_limit import header_bytes, within_limit
from keras_sgdr.data.decode.png import over_white
from keras_sgdr.data.decode.rarely import rarely

_OS2_HEADER = 12
_BIT_FIELDS = (3, 6)
_BITS = (1, 2, 4, 8, 16, 24, 32)
_MASKS_16, _MASKS_32 = (0x7C00, 0x3E0, 0x1F, 0), (0xFF0000, 0xFF00, 0xFF, 0)


@rarely
def decode_bmp(encoded: Any) -> Any:
    """Decodes a BMP; one with transparent pixels is laid over white.

    Args:
        encoded: The file's bytes, a scalar string tensor.

    Returns:
        uint8 tensor of shape `(height, width, 3)`.

    Reference:
        https://learn.microsoft.com/windows/win32/gdi/bitmap-storage
    """
    height, width = _sides(encoded)
    data = tf.io.decode_raw(within_limit(encoded, (tf.abs(height), width)), tf.uint8)
    header = tf.cast(header_bytes(encoded, 0, 80), tf.int64)
    is_os2 = _number(header, 14, 4) == _OS2_HEADER
    bits = tf.where(is_os2, _number(header, 24, 2), _number(header, 28, 2))
    compression = tf.where(is_os2, _int64(0), _number(header, 30, 4))
    start, stride = _number(header, 10, 4), (width * bits + 31) // 32 * 4
    is_known = (
        tf.reduce_any(tf.constant(_BITS, tf.int64) == bits)
        & tf.reduce_any(compression == (0, *_BIT_FIELDS))
        & (width > 0)
    )
    is_whole = is_known & (tf.abs(height) > 0) & (start + stride * tf.abs(height) <= tf.size(data, tf.int64))
    message = "Only a whole BMP can be decoded, of 1 to 32 bits and not compressed. Its bits and compression:"
    with tf.control_dependencies([tf.debugging.Assert(is_whole, [message, bits, compression])]):
        rows = tf.reshape(data[start : start + stride * tf.abs(height)], [tf.abs(height), stride])
    masks = _masks(header, bits, compression)
    palette = _palette(data, header, is_os2, start)
    readers = [partial(_indexed, rows, palette, width, each) for each in _BITS[:4]]
    readers += [
        partial(_fields, rows, masks, width, 2),
        partial(_bgr, rows, width),
        partial(_fields, rows, masks, width, 4),
    ]
    image = tf.switch_case(tf.argmax(tf.constant(_BITS, tf.int64) == bits, output_type=tf.int32), readers)
    image = tf.ensure_shape(image, (None, None, 3))
    return tf.cond(height > 0, lambda: tf.reverse(image, [0]), lambda: image)


def shape_in_bmp(encoded: Any) -> tuple[Any, Any]:
    """Returns the height and width in the header, int64."""
    height, width = _sides(encoded)
    return tf.abs(height), width


def _sides(encoded: Any) -> tuple[Any, Any]:
    """Returns the height, negative where the first row is at the top, and the width."""
    header = tf.cast(header_bytes(encoded, 14, 12), tf.int64)
    is_os2 = _number(header, 0, 4) == _OS2_HEADER
    width = tf.where(is_os2, _number(header, 4, 2), _number(header, 4, 4))
    return tf.where(is_os2, _number(header, 6, 2), _signed(_number(header, 8, 4))), width


def _number(values: Any, start: int, size: int) -> Any:
    return tf.reduce_sum(values[start : start + size] * [256**place for place in range(size)])


def _int64(number: int) -> Any:
    return tf.constant(number, tf.int64)


def _signed(number: Any) -> Any:
    return tf.where(number >= 1 << 31, number - (1 << 32), number)


def _palette(data: Any, header: Any, is_os2: Any, start: Any) -> Any:
    """Returns 256 colours, those that the file lacks black: uint8 of shape `(256, 3)`."""
    size = tf.where(is_os2, _int64(3), _int64(4))
    first = 14 + _number(header, 14, 4)
    last = first + tf.minimum((start - first) // size, 256) * size
    colours = tf.reshape(data[first:last], tf.stack([-1, size]))[:, 2::-1]
    return tf.pad(colours, [[0, 256 - tf.shape(colours)[0]], [0, 0]])


def _indexed(rows: Any, palette: Any, width: Any, bits: int) -> Any:
    shifts = tf.range(8 - bits, -1, -bits)
    indices = tf.bitwise.right_shift(tf.cast(rows, tf.int32)[..., None], shifts) % (1 << bits)
    return tf.gather(palette, tf.reshape(indices, [tf.shape(rows)[0], -1])[:, :width])


def _bgr(rows: Any, width: Any) -> Any:
    return tf.reshape(rows[:, : 3 * width], tf.stack([tf.shape(rows, tf.int64)[0], width, 3]))[..., ::-1]


def _masks(header: Any, bits: Any, compression: Any) -> Any:
    """Returns the bits of red, green, blue and alpha."""
    has_alpha = (_number(header, 14, 4) >= 56) & (bits == 32)
    given = [_number(header, place, 4) for place in (54, 58, 62)]
    given.append(tf.where(has_alpha, _number(header, 66, 4), _int64(0)))
    usual = tf.where(bits == 16, tf.constant(_MASKS_16, tf.int64), tf.constant(_MASKS_32, tf.int64))
    return tf.where(tf.reduce_any(compression == _BIT_FIELDS), tf.stack(given), usual)


def _fields(rows: Any, masks: Any, width: Any, size: int) -> Any:
    """Reads pixels of `size` bytes whose colours are fields of bits."""
    values = tf.cast(tf.reshape(rows, tf.stack([tf.shape(rows)[0], -1, size]))[:, :width], tf.int64)
    values = tf.reduce_sum(values * [256**place for place in range(size)], axis=-1, keepdims=True)
    lowest = tf.maximum(tf.bitwise.bitwise_and(masks, -masks), 1)
    fields = tf.bitwise.bitwise_and(values, masks) // lowest
    channels = tf.cast(fields * 255 // tf.maximum(masks // lowest, 1), tf.uint8)
    return tf.cond(masks[3] > 0, lambda: over_white(channels[..., :3], channels[..., 3:]), lambda: channels[..., :3])
