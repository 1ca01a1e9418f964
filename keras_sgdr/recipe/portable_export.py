"""Exports the classifier of a run for phones and other runtimes, and measures what has become of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.decode.corrupt_images import check_images
from keras_sgdr.data.index.file_names import in_utf8
from keras_sgdr.data.index.split import Split
from keras_sgdr.evaluation.interpretation import interpret
from keras_sgdr.evaluation.tta_layer import with_views
from keras_sgdr.models.classifier import Classifier, load_classifier
from keras_sgdr.recipe.evaluate import dataset_for, images_to_evaluate
from keras_sgdr.recipe.export import about_run, scores
from keras_sgdr.recipe.run_directory import read_settings
from keras_sgdr.serving.model_card import model_card
from keras_sgdr.serving.portable import check_portable, export_portable, load_portable
from keras_sgdr.validation import InvalidValueError

# Training images by which the ranges of int8 are found
_CALIBRATED = 100


def export_run_as(
    run: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    file_format: str,
    *,
    precision: str = "float32",
    folder: str | os.PathLike[str] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Writes the classifier of a run as a TensorFlow Lite or ONNX file, and a card that says how well it does.

    Args:
        run: The run's directory.
        directory: Where to; made if it is missing. The file is named after the run and the precision.
        file_format: `"tflite"` or `"onnx"`.
        precision: As in `export_portable`. For `"int8"`, 100 of the training images calibrate it.
        folder: The images, if they are no longer where the run was trained.

    Returns:
        The file; and its card, which lies beside it as JSON: accuracy on the validation images, the share of them of
        which the file names the class that the classifier does, the largest difference of a probability.

    Raises:
        FileNotFoundError: If there is no run, or its images are gone.
        ValueError: If the format has no such precision.
    """
    check_portable(file_format, precision)
    path = Path(directory) / f"{Path(run).resolve().name}_{precision}.{file_format}"
    path.parent.mkdir(parents=True, exist_ok=True)
    classifier = load_classifier(run)
    folder = folder or read_settings(run).get("folder")
    if folder is None:
        raise InvalidValueError(f"`folder` must be given for a classifier of no run. Received: run={run}, folder=None.")
    model, names = with_views(classifier.model, classifier.views), classifier.class_names
    valid = images_to_evaluate(run, folder, names, None)
    check_images(valid.paths)
    calibration = None
    if precision == "int8":
        train = images_to_evaluate(run, folder, names, "train")
        some = np.random.default_rng(0).permutation(len(train))[:_CALIBRATED]
        calibration = np.concatenate(list(_images(classifier, train.take(some))))
    export_portable(model, path, precision=precision, calibration=calibration)
    run_file = load_portable(path)
    pairs = [(run_file(images), model.predict_on_batch(images)) for images in _images(classifier, valid)]
    found, original = map(np.concatenate, zip(*pairs, strict=True))
    card = {
        "name": path.name,
        "input": "float32 RGB images in [0, 255] of the size below: the caller decodes, turns upright and resizes",
        **model_card(classifier.model, names, {"image_size": classifier.image_size, "resize": classifier.resize}),
        "views": list(classifier.views),
        "threshold": classifier.threshold,
        "precision": precision,
        **about_run(run, classifier),
        "this file": {
            **scores(interpret(found / found.sum(axis=1, keepdims=True), valid.labels, names)),
            "names the same class as the classifier": float((found.argmax(1) == original.argmax(1)).mean()),
            "largest difference of a probability": float(np.abs(found - original).max()),
            "bytes": path.stat().st_size,
        },
    }
    with atomic_write(path.with_name(f"{path.name}.json")) as aside:
        aside.write_text(json.dumps(in_utf8(card), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path, card


def _images(classifier: Classifier, split: Split) -> Iterator[Any]:
    return (images for images, _ in dataset_for(classifier, split, 32).as_numpy_iterator())
