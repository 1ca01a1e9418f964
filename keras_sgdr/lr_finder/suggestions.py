"""Rules that read a learning rate off a curve of losses, each a function of plain arrays that returns an index.

Reference: fastai 2.8, `fastai/callback/schedule.py` (valley, slide, steep, minimum).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SLIDE_WINDOW = 15
SLIDE_THRESHOLD = 0.005


def minimum_index(losses: ArrayLike) -> int:
    """The lowest loss."""
    return int(np.argmin(losses))


def steepest_index(learning_rates: ArrayLike, losses: ArrayLike) -> int:
    """The most negative change of loss per change of the rate's logarithm, from each point to the next."""
    slopes = np.diff(losses) / np.diff(np.log(np.asarray(learning_rates, dtype=float)))
    return int(np.argmin(slopes))


def inflection_index(losses: ArrayLike) -> int:
    """The most negative central difference of the losses, for rates evenly spaced in their logarithm."""
    return int(np.argmin(np.gradient(np.asarray(losses, dtype=float))))


def valley_index(losses: ArrayLike) -> int:
    """Half way along the longest fall of the losses.

    The longest strictly decreasing subsequence, one third and one sixth of its length (whole parts) after its start.
    The start is counted back from the first point at which the greatest length is reached, as fastai does.
    """
    losses = np.asarray(losses, dtype=float)
    lengths = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        higher = lengths[:i][losses[:i] > losses[i]]
        lengths[i] = 1 + (higher.max() if len(higher) else 0)
    end = int(np.argmax(lengths))
    length = int(lengths[end])
    return end - length + length // 3 + length // 6


def slide_index(losses: ArrayLike) -> int:
    """The left end of a window that slides down from the right while the slopes at its ends differ.

    The ends are 15 points apart; the slopes are the losses' central differences, alike within .005. The window's last
    place with unlike slopes counts.
    """
    slopes = np.gradient(np.asarray(losses, dtype=float))
    right = len(slopes) - 1
    index = left = right - SLIDE_WINDOW
    while left >= 0 and abs(slopes[right] - slopes[left]) > SLIDE_THRESHOLD:
        index = left
        left, right = left - 1, right - 1
    return index


def divergence_index(losses: ArrayLike, guessing_loss: float) -> int | None:
    """The first point from which on the medians of five losses stay above a limit; None if there is none.

    The limit is the loss of guessing or, where that is higher, twice the median of the first tenth: a network that has
    learnt may well lose more than a guess on augmented images. A loss that is not finite is above any limit.
    """
    losses = np.asarray(losses, dtype=float)
    padded = np.pad(np.where(np.isfinite(losses), losses, np.inf), 2, mode="edge")
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    limit = max(guessing_loss, 2 * float(np.median(losses[: max(1, len(losses) // 10)])))
    calm = np.flatnonzero(medians <= limit)
    first = int(calm[-1]) + 1 if len(calm) else 0
    return first if first < len(losses) else None
