"""`DecodeSpec`: the form of an image between its decoder and its augmentation, and in a cache."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import tensorflow as tf

from keras_sgdr.data.decode.crop import Crop
from keras_sgdr.data.decode.decode_image import decode_image, decode_pixels, decode_reduced, fit, pixels_of, room_for


@dataclass(frozen=True)
class DecodeSpec:
    """What is decoded of an image.

    Attributes:
        image_size: `(height, width)` of what the model sees.
        resize: "crop", "squish" or "pad".
        is_cropped_anywhere: Whether each epoch takes another part of the image.
        is_resampled: Whether the augmentation resizes it, so that it comes as `decode_pixels` gives it, and not as
            `decode_image` does.
    """

    image_size: tuple[int, int]
    resize: str
    is_cropped_anywhere: bool
    is_resampled: bool

    @property
    def spec(self) -> Any:
        """What an image of a batch is: uint8 of shape `(height, width, 3)`, or what `decode_pixels` gives.

        The latter has something behind it: uint8 of shape `(3 * room,)`; and the frame, int32 of shape `(3,)`.
        """
        if not self.is_resampled:
            return tf.TensorSpec((*self.image_size, 3), tf.uint8)
        return tf.TensorSpec((3 * room_for(self.image_size),), tf.uint8), tf.TensorSpec((3,), tf.int32)

    def decode(self, encoded: Any, crop_position: Any) -> Any:
        """Decodes a file's bytes, in graph operations, cropped for one epoch; pixels come without zeros behind."""
        return _traced_decode(self)(encoded, crop_position)

    def decode_kept(self, encoded: Any) -> Any:
        """Decodes a file's bytes, in graph operations, as it serves every epoch: with the margin, if that is cropped.

        Returns:
            uint8 tensor of shape `(height, width, 3)`.
        """
        if self.is_cropped_anywhere:
            return _traced_decode_reduced(self.image_size)(encoded)
        decoded = self.decode(encoded, 0.0)
        if not self.is_resampled:
            return decoded
        pixels, frame = decoded
        return tf.reshape(pixels, [frame[0], frame[1], 3])

    def parts(self, sizes: Any, crop_positions: Any) -> Any:
        """Returns the top, left, height and width of what an epoch takes of whole images.

        Args:
            sizes: Their heights and widths, int32 of shape `(batch, 2)`.
            crop_positions: float32 of shape `(batch,)`.

        Returns:
            int32 tensor of shape `(batch, 4)`.
        """
        heights, widths = sizes[:, 0], sizes[:, 1]
        if not self.is_cropped_anywhere:
            return tf.stack([tf.zeros_like(heights), tf.zeros_like(widths), heights, widths], axis=1)
        crop = Crop(self.image_size, self.resize, crop_positions)
        return tf.stack(crop.window(heights, widths), axis=1)

    def windows(self, frames: Any, crop_positions: Any) -> Any:
        """Returns where the parts that an epoch takes are in pixels as `decode_pixels` gives them.

        Args:
            frames: int32 of shape `(batch, 3)`.
            crop_positions: float32 of shape `(batch,)`.

        Returns:
            int32 tensor of shape `(batch, 4)`, as `RandomView.augment_pixels` takes it.
        """
        heights, widths, are_parts = tf.unstack(frames, axis=1)
        tops, lefts, part_heights, part_widths = tf.unstack(self.parts(frames[:, :2], crop_positions), axis=1)
        whole = tf.stack([tf.zeros_like(heights), heights, widths, widths], axis=1)
        part = tf.stack([tops * widths + lefts, part_heights, part_widths, widths], axis=1)
        return tf.where(are_parts[:, None] == 1, whole, part)

    def are_left_whole(self, sizes: Any) -> Any:
        """Whether kept images come whole, for their windows to be looked at: bool of shape `(batch,)`."""
        if not (self.is_resampled and self.is_cropped_anywhere):
            return tf.zeros_like(sizes[:, 0], tf.bool)
        return Crop(self.image_size, self.resize, room=room_for(self.image_size)).is_left_whole(
            sizes[:, 0], sizes[:, 1]
        )

    def is_finished(self, sizes: Any) -> bool:
        """Whether parts of these sizes are what `decode` returns, as they are."""
        if not self.is_cropped_anywhere:
            return True
        crop = Crop(self.image_size, self.resize)
        are_too_large = crop.is_too_large(*crop.size(sizes[:, 0], sizes[:, 1]))
        return self.is_resampled and not bool(tf.reduce_any(are_too_large))

    def finish(self, image: Any) -> Any:
        """Makes of the part of a kept image what `spec` says."""
        if not self.is_resampled:
            return fit(image, image_size=self.image_size, resize=self.resize)
        pixels, frame = pixels_of(image, image_size=self.image_size, resize=self.resize)
        return tf.pad(pixels, [[0, self.spec[0].shape[0] - tf.size(pixels)]]), frame


@cache
def _traced_decode(spec: DecodeSpec) -> Any:
    """Returns `DecodeSpec.decode`, traced once: to trace it takes a quarter of a second, for each dataset."""
    decoder = decode_pixels if spec.is_resampled else decode_image

    def decode(encoded: Any, crop_position: Any) -> Any:
        position = crop_position if spec.is_cropped_anywhere else None
        return decoder(encoded, image_size=spec.image_size, resize=spec.resize, crop_position=position)

    return tf.function(decode, [tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.float32)], autograph=False)


@cache
def _traced_decode_reduced(image_size: tuple[int, int]) -> Any:
    """Returns what `DecodeSpec.decode_kept` does to images that are cropped anywhere, traced once."""
    decode = partial(decode_reduced, image_size=image_size, resize="crop", is_cropped=False)
    return tf.function(decode, [tf.TensorSpec((), tf.string)], autograph=False)
