"""Would more images help? Errors of a linear head fitted to parts of the images, and the power law through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sgdr.models.softmax_regression import fit_softmax_regression
from keras_sgdr.validation import InvalidValueError, require

SHARES = (0.1, 0.2, 0.35, 0.6, 1.0)
# Exponents that are tried; errors of classifiers fall with the number of images by less than its inverse.
_EXPONENTS = np.linspace(0.05, 1.0, 20)
_DRAWS = 200


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Errors on the validation images by the number of training images.

    Attributes:
        num_images: Training images, int64 of shape `(sizes,)`, rising.
        errors: The share of validation images that are wrong, shape `(sizes, repeats)`.
        class_errors: The same of each class, shape `(sizes, repeats, num_classes)`; NaN for a class without any.
    """

    num_images: NDArray[np.int64]
    errors: NDArray[np.float64]
    class_errors: NDArray[np.float64]

    def expected(self, num_images: int, *, label: int | None = None, seed: int = 0) -> tuple[float, float, float]:
        """Returns the error to be expected with so many images, and an interval that holds nine of ten fits.

        The error is fitted as `limit + scale * num_images ** -exponent`. The interval is of fits to curves that are
        drawn from the repeats; that the law holds beyond the images there are is an assumption.

        Args:
            num_images: The number of training images.
            label: A class; None for all.
            seed: Of the draws.
        """
        errors = self.errors if label is None else self.class_errors[:, :, label]
        if not np.isfinite(errors).all():
            raise InvalidValueError(f"`label` must be a class with validation images. Received: label={label}.")
        best = _fitted(self.num_images, errors.mean(axis=1), num_images)
        draw = np.random.default_rng(seed)
        repeats = errors.shape[1]
        fits = []
        for _ in range(_DRAWS):
            chosen = np.take_along_axis(errors, draw.integers(0, repeats, errors.shape), axis=1)
            fits.append(_fitted(self.num_images, chosen.mean(axis=1), num_images))
        low, high = np.quantile(fits, [0.05, 0.95])
        return best, float(low), float(high)

    def __str__(self) -> str:
        """What twice as many images would do, in a sentence."""
        now = self.errors[-1].mean()
        then, low, high = self.expected(2 * int(self.num_images[-1]))
        return (
            f"a linear head on {self.num_images[-1]} images is wrong on {now:.1%} of the validation images; on "
            f"twice as many it would be on about {then:.1%} ({low:.1%} to {high:.1%})"
        )

    def of_classes(self, class_names: Sequence[str], *, most: int = 5) -> list[str]:
        """Returns a line for each class that would gain most from twice as many images, with what it would gain.

        Args:
            class_names: One name per class.
            most: How many classes; fewer where fewer would gain.
        """
        twice = 2 * int(self.num_images[-1])
        known = np.asarray(np.isfinite(self.class_errors).all(axis=(0, 1)))
        now = self.class_errors[-1].mean(axis=0)
        then = [
            _fitted(self.num_images, self.class_errors[:, :, label].mean(axis=1), twice) if known[label] else np.nan
            for label in range(len(class_names))
        ]
        gains = np.nan_to_num(now - np.array(then))
        lines = []
        for label in np.argsort(-gains, kind="stable")[:most]:
            if gains[label] > 0:
                best, low, high = self.expected(twice, label=int(label))
                lines.append(f"{class_names[label]}: from {now[label]:.1%} to {best:.1%} ({low:.1%} to {high:.1%})")
        return lines


def learning_curve(
    train: tuple[Any, Any],
    valid: tuple[Any, Any],
    *,
    num_classes: int,
    shares: tuple[float, ...] = SHARES,
    repeats: int = 3,
    seed: int = 0,
) -> LearningCurve:
    """Fits a linear head to parts of the training activations, each class by the same share.

    Args:
        train: Activations, shape `(n, num_features)`, and labels, integers of shape `(n,)`.
        valid: The same of the validation images, which measure, and choose each head's weight decay.
        num_classes: The number of classes.
        shares: Of the training images, in (0, 1], rising.
        repeats: How many parts are drawn of each share.
        seed: Of the parts.

    Raises:
        ValueError: If `shares` are fewer than three or not rising in (0, 1].
    """
    are_rising = len(shares) >= 3 and list(shares) == sorted(set(shares)) and min(shares) > 0.0 and max(shares) <= 1.0
    require(are_rising, "`shares` must be at least three, rising, in (0, 1]", shares=shares)
    activations, labels = np.asarray(train[0], np.float32), np.asarray(train[1])
    draw = np.random.default_rng(seed)
    counts, errors, class_errors = [], [], []
    for share in shares:
        each, of_classes = [], []
        for _ in range(repeats if share < 1 else 1):
            chosen = _part(labels, share, num_classes, draw)
            head = fit_softmax_regression((activations[chosen], labels[chosen]), valid, num_classes=num_classes)
            wrong = np.argmax(valid[0] @ head.kernel + head.bias, axis=1) != valid[1]
            each.append(wrong.mean())
            of_classes.append(
                [
                    wrong[valid[1] == label].mean() if (valid[1] == label).any() else np.nan
                    for label in range(num_classes)
                ]
            )
        counts.append(len(chosen))
        errors.append(np.resize(each, repeats))
        class_errors.append(np.resize(of_classes, (repeats, num_classes)))
    return LearningCurve(np.array(counts), np.array(errors), np.array(class_errors))


def _part(labels: Any, share: float, num_classes: int, draw: np.random.Generator) -> NDArray[np.int64]:
    parts = []
    for label in range(num_classes):
        positions = draw.permutation(np.flatnonzero(labels == label))
        parts.append(positions[: max(1, round(share * len(positions)))])
    return np.concatenate(parts)


def _fitted(num_images: NDArray[np.int64], errors: NDArray[np.float64], at: int) -> float:
    """Returns what the power law of least squares says of a number of images; it never rises, nor falls below 0."""
    best, value = np.inf, float(errors[-1])
    for exponent in _EXPONENTS:
        powers = num_images.astype(float) ** -exponent
        design = np.stack([powers, np.ones_like(powers)], axis=1)
        scale, limit = np.linalg.lstsq(design, errors, rcond=None)[0]
        if limit < 0:
            limit, scale = 0.0, float(powers @ errors / (powers @ powers))
        if scale < 0:
            limit, scale = float(errors.mean()), 0.0
        squares = float(np.sum((design @ [scale, limit] - errors) ** 2))
        if squares < best:
            best, value = squares, float(limit + scale * float(at) ** -exponent)
    return value
