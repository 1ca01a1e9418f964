"""The largest image that is decoded: one that says it is larger is refused before memory is asked for."""

from typing import Any

import tensorflow as tf

# A telephone's photograph of 108 megapixels is decoded. As RGB these are 400 MB; 50 kB of PNG can claim far more.
MAX_PIXELS = 2**27


def within_limit(encoded: Any, height: Any, width: Any) -> Any:
    """Returns the bytes of an image as they are, unless their header says that it has more than `MAX_PIXELS` pixels.

    Args:
        encoded: The file's bytes, a scalar string tensor.
        height: As the header has it, an integer tensor.
        width: Likewise.

    Raises:
        tf.errors.InvalidArgumentError: If it is too large (when the graph runs).
    """
    is_within = tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= MAX_PIXELS
    message = f"An image of at most {MAX_PIXELS} pixels is decoded. Its height and width:"
    with tf.control_dependencies([tf.debugging.Assert(is_within, [message, height, width])]):
        return tf.identity(encoded)


def header_bytes(encoded: Any, start: Any, size: int) -> Any:
    """Returns `size` bytes of a file as int32, zeros where it ends before."""
    part = tf.strings.substr(encoded, tf.minimum(start, tf.strings.length(encoded)), size)
    values = tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int32)
    return tf.ensure_shape(tf.pad(values, [[0, size - tf.size(values)]]), (size,))
