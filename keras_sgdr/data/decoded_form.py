"""What a picture is between its decoder and its augmentation, and how a cache keeps it."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_sgdr.data.cropping import Crop
from keras_sgdr.data.decoding import decode_image, decode_pixels, decode_reduced, fit, pixels_of


@dataclass(frozen=True)
class DecodedForm:
    """What is decoded of a picture.

    Attributes:
        image_size: `(height, width)` of what the model sees.
        resize: "crop", "squish" or "pad".
        is_cropped_anywhere: whether each epoch takes another part of the picture.
        is_resampled: whether the augmentation resizes it, so that it comes as `decode_pixels` gives it, and not as
            `decode_image` does.
    """

    image_size: tuple[int, int]
    resize: str
    is_cropped_anywhere: bool
    is_resampled: bool

    @property
    def spec(self) -> Any:
        """What `decode` gives: uint8 of shape `(height, width, 3)`; or `(room, 3)`, and int32 of shape `(2,)`."""
        if not self.is_resampled:
            return tf.TensorSpec((*self.image_size, 3), tf.uint8)
        return tf.TensorSpec((4 * self.image_size[0] * self.image_size[1], 3), tf.uint8), tf.TensorSpec((2,), tf.int32)

    def decode(self, path: Any, crop_position: Any) -> Any:
        """Reads a file, in graph operations, and crops it for one epoch."""
        decoder = decode_pixels if self.is_resampled else decode_image
        position = crop_position if self.is_cropped_anywhere else None
        return decoder(tf.io.read_file(path), image_size=self.image_size, resize=self.resize, crop_position=position)

    def decode_kept(self, path: Any) -> Any:
        """Reads a file, in graph operations, as it serves every epoch: with the margin, where that is cropped.

        Returns:
            uint8 tensor of shape `(height, width, 3)`.
        """
        if self.is_cropped_anywhere:
            return decode_reduced(tf.io.read_file(path), image_size=self.image_size, resize="crop", is_cropped=False)
        decoded = self.decode(path, None)
        if not self.is_resampled:
            return decoded
        pixels, size = decoded
        return tf.reshape(pixels[: size[0] * size[1]], [size[0], size[1], 3])

    def windows(self, sizes: Any, crop_positions: Any) -> Any:
        """Gives the top, left, height and width of what an epoch takes of kept pictures.

        Args:
            sizes: their heights and widths, int32 of shape `(batch, 2)`.
            crop_positions: float32 of shape `(batch,)`.

        Returns:
            int32 tensor of shape `(batch, 4)`.
        """
        heights, widths = sizes[:, 0], sizes[:, 1]
        if not self.is_cropped_anywhere:
            return tf.stack([tf.zeros_like(heights), tf.zeros_like(widths), heights, widths], axis=1)
        crop = Crop(self.image_size, self.resize, crop_positions)
        return tf.stack(crop.window(heights, widths), axis=1)

    def is_finished(self, sizes: Any) -> bool:
        """Whether parts of these sizes are what `decode` gives, as they are."""
        if not self.is_cropped_anywhere:
            return True
        parts = self.windows(sizes, tf.zeros(len(sizes)))[:, 2:]
        return self.is_resampled and not bool(tf.reduce_any(parts >= 2 * tf.constant(self.image_size)))

    def finish(self, picture: Any) -> Any:
        """Makes of the part of a kept picture what `decode` gives."""
        finish = pixels_of if self.is_resampled else fit
        return finish(picture, image_size=self.image_size, resize=self.resize)
