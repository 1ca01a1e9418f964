"""Finds what is wrong with data on which a training failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import keras
import numpy as np

# If these are in order, the cause is taken to be elsewhere.
_MAX_BATCHES = 200


def fault_in(model: Any, arguments: Mapping[str, Any]) -> str | None:
    """Finds the first thing in the data that a model cannot be trained on.

    Args:
        model: The compiled model.
        arguments: `x` and `y` as for `model.fit`.

    Returns:
        One line, or None if the data looks as it should.
    """
    x = arguments["x"]
    # Of data that `load_dataset` divides among replicas, the part of this process; other distributed datasets cannot
    # be read here.
    arguments = {**arguments, "x": getattr(x, "local", x)}
    if hasattr(arguments["x"], "_input_workers"):
        return None
    number = -1
    # An endless dataset of a loader is looked through once.
    num_batches = min(_MAX_BATCHES, getattr(x, "num_batches", _MAX_BATCHES))
    for number, (x, y) in enumerate(islice(_batches(arguments), num_batches)):
        fault = _fault_of_batch(model, x, y)
        if fault is not None:
            return f"{fault}, in batch {number}" if number else fault
    return "it has no batches" if number < 0 else None


def _batches(arguments: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    x, y = arguments["x"], arguments.get("y")
    if y is not None:
        yield x, y
        return
    batches = (x[i] for i in range(len(x))) if isinstance(x, keras.utils.PyDataset) else x
    for batch in batches:
        yield (batch[0], batch[1]) if isinstance(batch, (tuple, list)) and len(batch) > 1 else (batch, None)


def _fault_of_batch(model: Any, x: Any, y: Any) -> str | None:
    images = [np.asarray(value) for value in keras.tree.flatten(x)]
    labels = [np.asarray(value) for value in keras.tree.flatten(y) if value is not None]
    for name, arrays in (("images", images), ("labels", labels)):
        for array in arrays:
            if array.dtype.kind == "f" and not np.isfinite(array.astype("float32")).all():
                return f"its {name} hold NaN or infinity"
    expected = getattr(model, "input_shape", None)
    if len(images) == 1 and isinstance(expected, tuple) and expected and not isinstance(expected[0], tuple):
        shape = images[0].shape
        fits = len(shape) == len(expected) and all(w in (None, s) for w, s in zip(expected, shape, strict=True))
        if not fits:
            return f"its images have the shape {shape}, and the model takes {expected}"
    return _fault_of_labels(model, labels)


def _fault_of_labels(model: Any, labels: list[Any]) -> str | None:
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else getattr(loss, "name", "")
    shape = getattr(model, "output_shape", None)
    if len(labels) != 1 or not labels[0].size or not isinstance(shape, tuple):
        return None
    (given,), num_classes = labels, shape[-1]
    columns = given.shape[-1] if given.ndim == len(shape) else 1
    if name == "categorical_crossentropy" and columns == 1 < num_classes:
        return "its labels are numbers of classes, for which the loss is sparse_categorical_crossentropy"
    if name != "sparse_categorical_crossentropy":
        return None
    if columns == num_classes > 1:
        return "its labels have a column for each class, for which the loss is categorical_crossentropy"
    lowest, highest = given.min(), given.max()
    if lowest < 0 or highest >= num_classes:
        return f"its labels go from {lowest} to {highest}, and the model has {num_classes} classes"
    return None
