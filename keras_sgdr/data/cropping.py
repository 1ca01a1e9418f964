"""Which part of a picture is wanted."""

from typing import Any, NamedTuple

import tensorflow as tf


class Crop(NamedTuple):
    """Which part of a picture is wanted, as the file stores it.

    Attributes:
        target: the height and width that it will be resized to.
        resize: "crop" for a part of the target's shape; all of the picture otherwise.
        position: where along the long side, upright, from 0 to 1; None for the centre.
        is_reversed: whether the rows, and the columns, end upright where they begin in the file: bool of shape `(2,)`.
        is_put_off: whether the part will be taken later.
    """

    target: tuple[Any, Any]
    resize: str
    position: Any = None
    is_reversed: Any = (False, False)
    is_put_off: bool = False

    def size(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Gives the height and width of the part."""
        if self.resize != "crop":
            return height, width
        tall, wide = self.target
        cropped_height = tf.clip_by_value((width * tall + wide // 2) // wide, 1, height)
        return cropped_height, tf.clip_by_value((height * wide + tall // 2) // tall, 1, width)

    def window(self, height: Any, width: Any) -> tuple[Any, Any, Any, Any]:
        """Gives the top, left, height and width of what is to be taken now."""
        if self.resize != "crop" or self.is_put_off:
            return tf.zeros_like(height), tf.zeros_like(width), height, width
        part_height, part_width = self.size(height, width)
        top, left = self._start(height - part_height, 0), self._start(width - part_width, 1)
        return top, left, part_height, part_width

    def _start(self, room: Any, axis: int) -> Any:
        # As many places as there are pixels of room, and one, each as likely.
        places = tf.cast(room + 1, tf.float32)
        start = room // 2 if self.position is None else tf.minimum(tf.cast(self.position * places, tf.int32), room)
        return tf.where(self.is_reversed[axis], room - start, start)
