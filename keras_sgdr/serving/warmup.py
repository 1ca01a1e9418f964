"""The requests that TensorFlow Serving plays to a model before its first client comes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf


def write_warmup(path: str | os.PathLike[str], requests: Sequence[tuple[str, Mapping[str, Any]]], *, name: str) -> None:
    """Writes `assets.extra/tf_serving_warmup_requests`: a TFRecord file of `PredictionLog`.

    Args:
        path: The file.
        requests: For each request the signature, and its inputs by name.
        name: The model's name, as the server is told.

    Reference:
        https://www.tensorflow.org/tfx/serving/saved_model_warmup; the numbers of the fields:
        tensorflow_serving/apis/prediction_log.proto, predict.proto and model.proto.
    """
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for signature, inputs in requests:
            # In fewer lines than the package of these messages would be a dependency: it brings all of gRPC.
            model = _field(1, name.encode()) + _field(3, signature.encode())
            request = _field(1, model)
            for key, value in inputs.items():
                tensor = tf.make_tensor_proto(value).SerializeToString(deterministic=True)
                request += _field(2, _field(1, key.encode()) + _field(2, tensor))
            writer.write(_field(6, _field(1, request)))


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, as protocol buffers write it: its number and type, its length, its content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    septets = []
    while value > 127:
        septets.append(value % 128 | 128)
        value //= 128
    return bytes([*septets, value])
