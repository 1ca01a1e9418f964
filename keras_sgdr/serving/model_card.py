"""The model card: what whoever runs a classifier on a server may have to know of it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr._version import __version__
from keras_sgdr.data.decode.pixel_limit import MAX_JPEG_PIXELS, MAX_PIXELS
from keras_sgdr.data.index.formats import DECODED


def model_card(model: keras.Model, class_names: Sequence[str], preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what can be told of any classifier: classes, preprocessing, weights, versions; as JSON values.

    Args:
        model: The classifier.
        class_names: A name for each output.
        preprocessing: How an image is brought to the model's size.
    """
    formats = {
        "formats": list(DECODED),
        "max_pixels": {"JPEG": MAX_JPEG_PIXELS, "others": MAX_PIXELS},
        "values": "RGB in [0, 255], over white, upright",
    }
    weights = [np.asarray(weight) for weight in model.get_weights()]
    return {
        "classes": list(class_names),
        "preprocessing": {**preprocessing, **formats},
        "weights": {"sha256": hash_of(weights), "parameters": int(sum(weight.size for weight in weights))},
        "versions": {
            "keras_sgdr": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
    }


def hash_of(arrays: Sequence[Any]) -> str:
    """Returns the SHA-256 of arrays: their shapes, types and values, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
