"""Decodes the bytes of a file to a uint8 image of the size that the model takes, in graph operations alone.

Training, prediction and the exported model call the same function, so that they see the same image.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sgdr.data.decode.bmp import decode_bmp, shape_in_bmp
from keras_sgdr.data.decode.crop import Crop
from keras_sgdr.data.decode.exif import exif_in_jpeg, exif_in_png, is_reversed, orientation_at, upright
from keras_sgdr.data.decode.gif import decode_gif, shape_in_gif
from keras_sgdr.data.decode.jpeg import decode_jpeg, decode_whole_jpeg, is_too_large_jpeg, plain_jpeg_shape
from keras_sgdr.data.decode.pixel_limit import is_beyond
from keras_sgdr.data.decode.png import decode_png, over_white, shape_in_png
from keras_sgdr.data.decode.rarely import rarely
from keras_sgdr.data.decode.webp import decode_webp, exif_in_webp, shape_in_webp
from keras_sgdr.data.index.formats import DECODED
from keras_sgdr.validation import InvalidValueError

RESIZE_MODES = ("crop", "squish", "pad")

# In this order `_exif_in_other_kind` and `_decode_other_kind` list what they do.
_MAGIC = {name: DECODED[name] for name in ("JPEG", "PNG", "BMP", "WebP", "GIF")}
_MAGIC_LENGTH = max(map(len, _MAGIC.values()))
_MAGIC_BYTES = np.array([list(magic.ljust(_MAGIC_LENGTH, b"\0")) for magic in _MAGIC.values()], np.uint8)
_IS_BEHIND_MAGIC = np.arange(_MAGIC_LENGTH) >= np.array([[len(magic)] for magic in _MAGIC.values()])


@tf.autograph.experimental.do_not_convert
def decode_image(
    encoded: Any, *, image_size: int | tuple[int, int], resize: str = "crop", crop_position: Any = None
) -> Any:
    """Decodes an image and brings it to one size.

    JPEG, PNG, BMP, GIF (the first frame) and WebP are told apart by content. Grey, palette, 16-bit and CMYK images
    become RGB; what is transparent is laid over white; EXIF orientation is honoured in JPEG, PNG
    and WebP. Large JPEGs are decoded at the smallest of 1/8, 1/4 and 1/2 scale that still covers the target, and only
    where the crop is. What is left is bilinear (antialiased where it shrinks by 2 or more, which only other formats can
    need).

    Args:
        encoded: The file's bytes, a scalar string tensor (or bytes).
        image_size: `(height, width)` of the result, or one number for both, in pixels.
        resize: "crop" takes the largest part of the target's shape, which can cut the dog's head off; "squish" keeps
            the whole image and changes its proportions; "pad" keeps the whole image and its proportions and fills
            the rest with black.
        crop_position: Which part "crop" takes along the long side, a scalar float32 tensor from 0 (left or top) to 1;
            None for the centre.

    Returns:
        uint8 tensor of shape `(height, width, 3)`, RGB.

    Raises:
        ValueError: If `image_size` or `resize` makes no sense.
        tf.errors.InvalidArgumentError: If the bytes are not an image (when the graph runs).
    """
    size = checked_image_size(image_size)
    image = decode_reduced(encoded, image_size=size, resize=resize, crop_position=crop_position)
    return fit(image, image_size=size, resize=resize)


@tf.autograph.experimental.do_not_convert
def decode_reduced(
    encoded: Any,
    *,
    image_size: tuple[int, int],
    resize: str = "crop",
    crop_position: Any = None,
    is_cropped: bool = True,
) -> Any:
    """Decodes an image, upright, no larger than needed to cover `image_size`, cropped to its shape for "crop".

    If not `is_cropped`, it is the whole image of which that is a part: for every position, the very pixels that are
    given with that `crop_position`.

    Returns:
        uint8 tensor of shape `(height, width, 3)`. A JPEG's sides are less than twice what `image_size` needs, unless
        it was more than 8 times too large.
    """
    room = 0.0 if is_cropped else math.inf
    image, _ = _decode(encoded, Crop(image_size, checked_resize(resize), crop_position, room=room))
    return image


@tf.autograph.experimental.do_not_convert
def fit(image: Any, *, image_size: tuple[int, int], resize: str) -> Any:
    """Resizes a uint8 image that `decode_reduced` gave to `(height, width, 3)`, padding it for "pad"."""
    if resize != "pad":
        return tf.ensure_shape(_resized(image, image_size), (*image_size, 3))
    height, width = _inner_size(tf.shape(image), image_size)
    fitted = _resized(image, (height, width))
    above, before = (image_size[0] - height) // 2, (image_size[1] - width) // 2
    margins = [[above, image_size[0] - height - above], [before, image_size[1] - width - before], [0, 0]]
    return tf.ensure_shape(tf.pad(fitted, margins), (*image_size, 3))


def room_for(image_size: tuple[int, int]) -> int:
    """Returns how many pixels `decode_pixels` gives at most."""
    return 4 * image_size[0] * image_size[1]


@tf.autograph.experimental.do_not_convert
def decode_pixels(
    encoded: Any, *, image_size: tuple[int, int], resize: str, crop_position: Any = None
) -> tuple[Any, Any]:
    """Decodes an image for one that resamples it: as `decode_image` does, but for the last resize.

    To cut a part out is to copy it; so where `crop_position` says which part, an image that is small enough comes
    whole, and what resamples it looks at the part alone.

    Returns:
        The image's pixels, row by row: uint8 of shape `(n,)`, with n at most `3 * room_for(image_size)`; and its
        frame, int32 of shape `(3,)`: its height, its width, and 1 if the part is all of it, 0 if it is whole.
    """
    room = room_for(image_size) if resize == "crop" and crop_position is not None else 0.0
    crop = Crop(image_size, checked_resize(resize), crop_position, room=room)
    if not crop.room:
        return _decode_pixels(encoded, crop)
    # Most images are decoded and that is all. The 200 small operations that the others need would cost a tenth.
    shape = plain_jpeg_shape(encoded)
    return tf.cond(
        (shape[0] > 0) & (shape[2] <= 3) & crop.is_left_whole(shape[0], shape[1]),
        lambda: (tf.reshape(decode_whole_jpeg(encoded), [-1]), shape * [1, 1, 0]),
        lambda: rarely(_decode_pixels)(encoded, crop),
    )


@tf.autograph.experimental.do_not_convert
def pixels_of(image: Any, *, image_size: tuple[int, int], resize: str, is_whole: Any = False) -> tuple[Any, Any]:
    """Returns what `decode_pixels` would, for an image of `decode_reduced`."""
    size = tf.shape(image)
    if resize == "pad":
        image = fit(image, image_size=image_size, resize=resize)
    else:
        is_too_large = Crop(image_size, resize).is_too_large(size[0], size[1]) & ~tf.convert_to_tensor(is_whole)
        image = tf.cond(is_too_large, lambda: rarely(_resized)(image, image_size), lambda: image)
    frame = tf.stack([*tf.unstack(tf.shape(image)[:2]), tf.cast(~tf.convert_to_tensor(is_whole), tf.int32)])
    return tf.reshape(image, [-1]), frame


def _decode_pixels(encoded: Any, crop: Crop) -> tuple[Any, Any]:
    image, is_whole = _decode(encoded, crop)
    return pixels_of(image, image_size=crop.target, resize=crop.resize, is_whole=is_whole)


def checked_image_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns `(height, width)` for a number or a pair.

    Raises:
        ValueError: If it is not one or two integers of at least 1.
    """
    size = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size):
        raise InvalidValueError(
            f"`image_size` must be an integer >= 1, or (height, width) of them. Received: image_size={image_size}."
        )
    return size


def checked_resize(resize: str) -> str:
    """Returns the name of a way of resizing, if there is such a one.

    Raises:
        ValueError: If there is no such way of resizing.
    """
    if resize not in RESIZE_MODES:
        raise InvalidValueError(f"`resize` must be one of {', '.join(RESIZE_MODES)}. Received: resize={resize!r}.")
    return resize


def kind_of(encoded: Any) -> Any:
    """Tells a format by the first bytes: its place in JPEG, PNG, BMP, WebP, GIF; one more than the last for others."""
    head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=_MAGIC_LENGTH)
    is_kind = tf.reduce_all((head == _MAGIC_BYTES) | _IS_BEHIND_MAGIC, axis=1)
    return tf.argmax(tf.concat([is_kind, [True]], axis=0), output_type=tf.int32)


def is_too_large(encoded: Any) -> Any:
    """Whether an image is refused for its size, as its header has it: a scalar bool tensor.

    Raises:
        tf.errors.InvalidArgumentError: If it has no header (when the graph runs).
    """
    branches = [partial(reader, encoded) for reader in _ARE_TOO_LARGE]
    return tf.switch_case(kind_of(encoded), [*branches, lambda: tf.constant(False)])


def _is_beyond_in(shape: Any, encoded: Any) -> Any:
    return is_beyond(shape(encoded))


_SHAPES_IN = (shape_in_png, shape_in_bmp, shape_in_webp, shape_in_gif)
_ARE_TOO_LARGE = [rarely(is_too_large_jpeg), *(rarely(partial(_is_beyond_in, shape)) for shape in _SHAPES_IN)]


def _decode(encoded: Any, crop: Crop) -> tuple[Any, Any]:
    """Decodes an image, upright, and crops it; `crop` is that of the upright image.

    Returns:
        uint8 tensor of shape `(height, width, 3)`, and whether it is whole though a part of it is wanted.
    """
    encoded = tf.convert_to_tensor(encoded)
    kind = kind_of(encoded)
    is_jpeg = kind == 0
    start = tf.cond(is_jpeg, lambda: exif_in_jpeg(encoded), lambda: _exif_in_other_kind(encoded, kind))
    orientation = orientation_at(encoded, start)
    crop = crop._replace(target=_lying(crop.target, orientation), is_reversed=is_reversed(orientation))
    image, is_whole = tf.cond(
        is_jpeg, lambda: decode_jpeg(encoded, crop), lambda: _decode_other_kind(encoded, kind, crop)
    )
    return upright(image, orientation), is_whole


@rarely
def _exif_in_other_kind(encoded: Any, kind: Any) -> Any:
    """Returns where the TIFF header of an image other than a JPEG is, or 0."""
    none = lambda _: tf.constant(0)  # noqa: E731
    readers = (exif_in_png, none, exif_in_webp, none, none)
    return tf.switch_case(kind - 1, [partial(reader, encoded) for reader in readers])


@rarely
def _decode_other_kind(encoded: Any, kind: Any, crop: Crop) -> tuple[Any, Any]:
    """Decodes what is no JPEG, and crops it."""
    decoders = (decode_png, decode_bmp, _decode_webp, decode_gif, _decode_other)
    image = tf.switch_case(kind - 1, [partial(decoder, encoded) for decoder in decoders])
    if crop.resize == "crop" and (crop.position is not None or crop.room):
        image = _shrunk(image, crop)
    if crop.is_all:
        return image, crop.is_left_whole(0, 0)
    shape = tf.shape(image)
    is_left_whole = crop.is_left_whole(shape[0], shape[1])
    top, left, height, width = crop.window(shape[0], shape[1])
    part = tf.cond(is_left_whole, lambda: image, lambda: image[top : top + height, left : left + width])
    return part, is_left_whole


def _lying(image_size: tuple[int, int], orientation: Any) -> tuple[Any, Any]:
    """Returns the target's height and width as the file stores the image, which may lie on its side."""
    height, width = image_size
    if height == width:
        return height, width
    is_lying = orientation >= 5
    return tf.where(is_lying, width, height), tf.where(is_lying, height, width)


@rarely
def _decode_webp(encoded: Any) -> Any:
    image = decode_webp(encoded)
    colours = image[..., :3]
    return tf.cond(tf.shape(image)[2] == 4, lambda: over_white(colours, image[..., 3:]), lambda: colours)


@rarely
def _decode_other(encoded: Any) -> Any:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def _shrunk(image: Any, crop: Crop) -> Any:
    """Shrinks an image that is far too large, so that the part of it has the target's size."""
    shape, target = tf.shape(image), crop.target
    part = crop.size(shape[0], shape[1])
    sides = [tf.maximum(target[axis], (shape[axis] * target[axis] + part[axis] // 2) // part[axis]) for axis in (0, 1)]
    return tf.cond(crop.is_too_large(*part), lambda: _resized(image, (sides[0], sides[1])), lambda: image)


def _inner_size(shape: Any, target: tuple[int, int]) -> tuple[Any, Any]:
    """Returns the size of the whole image when it just fits into the target."""
    scale = tf.minimum(target[0] / shape[0], target[1] / shape[1])
    sides = [tf.cast(tf.round(tf.cast(shape[axis], scale.dtype) * scale), tf.int32) for axis in (0, 1)]
    return tf.clip_by_value(sides[0], 1, target[0]), tf.clip_by_value(sides[1], 1, target[1])


def _resized(image: Any, size: tuple[Any, Any]) -> Any:
    shape = tf.shape(image)
    values = tf.cond(
        (shape[0] >= 2 * size[0]) | (shape[1] >= 2 * size[1]),
        # An antialiased resize takes three times as long, and a JPEG has already been shrunk by its decoder.
        lambda: tf.image.resize(image, size, antialias=True),
        lambda: tf.image.resize(image, size),
    )
    return tf.cast(tf.round(tf.clip_by_value(values, 0.0, 255.0)), tf.uint8)
