"""Decodes JPEGs, no larger than needed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sgdr.data.decode.crop import Crop
from keras_sgdr.data.decode.pixel_limit import MAX_JPEG_PIXELS, is_beyond, within_limit
from keras_sgdr.data.decode.rarely import rarely

# The accurate transform costs nothing measurable, and gives what every other libjpeg gives.
_ACCURATE = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}

# How most files begin: with JFIF's segment, and behind its 14 bytes with the tables.
_PLAIN_HEAD = np.frombuffer(b"\xff\xd8\xff\xe0\0\x10" + bytes(14) + b"\xff\xdb", np.uint8)
# Adobe's segment: version 100, no flags, and no transform of the colours.
_ADOBE, _CMYK = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0", 4
_IS_OF_JFIF = (np.arange(22) >= 6) & (np.arange(22) < 20)


def plain_jpeg_shape(encoded: Any) -> Any:
    """Returns the height, width and channels of a JPEG that begins as most do, without EXIF; zeros for any other.

    Returns:
        int32 tensor of shape `(3,)`.
    """
    head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=len(_PLAIN_HEAD))
    is_plain = tf.reduce_all((head == _PLAIN_HEAD) | _IS_OF_JFIF)
    return tf.cond(is_plain, lambda: tf.io.extract_jpeg_shape(encoded), lambda: tf.zeros([3], tf.int32))


def decode_whole_jpeg(encoded: Any) -> Any:
    """Decodes all of a JPEG at its full size: uint8 tensor of shape `(height, width, 3)`."""
    return tf.io.decode_jpeg(encoded, **_ACCURATE)


def decode_jpeg(encoded: Any, crop: Crop) -> tuple[Any, Any]:
    """Decodes a JPEG at the smallest scale that still covers the crop's target, and crops it.

    Args:
        encoded: The file's bytes, a scalar string tensor.
        crop: Which part of it, as the file stores it.

    Returns:
        uint8 tensor of shape `(height, width, 3)`, and whether it is whole though a part of it is wanted.
    """
    shape = tf.io.extract_jpeg_shape(encoded)
    encoded = within_limit(encoded, (shape[0], shape[1]), MAX_JPEG_PIXELS)
    encoded = tf.cond(shape[2] == _CMYK, lambda: _with_adobes_marker(encoded), lambda: encoded)
    height, width = crop.size(shape[0], shape[1])
    either = tf.maximum if crop.resize == "pad" else tf.minimum
    factor = either(height // crop.target[0], width // crop.target[1])
    scale = tf.reduce_sum(tf.cast(factor >= tf.constant([2, 4, 8]), tf.int32))
    ratio = tf.bitwise.left_shift(1, scale)
    reduced = (shape[:2] + ratio - 1) // ratio
    is_left_whole = crop.is_left_whole(reduced[0], reduced[1])
    if crop.is_all:
        return _whole_jpeg(encoded, scale), is_left_whole
    if not crop.room:
        return _part_of_jpeg(encoded, scale, reduced, crop), is_left_whole
    part = partial(rarely(_part_of_jpeg), encoded, scale, reduced, crop)
    return tf.cond(is_left_whole, lambda: _whole_jpeg(encoded, scale), part), is_left_whole


def is_too_large_jpeg(encoded: Any) -> Any:
    """Whether `decode_jpeg` refuses an image for its size."""
    shape = tf.io.extract_jpeg_shape(encoded)
    return is_beyond((shape[0], shape[1]), MAX_JPEG_PIXELS)


@rarely
def _with_adobes_marker(encoded: Any) -> Any:
    """Says that a CMYK image stores its inks inverted, where it does not say so: all programs do, as Pillow assumes."""
    has_marker = tf.size(tf.strings.split(encoded, _ADOBE[:9], maxsplit=1)) > 1
    start = tf.strings.substr(encoded, 0, 2)
    rest = tf.strings.substr(encoded, 2, tf.strings.length(encoded))
    return tf.cond(has_marker, lambda: encoded, lambda: tf.strings.join([start, _ADOBE, rest]))


def _whole_jpeg(encoded: Any, scale: Any) -> Any:
    def at(ratio: int) -> Callable[[], Any]:
        return lambda: tf.io.decode_jpeg(encoded, ratio=ratio, **_ACCURATE)

    return tf.switch_case(scale, [at(1), at(2), at(4), at(8)])


def _part_of_jpeg(encoded: Any, scale: Any, reduced: Any, crop: Crop) -> Any:
    top, left, height, width = crop.window(reduced[0], reduced[1])
    # The outer columns of a part lack the colours beside it: one more on each side gives those of the whole image.
    first, last = tf.maximum(left - 1, 0), tf.minimum(left + width + 1, reduced[1])
    window = tf.stack([top, first, height, last - first])

    def at(ratio: int) -> Callable[[], Any]:
        return lambda: tf.image.decode_and_crop_jpeg(encoded, window, ratio=ratio, **_ACCURATE)

    image = tf.switch_case(scale, [at(1), at(2), at(4), at(8)])
    return image[:, left - first : left - first + width]
