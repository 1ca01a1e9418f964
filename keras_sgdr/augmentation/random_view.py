"""Random views of images: one KerasCV layer, and the course's presets of it."""

import math
import random
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras_cv.layers import CutMix, MixUp, VectorizedBaseImageAugmentationLayer

from keras_sgdr.augmentation.resampling import render
from keras_sgdr.augmentation.stateless_random import uniforms
from keras_sgdr.augmentation.transforms import (
    IDENTITY,
    Transform,
    compose,
    rotation,
    scaling,
    symmetry,
    tilting,
    zooming,
)
from keras_sgdr.validation import InvalidValueError

FLIPS = ("none", "horizontal", "dihedral")

_DRAWS = 16


@keras.saving.register_keras_serializable(package="keras_sgdr")
class RandomView(VectorizedBaseImageAugmentationLayer):
    """Shows each image a little differently: flipped, turned, zoomed, warped, lighter, with more contrast.

    All that moves pixels is composed into one bilinear resampling with reflected borders, and brightness and contrast
    into one multiplication and addition. It is a KerasCV layer: it takes images `(height, width, 3)`, batches, or a
    dictionary with `"images"` and `"labels"`, does nothing unless `training=True`, and leaves labels alone.

    `augment(images, seeds)` is the same as a pure function: an image's view is drawn from its seed and nothing else.

    Args:
        flip: "none", "horizontal", or "dihedral" for the eight symmetries of the square (the four that need no quarter
            turn where height and width differ).
        max_rotate_degrees: The angle is uniform between minus this and this.
        max_zoom: The zoom is uniform in [1, max_zoom], towards a random part of the image that stays inside it.
        max_warp: How far, as a part of half the side, perspective moves the corners; 0.2 is strong.
        max_lighting: Brightness moves by up to this part of 255 either way, and contrast about the image's mean is
            multiplied by up to 1 + this, or divided by it.
        flip_probability: How often an image is mirrored, for "horizontal".
        rotate_probability: How often the angle is not 0.
        zoom_probability: How often the zoom is not 1.
        warp_probability: How often there is perspective.
        lighting_probability: How often the lighting changes.
        seed: For the calls that are given no seeds.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        ```pycon
        >>> layer = RandomView(flip="horizontal", max_zoom=1.1)
        >>> layer(np.zeros((32, 224, 224, 3), "float32"), training=True).shape
        TensorShape([32, 224, 224, 3])
        ```

    Reference:
        fast.ai 0.7, `transforms_basic`, `transforms_side_on`, `transforms_top_down`.
    """

    def __init__(
        self,
        *,
        flip: str = "none",
        max_rotate_degrees: float = 10.0,
        max_zoom: float = 1.0,
        max_warp: float = 0.0,
        max_lighting: float = 0.05,
        flip_probability: float = 0.5,
        rotate_probability: float = 0.75,
        zoom_probability: float = 0.75,
        warp_probability: float = 0.75,
        lighting_probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Without a seed, and 0 is one, the base class asks for a global generator, which operation determinism refuses.
        super().__init__(seed=1, **kwargs)
        own_seed = random.getrandbits(31) if seed is None else seed  # Python's, that `set_random_seed` sets
        self._random_generator = tf.random.Generator.from_seed(own_seed)
        if flip not in FLIPS:
            raise InvalidValueError(f"`flip` must be one of {', '.join(FLIPS)}. Received: flip={flip!r}.")
        self._check_range("max_rotate_degrees", max_rotate_degrees, 0.0, 180.0)
        self._check_range("max_zoom", max_zoom, 1.0, 10.0)
        self._check_range("max_warp", max_warp, 0.0, 0.5)
        self._check_range("max_lighting", max_lighting, 0.0, 1.0)
        self.flip = flip
        self.max_rotate_degrees = max_rotate_degrees
        self.max_zoom = max_zoom
        self.max_warp = max_warp
        self.max_lighting = max_lighting
        self.flip_probability = flip_probability
        self.rotate_probability = rotate_probability
        self.zoom_probability = zoom_probability
        self.warp_probability = warp_probability
        self.lighting_probability = lighting_probability
        self.seed = seed
        for name in ("flip", "rotate", "zoom", "warp", "lighting"):
            self._check_range(f"{name}_probability", getattr(self, f"{name}_probability"), 0.0, 1.0)

    @staticmethod
    def _check_range(name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            raise InvalidValueError(f"`{name}` must be between {low} and {high}. Received: {name}={value}.")

    def augment(self, images: Any, seeds: Any) -> Any:
        """Shows each image as its seed says: a pure function, compiled by XLA.

        Args:
            images: uint8 or float tensor of shape `(batch, height, width, 3)` with values in [0, 255].
            seeds: int32 tensor of shape `(batch, 2)`.

        Returns:
            float32 tensor of the images' shape, values in [0, 255].
        """
        images = tf.convert_to_tensor(images)
        size = (images.shape[1], images.shape[2])
        pixels = tf.reshape(images, [-1, 3 * size[0] * size[1]])
        windows = tf.tile([[0, *size, size[1]]], [tf.shape(images)[0], 1])
        return self.augment_pixels(pixels, windows, seeds, image_size=size)

    def augment_pixels(self, pixels: Any, windows: Any, seeds: Any, *, image_size: tuple[int, int]) -> Any:
        """Does what `augment` does for images that are still to be resized, in the same resampling.

        Args:
            pixels: uint8 or float tensor of shape `(batch, 3 * room)`: each image's pixels row by row, and anything
                in what room is left.
            windows: int32 of shape `(batch, 4)`: which part of each image is shown. Its first pixel, counted in
                pixels from the image's first; its height and width; and the width of the whole image.
            seeds: int32 tensor of shape `(batch, 2)`.
            image_size: `(height, width)` of the result.

        Returns:
            float32 tensor of shape `(batch, *image_size, 3)`, values in [0, 255].
        """
        transform, brightness, contrast = self.draw(tf.convert_to_tensor(seeds), image_size)
        windows = tf.convert_to_tensor(windows)
        scales = tf.cast(windows[:, 1:3], tf.float32) / tf.constant(image_size, tf.float32)
        transform = compose(scaling(scales[:, 1], scales[:, 0]), transform)
        return render(pixels, transform, brightness, contrast, windows=windows, image_size=image_size)

    def draw(self, seeds: Any, image_size: tuple[int, int]) -> tuple[Transform, Any, Any]:
        """Draws what happens to each image.

        Args:
            seeds: int32 tensor of shape `(batch, 2)`.
            image_size: `(height, width)`.

        Returns:
            The transform of its pixels; the brightness to add, and the contrast to multiply by, of shape `(batch,)`.
        """
        draws = iter(tf.unstack(uniforms(seeds, _DRAWS)))
        transform = compose(
            self._draw_symmetry(draws, image_size),
            self._draw_tilt(draws, image_size),
            self._draw_rotation(draws),
            self._draw_zoom(draws, image_size),
        )
        return transform, *self._draw_lighting(draws)

    def _draw_symmetry(self, draws: Iterator[Any], image_size: tuple[int, int]) -> Transform:
        draw = next(draws)
        if self.flip == "none":
            return IDENTITY
        if self.flip == "horizontal":
            return symmetry(tf.cast(draw < self.flip_probability, tf.int32), is_square=False)
        return symmetry(tf.cast(draw * 8.0, tf.int32), is_square=image_size[0] == image_size[1])

    def _draw_rotation(self, draws: Iterator[Any]) -> Transform:
        happens, angle = next(draws) < self.rotate_probability, _signed(next(draws))
        if not self.max_rotate_degrees:
            return IDENTITY
        return rotation(tf.where(happens, angle * math.radians(self.max_rotate_degrees), 0.0))

    def _draw_zoom(self, draws: Iterator[Any], image_size: tuple[int, int]) -> Transform:
        happens, amount, right, down = next(draws) < self.zoom_probability, *(next(draws) for _ in range(3))
        if self.max_zoom == 1.0:
            return IDENTITY
        zoom = tf.where(happens, 1.0 + amount * (self.max_zoom - 1.0), 1.0)
        room = (1.0 - 1.0 / zoom) / 2.0
        return zooming(zoom, _signed(right) * room * image_size[1], _signed(down) * room * image_size[0])

    def _draw_tilt(self, draws: Iterator[Any], image_size: tuple[int, int]) -> Transform:
        happens, right, down = next(draws) < self.warp_probability, _signed(next(draws)), _signed(next(draws))
        if not self.max_warp:
            return IDENTITY
        amount = tf.where(happens, 2.0 * self.max_warp, 0.0)
        return tilting(right * amount / image_size[1], down * amount / image_size[0])

    def _draw_lighting(self, draws: Iterator[Any]) -> tuple[Any, Any]:
        happens, brightness, contrast = next(draws) < self.lighting_probability, *(_signed(next(draws)) for _ in "bc")
        factor = 1.0 + tf.abs(contrast) * self.max_lighting
        factor = tf.where(contrast < 0.0, 1.0 / factor, factor)
        return tf.where(happens, brightness * 255.0 * self.max_lighting, 0.0), tf.where(happens, factor, 1.0)

    def call(self, inputs: Any, training: bool = True) -> Any:
        """Augments, as every KerasCV layer does, unless it is told that this is no training."""
        return super().call(inputs) if training else self._ensure_inputs_are_compute_dtype(inputs)

    def get_random_transformation_batch(self, batch_size: Any, **_: Any) -> Any:
        """Draws a seed for each image."""
        return self._random_generator.uniform_full_int([batch_size, 2], dtype=tf.int32)

    def augment_images(self, images: Any, transformations: Any, **_: Any) -> Any:
        """Shows each image as its seed says."""
        return self.augment(images, transformations)

    def augment_labels(self, labels: Any, *_: Any, **__: Any) -> Any:
        """Leaves labels as they are."""
        return labels

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        probabilities = [f"{name}_probability" for name in ("flip", "rotate", "zoom", "warp", "lighting")]
        names = ["flip", "max_rotate_degrees", "max_zoom", "max_warp", "max_lighting", *probabilities, "seed"]
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def basic(
    *, max_zoom: float = 1.0, max_rotate_degrees: float = 10.0, max_lighting: float = 0.05, **kwargs: Any
) -> RandomView:
    """Returns augmentation for images that may not be mirrored, such as of text: turned, zoomed and lit.

    Args:
        max_zoom: The largest zoom, 1 or more.
        max_rotate_degrees: The largest angle, in degrees either way.
        max_lighting: The largest change of brightness (part of 255) and contrast.
        **kwargs: Further arguments of `RandomView`.
    """
    return RandomView(
        flip="none", max_zoom=max_zoom, max_rotate_degrees=max_rotate_degrees, max_lighting=max_lighting, **kwargs
    )


def side_on(
    *, max_zoom: float = 1.0, max_rotate_degrees: float = 10.0, max_lighting: float = 0.05, **kwargs: Any
) -> RandomView:
    """Returns augmentation for images taken from the side, such as of cats: `basic`, and half of them mirrored.

    Args:
        max_zoom: The largest zoom, 1 or more.
        max_rotate_degrees: The largest angle, in degrees either way.
        max_lighting: The largest change of brightness (part of 255) and contrast.
        **kwargs: Further arguments of `RandomView`.
    """
    return RandomView(
        flip="horizontal", max_zoom=max_zoom, max_rotate_degrees=max_rotate_degrees, max_lighting=max_lighting, **kwargs
    )


def top_down(
    *, max_zoom: float = 1.0, max_rotate_degrees: float = 10.0, max_lighting: float = 0.05, **kwargs: Any
) -> RandomView:
    """Returns augmentation for images taken from above, such as by satellite: `basic`, in one of eight symmetries.

    Args:
        max_zoom: The largest zoom, 1 or more.
        max_rotate_degrees: The largest angle, in degrees either way.
        max_lighting: The largest change of brightness (part of 255) and contrast.
        **kwargs: Further arguments of `RandomView`.
    """
    return RandomView(
        flip="dihedral", max_zoom=max_zoom, max_rotate_degrees=max_rotate_degrees, max_lighting=max_lighting, **kwargs
    )


def mixing_layers(*, mixup: float = 0.0, cutmix: float = 0.0) -> list[keras.layers.Layer]:
    """Returns KerasCV's layers that mix images, for the end of a list of augmentations.

    Args:
        mixup: The strength (alpha) of MixUp, https://arxiv.org/abs/1710.09412; 0 leaves it out.
        cutmix: The strength (alpha) of CutMix, https://arxiv.org/abs/1905.04899; 0 leaves it out.
    """
    return [layer(alpha=alpha) for layer, alpha in ((MixUp, mixup), (CutMix, cutmix)) if alpha]


def _signed(draw: Any) -> Any:
    """Makes a number in [-1, 1) of one in [0, 1)."""
    return 2.0 * draw - 1.0
