"""Class-activation maps: which parts of an image speak for a class."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr.validation import InvalidValueError, require

# Share of the map's colours over the grey image
_SEEN = 0.45
# Images at once: more may not fit into the memory beside their gradients
_AT_ONCE = 16


def class_maps(model: keras.Model, images: Any, labels: Any) -> np.ndarray:
    """Returns for each image how much each of its parts speaks for a class: Grad-CAM.

    The maps are those of the last layer that knows places: the feature map that the head pools, or the tokens of a
    transformer on square images if their number is a square (one for the class beside them is left out).

    Args:
        model: A classifier that ends in a dense layer with a softmax, as `build_classifier` makes it.
        images: Values in [0, 255], shape `(n, height, width, 3)`, of the model's size.
        labels: A class for each image, integers in [0, num_classes), shape `(n,)`.

    Returns:
        float32 in [0, 1], shape `(n, height, width)`; 1 is the strongest place of each image, and all is 0 where
        nothing speaks for the class.

    Raises:
        ValueError: If no layer with weights knows places, the model ends in something else than a dense softmax, or
            shapes do not fit together.

    Reference: Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391.
    """
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    fits = images.ndim == 4 and labels.shape == images.shape[:1]
    require(fits, "`labels` must have a class for each image", images=images.shape, labels=labels.shape)
    body, top, head = _parts(model)
    chunks = range(0, len(images), _AT_ONCE)
    return np.concatenate([_maps(body, top, head, images[i : i + _AT_ONCE], labels[i : i + _AT_ONCE]) for i in chunks])


def _maps(body: keras.Model, top: keras.Model, head: Any, images: Any, labels: Any) -> np.ndarray:
    places = tf.cast(body([images], training=False), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(places)
        # Before the softmax: its gradient vanishes where the classifier is certain.
        logits = tf.cast(top(places, training=False), tf.float32) @ head.kernel
        chosen = tf.gather(logits if head.bias is None else logits + head.bias, labels[:, None], batch_dims=1)
    features, gradients = _as_grid(places), _as_grid(tape.gradient(chosen, places))
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1, keepdims=True))
    maps = tf.image.resize(maps, images.shape[1:3])[..., 0]
    strongest = tf.reduce_max(maps, axis=(1, 2), keepdims=True)
    return np.asarray(tf.math.divide_no_nan(maps, strongest))


def _parts(model: keras.Model) -> tuple[keras.Model, keras.Model, Any]:
    """The model up to its last feature map, from there to its dense head, and the head."""
    head = model.layers[-1]
    is_softmax = getattr(getattr(head, "activation", None), "__name__", "") == "softmax"
    require(is_softmax and hasattr(head, "kernel"), "`model` must end in a dense layer with a softmax", layer=head.name)
    features = _features_of(model)
    try:
        body, top = keras.Model(model.inputs, features), keras.Model(features, head.input)
    except ValueError as error:  # other layers lead around it
        raise InvalidValueError(
            f"`model` must pass through one last feature map. Received: {model.name} ({error})."
        ) from error
    must = "`model` must have a layer with weights, a feature map and more than one place"
    require(bool(body.weights) and math.prod(features.shape[1:-1]) > 1, must, model=model.name, features=features.shape)
    return body, top, head


def overlay(images: Any, maps: Any) -> np.ndarray:
    """Lays maps over images: blue where nothing speaks for the class, red where most does.

    Args:
        images: Values in [0, 255], shape `(n, height, width, 3)`.
        maps: In [0, 1], shape `(n, height, width)`, as `class_maps` returns them.

    Returns:
        uint8, the shape of `images`.
    """
    images, maps = np.asarray(images, np.float32), np.asarray(maps, np.float32)[..., None]
    grey = images.mean(axis=-1, keepdims=True)
    colours = np.concatenate([maps, 1 - np.abs(2 * maps - 1), 1 - maps], axis=-1) * 255
    return np.asarray(np.clip(np.round(_SEEN * colours + (1 - _SEEN) * grey), 0, 255), np.uint8)


def _features_of(model: keras.Model) -> Any:
    """The tensor that the head pools; of a backbone that pools by itself, its last feature map."""
    pools = [layer for layer in model.layers if layer.name == "head_pool"]
    if pools:
        return pools[0].input
    for layer in reversed(model.layers):
        if len(getattr(layer.output, "shape", ())) == 4 and not isinstance(layer, keras.layers.InputLayer):
            return layer.output
    raise InvalidValueError(f"`model` must have a layer with a feature map. Received: {model.name}, without one.")


def _as_grid(features: Any) -> Any:
    """Tokens as the grid of patches that they come from; feature maps as they are."""
    if len(features.shape) == 4:
        return features
    count = int(features.shape[1])
    for first in (0, 1):
        side = math.isqrt(count - first)
        if side * side == count - first:
            return tf.reshape(features[:, first:], (-1, side, side, features.shape[-1]))
    raise InvalidValueError(f"`model` must have a square number of tokens. Received: {count} tokens.")
