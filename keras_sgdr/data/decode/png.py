"""Decodes PNGs over white: with an alpha channel, transparent colours in the palette, or one transparent colour."""

from typing import Any

import tensorflow as tf

from keras_sgdr.data.decode.pixel_limit import header_bytes, within_limit
from keras_sgdr.data.decode.rarely import rarely

_HEADER = 16  # behind the signature, a length and "IHDR": width, height, depth, colour type
_DEPTH, _COLOUR_TYPE = 8, 9
_GREY, _RGB = 0, 2


@rarely
def decode_png(encoded: Any) -> Any:
    """Decodes a PNG of any depth, laid over white.

    Args:
        encoded: The file's bytes, a scalar string tensor.

    Returns:
        uint8 tensor of shape `(height, width, 3)`.

    Reference:
        PNG (Third Edition), sections 11.2.1 and 11.3.1.1.
    """
    encoded = within_limit(encoded, shape_in_png(encoded))
    header = header_bytes(encoded, _HEADER, 10)
    depth, colour_type = header[_DEPTH], header[_COLOUR_TYPE]
    key = _colour_key(encoded)
    has_key = ((colour_type == _GREY) | (colour_type == _RGB)) & (tf.strings.length(key) >= 6)
    return tf.cond(has_key, lambda: _without_colour(encoded, key, depth, colour_type), lambda: _without_alpha(encoded))


def shape_in_png(encoded: Any) -> tuple[Any, Any]:
    """Returns the height and width in the header, int64."""
    places = tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64)
    header = tf.cast(header_bytes(encoded, _HEADER, 8), tf.int64)
    return tf.reduce_sum(header[4:] * places), tf.reduce_sum(header[:4] * places)


def over_white(colours: Any, alpha: Any) -> Any:
    """Lays a transparent image over white, as a browser shows it on a page; all of uint8."""
    # In 16 bits, which hold it exactly: of a large image, four bytes for each value would be gigabytes.
    colours, alpha = tf.cast(colours, tf.uint16), tf.cast(alpha, tf.uint16)
    return tf.cast((colours * alpha + (255 - alpha) * 255 + 127) // 255, tf.uint8)


def _without_alpha(encoded: Any) -> Any:
    # To ask for four channels would leave images of one or two bits as dark as their values.
    image = tf.ensure_shape(tf.io.decode_png(encoded, channels=0), (None, None, None))
    colours = _three(image)
    return tf.cond(tf.shape(image)[2] % 2 == 0, lambda: over_white(colours, image[..., -1:]), lambda: colours)


def _colour_key(encoded: Any) -> Any:
    """Returns six bytes from where the chunk tRNS holds its values, or none."""
    # Most files do not have the word, and need no walk.
    has_word = tf.size(tf.strings.split(encoded, "tRNS", maxsplit=1)) > 1
    return tf.cond(has_word, lambda: _key_of_chunk(encoded), lambda: tf.constant(b""))


@rarely
def _key_of_chunk(encoded: Any) -> Any:
    """Walks the chunks up to tRNS, which stands before the first IDAT."""

    def name_at(offset: Any) -> Any:
        return tf.strings.substr(encoded, offset + 4, 4)

    def is_before(offset: Any) -> Any:
        is_inside = offset + 12 <= tf.strings.length(encoded)
        return tf.cond(
            is_inside, lambda: (name_at(offset) != b"tRNS") & (name_at(offset) != b"IDAT"), lambda: tf.constant(False)
        )

    def after(offset: Any) -> list[Any]:
        length = tf.io.decode_raw(tf.strings.substr(encoded, offset, 4), tf.int32, little_endian=False)[0]
        left = tf.strings.length(encoded) - offset
        return [offset + 12 + tf.clip_by_value(length, 0, left)]

    (offset,) = tf.while_loop(is_before, after, [tf.constant(8)], maximum_iterations=100_000)
    offset = tf.minimum(offset, tf.strings.length(encoded))
    is_key = tf.strings.substr(encoded, tf.minimum(offset + 4, tf.strings.length(encoded)), 4) == b"tRNS"
    return tf.cond(is_key, lambda: tf.strings.substr(encoded, offset + 8, 6), lambda: tf.constant(b""))


def _without_colour(encoded: Any, key: Any, depth: Any, colour_type: Any) -> Any:
    """Decodes an image of which one colour is transparent; compared at 16 bits, as the file has it."""
    image = tf.io.decode_png(encoded, channels=0, dtype=tf.uint16)
    values = tf.cast(tf.io.decode_raw(key, tf.uint16, little_endian=False), tf.int32)
    values = tf.where(colour_type == _GREY, values[0], values)
    # Samples of fewer bits are spread over all sixteen.
    number = tf.bitwise.left_shift(1, depth)
    values = tf.cast(values % number * 65535 // (number - 1), tf.uint16)
    colours = _three(tf.ensure_shape(image, (None, None, None)))
    is_opaque = tf.reduce_any(colours != values, axis=-1, keepdims=True)
    return tf.where(is_opaque, _three(tf.io.decode_png(encoded, channels=0)), tf.constant(255, tf.uint8))


def _three(image: Any) -> Any:
    channels = tf.shape(image)[2]
    return tf.cond(channels < 3, lambda: tf.concat([image[..., :1]] * 3, axis=2), lambda: image[..., :3])
