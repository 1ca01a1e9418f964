"""Which of a run's models is the best: compared image by image on the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Below this a probability is a rounding error; one such image would outweigh all others.
_LEAST_PROBABILITY = 1e-7
_MAX_TEMPERATURE = 10.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that a run might end with, by what it says of the validation images.

    The more a network trains, the surer it gets, of what is wrong too; its log-loss rises while it still gets better at
    telling classes apart. A temperature mends the one and leaves the other as it is (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599), so models are compared at the temperature that suits each.

    Attributes:
        name: Which one, for the user: "the head", "cycle 2".
        losses: The log-loss of each image at the temperature, shape `(n,)`.
        hits: Whether each image's most probable class is that of its label, shape `(n,)`.
        temperature: What the logits are divided by, at least 1: no model is made surer than it is, for a few images
            that are all right would ask for certainty.
    """

    name: str
    losses: NDArray[np.float64]
    hits: NDArray[np.bool_]
    temperature: float = 1.0

    @classmethod
    def of(cls, name: str, probabilities: Any, labels: Any) -> Candidate:
        """Returns the candidate that gives these probabilities, shape `(n, num_classes)`, to images of these labels."""
        probabilities, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
        hits = np.argmax(np.nan_to_num(probabilities), axis=1) == labels
        # A model that has diverged says NaN, which is no answer at all.
        is_answer = np.isfinite(probabilities).all(axis=1)
        logits = np.log(np.clip(probabilities[is_answer], _LEAST_PROBABILITY, 1))
        temperature = best_temperature(logits, labels[is_answer])
        losses = np.full(len(labels), -np.log(_LEAST_PROBABILITY))
        losses[is_answer] = _log_losses(logits / temperature, labels[is_answer])
        return cls(name, losses, hits, temperature)

    def __str__(self) -> str:
        return f"{self.name} (loss {self.loss:.4f}, accuracy {self.accuracy:.4f})"

    @property
    def loss(self) -> float:
        """The mean log-loss."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """The share of hits."""
        return float(self.hits.mean())


def best_of(candidates: Sequence[Candidate]) -> int:
    """Returns the position of the best: the lowest loss; among those within one standard error of it, the accuracy.

    The standard error is that of the mean difference between two candidates' losses on the same images. Of equals the
    one with the lower loss, then the earlier one.
    """
    lowest = min(candidates, key=lambda each: each.loss)
    level = [i for i, each in enumerate(candidates) if _excess(each, lowest) <= 0]
    return min(level, key=lambda i: (-candidates[i].accuracy, candidates[i].loss))


def best_temperature(logits: Any, labels: Any) -> float:
    """Returns the temperature in [1, 10] at which the mean log-loss of `logits / temperature` is least.

    Args:
        logits: Shape `(n, num_classes)`, up to a constant in each row.
        labels: The classes, integers, shape `(n,)`.
    """
    low, high = 1 / _MAX_TEMPERATURE, 1.0
    if not len(labels) or _slope(logits, labels, high) <= 0:
        return 1.0
    # The loss is convex in the inverse of the temperature.
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(logits, labels, middle) > 0 else (middle, high)
    return 1 / high


def _slope(logits: NDArray[np.float64], labels: NDArray[np.int64], factor: float) -> float:
    """The derivative of the mean log-loss of `factor * logits` with respect to the factor."""
    powers = np.exp(factor * (logits - logits.max(axis=1, keepdims=True)))
    expected = (powers * logits).sum(axis=1) / powers.sum(axis=1)
    return float(np.mean(expected - logits[np.arange(len(labels)), labels]))


def _log_losses(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    highest = logits.max(axis=1)
    sums = np.exp(logits - highest[:, None]).sum(axis=1)
    losses: NDArray[np.float64] = highest + np.log(sums) - logits[np.arange(len(labels)), labels]
    return losses


def guessing_loss(labels: Any) -> float:
    """The log-loss of always answering with the shares of the classes."""
    shares = np.bincount(np.asarray(labels)) / len(labels)
    shares = shares[shares > 0]
    return float(-np.sum(shares * np.log(shares)))


def largest_share(labels: Any) -> float:
    """The accuracy of always answering with the largest class."""
    return float(np.bincount(np.asarray(labels)).max() / len(labels))


def is_no_better_than_guessing(accuracy: float, labels: Any) -> bool:
    """Whether an accuracy is no more than a standard error above what naming the largest class gets."""
    share = largest_share(labels)
    return share < 1 and accuracy <= share + float(np.sqrt(share * (1 - share) / len(labels)))


def _excess(candidate: Candidate, other: Candidate) -> float:
    """By how much the loss exceeds the other's, beyond one standard error."""
    differences = candidate.losses - other.losses
    return float(differences.mean() - differences.std() / np.sqrt(len(differences)))
