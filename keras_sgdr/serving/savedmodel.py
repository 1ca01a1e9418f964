"""Exports a classifier for TensorFlow Serving: encoded images in, probabilities and class names out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_sgdr.data.decode.decode_image import decode_image
from keras_sgdr.data.index.file_names import as_bytes
from keras_sgdr.validation import require, require_integer


def export_savedmodel(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    class_names: Sequence[str],
    version: int | None = None,
    resize: str = "crop",
    threshold: float | None = None,
) -> Path:
    """Writes `directory/version/`, a SavedModel that TensorFlow Serving loads, and returns its path.

    Its signature `serving_default` takes `image_bytes`, encoded images (JPEG, PNG, GIF, BMP or WebP files as
    they are, of any sizes), shape `(batch,)`, and returns

    - `probabilities`: float32, shape `(batch, num_classes)`,
    - `class_names`: strings, shape `(batch, num_classes)`, the names of the columns, the same in every row,
    - `predicted_class`: strings, shape `(batch,)`, the name of the most probable class, or empty, which is "don't
      know", where its probability is below `threshold`.

    Decoding, EXIF orientation and resizing run inside the graph with the code that training used, so a client
    sends files and the numbers cannot differ. Loading needs TensorFlow alone, neither Keras nor this package.

    Args:
        model: A classifier whose input is `(height, width, 3)` with values in [0, 255].
        directory: The model's base path, as in `--model_base_path` of TensorFlow Serving.
        class_names: One name per output column.
        version: A positive integer. Defaults to one more than the highest version in `directory`.
        resize: How an image is brought to the model's size, as in `load_dataset`. Give what training used.
        threshold: In [0, 1]; None for a class in every row.

    Returns:
        The path of the version's folder.

    Raises:
        ValueError: If the names do not fit the model, or `version` exists already or is not positive.

    Example:
        ```python
        path = export_savedmodel(model, "served/pets", class_names=index.class_names)
        serve = tf.saved_model.load(path).signatures["serving_default"]
        serve(image_bytes=tf.constant([open("cat.jpg", "rb").read()]))["predicted_class"]
        ```
    """
    class_names = [str(name) for name in class_names]
    image_size = _check_model(model, class_names)
    directory = Path(directory)
    version = _next_version(directory) if version is None else version
    target = directory / str(_check_version(version, directory))
    require(threshold is None or 0 <= threshold <= 1, "`threshold` must be in [0, 1] or None", threshold=threshold)
    serve = _serving_function(model, class_names, image_size, resize, threshold or 0.0)
    # TensorFlow Serving polls the base path and loads any folder whose name is a number, finished or not.
    aside = directory / f".{version}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write(model, serve, aside)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _serving_function(
    model: keras.Model, class_names: list[str], image_size: tuple[int, int], resize: str, threshold: float
) -> Any:
    names = tf.constant([as_bytes(name) for name in class_names])  # a folder's name need not be UTF-8

    def serve(image_bytes: Any) -> dict[str, Any]:
        images = tf.map_fn(
            lambda encoded: decode_image(encoded, image_size=image_size, resize=resize),
            image_bytes,
            fn_output_signature=tf.TensorSpec((*image_size, 3), tf.uint8),
        )
        probabilities = model(images, training=False)
        best = tf.gather(names, tf.argmax(probabilities, axis=-1))
        is_sure = tf.reduce_max(probabilities, axis=-1) >= threshold
        return {
            "probabilities": probabilities,
            # One row per image: the REST interface answers in rows and refuses outputs of other lengths.
            "class_names": tf.tile(names[tf.newaxis], [tf.shape(image_bytes)[0], 1]),
            "predicted_class": tf.where(is_sure, best, tf.constant(b"")),
        }

    return serve


def _write(model: keras.Model, serve: Any, path: Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default", serve, input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")]
    )
    archive.write_out(str(path), verbose=False)


def _check_model(model: keras.Model, class_names: list[str]) -> tuple[int, int]:
    shape, num_outputs = model.input_shape, model.output_shape[-1]
    has_one_size = len(shape) == 4 and shape[3] == 3 and None not in shape[1:3]
    require(has_one_size, "`model` must take images of one size, (height, width, 3)", input_shape=shape)
    require(
        num_outputs == len(class_names),
        f"`class_names` must name each of the model's {num_outputs} outputs",
        class_names=class_names,
    )
    return shape[1], shape[2]


def _next_version(directory: Path) -> int:
    versions = [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]
    return max(versions, default=0) + 1


def _check_version(version: int, directory: Path) -> int:
    require_integer("version", version)
    target = directory / str(version)
    require(
        not target.exists(), f"`version` must be new, or None for the next one, and {target} exists", version=version
    )
    return version
