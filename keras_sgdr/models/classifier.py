"""Builds, saves and loads classifiers: preprocessing, backbone and head in one flat model, with its class names."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.models.backbones import find_backbone, preprocess
from keras_sgdr.models.onednn import advise_onednn
from keras_sgdr.models.pretrained import build_backbone, check_weights, copy_backbone
from keras_sgdr.validation import InvalidValueError, MissingFileError, require, require_integer

MODEL_FILE = "model.keras"
CLASSIFIER_FILE = "classifier.json"


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A loaded classifier.

    Attributes:
        model: The model, not compiled: images `(batch, height, width, 3)` in [0, 255] → probabilities
            `(batch, num_classes)`, float32.
        class_names: The classes, in the order of the probabilities.
        image_size: (height, width) that the model takes, in pixels.
        resize: How an image was brought to that size in training, as `load_dataset(resize=…)` has it.
        views: The kinds of views over which `TTA` averages, as the run has chosen them; none for the plain image.
        threshold: The probability below which its answer is "don't know"; None where it always answers.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    resize: str
    views: tuple[str, ...] = ()
    threshold: float | None = None


def build_classifier(
    num_classes: int,
    *,
    backbone: str | keras.Model = "EfficientNetLite0",
    weights: str | os.PathLike[str] | None = "imagenet",
    image_size: int | tuple[int, int] = 224,
    dropout: float = 0.2,
) -> keras.Model:
    """Builds an image classifier: preprocessing, a backbone, pooled features, dropout, a softmax head.

    It is one flat functional graph of standard Keras layers: the backbone's layers are the model's own, so that layer
    groups, freezing and precomputing find them, and plain Keras can load the saved file.

    Args:
        num_classes: The number of classes, at least 2.
        backbone: A name of `keras.applications`, `"EfficientNetLite0"`, or a functional or sequential model of yours
            (one of KerasHub, say) from RGB images in [0, 255] to a feature map, tokens or pooled features; its layers
            are copied with their weights.
        weights: Those of a backbone given by name: `"imagenet"`, the path of a file (of the same backbone without its
            top), or `None`.
        image_size: Height and width of the images in pixels, or (height, width).
        dropout: The fraction of the pooled features dropped in training, in [0, 1).

    Returns:
        A model, not compiled: images `(batch, height, width, 3)`, RGB in [0, 255] → probabilities
        `(batch, num_classes)`, float32 also under mixed precision.

    Raises:
        ValueError: If an argument is out of its range or no backbone has that name.
        FileNotFoundError: If the weights are not there and cannot be downloaded.

    Example:
        ```pycon
        >>> model = build_classifier(10, backbone="EfficientNetLite0", image_size=128)
        >>> model.output_shape
        (None, 10)
        ```
    """
    require_integer("num_classes", num_classes, low=2)
    advise_onednn()
    require(0 <= dropout < 1, "`dropout` must be in [0, 1)", dropout=dropout)
    if isinstance(backbone, keras.Model):
        height, width = _checked_image_size(image_size, min_size=1, backbone=backbone.name)
        images, features = copy_backbone(backbone, image_size=(height, width))
        name = backbone.name
    else:
        row = find_backbone(backbone)
        height, width = _checked_image_size(image_size, min_size=row.min_size, backbone=backbone)
        check_weights(weights)
        images = keras.Input((height, width, 3), name="images")
        preprocessed = preprocess(images, preprocessing=row.preprocessing)
        features = build_backbone(row, preprocessed, weights=weights, image_size=(height, width)).output
        name = row.name.lower()
    return keras.Model(images, _head(features, num_classes, dropout), name=f"{name}_classifier")


def _head(features: Any, num_classes: int, dropout: float) -> Any:
    pools = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D}
    if len(features.shape) in pools:
        features = pools[len(features.shape)](name="head_pool")(features)
    x = keras.layers.Dropout(dropout, name="head_dropout")(features)
    # float32 by name: under mixed_float16 a softmax in half precision loses the small probabilities.
    return keras.layers.Dense(num_classes, activation="softmax", dtype="float32", name="head_predictions")(x)


def _checked_image_size(image_size: Any, *, min_size: int, backbone: str) -> tuple[int, int]:
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise InvalidValueError(
            "`image_size` must be an integer or (height, width); images always have three channels (grey ones are "
            f"repeated on loading). Received: image_size={image_size!r}."
        )
    if min(size) < min_size:
        raise InvalidValueError(
            f"`image_size` must be at least {min_size} pixels for {backbone}. Received: image_size={image_size!r}."
        )
    return size[0], size[1]


def save_classifier(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    class_names: Sequence[str],
    resize: str = "crop",
    views: Sequence[str] = (),
    threshold: float | None = None,
) -> None:
    """Saves a classifier as `model.keras` and `classifier.json`, each written beside its place and then renamed.

    The optimizer is left out: the file is for predicting and for serving, and any Keras loads it.

    Args:
        model: The classifier, with a fixed input size and one output per class.
        directory: Where to; made if it is missing.
        class_names: One different name per class, in the order of the model's output.
        resize: How images were brought to the model's size, as `load_dataset(resize=…)` has it.
        views: As in `Classifier`, as what follows.
        threshold: In [0, 1], or None.

    Raises:
        ValueError: If the names do not fit the model, or its input size is not fixed.
    """
    described = _described(model, class_names, resize, views, threshold)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    # A model of the same layers that was never compiled: the optimizer's slots would triple the file.
    with atomic_write(folder / MODEL_FILE) as aside:
        keras.Model(model.inputs, model.outputs, name=model.name).save(aside)
    _write_description(folder, described)


def describe_classifier(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    class_names: Sequence[str],
    resize: str,
    views: Sequence[str],
    threshold: float | None,
) -> None:
    """Writes `classifier.json` anew beside a `model.keras` that stays as it is; arguments as of `save_classifier`."""
    _write_description(Path(directory), _described(model, class_names, resize, views, threshold))


def _described(
    model: keras.Model, class_names: Sequence[str], resize: str, views: Sequence[str], threshold: float | None
) -> dict[str, Any]:
    height, width = model.input_shape[1:3]
    names = list(class_names)
    if len(set(names)) != model.output_shape[-1] or len(names) != len(set(names)):
        raise InvalidValueError(
            f"`class_names` must be {model.output_shape[-1]} different names, one per output of the model. "
            f"Received: class_names={names}."
        )
    if height is None or width is None:
        raise InvalidValueError(
            f"`model` must have a fixed input size. Received: a model of input shape {model.input_shape}."
        )
    require(threshold is None or 0 <= threshold <= 1, "`threshold` must be in [0, 1] or None", threshold=threshold)
    views = (views,) if isinstance(views, str) else views
    described = {"class_names": names, "image_size": [height, width], "resize": resize, "keras": keras.__version__}
    return {**described, "views": list(views), "threshold": threshold}


def _write_description(folder: Path, described: dict[str, Any]) -> None:
    with atomic_write(folder / CLASSIFIER_FILE) as aside:
        aside.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Loads what `save_classifier` wrote.

    Args:
        path: The directory that holds `model.keras` and `classifier.json`, for instance a run's.

    Returns:
        The classifier, its model not compiled.

    Raises:
        FileNotFoundError: If the directory or one of the two files is missing.
        ValueError: If one of the files is damaged, or they do not belong together.
    """
    advise_onednn()
    folder = Path(path)
    for file in (folder / MODEL_FILE, folder / CLASSIFIER_FILE):
        if not file.is_file():
            raise MissingFileError(
                f"`path` must be a directory with {MODEL_FILE} and {CLASSIFIER_FILE}, such as a run leaves. "
                f"Received: path={str(path)!r}, which lacks {file.name}."
            )
    try:
        described = json.loads((folder / CLASSIFIER_FILE).read_text(encoding="utf-8"))
        names, (height, width), resize = described["class_names"], described["image_size"], described["resize"]
        views, threshold = tuple(described.get("views", ())), described.get("threshold")
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(
            f"`path` must hold a {CLASSIFIER_FILE} with class_names, image_size and resize ({error!r}). "
            f"Received: path={str(path)!r}. Save the classifier again."
        ) from error
    model = _load_model(folder / MODEL_FILE)
    if (height, width) != model.input_shape[1:3] or len(names) != model.output_shape[-1]:
        raise InvalidValueError(
            f"`path` must hold two files of one classifier, but the model takes {model.input_shape} and returns "
            f"{model.output_shape}. Received: path={str(path)!r} with {len(names)} classes at {height}x{width}. "
            "Save the classifier again."
        )
    return Classifier(model, tuple(names), (height, width), resize, views, threshold)


def _load_model(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # a damaged archive can raise anything at all
        raise InvalidValueError(
            f"`path` must hold a {MODEL_FILE} that this Keras can load ({type(error).__name__}: {error}). "
            f"Received: {path}. Save the classifier again, or bring the whole file."
        ) from error
