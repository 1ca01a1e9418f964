"""Makes probabilities believable: a temperature for all of them, and a threshold below which there is no answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sgdr.evaluation.interpretation import Interpretation
from keras_sgdr.validation import InvalidValueError, require

# Temperatures that are looked at; one outside of them speaks of a broken model.
_LOWEST, _HIGHEST = 0.05, 20.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_FLOOR = 1e-12


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


def fit_temperature(probabilities: Any, labels: Any, *, weights: Any = None) -> float:
    """Returns the temperature that makes the log-loss on labelled images lowest.

    The logits are divided by it: above 1 it makes a classifier less sure of itself, below 1 surer. No image's most
    probable class changes where one view is looked at.

    Args:
        probabilities: Shape `(n, num_classes)`, or `(views, n, num_classes)` of views that are averaged.
        labels: Integers in [0, num_classes), shape `(n,)`; of images that the model was not trained on.
        weights: One for each view, summing to 1; the same for all if None.

    Returns:
        In [0.05, 20].

    Raises:
        ValueError: If shapes do not fit together.

    Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599.
    """
    views = np.asarray(probabilities, np.float64)
    views = views[None] if views.ndim == 2 else views
    labels = np.asarray(labels)
    fits = views.ndim == 3 and labels.shape == views.shape[1:2] and len(labels) > 0
    require(fits, "`probabilities` must have a row for each label", probabilities=views.shape, labels=labels.shape)
    shares = np.full(len(views), 1 / len(views)) if weights is None else np.asarray(weights, np.float64)

    def loss(logarithm: float) -> float:
        chosen = at_temperature(views, math.exp(logarithm))[:, np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(shares @ chosen, _FLOOR)).mean())

    return math.exp(_lowest_point(loss, math.log(_LOWEST), math.log(_HIGHEST)))


def at_temperature(probabilities: Any, temperature: float) -> NDArray[np.float64]:
    """Returns what a softmax would have said, had its logits been divided by `temperature`; any shape, classes last."""
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _FLOOR)) / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def divide_logits(model: Any, temperature: float) -> None:
    """Gives the temperature to a classifier for good, by dividing the weights of its last layer.

    Args:
        model: A classifier whose last layer is a dense one with a softmax, as `build_classifier` makes it.
        temperature: As `fit_temperature` returns it.

    Raises:
        ValueError: If the last layer is another one.
    """
    head = model.layers[-1]
    is_softmax = getattr(getattr(head, "activation", None), "__name__", "") == "softmax"
    require(is_softmax and hasattr(head, "kernel"), "`model` must end in a dense layer with a softmax", layer=head.name)
    head.set_weights([weight / temperature for weight in head.get_weights()])


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


def _lowest_point(function: Any, low: float, high: float) -> float:
    """Returns where a function of one number with one valley is lowest, by golden sections."""
    for _ in range(50):
        third = (high - low) * _GOLDEN
        left, right = high - third, low + third
        if function(left) <= function(right):
            high = right
        else:
            low = left
    return (low + high) / 2
