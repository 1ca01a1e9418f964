"""An export, loaded as a server loads it, and asked by the names of its signatures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_sgdr.data.decode.corrupt_images import reason_of
from keras_sgdr.data.index.file_names import in_utf8
from keras_sgdr.serving.savedmodel import CARD, WARMED, blank_image, is_version
from keras_sgdr.validation import InvalidValueError, MissingFileError

_GRAPH = "saved_model.pb"


class ServedModel:
    """A version of an export.

    Attributes:
        path: Its folder.
        version: Its number.
        card: The model card.
        signatures: The names of its signatures.
        signature_defs: Them, as the file has them.
        class_names: The classes, in the order of the probabilities.

    Args:
        path: A version's folder, or one of versions, of which the highest is taken.

    Raises:
        FileNotFoundError: If there is no export.
        ValueError: If it was not written by this package, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = version_at(path)
        self.version = int(self.path.name) if is_version(self.path.name) else 1
        try:
            self.card: dict[str, Any] = json.loads((self.path / CARD).read_text(encoding="utf-8"))
            self.class_names = tuple(self.card["classes"])
            # The loaded object owns the variables: without it the functions have lost theirs.
            self._loaded = tf.saved_model.load(os.fspath(self.path))
            self._functions = dict(self._loaded.signatures)
            graph = saved_model_pb2.SavedModel.FromString((self.path / _GRAPH).read_bytes()).meta_graphs[0]
            self.signature_defs = {name: graph.signature_def[name] for name in self._functions}
        except Exception as error:  # half a copy of an export can raise anything at all
            raise InvalidValueError(
                f"`path` must hold a whole export of `keras-sgdr` ({type(error).__name__}: {error}). Received: {path}. "
                "Export the classifier again."
            ) from error
        self.signatures = tuple(self._functions)

    def inputs_of(self, signature: str) -> dict[str, tf.TensorSpec]:
        """Returns what a signature takes, by name.

        Raises:
            ValueError: If there is no such signature.
        """
        if signature not in self._functions:
            known = ", ".join(self.signatures)
            raise InvalidValueError(f"`signature` must be one of {known}. Received: signature={signature!r}.")
        return dict(self._functions[signature].structured_input_signature[1])

    def __call__(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the outputs of a signature by name.

        Raises:
            ValueError: If there is no such signature, or the inputs are not what it takes; the text says which one.
        """
        specs = self.inputs_of(signature)
        if set(inputs) != set(specs):
            wanted = f"`inputs` of {signature} must be {', '.join(specs)}"
            raise InvalidValueError(f"{wanted}. Received: {', '.join(inputs) or 'none'}.")
        tensors = {name: _tensor(name, inputs[name], spec) for name, spec in specs.items()}
        try:
            outputs = self._functions[signature](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise InvalidValueError(_reason(error)) from error
        except UnicodeDecodeError as error:  # of a message that quotes the bytes
            raise InvalidValueError(f"`inputs` must be what {signature} takes. Received: other bytes.") from error
        return {name: value.numpy() for name, value in outputs.items()}

    def warm_up(self) -> None:
        """Answers one image by the signatures that are asked first, so that no client waits for TensorFlow."""
        image = blank_image(self.card["preprocessing"]["image_size"])
        for name in WARMED:
            self(name, {"image_bytes": [image]})

    def predict_files(self, encoded: Sequence[bytes], *, batch_size: int = 32) -> np.ndarray:
        """Returns the probabilities of image files, float32 of shape `(n, num_classes)`; NaN for what is no image."""
        parts = [encoded[first : first + batch_size] for first in range(0, len(encoded), batch_size)]
        found = [self("tolerant", {"image_bytes": part})["probabilities"] for part in parts]
        return np.concatenate([np.zeros((0, len(self.class_names)), np.float32), *found])


def as_lists(values: np.ndarray) -> list[Any]:
    """Returns an output as lists of numbers, or of texts, in which bytes that are not UTF-8 are escaped."""
    if values.dtype == object:
        values = np.vectorize(lambda each: each.decode("utf-8", "backslashreplace"), otypes=[object])(values)
    return list(values.tolist())


def is_export(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a version of an export, or holds some."""
    return bool(_versions(Path(path)))


def version_at(path: str | os.PathLike[str]) -> Path:
    """Returns a version's folder: the one that is given, or the highest in it.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = _versions(Path(path))
    if not found:
        raise MissingFileError(f"`path` must be an export, or hold versions of one. Received: path={os.fspath(path)}.")
    return found[-1]


def _versions(path: Path) -> list[Path]:
    if (path / _GRAPH).is_file():
        return [path]
    numbered = [each for each in path.glob("*") if is_version(each.name) and (each / _GRAPH).is_file()]
    return sorted(numbered, key=lambda each: int(each.name))


def _tensor(name: str, value: Any, spec: tf.TensorSpec) -> Any:
    try:
        if spec.dtype == tf.string:
            tensor = tf.constant(value, tf.string)
        else:
            # TensorFlow Serving takes no texts, nor true and false, for numbers, nor 1.5 or 900 for a byte; of which
            # TensorFlow would take the whole part, or the last bits.
            given = np.asarray(value)
            if given.dtype.kind not in ("iu" if spec.dtype.is_integer else "iuf"):
                raise TypeError("some are of another kind")
            tensor = tf.constant(given.astype(spec.dtype.as_numpy_dtype))
            if spec.dtype.is_integer and not np.array_equal(tensor, given):
                raise OverflowError("some are too large, or negative")
    except (TypeError, ValueError, UnicodeError, OverflowError) as error:
        raise InvalidValueError(
            f"`{name}` must be a list of one shape, of {spec.dtype.name}s ({str(error).splitlines()[0][:200]})."
        ) from error
    if not spec.shape.is_compatible_with(tensor.shape):
        raise InvalidValueError(f"`{name}` must have the shape {spec.shape}. Received: shape {tensor.shape}.")
    return tensor


def _reason(error: tf.errors.OpError) -> str:
    """What is wrong, without the graph's names."""
    found = re.search(r"assertion failed: \[(.*?)\]\s*(?:\[|\n|$)", error.message, flags=re.DOTALL)
    return str(in_utf8(found.group(1) if found else reason_of(error)))
