"""Compares two finished runs: their settings, and what they say of the same images."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.decode.corrupt_images import check_images
from keras_sgdr.data.index.file_names import in_utf8, printable
from keras_sgdr.evaluation.interpretation import Interpretation, interpret, mcnemar
from keras_sgdr.evaluation.tta_layer import with_views
from keras_sgdr.models.classifier import load_classifier
from keras_sgdr.recipe.evaluate import dataset_for, images_to_evaluate
from keras_sgdr.recipe.run_directory import read_settings
from keras_sgdr.validation import InvalidValueError

_EXAMPLES = 10


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs on the same images.

    Attributes:
        runs: Their directories.
        settings: Those that differ, each with both values.
        paths: The images.
        results: What both say of them.
    """

    runs: tuple[str, str]
    settings: dict[str, tuple[Any, Any]]
    paths: tuple[str, ...]
    results: tuple[Interpretation, Interpretation]

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
        for run, result in zip(self.runs, self.results, strict=True):
            lines.append(f"{run}: accuracy {result.accuracy:.4f}, loss {result.loss:.4f}, {len(self.paths)} images")
        lines.append(f"difference {self.results[1].accuracy - self.results[0].accuracy:+.4f}, p = {self.p_value:.2g}")
        differing = self.differing()
        lines.append(f"they differ on {len(differing)} images{':' if differing else ''}")
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
    """Compares two runs with the same classes on the images of a folder.

    Args:
        run: The directory of one run.
        other: That of another one.
        folder: As in `evaluate_run`; the one that the first run was trained on if None.
        split: As in `evaluate_run`, by the first run. If the other was trained on some of these images, it has an
            advantage.
        batch_size: Images per step.

    Raises:
        FileNotFoundError: If a run or the folder is missing.
        ValueError: If the runs have other classes, or the images are not usable.
    """
    runs = (os.fspath(run), os.fspath(other))
    classifiers = [load_classifier(each) for each in runs]
    before, after = (read_settings(each) for each in runs)
    if classifiers[0].class_names != classifiers[1].class_names:
        raise InvalidValueError(
            f"Two runs must have the same classes to be compared. Received: {runs[0]} with "
            f"{', '.join(classifiers[0].class_names)}, {runs[1]} with {', '.join(classifiers[1].class_names)}."
        )
    folder = before.get("folder") if folder is None else folder
    if folder is None:
        raise InvalidValueError(
            f"`folder` must be given for a classifier that is of no run. Received: run={runs[0]!r}, folder=None."
        )
    images = images_to_evaluate(run, folder, classifiers[0].class_names, split)
    check_images(images.paths)
    results = [
        interpret(
            with_views(each.model, each.views).predict(dataset_for(each, images, batch_size), verbose=0),
            images.labels,
            each.class_names,
        )
        for each in classifiers
    ]
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    differing = {name: (before.get(name), after.get(name)) for name in names}
    return Comparison(runs, differing, tuple(images.paths), (results[0], results[1]))
