"""Hashes everything that a computed result depends on, so that any change of it makes another key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sgdr.validation import InvalidTypeError

_CHUNK_BYTES = 1 << 20
# Under these, the configuration of a model has the names of its layers.
_PLACES_OF_NAMES = ("name", "keras_history", "input_layers", "output_layers")


def content_key(source: Any) -> str:
    """Hashes a nest of values by their content.

    Args:
        source: Dictionaries, lists, tuples, arrays, numbers, strings, bytes, `None`; Keras objects, by their
            configuration without their own name; a `Path` stands for the name and the bytes of its file. Dictionaries
            may be in any order.

    Returns:
        64 hexadecimal digits, the SHA-256 of the values with their kinds, shapes and places.

    Raises:
        TypeError: If a value is of another kind.
        FileNotFoundError: If a file is missing.
    """
    digest = hashlib.sha256()
    for chunk in _chunks(source):
        # The length before each chunk keeps ["ab", "c"] and ["a", "bc"] apart.
        digest.update(len(chunk).to_bytes(8, "little"))
        digest.update(chunk)
    return digest.hexdigest()


def model_source(model: keras.Model) -> dict[str, Any]:
    """Describes a model for `content_key`: its architecture without the layers' names, and its weights.

    The names are left out because Keras counts them up: the same model built twice in one process has two sets.

    Args:
        model: A functional or sequential model.

    Returns:
        A dictionary that differs if the model computes anything else.
    """
    config = model.get_config()
    names = {entry.get("name") or entry["config"]["name"]: number for number, entry in enumerate(config["layers"])}
    names[config["name"]] = -1
    return {
        "architecture": _renamed(json.loads(json.dumps(config, default=_plain)), names),
        "weights": model.get_weights(),
    }


def _plain(value: Any) -> Any:
    return keras.saving.serialize_keras_object(value)


def _renamed(value: Any, names: Mapping[str, int], is_name: bool = False) -> Any:
    if isinstance(value, dict):
        # Nowhere else: an activation, say, may be called as its layer is.
        return {key: _renamed(inner, names, key in _PLACES_OF_NAMES) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names, is_name) for inner in value]
    return f"layer {names[value]}" if is_name and isinstance(value, str) and value in names else value


def _chunks(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        yield b"mapping"
        for key in sorted(value):
            yield str(key).encode()
            yield from _chunks(value[key])
        yield b"end"
    elif isinstance(value, (list, tuple)):
        yield b"sequence"
        for inner in value:
            yield from _chunks(inner)
        yield b"end"
    elif isinstance(value, (np.ndarray, np.generic)):
        yield f"array {value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Path):
        yield f"file {value}".encode()
        with value.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    else:
        yield from _scalar_chunks(value)


def _scalar_chunks(value: Any) -> Iterator[bytes]:
    if value is None or isinstance(value, (bool, int, float, str)):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, bytes):
        yield b"bytes"
        yield value
    elif hasattr(value, "get_config"):
        yield b"keras"
        described = json.loads(json.dumps(_plain(value), default=_plain))
        # Keras counts names up: the same augmentation built twice has two.
        described["config"].pop("name", None)
        yield from _chunks(described)
    else:
        raise InvalidTypeError(
            "`source` must be made of dictionaries, sequences, arrays, numbers, strings, bytes, paths, Keras objects. "
            f"Received: {value!r} of {type(value).__name__}."
        )
