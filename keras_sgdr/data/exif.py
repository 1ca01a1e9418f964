"""The orientation that a camera noted in a picture, read and undone with graph operations."""

from typing import Any

import tensorflow as tf

_ORIENTATION_TAG = 0x0112
_SEGMENT_HEADER = 10  # marker (2), length (2), "Exif\0\0" (6)


def exif_orientation(encoded: Any) -> Any:
    """Reads the EXIF orientation of a JPEG.

    The segments before the picture are walked; at most a handful precede EXIF's.

    Args:
        encoded: the file's bytes, a scalar string tensor.

    Returns:
        A scalar int32 tensor from 1 (upright) to 8; 1 where there is none, or where it makes no sense.

    Reference:
        CIPA DC-008 (EXIF 2.32), sections 4.5.4 and 4.6.4.
    """
    start = _exif_start(encoded)
    return tf.cond(start > 0, lambda: _orientation_at(encoded, start), lambda: tf.constant(1))


def upright(picture: Any, orientation: Any) -> Any:
    """Turns a picture so that it stands as its EXIF orientation says.

    Args:
        picture: tensor of shape `(height, width, channels)`.
        orientation: scalar int32 tensor in [1, 8].

    Returns:
        The picture, of shape `(width, height, channels)` where the orientation is 5 or more.
    """
    return tf.cond(orientation == 1, lambda: picture, lambda: _turned(picture, orientation))


def _turned(picture: Any, orientation: Any) -> Any:
    picture = tf.transpose(picture, tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2]))
    is_upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    is_mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    return tf.reverse(picture, tf.boolean_mask([0, 1], tf.stack([is_upside_down, is_mirrored])))


def _exif_start(encoded: Any) -> Any:
    """Finds the TIFF header in a JPEG's EXIF segment; 0 if there is none."""
    length = tf.strings.length(encoded)

    def header(offset: Any) -> Any:
        return tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, offset, _SEGMENT_HEADER), tf.uint8), tf.int32)

    def is_before_picture(offset: Any, found: Any) -> Any:
        inside = (offset > 0) & (offset + _SEGMENT_HEADER <= length)
        return (found == 0) & inside

    def step(offset: Any, found: Any) -> list[Any]:
        bytes_ = header(offset)
        is_segment = (bytes_[0] == 0xFF) & (bytes_[1] >= 0xC0) & (bytes_[1] != 0xDA)
        is_exif = (bytes_[1] == 0xE1) & tf.reduce_all(bytes_[4:] == tf.constant([*b"Exif\0\0"]))
        after = tf.where(is_segment, offset + 2 + 256 * bytes_[2] + bytes_[3], 0)
        return [after, tf.where(is_segment & is_exif, offset + _SEGMENT_HEADER, found)]

    return tf.while_loop(is_before_picture, step, [tf.constant(2), tf.constant(0)], maximum_iterations=100)[1]


def _orientation_at(encoded: Any, start: Any) -> Any:
    """Reads the tag from the first directory of a TIFF header; all its entries are compared at once."""
    # Two bytes to a number, as far as the directory of any sane file reaches.
    tiff = tf.io.decode_raw(tf.strings.substr(encoded, start, 4096), tf.uint8)
    tiff = tf.pad(tf.cast(tiff, tf.int32), [[0, 4096 - tf.size(tiff)]])
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
