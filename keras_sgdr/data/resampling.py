"""One bilinear resampling for all that moves pixels, with borders that reflect."""

from typing import Any

import tensorflow as tf


def resample(images: Any, transforms: Any, *, image_size: tuple[int, int], is_projective: bool) -> Any:
    """Looks up every pixel of the result in the picture, where a transform says that it came from.

    Args:
        images: tensor of shape `(batch, height, width, 3)`.
        transforms: float32 of shape `(batch, 3, 3)`; each takes the homogeneous coordinates `(x, y, 1)` of the centre
            of a pixel of the result, in pixels from the result's centre, to the source's, in pixels from its centre.
        image_size: `(height, width)` of the result.
        is_projective: whether any transform's last row differs from (0, 0, 1).

    Returns:
        float32 tensor of shape `(batch, *image_size, 3)`. Outside the source, it is continued as its mirror image, edge
        pixels repeated (`mode="reflect"` of `scipy.ndimage`).
    """
    x, y = _source_coordinates(transforms, image_size, is_projective)
    height, width = images.shape[1:3]
    x, y = _reflected(x + width / 2, width), _reflected(y + height / 2, height)
    left, top = tf.cast(x, tf.int32), tf.cast(y, tf.int32)
    right, bottom = tf.minimum(left + 1, width - 1), tf.minimum(top + 1, height - 1)
    pixels = tf.reshape(images, [-1, 3])
    starts = tf.range(tf.shape(images)[0])[:, None, None] * (height * width)

    def at(row: Any, column: Any) -> Any:
        return tf.cast(tf.gather(pixels, starts + row * width + column), tf.float32)

    from_left = (x - tf.cast(left, tf.float32))[..., None]
    from_top = (y - tf.cast(top, tf.float32))[..., None]
    upper = at(top, left) * (1.0 - from_left) + at(top, right) * from_left
    lower = at(bottom, left) * (1.0 - from_left) + at(bottom, right) * from_left
    return upper * (1.0 - from_top) + lower * from_top


def affine(a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> Any:
    """Stacks affine transforms `(a b x; c d y; 0 0 1)` of shape `(batch, 3, 3)`."""
    zeros, ones = tf.zeros_like(a), tf.ones_like(a)
    rows = [tf.stack(row, axis=-1) for row in ((a, b, x), (c, d, y), (zeros, zeros, ones))]
    return tf.stack(rows, axis=-2)


def rotation(angle: Any) -> Any:
    """Gives transforms that turn the picture counterclockwise, for angles in radians of shape `(batch,)`."""
    zeros = tf.zeros_like(angle)
    return affine(tf.cos(angle), -tf.sin(angle), tf.sin(angle), tf.cos(angle), zeros, zeros)


def zooming(zoom: Any, x_shift: Any, y_shift: Any) -> Any:
    """Gives transforms that show the part of the picture, `zoom` times smaller, whose centre is at the shifts."""
    zeros = tf.zeros_like(zoom)
    return affine(1.0 / zoom, zeros, zeros, 1.0 / zoom, x_shift, y_shift)


def tilting(x_tilt: Any, y_tilt: Any) -> Any:
    """Gives perspective transforms, which divide coordinates by `1 + x_tilt * x + y_tilt * y`."""
    zeros, ones = tf.zeros_like(x_tilt), tf.ones_like(x_tilt)
    rows = [tf.stack(row, axis=-1) for row in ((ones, zeros, zeros), (zeros, ones, zeros), (x_tilt, y_tilt, ones))]
    return tf.stack(rows, axis=-2)


def _source_coordinates(transforms: Any, image_size: tuple[int, int], is_projective: bool) -> tuple[Any, Any]:
    height, width = image_size
    x = (tf.range(width, dtype=tf.float32) - (width - 1) / 2)[None, None, :]
    y = (tf.range(height, dtype=tf.float32) - (height - 1) / 2)[None, :, None]

    def row(number: int) -> Any:
        terms = transforms[:, number, :, None, None]
        return terms[:, 0] * x + terms[:, 1] * y + terms[:, 2]

    if not is_projective:
        return row(0), row(1)
    depth = row(2)
    return row(0) / depth, row(1) / depth


def _reflected(position: Any, size: int) -> Any:
    """Folds positions, measured from the first pixel's outer edge, into the picture; then counts from pixel centres."""
    period = 2.0 * size
    folded = position - period * tf.floor(position / period)
    folded = tf.minimum(folded, period - folded)
    return tf.clip_by_value(folded - 0.5, 0.0, size - 1.0)
