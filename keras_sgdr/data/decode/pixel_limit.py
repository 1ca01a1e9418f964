"""The largest image that is decoded: one that says it is larger is refused before memory is asked for."""

from typing import Any

import tensorflow as tf

# Decoded whole, and shrunk then, which takes up to 25 bytes a pixel; 50 kB of PNG can claim far more.
MAX_PIXELS = 2**26
# Decoded at an eighth of their sides: a telephone's photograph of 200 megapixels is within it.
MAX_JPEG_PIXELS = 2**28


def within_limit(encoded: Any, shape: Any, max_pixels: int = MAX_PIXELS) -> Any:
    """Returns the bytes of an image as they are, unless its header says that it has more than `max_pixels` pixels.

    Args:
        encoded: The file's bytes, a scalar string tensor.
        shape: Height and width, as the header has them, integer tensors.
        max_pixels: The limit.

    Raises:
        tf.errors.InvalidArgumentError: If it is too large (when the graph runs).
    """
    message = f"An image of this format is decoded that has at most {max_pixels} pixels. Its height and width:"
    with tf.control_dependencies([tf.debugging.Assert(~is_beyond(shape, max_pixels), [message, *shape])]):
        return tf.identity(encoded)


def is_beyond(shape: Any, max_pixels: int = MAX_PIXELS) -> Any:
    """Whether a height and width, integer tensors, are of more pixels."""
    height, width = (tf.cast(side, tf.int64) for side in shape)
    return height * width > max_pixels


def header_bytes(encoded: Any, start: Any, size: int) -> Any:
    """Returns `size` bytes of a file as int32, zeros where it ends before."""
    part = tf.strings.substr(encoded, tf.minimum(start, tf.strings.length(encoded)), size)
    values = tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int32)
    return tf.ensure_shape(tf.pad(values, [[0, size - tf.size(values)]]), (size,))
