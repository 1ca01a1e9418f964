"""Reads the orientation that a camera noted in an image, and undoes it, with graph operations."""

from typing import Any

import tensorflow as tf

from keras_sgdr.data.decode.rarely import rarely

_ORIENTATION_TAG = 0x0112
_USUAL_JFIF, _HEAD = (0xFF, 0xE0, 0, 16), 22
_SEGMENT_HEADER = 10  # marker (2), length (2), "Exif\0\0" (6)


def orientation_at(encoded: Any, start: Any) -> Any:
    """Reads the EXIF orientation of an image.

    Args:
        encoded: The file's bytes, a scalar string tensor.
        start: Where its TIFF header is; 0 if it has none.

    Returns:
        A scalar int32 tensor from 1 (upright) to 8; 1 where there is none, or where it makes no sense.

    Reference:
        CIPA DC-008 (EXIF 2.32), sections 4.5.4 and 4.6.4.
    """
    return tf.cond(start > 0, lambda: _tiff_orientation(encoded, start), lambda: tf.constant(1))


def exif_in_jpeg(encoded: Any) -> Any:
    """Returns where the TIFF header of a JPEG's EXIF segment is, or 0.

    The segments before the image are walked; at most a handful precede EXIF's.
    """
    # Most files go on with the image's tables, at once or after JFIF's segment of the usual length. What is done for
    # each of them counts: 50 small operations take as long as a tenth of the decoding.
    head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=_HEAD)
    marker = tf.where(tf.reduce_all(head[2:6] == tf.constant(_USUAL_JFIF, tf.uint8)), head[_HEAD - 1], head[3])
    return tf.cond(_is_application(marker), lambda: _walked_segments(encoded), lambda: tf.constant(0))


def exif_in_png(encoded: Any) -> Any:
    """Returns where the TIFF header of a PNG's EXIF chunk is, or 0.

    Reference:
        PNG (Third Edition), section 11.3.4.5, the chunk eXIf.
    """
    # The chunk may stand behind thousands of others, which a loop in a graph would take long to walk. That an image's
    # compressed bytes spell its name is as likely as four bytes are.
    before = tf.strings.length(tf.strings.split(encoded, "eXIf", maxsplit=1)[0])
    return tf.where(before < tf.strings.length(encoded), before + 4, 0)


@rarely
def _tiff_orientation(encoded: Any, start: Any) -> Any:
    """Reads the tag from the first directory of the TIFF header at `start`; all its entries are compared at once.

    Returns:
        A scalar int32 tensor from 1 to 8, as `orientation_at` gives it.
    """
    # Two bytes to a number, as far as the directory of any sane file reaches.
    tiff = _numbers(tf.strings.substr(encoded, tf.minimum(start, tf.strings.length(encoded)), 4096), 4096)
    is_little = tiff[0] == ord("I")
    low, high = tf.where(is_little, tiff[0::2], tiff[1::2]), tf.where(is_little, tiff[1::2], tiff[0::2])
    numbers = low + 256 * high
    # Directories begin at an even offset; its upper half is zero unless the directory is out of reach.
    directory = tf.where(is_little, numbers[2], numbers[3]) // 2
    is_sane = (directory >= 4) & (directory < 1024) & (tf.where(is_little, numbers[3], numbers[2]) == 0)
    directory = tf.where(is_sane, directory, 4)
    count = tf.minimum(numbers[directory], (2048 - directory - 1) // 6)
    entries = tf.reshape(numbers[directory + 1 : directory + 1 + 6 * count], [-1, 6])
    values = tf.boolean_mask(entries[:, 4], entries[:, 0] == _ORIENTATION_TAG)
    value = tf.concat([values, [1]], axis=0)[0]
    return tf.where(is_sane & (value >= 1) & (value <= 8), value, 1)


def upright(image: Any, orientation: Any) -> Any:
    """Turns an image so that it stands as its EXIF orientation says.

    Args:
        image: Tensor of shape `(height, width, channels)`.
        orientation: Scalar int32 tensor in [1, 8].

    Returns:
        The image, of shape `(width, height, channels)` where the orientation is 5 or more.
    """
    return tf.cond(orientation == 1, lambda: image, lambda: _turned(image, orientation))


def is_reversed(orientation: Any) -> Any:
    """Tells whether a stored image's rows, and its columns, come upright in the opposite order.

    Returns:
        bool tensor of shape `(2,)`.
    """
    return tf.gather([[code in (3, 4, 6, 7), code in (2, 3, 7, 8)] for code in range(9)], orientation)


@rarely
def _turned(image: Any, orientation: Any) -> Any:
    image = tf.transpose(image, tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2]))
    is_upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    is_mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    return tf.reverse(image, tf.boolean_mask([0, 1], tf.stack([is_upside_down, is_mirrored])))


def _segment(encoded: Any, offset: Any) -> Any:
    """Returns the first ten bytes of a segment as int32; zeros where the file ends before."""
    return _numbers(tf.strings.substr(encoded, tf.minimum(offset, tf.strings.length(encoded)), _SEGMENT_HEADER), 10)


def _numbers(encoded: Any, count: int) -> Any:
    return tf.cast(tf.io.decode_raw(encoded, tf.uint8, fixed_length=count), tf.int32)


def _is_application(marker: Any) -> Any:
    """Whether a segment is an application's or a comment: EXIF stands among them."""
    return ((marker >= 0xE0) & (marker <= 0xEF)) | (marker == 0xFE)


@rarely
def _walked_segments(encoded: Any) -> Any:
    """Walks application segments up to EXIF's, and returns where its content begins, or 0."""

    def is_among_them(offset: Any, found: Any) -> Any:
        return (found == 0) & (offset > 0)

    def step(offset: Any, found: Any) -> list[Any]:
        header = _segment(encoded, offset)
        is_application = (header[0] == 0xFF) & _is_application(header[1])
        is_exif = (header[1] == 0xE1) & tf.reduce_all(header[4:] == tf.constant([*b"Exif\0\0"]))
        found = tf.where(is_application & is_exif, offset + _SEGMENT_HEADER, found)
        return [tf.where(is_application, offset + 2 + 256 * header[2] + header[3], 0), found]

    return tf.while_loop(is_among_them, step, [tf.constant(2), tf.constant(0)], maximum_iterations=100)[1]
