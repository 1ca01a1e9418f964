"""Precomputed activations: the frozen body runs once over the pictures, the rest is trained on what it gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr.models.frozen_boundary import split_at_frozen_boundary

# How far outputs from the cached activations may be from the whole model's, by the type of the activations.
_TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


def precompute_features(
    model: keras.Model, dataset: tf.data.Dataset, *, shuffle: bool = True, seed: int = 0, verbose: int = 1
) -> tuple[tf.data.Dataset, keras.Model]:
    """Runs the frozen body of a model once over a dataset, so that the rest can be trained without it.

    The model is cut at its frozen boundary, whatever is frozen: after `freeze_to(model, -1)` everything but the head,
    after `freeze_to(model, -2)` part of the backbone. The rest shares its layers with the model: compile and fit it
    with any callbacks, and what it learns is in the model at once. Dropout and other randomness are inactive in the
    body.

    Args:
        model: A functional or sequential model with frozen layers. What is trainable must not change until the rest has
            been trained.
        dataset: Batches of images, of (images, labels) or of (images, labels, weights); finite. Pictures are taken as
            they come in one pass: augmented ones are augmented once.
        shuffle: Whether the activations come in a new order in every epoch; `False` keeps the order of `dataset`.
        seed: What the order depends on.
        verbose: Whether to show the progress (1) or nothing (0).

    Returns:
        The activations, as a dataset of batches structured and sized as those of `dataset`, and the rest of the model,
        not compiled.

    Raises:
        ValueError: If nothing is frozen or nothing is trainable, or the dataset is empty or infinite.
        RuntimeError: If the rest does not give what the model gives for the first batch.

    Example:
        >>> freeze_to(model, -1)
        >>> features, head = precompute_features(model, load_dataset(index.train))
        >>> head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> head.fit(features, epochs=2)
    """
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("`dataset` must be finite. Received: a dataset that repeats for ever. Use `dataset.take(n)`.")
    body, rest = split_at_frozen_boundary(model)
    progress = keras.utils.Progbar(_num_batches(dataset), verbose=verbose, unit_name="batch")
    batches: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
    for images, *targets in map(_as_tuple, dataset):
        features = [keras.ops.convert_to_numpy(output) for output in _as_list(body.predict_on_batch(images))]
        if not batches:
            _check_against(model, rest, images, features)
        batches.append((features, [np.asarray(target) for target in targets]))
        progress.add(1)
    if not batches:
        raise ValueError("`dataset` must have at least one batch. Received: an empty dataset.")
    features = [np.concatenate(column) for column in zip(*(batch[0] for batch in batches), strict=True)]
    targets = [np.concatenate(column) for column in zip(*(batch[1] for batch in batches), strict=True)]
    batch_size = len(batches[0][0][0])
    return _as_dataset(features, targets, batch_size=batch_size, shuffle=shuffle, seed=seed), rest


def _num_batches(dataset: tf.data.Dataset) -> int | None:
    cardinality = int(dataset.cardinality())
    return cardinality if cardinality >= 0 else None


def _as_tuple(element: Any) -> tuple[Any, ...]:
    return element if isinstance(element, tuple) else (element,)


def _as_list(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _check_against(model: keras.Model, rest: keras.Model, images: Any, features: Sequence[np.ndarray]) -> None:
    live = model.predict_on_batch(images)
    cached = rest.predict_on_batch(features[0] if len(features) == 1 else list(features))
    difference = float(np.max(np.abs(live.astype("float64") - cached.astype("float64"))))
    tolerance = _TOLERANCES[features[0].dtype.name]
    if not difference <= tolerance:
        raise RuntimeError(
            f"The rest of the model on precomputed activations must give what the whole model gives, to {tolerance}. "
            f"Received: a difference of {difference:.3g} on the first batch. A layer in the frozen part behaves "
            "differently from call to call; train the model without precomputing."
        )


def _as_dataset(
    features: Sequence[np.ndarray], targets: Sequence[np.ndarray], *, batch_size: int, shuffle: bool, seed: int
) -> tf.data.Dataset:
    """Batches of rows gathered by index, so that every epoch is shuffled through and through at the cost of indices."""
    columns = [*features, *targets]

    def rows_of(indices: tf.Tensor) -> Any:
        rows = tf.numpy_function(
            lambda chosen: [column[chosen] for column in columns], [indices], [c.dtype for c in columns]
        )
        rows = [tf.ensure_shape(row, (None, *column.shape[1:])) for row, column in zip(rows, columns, strict=True)]
        inputs = rows[0] if len(features) == 1 else tuple(rows[: len(features)])
        return (inputs, *rows[len(features) :]) if targets else inputs

    indices = tf.data.Dataset.range(len(features[0]))
    if shuffle:
        indices = indices.shuffle(len(features[0]), seed=seed)
    return indices.batch(batch_size).map(rows_of).prefetch(2)
