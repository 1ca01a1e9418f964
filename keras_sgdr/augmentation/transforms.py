"""Where an image's pixels come from: plane transforms, composed before anything is moved.

A transform is a matrix of three rows. It takes the homogeneous coordinates `(x, y, 1)` of a point of the result, in
pixels right and down of its centre, to the point of the source that is shown there. Each entry is a tensor of shape
`(batch,)`, or a number where it is the same for every image: numbers are multiplied out while the graph is built.
"""

from typing import Any, TypeAlias

import tensorflow as tf

Transform: TypeAlias = tuple[tuple[Any, Any, Any], tuple[Any, Any, Any], tuple[Any, Any, Any]]

IDENTITY: Transform = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def compose(*transforms: Transform) -> Transform:
    """Returns the product of matrices: what the last one's result shows is looked up by the one before it."""
    product = IDENTITY
    for transform in transforms:
        rows = [tuple(_dot(row, column) for column in zip(*transform, strict=True)) for row in product]
        product = (rows[0], rows[1], rows[2])
    return product


def is_affine(transform: Transform) -> bool:
    """Whether the last row is known to be (0, 0, 1) while the graph is built."""
    return all(
        isinstance(entry, float) and entry == known for entry, known in zip(transform[2], IDENTITY[2], strict=True)
    )


def rotation(angle: Any) -> Transform:
    """Turns the image counterclockwise by an angle in radians."""
    cosine, sine = tf.cos(angle), tf.sin(angle)
    return (cosine, -sine, 0.0), (sine, cosine, 0.0), (0.0, 0.0, 1.0)


def zooming(zoom: Any, x_shift: Any, y_shift: Any) -> Transform:
    """Shows the part of the image, `zoom` times smaller, whose centre is at the shifts."""
    return (1.0 / zoom, 0.0, x_shift), (0.0, 1.0 / zoom, y_shift), (0.0, 0.0, 1.0)


def tilting(x_tilt: Any, y_tilt: Any) -> Transform:
    """Adds perspective: divides coordinates by `1 + x_tilt * x + y_tilt * y`."""
    return (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (x_tilt, y_tilt, 1.0)


def scaling(x_scale: Any, y_scale: Any) -> Transform:
    """Multiplies coordinates: shows an image of another size."""
    return (x_scale, 0.0, 0.0), (0.0, y_scale, 0.0), (0.0, 0.0, 1.0)


def symmetry(number: Any, *, is_square: bool) -> Transform:
    """Returns one of the eight symmetries of the square, by its number in [0, 8).

    The lowest bit mirrors left and right, the next one top and bottom, and the highest swaps rows and columns, which it
    does only if `is_square`.
    """
    x_sign = 1.0 - 2.0 * tf.cast(number % 2, tf.float32)
    y_sign = 1.0 - 2.0 * tf.cast(number // 2 % 2, tf.float32)
    if not is_square:
        return (x_sign, 0.0, 0.0), (0.0, y_sign, 0.0), (0.0, 0.0, 1.0)
    crossed = tf.cast(number // 4, tf.float32)
    straight = 1.0 - crossed
    return (x_sign * straight, x_sign * crossed, 0.0), (y_sign * crossed, y_sign * straight, 0.0), (0.0, 0.0, 1.0)


def _dot(row: tuple[Any, ...], column: tuple[Any, ...]) -> Any:
    return _sum([_product(left, right) for left, right in zip(row, column, strict=True)])


def _product(left: Any, right: Any) -> Any:
    for factor, other in ((left, right), (right, left)):
        if isinstance(factor, float) and factor in (0.0, 1.0):
            return other if factor else 0.0
    return left * right


def _sum(terms: list[Any]) -> Any:
    total: Any = 0.0
    for term in terms:
        if not (isinstance(term, float) and term == 0.0):
            total = term if isinstance(total, float) and total == 0.0 else total + term
    return total
