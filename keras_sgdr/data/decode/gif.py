"""Decodes the first frame of a GIF over white, where TensorFlow shows colours in transparent pixels."""

from typing import Any

import tensorflow as tf

from keras_sgdr.data.decode.pixel_limit import within_limit
from keras_sgdr.data.decode.rarely import rarely

_SCREEN = 13  # "GIF89a", width, height, flags, background, aspect
_EXTENSION, _IMAGE, _GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9
_MAX_BLOCKS = 100_000  # to walk over them takes a second
_DESCRIPTOR = 10  # separator, left, top, width, height, flags


@rarely
def decode_gif(encoded: Any) -> Any:
    """Decodes the first frame of a GIF as it lies on its canvas, over white or the background, if it has one.

    Args:
        encoded: The file's bytes, a scalar string tensor.

    Returns:
        uint8 tensor of shape `(height, width, 3)`.

    Reference:
        GIF89a specification, sections 18 to 23.
    """
    data = _padded(encoded)
    descriptor, control = _first_image(data)
    encoded = within_limit(encoded, _canvas(data, descriptor))
    encoded = _without_later_frames(encoded, data, descriptor)
    left, top, width, height = _place(data, descriptor)
    has_own_colours = data[descriptor + 9] >= 0x80
    colours = tf.where(has_own_colours, descriptor + _DESCRIPTOR, _SCREEN)
    flags = tf.where(has_own_colours, data[descriptor + 9], data[10])
    number = tf.where(flags >= 0x80, _number_of_colours(flags), 0)
    # A graphic control extension: its introducer, label and length, flags, delay, transparent colour.
    is_transparent = (control > 0) & (data[control + 3] % 2 == 1) & (data[control + 6] < number)
    clear = colours + 3 * data[control + 6]

    def with_white() -> Any:
        # TensorFlow makes transparent pixels black; so none is, and their colour is white.
        return _with(_with(encoded, control + 3, b"\0"), clear, b"\xff\xff\xff")

    # Pillow's background, whatever the file says: the first colour, unless something is transparent.
    background = tf.where((number > 0) & ~is_transparent, data[colours : colours + 3], 255)
    encoded = tf.cond(is_transparent, with_white, lambda: encoded)
    # TensorFlow's canvas is as large as the largest frame, whatever the file says, and cuts off what lies outside.
    encoded = _with(encoded, descriptor + 1, b"\0\0\0\0")
    frame = tf.io.decode_image(encoded, channels=3, expand_animations=False)[:height, :width]
    below = tf.maximum(_two_bytes(data, 8) - top - height, 0)
    behind = tf.maximum(_two_bytes(data, 6) - left - width, 0)
    margins = [[top, below], [left, behind], [0, 0]]
    is_frame = tf.pad(tf.ones_like(frame[..., :1], tf.bool), margins)
    canvas = tf.where(is_frame, tf.pad(frame, margins), tf.cast(background, tf.uint8))
    return tf.ensure_shape(canvas, (None, None, 3))


def shape_in_gif(encoded: Any) -> tuple[Any, Any]:
    """Returns the height and width of the canvas with the first image on it."""
    data = _padded(encoded)
    return _canvas(data, _first_image(data)[0])


def _padded(encoded: Any) -> Any:
    data = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32)
    return tf.pad(data, [[0, _SCREEN + _DESCRIPTOR]])


def _place(data: Any, descriptor: Any) -> list[Any]:
    """Returns the left, top, width and height of an image."""
    return [_two_bytes(data, descriptor + place) for place in (1, 3, 5, 7)]


def _canvas(data: Any, descriptor: Any) -> tuple[Any, Any]:
    left, top, width, height = _place(data, descriptor)
    return tf.maximum(_two_bytes(data, 8), top + height), tf.maximum(_two_bytes(data, 6), left + width)


def _two_bytes(data: Any, place: Any) -> Any:
    return data[place] + 256 * data[place + 1]


def _first_image(data: Any) -> tuple[Any, Any]:
    """Walks the blocks before the first image: where its descriptor is and its graphic control extension, or 0."""

    def is_before(offset: Any, control: Any, is_in_block: Any) -> Any:  # noqa: ARG001
        return (offset < tf.size(data) - _DESCRIPTOR) & (is_in_block | (data[offset] == _EXTENSION))

    def step(offset: Any, control: Any, is_in_block: Any) -> list[Any]:
        length = data[offset]
        is_control = ~is_in_block & (data[offset + 1] == _GRAPHIC_CONTROL)
        return [
            offset + tf.where(is_in_block, 1 + length, 2),
            tf.where(is_control, offset, control),
            ~is_in_block | (length > 0),
        ]

    start = _SCREEN + tf.where(data[10] >= 0x80, 3 * _number_of_colours(data[10]), 0)
    start = tf.minimum(start, tf.size(data) - _DESCRIPTOR)
    loop = [start, tf.constant(0), tf.constant(False)]
    descriptor, control, _ = tf.while_loop(is_before, step, loop, maximum_iterations=_MAX_BLOCKS)
    descriptor = tf.minimum(descriptor, tf.size(data) - _DESCRIPTOR)
    message = f"A GIF must have an image within its first {_MAX_BLOCKS} blocks."
    with tf.control_dependencies([tf.debugging.Assert(data[descriptor] == _IMAGE, [message])]):
        return tf.identity(descriptor), control


def _without_later_frames(encoded: Any, data: Any, descriptor: Any) -> Any:
    """Ends a file after its first image: TensorFlow reads all of them, however large, and shows the first."""
    flags = data[descriptor + 9]
    start = descriptor + _DESCRIPTOR + tf.where(flags >= 0x80, 3 * _number_of_colours(flags), 0) + 1
    length = tf.strings.length(encoded)
    (end,) = tf.while_loop(
        lambda block: (block < length) & (data[tf.minimum(block, length)] > 0),
        lambda block: [block + 1 + data[block]],
        [tf.minimum(start, length)],
        maximum_iterations=_MAX_BLOCKS,
    )
    is_end = (end >= length) | (data[tf.minimum(end, length)] == 0)
    message = f"The first image of a GIF must have at most {_MAX_BLOCKS} blocks."
    with tf.control_dependencies([tf.debugging.Assert(is_end, [message])]):
        end = tf.identity(end)
    return tf.cond(
        end < length, lambda: tf.strings.join([tf.strings.substr(encoded, 0, end + 1), b";"]), lambda: encoded
    )


def _number_of_colours(flags: Any) -> Any:
    return tf.bitwise.left_shift(2, flags % 8)


def _with(encoded: Any, position: Any, new: bytes) -> Any:
    """Writes some bytes over those that are at a position."""
    before = tf.strings.substr(encoded, 0, position)
    start = tf.minimum(position + len(new), tf.strings.length(encoded))
    return tf.strings.join([before, new, tf.strings.substr(encoded, start, tf.strings.length(encoded))])
