"""Predicts the classes of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_sgdr.data.decode.corrupt_images import BadImageError, read_image, reason_of
from keras_sgdr.data.decode.decode_image import decode_image
from keras_sgdr.data.index.files import files_below, is_folder, is_there
from keras_sgdr.data.index.layout import is_image
from keras_sgdr.data.index.shards import ShardPaths, is_record, is_shards, open_shards
from keras_sgdr.evaluation.tta_layer import with_views
from keras_sgdr.models.classifier import Classifier
from keras_sgdr.validation import InvalidValueError, MissingFileError, require_integer


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predicted classes of files.

    Attributes:
        paths: The files that are images, in the order in which they were given.
        probabilities: float32, shape `(len(paths), num_classes)`.
        class_names: One name per column.
        predicted: For each row the name of the most probable class; None where its probability is below the
            classifier's threshold: "don't know".
        rejected: `(path, reason)` of each file that could not be read as an image.
    """

    paths: tuple[str, ...]
    probabilities: npt.NDArray[Any]
    class_names: tuple[str, ...]
    predicted: tuple[str | None, ...]
    rejected: tuple[tuple[str, str], ...]


def predict_files(
    classifier: Classifier, paths: Sequence[str | os.PathLike[str]], *, batch_size: int = 32, verbose: int = 0
) -> Predictions:
    """Returns the class probabilities of image files; files that are no images are listed in `rejected`.

    Where the classifier has views, its probabilities are averages over them.

    Args:
        classifier: A trained classifier, as `load_classifier` returns it.
        paths: Files, whatever they are called; folders, of which the images at any depth are taken; and folders of
            shards.
        batch_size: Images held in memory at once.
        verbose: 1 shows a progress bar.

    Raises:
        FileNotFoundError: If one of `paths` does not exist.
        ValueError: If `paths` holds no file, or `batch_size` is no integer >= 1.
    """
    require_integer("batch_size", batch_size)
    files = files_at(paths)
    model = with_views(classifier.model, classifier.views)
    good: list[str] = []
    rejected: list[tuple[str, str]] = []
    rows = [np.zeros((0, len(classifier.class_names)), "float32")]
    bar = keras.utils.Progbar(len(files), unit_name="image") if verbose else None
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), batch_size):
            chunk = files[start : start + batch_size]
            decoded = list(pool.map(_decoder(classifier), chunk))
            images = [image for image in decoded if not isinstance(image, str)]
            good += [path for path, image in zip(chunk, decoded, strict=True) if not isinstance(image, str)]
            rejected += [(path, image) for path, image in zip(chunk, decoded, strict=True) if isinstance(image, str)]
            if images:
                rows.append(model.predict_on_batch(np.stack(images)))
            if bar is not None:
                bar.add(len(chunk))
    probabilities, names = np.concatenate(rows), tuple(classifier.class_names)
    is_sure = probabilities.max(axis=1) >= (classifier.threshold or 0)
    predicted = [
        names[best] if sure else None for best, sure in zip(probabilities.argmax(axis=1), is_sure, strict=True)
    ]
    return Predictions(tuple(good), probabilities, names, tuple(predicted), tuple(rejected))


def files_at(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Returns the files among `paths`, whatever they are called, and the images in the folders among them.

    Raises:
        FileNotFoundError: If one of `paths` does not exist.
        ValueError: If there is no file.
    """
    files = [file for path in paths for file in _files(os.fspath(path))]
    if not files:
        raise InvalidValueError(f"`paths` must hold at least one image. Received: {', '.join(map(str, paths))}.")
    return files


def _files(path: str) -> Iterator[str]:
    if is_shards(path):
        shards = open_shards(path)
        for _, rows, _ in shards.splits:
            yield from ShardPaths(shards, rows)
    elif is_folder(path):
        yield from sorted(file for file in files_below(path) if is_image(file))
    elif is_record(path) or is_there(path):
        yield path
    else:
        raise MissingFileError(f"`paths` must exist. Received: {path}.")


def _decoder(classifier: Classifier) -> Any:
    def decode(path: str) -> Any:
        """Returns the image, or as a string the reason why there is none."""
        try:
            return _decode(tf.constant(read_image(path)), tuple(classifier.image_size), classifier.resize).numpy()
        except BadImageError as error:
            return f"no image: {error}"
        except tf.errors.OpError as error:
            return f"no image: {reason_of(error)}"

    return decode


@tf.function(reduce_retracing=True)
def _decode(encoded: Any, image_size: tuple[int, int], resize: str) -> Any:
    return decode_image(encoded, image_size=image_size, resize=resize)
