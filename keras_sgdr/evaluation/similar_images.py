"""Which images look alike, by the activations of a backbone: crops, mirror images, other shots of the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sgdr.validation import require, require_integer

# Rows whose similarities to all others are in memory at once
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The images that are most like each image.

    Attributes:
        indices: Which, the most similar first, int64 of shape `(n, k)`.
        similarities: Cosines of the angles between the activations less their mean, in [-1, 1], shape `(n, k)`.
    """

    indices: NDArray[np.int64]
    similarities: NDArray[np.float32]

    def alike(self, similarity: float) -> list[tuple[int, int, float]]:
        """Returns each pair of images that are at least so similar, and stand out by that, the most similar first.

        One minus a copy's similarity is at most a third of that of the farthest neighbour: in a folder of digits, many
        are like many others.
        """
        near = 1 - self.similarities
        rows, columns = np.nonzero((self.similarities >= similarity) & (near <= near[:, -1:] / 3))
        pairs = {
            (min(row, other), max(row, other)): float(self.similarities[row, column])
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            for other in [int(self.indices[row, column])]
        }
        return sorted(((*pair, found) for pair, found in pairs.items()), key=lambda each: -each[2])


def find_neighbours(activations: Any, *, k: int = 10) -> Neighbours:
    """Finds the images that are most like each image, comparing all with all.

    Args:
        activations: Of the frozen body, shape `(n, num_features)`, of at least two images.
        k: Neighbours of each image; fewer where there are fewer images.

    Raises:
        ValueError: If there are fewer than two images, or `k` is no integer >= 1.
    """
    require_integer("k", k)
    vectors = np.array(activations, np.float32)
    must = "`activations` must have a row for each of at least two images"
    require(vectors.ndim == 2 and len(vectors) > 1, must, activations=vectors.shape)
    vectors -= vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    k = min(k, len(vectors) - 1)
    indices = np.empty((len(vectors), k), np.int64)
    similarities = np.empty((len(vectors), k), np.float32)
    for first in range(0, len(vectors), _ROWS):
        products = vectors[first : first + _ROWS] @ vectors.T
        rows = np.arange(len(products))
        products[rows, first + rows] = -np.inf  # an image is no neighbour of itself
        nearest = np.argpartition(-products, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(products, nearest, axis=1), axis=1, kind="stable")
        indices[first : first + _ROWS] = np.take_along_axis(nearest, order, axis=1)
        similarities[first : first + _ROWS] = np.take_along_axis(products, indices[first : first + _ROWS], axis=1)
    return Neighbours(indices, similarities)
