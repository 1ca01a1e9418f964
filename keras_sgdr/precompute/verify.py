"""Compares what the rest of a model makes of kept activations with what the whole model makes of the images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_sgdr.validation import NotReadyError


def check_against_live(
    model: keras.Model,
    body: keras.Model,
    rest: keras.Model,
    *,
    live: tuple[Any, ...],
    kept: tuple[Any, ...],
    tolerance: float,
) -> None:
    """Refuses activations with which the rest of a model would learn something else than the whole.

    The activations, targets and outputs are compared, and the loss where the model is compiled with one.

    Args:
        model: The whole model.
        body: Its frozen body, which makes the activations.
        rest: What follows the body.
        live: A batch of images, then labels and weights if there are any.
        kept: The same batch with activations in the place of the images.
        tolerance: How far apart numbers up to 1 may be; larger ones in proportion.

    Raises:
        RuntimeError: If they are further apart.
    """
    for what, ours, theirs in _compared(model, body, rest, live, kept):
        difference = _largest_difference(ours, theirs)
        if not difference <= tolerance:
            raise NotReadyError(
                f"What is kept must give the {what} that the whole model gives, to {tolerance}. Received: a difference "
                f"of {difference:.3g} on the first batch. Either a frozen layer does not always do the same, or "
                "`source` does not say all that the dataset depends on; train without precomputing."
            )


def _compared(
    model: keras.Model, body: keras.Model, rest: keras.Model, live: tuple[Any, ...], kept: tuple[Any, ...]
) -> Iterator[tuple[str, Any, Any]]:
    # Calling is quicker than `predict`, which would trace two graphs.
    whole, part = model(live[0], training=False), rest(kept[0], training=False)
    yield "targets", kept[1:], live[1:]
    # Outputs alone would not do: a head that is sure of itself has the same for many activations.
    yield "activations", kept[0], body(live[0], training=False)
    yield "outputs", part, whole
    if model.compiled and model.loss is not None and len(live) > 1:
        yield "loss", _loss(model, live[0], part, *kept[1:]), _loss(model, live[0], whole, *live[1:])
        model.reset_metrics()


def _loss(model: keras.Model, images: Any, outputs: Any, targets: Any, weights: Any = None) -> Any:
    return model.compute_loss(x=images, y=targets, y_pred=outputs, sample_weight=weights, training=False)


def _largest_difference(ours: Any, theirs: Any) -> float:
    largest = 0.0
    for one, other in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        live = _as_float(other)
        difference = np.abs(_as_float(one) - live) / max(1.0, np.max(np.abs(live), initial=0.0))
        # Not `max`, which loses a NaN.
        largest = float(np.maximum(largest, np.max(difference, initial=0.0)))
    return largest


def _as_float(values: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.cast(values, "float32")).astype("float64")
