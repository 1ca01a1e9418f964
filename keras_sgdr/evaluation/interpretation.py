"""Interprets predictions on labelled images: accuracy, confusion matrix, the images with the highest loss."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_sgdr import plots
from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.index.file_names import in_utf8
from keras_sgdr.validation import InvalidValueError, require

Array = npt.NDArray[Any]
_BINS = 15


@dataclass(frozen=True)
class Threshold:
    """From which probability on a classifier answers.

    Attributes:
        probability: The lowest highest probability of an image that is answered.
        precision: The share of right answers among those, on the images that it was chosen on.
        answered: The share of these images that is answered.
    """

    probability: float
    precision: float
    answered: float


@dataclass(frozen=True)
class ClassScores:
    """How well a classifier knows a class.

    Attributes:
        name: The class.
        images: How many images are of it.
        precision: The share of those taken for it that are of it; None where none is taken for it.
        recall: The share of its images that are taken for it; None where there are none.
        f1: The harmonic mean of both; None where neither is there.
        low: The least recall that the images speak for at 95 %.
        high: The highest.
    """

    name: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Interpretation:
    """The predictions of a classifier on labelled images, and their losses.

    Attributes:
        probabilities: Shape `(n, num_classes)`.
        labels: The true classes, int, shape `(n,)`.
        class_names: One name per class.
        losses: Cross-entropy of each image in nats, shape `(n,)`.
        confusion: Counts, shape `(num_classes, num_classes)`; rows are true, columns predicted classes.
    """

    probabilities: Array
    labels: Array
    class_names: tuple[str, ...]
    losses: Array
    confusion: Array

    @property
    def predictions(self) -> Array:
        """The class with the highest probability, int, shape `(n,)`."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """The share of images whose predicted class is the true one."""
        return float(np.mean(self.predictions == self.labels))

    @property
    def loss(self) -> float:
        """The mean cross-entropy in nats."""
        return float(self.losses.mean())

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: how far the highest probabilities are from the share of hits among them.

        In 15 bins of equal width, weighted by their images (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        """
        confidence, hits = self.probabilities.max(axis=1), self.predictions == self.labels
        bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        gaps = np.bincount(bins, confidence - hits, minlength=_BINS)
        return float(np.abs(gaps).sum() / len(self.labels))

    def top_losses(self, k: int | None = None) -> Array:
        """Returns the indices of the `k` images with the highest loss, worst first (all of them by default)."""
        return np.argsort(-self.losses, kind="stable")[:k]

    def most_uncertain(self, k: int | None = None) -> Array:
        """Returns the indices of the `k` images whose most probable class is least probable (all by default)."""
        return np.argsort(self.probabilities.max(axis=1), kind="stable")[:k]

    def most_confused(self, min_count: int = 1) -> list[tuple[str, str, int]]:
        """Returns `(true class, predicted class, count)` for every confusion, the most frequent first.

        Args:
            min_count: Confusions that occurred less often are left out.
        """
        counts = self.confusion.copy()
        np.fill_diagonal(counts, 0)
        rows, columns = np.nonzero(counts >= max(1, min_count))
        order = np.argsort(-counts[rows, columns], kind="stable")
        names = self.class_names
        return [(names[r], names[c], int(counts[r, c])) for r, c in zip(rows[order], columns[order], strict=True)]

    def per_class(self) -> list[ClassScores]:
        """Returns precision, recall and F1 of each class, with an interval of its recall."""
        rows = []
        for label, name in enumerate(self.class_names):
            right = int(self.confusion[label, label])
            actual, predicted = int(self.confusion[label].sum()), int(self.confusion[:, label].sum())
            precision, recall = right / predicted if predicted else None, right / actual if actual else None
            f1 = 2 * right / (actual + predicted) if actual + predicted else None
            rows.append(ClassScores(name, actual, precision, recall, f1, *wilson_interval(right, actual)))
        return rows

    def write_csv(self, path: str | os.PathLike[str], paths: Sequence[str]) -> None:
        """Writes a row for each image, the highest loss first: path, label, predicted, probability, loss.

        Args:
            path: The file.
            paths: The images' files, in the order of the predictions.

        Raises:
            ValueError: If there is not a path for each image.
        """
        require(len(paths) == len(self.labels), "`paths` must be one for each image", paths=len(paths))
        with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "label", "predicted", "probability", "loss"])
            for i in self.top_losses():
                predicted, probability = self.predictions[i], self.probabilities[i].max()
                names = [self.class_names[self.labels[i]], self.class_names[predicted]]
                writer.writerow(in_utf8([paths[i], *names, f"{probability:.6f}", f"{self.losses[i]:.6f}"]))

    def plot_confusion_matrix(self) -> Any:
        """Returns a matplotlib figure of the confusion matrix."""
        return plots.plot_confusion_matrix(self.confusion, self.class_names)


def interpret(probabilities: Any, labels: Any, class_names: Sequence[str]) -> Interpretation:
    """Returns accuracy, losses and confusions of predictions on labelled images.

    Args:
        probabilities: Shape `(n, num_classes)`, rows summing to 1, as `model.predict` or `predict_tta` returns them.
        labels: The true class of each row, integers in [0, num_classes), shape `(n,)`.
        class_names: `num_classes` names.

    Raises:
        ValueError: If shapes or labels do not fit together.

    Example:
        ```python
        result = interpret(predict_tta(model, valid), index.valid.labels, index.class_names)
        result.accuracy, result.most_confused(), result.top_losses(9)
        ```
    """
    probabilities = np.asarray(probabilities, "float64")
    labels = np.asarray(labels)
    _check_shapes(probabilities, labels, class_names)
    num_classes = len(class_names)
    chosen = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    confusion = np.zeros((num_classes, num_classes), "int64")
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    return Interpretation(
        probabilities=probabilities,
        labels=labels,
        class_names=tuple(class_names),
        losses=-np.log(np.maximum(chosen, 1e-7)),  # the floor of keras.losses.SparseCategoricalCrossentropy
        confusion=confusion,
    )


def wilson_interval(hits: int, total: int, *, z: float = 1.96) -> tuple[float, float]:
    """Returns the interval that holds a share at 95 %, of which `hits` of `total` were seen (Wilson, 1927)."""
    if not total:
        return 0.0, 1.0
    share, square = hits / total, z**2 / total
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * (share * (1 - share) / total + square / (4 * total)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(one: Interpretation, other: Interpretation) -> float:
    """Returns how probable a difference in accuracy as large as this is, if neither is better: McNemar's exact test.

    Args:
        one: The predictions of a classifier.
        other: Those of another one, or of the same one on other views, on the same images.

    Returns:
        The two-sided p-value, in (0, 1], by the images that one gets right and the other wrong.

    Raises:
        ValueError: If they are of other images.

    Reference: McNemar, 1947, https://doi.org/10.1007/BF02295996.
    """
    require(np.array_equal(one.labels, other.labels), "`other` must be of the same images", images=len(other.labels))
    hits, others = one.predictions == one.labels, other.predictions == other.labels
    won, lost = int(np.sum(hits & ~others)), int(np.sum(others & ~hits))
    tail = sum(math.comb(won + lost, count) for count in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2 ** (won + lost))


def threshold_for(result: Interpretation, precision: float) -> Threshold:
    """Returns the threshold at which as many images as possible are answered, and a share of `precision` rightly.

    Args:
        result: Predictions on images that the model was not trained on.
        precision: The share of right answers that is wanted, in (0, 1].

    Raises:
        ValueError: If no threshold reaches it, for the classifier is wrong where it is most certain.
    """
    require(0 < precision <= 1, "`precision` must be in (0, 1]", precision=precision)
    confidence = result.probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    hits = (result.predictions == result.labels)[order]
    reached = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    # Images with the same probability are answered together or not at all.
    is_last = np.append(np.diff(confidence[order]) < 0, True)
    enough = np.flatnonzero((reached >= precision) & is_last)
    if not len(enough):
        raise InvalidValueError(
            f"`precision` must be one that the model reaches. Received: precision={precision}; the highest that any "
            f"threshold has is {reached[is_last].max():.3f}."
        )
    last = enough[-1]
    return Threshold(float(confidence[order[last]]), float(reached[last]), float((last + 1) / len(hits)))


def _check_shapes(probabilities: Array, labels: Array, class_names: Sequence[str]) -> None:
    expected = (len(labels), len(class_names))
    if labels.ndim != 1 or not len(labels) or probabilities.shape != expected:
        raise InvalidValueError(
            "`probabilities` must have one row per label and one column per class name, and there must be at least "
            f"one. Received: probabilities.shape={probabilities.shape}, labels.shape={labels.shape}, "
            f"{len(class_names)} class names."
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(class_names):
        raise InvalidValueError(
            f"`labels` must be integers in [0, {len(class_names)}). Received: dtype {labels.dtype}, "
            f"from {labels.min()} to {labels.max()}."
        )


def plot_mistakes(result: Interpretation, worst_images: Any, directory: Path) -> None:
    """Writes `confusion_matrix.png` and `top_losses.png` into a directory.

    Args:
        result: The interpreted predictions.
        worst_images: The images `result.top_losses(n)`, in that order, values in [0, 255], as the model saw them.
        directory: An existing directory.
    """
    names, worst = result.class_names, result.top_losses(len(worst_images))
    titles = [
        f"{names[result.labels[i]]}\npredicted {names[result.predictions[i]]}, loss {result.losses[i]:.2f}"
        for i in worst
    ]
    plots.save_figure(result.plot_confusion_matrix(), directory / "confusion_matrix.png")
    plots.save_figure(plots.plot_images(worst_images, titles), directory / "top_losses.png")
