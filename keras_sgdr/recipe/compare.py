"""Compares two finished runs, or exports: their settings, and what they say of the same images."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.decode.corrupt_images import check_images, read_image
from keras_sgdr.data.index.file_names import in_utf8, printable
from keras_sgdr.data.index.split import Split
from keras_sgdr.evaluation.interpretation import Interpretation, interpret, mcnemar
from keras_sgdr.evaluation.tta_layer import with_views
from keras_sgdr.models.classifier import Classifier, load_classifier
from keras_sgdr.recipe.evaluate import dataset_for, images_to_evaluate
from keras_sgdr.recipe.run_directory import read_settings
from keras_sgdr.serving.served_model import ServedModel, is_export
from keras_sgdr.validation import InvalidValueError

_EXAMPLES = 10
# Of a model card; the classes are the same
_NO_SETTINGS = ("classes", "signatures")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs or exports on the same images.

    Attributes:
        runs: Their directories.
        settings: Those that differ, each with both values; of an export what its card says.
        paths: The images.
        results: What both say of them.
        latencies: Seconds that each took for an image, file to probabilities; a run decodes the next images meanwhile.
            The first batch, in which TensorFlow compiles, is left out unless it is the only one.
    """

    runs: tuple[str, str]
    settings: dict[str, tuple[Any, Any]]
    paths: tuple[str, ...]
    results: tuple[Interpretation, Interpretation]
    latencies: tuple[float, float]

    @property
    def agreement(self) -> float:
        """The share of the images on which both name the same class."""
        return (len(self.paths) - len(self.differing())) / len(self.paths)

    @property
    def p_value(self) -> float:
        """How probable a difference in accuracy as large as this is, if neither run is better."""
        return mcnemar(*self.results)

    def differing(self) -> list[tuple[str, str, str, str]]:
        """Returns `(path, label, first run's class, second run's class)` of each image on which they differ."""
        one, other = self.results
        names = one.class_names
        return [
            (self.paths[i], names[one.labels[i]], names[one.predictions[i]], names[other.predictions[i]])
            for i in np.flatnonzero(one.predictions != other.predictions)
        ]

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes all images on which they differ."""
        with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "label", *self.runs])
            writer.writerows(in_utf8(row) for row in self.differing())

    def table(self) -> str:
        """Returns the comparison as text, with some of the images on which they differ."""
        lines = [f"{name}: {before!r}, {after!r}" for name, (before, after) in self.settings.items()]
        lines = ["settings that differ:", *lines] if lines else ["the same settings"]
        for run, result, latency in zip(self.runs, self.results, self.latencies, strict=True):
            scores = f"accuracy {result.accuracy:.4f}, loss {result.loss:.4f}, {len(self.paths)} images"
            lines.append(f"{run}: {scores}, {1000 * latency:.1f} ms an image")
        lines.append(f"difference {self.results[1].accuracy - self.results[0].accuracy:+.4f}, p = {self.p_value:.2g}")
        differing = self.differing()
        lines.append(
            f"they agree on {self.agreement:.2%}, and differ on {len(differing)} images{':' if differing else ''}"
        )
        lines += [f"{printable(path)}: {label}; {one}, {other}" for path, label, one, other in differing[:_EXAMPLES]]
        if len(differing) > _EXAMPLES:
            lines.append(f"and {len(differing) - _EXAMPLES} more")
        return "\n".join(lines)


def compare_runs(
    run: str | os.PathLike[str],
    other: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    batch_size: int = 32,
) -> Comparison:
    """Compares two runs or exports with the same classes on the images of a folder.

    Args:
        run: The directory of one run, of an export's versions, or of one version.
        other: That of another one.
        folder: As in `evaluate_run`; the one that the first run was trained on if None.
        split: As in `evaluate_run`, by the first of the two that is a run; two exports are compared on all images of a
            folder without `valid/`, those of the training too. If the other was trained on some of these images, it
            has an advantage.
        batch_size: Images per step.

    Raises:
        FileNotFoundError: If a run or the folder is missing.
        ValueError: If the runs have other classes, or the images are not usable.
    """
    runs = (os.fspath(run), os.fspath(other))
    sides = [_Side.at(each) for each in runs]
    if sides[0].class_names != sides[1].class_names:
        raise InvalidValueError(
            f"Two runs must have the same classes to be compared. Received: {runs[0]} with "
            f"{', '.join(sides[0].class_names)}, {runs[1]} with {', '.join(sides[1].class_names)}."
        )
    before, after = (side.settings for side in sides)
    folder = before.get("folder") if folder is None else folder
    if folder is None:
        raise InvalidValueError(
            f"`folder` must be given for a classifier that is of no run. Received: run={runs[0]!r}, folder=None."
        )
    # An export does not know which images a run has held out.
    of_run = next((each for each in runs if read_settings(each)), run)
    images = images_to_evaluate(of_run, folder, sides[0].class_names, split)
    check_images(images.paths)
    results, latencies = [], []
    for side in sides:
        probabilities, latency = _timed(side.predict(images, batch_size))
        results.append(interpret(probabilities, images.labels, side.class_names))
        latencies.append(latency)
    if is_export(runs[0]) != is_export(runs[1]):  # they tell different things of themselves
        before, after = ({"kind": "an export" if is_export(each) else "a run"} for each in runs)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    differing = {name: (before.get(name), after.get(name)) for name in names}
    return Comparison(runs, differing, tuple(images.paths), (results[0], results[1]), (latencies[0], latencies[1]))


@dataclass(frozen=True)
class _Side:
    """What is compared: `predict` goes from images to their probabilities, batch by batch."""

    class_names: tuple[str, ...]
    settings: dict[str, Any]
    predict: Callable[[Split, int], Iterator[Any]]

    @classmethod
    def at(cls, path: str) -> _Side:
        if is_export(path):
            served = ServedModel(path)
            about = {name: value for name, value in served.card.items() if name not in _NO_SETTINGS}
            return cls(served.class_names, about, partial(_served, served))
        classifier = load_classifier(path)
        return cls(tuple(classifier.class_names), read_settings(path), partial(_predicted, classifier))


def _predicted(classifier: Classifier, images: Split, batch_size: int) -> Iterator[Any]:
    model = with_views(classifier.model, classifier.views)
    for batch, _ in dataset_for(classifier, images, batch_size).as_numpy_iterator():
        yield model.predict_on_batch(batch)


def _served(served: ServedModel, images: Split, batch_size: int) -> Iterator[Any]:
    for first in range(0, len(images), batch_size):
        encoded = [read_image(path) for path in images.paths[first : first + batch_size]]
        yield served.predict_files(encoded, batch_size=batch_size)


def _timed(batches: Iterator[Any]) -> tuple[Any, float]:
    """Returns the probabilities, and the seconds for one of them."""
    found, seconds, begun = [], [], time.perf_counter()
    for batch in batches:
        found.append(batch)
        seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
    counted = slice(1, None) if len(found) > 1 else slice(None)
    return np.concatenate(found), sum(seconds[counted]) / sum(len(batch) for batch in found[counted])
