"""`Crop`: which part of an image is decoded."""

import math
from typing import Any, NamedTuple

import tensorflow as tf


class Crop(NamedTuple):
    """Which part of an image is wanted, as the file stores it.

    Attributes:
        target: The height and width that it will be resized to.
        resize: "crop" for a part of the target's shape; all of the image otherwise.
        position: Where along the long side, upright, from 0 to 1; None for the centre.
        is_reversed: Whether the rows, and the columns, end upright where they begin in the file: bool of shape `(2,)`.
        room: An image of no more pixels than these is left whole, and the part of it taken later; infinity for all.
    """

    target: tuple[Any, Any]
    resize: str
    position: Any = None
    is_reversed: Any = (False, False)
    room: float = 0.0

    def size(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Returns the height and width of the part."""
        if self.resize != "crop":
            return height, width
        tall, wide = self.target
        cropped_height = tf.clip_by_value((width * tall + wide // 2) // wide, 1, height)
        return cropped_height, tf.clip_by_value((height * wide + tall // 2) // tall, 1, width)

    @property
    def is_all(self) -> bool:
        """Whether every image is left whole."""
        return self.resize != "crop" or self.room == math.inf

    def is_left_whole(self, height: Any, width: Any) -> Any:
        """Whether an image of a size is left whole, though only a part of it is wanted.

        Where the part is to be shrunk, it is taken first.
        """
        if self.is_all or not self.room:
            return tf.constant(self.room == math.inf)
        return (height * width <= int(self.room)) & ~self.is_too_large(*self.size(height, width))

    def is_too_large(self, height: Any, width: Any) -> Any:
        """Whether a part of a size is twice the target's or more."""
        return (height >= 2 * self.target[0]) | (width >= 2 * self.target[1])

    def window(self, height: Any, width: Any) -> tuple[Any, Any, Any, Any]:
        """Returns the top, left, height and width of the part."""
        if self.resize != "crop":
            return tf.zeros_like(height), tf.zeros_like(width), height, width
        part_height, part_width = self.size(height, width)
        top, left = self._start(height - part_height, 0), self._start(width - part_width, 1)
        return top, left, part_height, part_width

    def _start(self, room: Any, axis: int) -> Any:
        # As many places as there are pixels of room, and one, each as likely.
        places = tf.cast(room + 1, tf.float32)
        start = room // 2 if self.position is None else tf.minimum(tf.cast(self.position * places, tf.int32), room)
        return tf.where(self.is_reversed[axis], room - start, start)
