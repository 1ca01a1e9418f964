"""Which of a run's models is the best: compared image by image on the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Below this a probability is a rounding error; one such image would outweigh all others.
_LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that a run might end with, by what it says of the validation images.

    Attributes:
        name: Which one, for the user: "the head", "cycle 2".
        losses: The log-loss of each image, shape `(n,)`.
        hits: Whether each image's most probable class is that of its label, shape `(n,)`.
    """

    name: str
    losses: NDArray[np.float64]
    hits: NDArray[np.bool_]

    @classmethod
    def of(cls, name: str, probabilities: Any, labels: Any) -> Candidate:
        """Returns the candidate that gives these probabilities, shape `(n, num_classes)`, to images of these labels."""
        probabilities, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
        of_label = probabilities[np.arange(len(labels)), labels]
        # A model that has diverged says NaN, which is no answer at all.
        of_label = np.where(np.isfinite(of_label), np.clip(of_label, _LEAST_PROBABILITY, 1), _LEAST_PROBABILITY)
        return cls(name, -np.log(of_label), np.argmax(np.nan_to_num(probabilities), axis=1) == labels)

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
