"""Finds labels that are probably wrong, by what a classifier says that has not seen the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sgdr.models.softmax_regression import fit_softmax_regression
from keras_sgdr.validation import require, require_integer


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """Images whose label is probably wrong, the most certain first.

    Attributes:
        indices: Which images, int64 of shape `(n,)`.
        suggested: The class that each probably is, int64 of shape `(n,)`.
        margins: The probability of the image's label less that of the most probable other class, shape `(n,)`, rising.
    """

    indices: NDArray[np.int64]
    suggested: NDArray[np.int64]
    margins: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.indices)


def find_label_issues(probabilities: Any, labels: Any) -> LabelIssues:
    """Finds labels that are probably wrong, by confident learning.

    A class's threshold is the mean probability that the images with its label have for it. An image is confidently of
    the most probable of the classes whose thresholds it reaches. From how many images with one label are confidently
    of another class follows how many labels are wrong for each pair of classes; these are taken to be the images that
    the probabilities speak against most.

    Args:
        probabilities: Shape `(n, num_classes)`, each row from a classifier that was not trained on that image, such as
            `out_of_fold_probabilities` returns.
        labels: Integers in [0, num_classes), shape `(n,)`.

    Raises:
        ValueError: If shapes do not fit together, or a class has no image.

    Reference: Northcutt, Jiang and Chuang, 2021, https://arxiv.org/abs/1911.00068, "prune by noise rate", which is the
    default of cleanlab's `find_label_issues`.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    must = "`probabilities` must have a row for each label, and every class a label"
    fits = probabilities.ndim == 2 and labels.shape == probabilities.shape[:1]
    counts = np.bincount(labels, minlength=probabilities.shape[-1]) if fits else np.zeros(1)
    require(fits and bool(counts.all()), must, probabilities=probabilities.shape, labels=labels.shape)
    images = np.arange(len(labels))
    of_label = probabilities[images, labels]
    thresholds = np.bincount(labels, of_label) / counts
    reached = np.where(probabilities >= thresholds, probabilities, -np.inf)
    is_confident = np.isfinite(reached).any(axis=1)
    joint = np.zeros((len(counts), len(counts)))
    np.add.at(joint, (labels[is_confident], reached[is_confident].argmax(axis=1)), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))  # a class of which nothing is confident keeps its labels
    joint *= (counts / joint.sum(axis=1))[:, None]
    is_issue = np.zeros(len(labels), bool)
    for label, other in zip(*np.nonzero(~np.eye(len(counts), dtype=bool)), strict=True):
        own = np.flatnonzero(labels == label)
        against = np.argsort(probabilities[own, label] - probabilities[own, other], kind="stable")
        is_issue[own[against[: round(joint[label, other])]]] = True
    others = probabilities.copy()
    others[images, labels] = -np.inf
    margins = of_label - others.max(axis=1)
    issues = np.flatnonzero(is_issue & (margins < 0))
    issues = issues[np.argsort(margins[issues], kind="stable")]
    return LabelIssues(issues, others[issues].argmax(axis=1), margins[issues])


def out_of_fold_probabilities(
    activations: Any, labels: Any, *, num_classes: int, num_folds: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """Predicts each image with a linear head that was fitted to the activations of the others.

    Args:
        activations: Of the frozen body, shape `(n, num_features)`.
        labels: Integers in [0, num_classes), shape `(n,)`.
        num_classes: The number of classes.
        num_folds: Into how many parts the images are dealt, stratified by class; each is predicted by the head of the
            others.
        seed: Of the parts.

    Returns:
        Probabilities, shape `(n, num_classes)`.

    Raises:
        ValueError: If `num_folds` is below 2.
    """
    require_integer("num_folds", num_folds, low=2)
    activations, labels = np.asarray(activations, np.float32), np.asarray(labels)
    draw = np.random.default_rng(seed)
    fold_of = np.empty(len(labels), np.int64)
    for label in range(num_classes):
        positions = draw.permutation(np.flatnonzero(labels == label))
        fold_of[positions] = (np.arange(len(positions)) + label) % num_folds
    found = np.empty((len(labels), num_classes))
    for fold in range(num_folds):
        held = fold_of == fold
        if not held.any():  # of very few images
            continue
        train, valid = ((activations[each], labels[each]) for each in (~held, held))
        head = fit_softmax_regression(train, valid, num_classes=num_classes)
        logits = activations[held].astype(np.float64) @ head.kernel + head.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found[held] = powers / powers.sum(axis=1, keepdims=True)
    return found
