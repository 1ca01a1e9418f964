"""Weights of classes, so that rare classes are learned too."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_sgdr.data.index.split import Split
from keras_sgdr.validation import InvalidValueError


def balanced_weights(split: Split) -> dict[int, float]:
    """Returns a weight for each class that has images, with which all classes count the same: n / (k * n_c).

    n is the number of images (labels, where an image may have several), k that of the classes that have any, and
    n_c that of the class.

    Reference:
        `sklearn.utils.class_weight.compute_class_weight("balanced", ...)`.
    """
    counts = {label: count for label, count in enumerate(split.counts.values()) if count}
    return {label: sum(counts.values()) / (len(counts) * count) for label, count in counts.items()}


def checked_class_weights(split: Split, class_weight: Any) -> npt.NDArray[np.float32] | None:
    """Returns the weight of each class, for the argument of `load_dataset`.

    Raises:
        ValueError: If it makes no sense for these labels.
    """
    if class_weight is None:
        return None
    if split.labels is None or split.labels.ndim != 1:
        raise InvalidValueError(
            "`class_weight` needs one label for each image. Received: "
            f"class_weight={class_weight!r} for the split {split.name!r} without. Use `split.weighted(...)`."
        )
    if class_weight == "balanced":
        class_weight = balanced_weights(split)
    num_classes = len(split.class_names)
    if not isinstance(class_weight, Mapping) or not all(
        label in range(num_classes) and 0 <= weight < np.inf for label, weight in class_weight.items()
    ):
        raise InvalidValueError(
            '`class_weight` must be None, "balanced" or a dictionary of weights >= 0 by class, from 0 to '
            f"{num_classes - 1}. Received: class_weight={class_weight!r}."
        )
    return np.array([class_weight.get(label, 1.0) for label in range(num_classes)], np.float32)
