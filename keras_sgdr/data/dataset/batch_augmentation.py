"""Augments batches of images: with a preset, any other Keras layers, and layers that mix images."""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import keras
import tensorflow as tf

from keras_sgdr.augmentation.random_view import RandomView
from keras_sgdr.augmentation.seeded_layers import draws_from
from keras_sgdr.data.index.split import Split
from keras_sgdr.validation import InvalidTypeError, InvalidValueError

# By name, so that KerasCV's and Keras's own count alike.
_MIXING = {"MixUp", "CutMix", "FourierMix", "Mosaic"}


@dataclass(frozen=True)
class BatchAugmentation:
    """Layers that are called one after the other, with draws that depend on the images' seeds alone.

    A layer is called for one image at a time, `(1, height, width, 3)`, with that image's seed. One that mixes
    images gets the batch and its labels, one-hot, and draws from the seed of the batch's first image.

    Attributes:
        layers: At least one layer.
        image_size: `(height, width)` of the images.
        num_classes: The length of a one-hot label.
    """

    layers: tuple[Any, ...]
    image_size: tuple[int, int]
    num_classes: int

    @property
    def resizes(self) -> bool:
        """Whether images come as `decode_pixels` gives them, to be resized in the first layer's resampling."""
        return isinstance(self.layers[0], RandomView)

    def augment(self, decoded: Any, labels: Any, seeds: Any) -> tuple[Any, Any]:
        """Augments a batch.

        Args:
            decoded: uint8 images `(batch, height, width, 3)`; if `resizes`, pixels and windows, see
                `RandomView.augment_pixels`.
            labels: int32 of shape `(batch,)` or float32 of shape `(batch, num_classes)`; None if nothing is mixed.
            seeds: int32 tensor of shape `(batch, 2)`.

        Returns:
            float32 images, and the labels: as they were, or float32 of shape `(batch, num_classes)` if they were mixed.
        """
        layers = self.layers
        if self.resizes:
            images = layers[0].augment_pixels(*decoded, seeds, image_size=self.image_size)
            layers = layers[1:]
        else:
            images = tf.cast(decoded, tf.float32)
        for number, layer in enumerate(layers, start=1):
            # Each layer has seeds of its own, so that two of a kind do not do the same.
            own_seeds = seeds + tf.constant([number, 0])
            if _mixes(layer):
                images, labels = _mixed(layer, images, self._one_hot(labels), own_seeds[0])
            elif isinstance(layer, RandomView):
                images = layer.augment(images, own_seeds)
            else:
                images = _augmented(layer, images, own_seeds)
        return images, labels

    def _one_hot(self, labels: Any) -> Any:
        return tf.one_hot(labels, self.num_classes) if labels.dtype.is_integer else tf.cast(labels, tf.float32)


def make_batch_augmentation(
    augmentation: Any, *, split: Split, image_size: tuple[int, int]
) -> BatchAugmentation | None:
    """Checks a layer, a list of layers or None, and makes of it what augments batches of a split.

    Raises:
        TypeError: If something is not a Keras layer.
        ValueError: If a layer mixes labels, and the split has none.
    """
    layers = tuple(augmentation) if isinstance(augmentation, Sequence) else (augmentation,)
    if augmentation is None or not layers:
        return None
    for layer in layers:
        if not isinstance(layer, keras.Layer):
            raise InvalidTypeError(
                "`augmentation` must be a Keras layer, or a list of Keras layers. Received: "
                f"augmentation={augmentation!r}, with {layer!r} of type {type(layer).__name__}."
            )
        if split.labels is None and _mixes(layer):
            raise InvalidValueError(
                f"`augmentation` can mix images only where they have labels. Received: {layer.name} for the split "
                f"{split.name!r} without labels. Leave it out."
            )
    return BatchAugmentation(layers, image_size, len(split.class_names))


def _mixes(layer: Any) -> bool:
    """Whether a layer, or one inside it, makes an image of several."""
    is_mixing = any(ancestor.__name__ in _MIXING for ancestor in type(layer).__mro__)
    return is_mixing or any(_mixes(inner) for inner in getattr(layer, "layers", ()))


def _mixed(layer: Any, images: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
    mixed = _called(layer, {"images": images, "labels": labels}, seed)
    labels = tf.ensure_shape(tf.cast(mixed["labels"], tf.float32), labels.shape)
    return _of_shape(mixed["images"], images, layer), labels


def _augmented(layer: Any, images: Any, seeds: Any) -> Any:
    def augment(image_and_seed: tuple[Any, Any]) -> Any:
        image, seed = image_and_seed
        return _of_shape(_called(layer, image[None], seed), image[None], layer)[0]

    try:
        return tf.map_fn(augment, (images, seeds), fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32))
    except BaseException:
        # `map_fn` leaves this set where its function fails, and then no variable can be made in this process.
        tf.compat.v1.get_variable_scope().set_caching_device(None)
        raise


def _called(layer: Any, inputs: Any, seed: Any) -> Any:
    # Some of KerasCV's layers are written for AutoGraph, which a function of its own turns on.
    @tf.function
    def call() -> Any:
        return layer(inputs, **options)

    options = {"training": True} if "training" in signature(layer.call).parameters else {}
    with draws_from(seed):
        return call()


def _of_shape(result: Any, images: Any, layer: Any) -> Any:
    if not result.shape.is_compatible_with(images.shape):
        raise InvalidValueError(
            "A layer of `augmentation` must not change the size of images. Received: "
            f"{layer.name} makes {tuple(result.shape)} of {tuple(images.shape)}. Leave it out, or set `image_size`."
        )
    return tf.cast(tf.ensure_shape(result, images.shape), tf.float32)
