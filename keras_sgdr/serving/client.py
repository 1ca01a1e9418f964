"""Predicts image files on a server: TensorFlow Serving, or `keras-sgdr serve`."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import urllib3

from keras_sgdr.data.decode.corrupt_images import BadImageError, read_image, reason_of
from keras_sgdr.evaluation.predictions import Predictions, files_at
from keras_sgdr.serving.served_model import as_lists
from keras_sgdr.validation import MissingPackageError, ServerError, require, require_integer

# One that answers a bad image in its row, so that it does not fail the others.
_SIGNATURE = "tolerant"
_RETRIES = 4
_BUSY = (429, 502, 503, 504)
_LONGEST = 86_400
_OUTPUTS = ("probabilities", "class_names", "predicted_class", "status")

Answer = dict[str, list[Any]]
Ask = Callable[[list[bytes]], Answer]


def predict_files_at(
    url: str,
    paths: Sequence[str | os.PathLike[str]],
    *,
    batch_size: int = 32,
    concurrency: int = 2,
    timeout: float = 60.0,
    verbose: int = 0,
) -> Predictions:
    """Returns what a server says of image files, as `predict_files` does for a classifier that is here.

    Args:
        url: `http://HOST:8501/v1/models/NAME`, with `/versions/N` behind it if wished, or `grpc://HOST:8500/NAME`
            (which needs the packages of `keras-sgdr[serving]`). Without a version, a newer one may take over between
            two requests; if its classes are others, that is an error.
        paths: As in `predict_files`.
        batch_size: Images in a request.
        concurrency: Requests under way at once.
        timeout: Seconds that a connection, and then an answer, may let wait for itself. A request that the server is
            too busy for, or that does not reach it, is tried again up to four times: at once, after one second, two
            and four.
        verbose: 1 shows a progress bar.

    Raises:
        FileNotFoundError: If one of `paths` does not exist.
        ValueError: If there is no image, or an argument makes no sense.
        ServerError: If the server refuses, or cannot be reached; it is a ConnectionError.
    """
    for name, value in (("batch_size", batch_size), ("concurrency", concurrency)):
        require_integer(name, value)
    require(0 < timeout <= _LONGEST, f"`timeout` must be in (0, {_LONGEST}] seconds", timeout=timeout)
    ask = _asker(url, timeout)
    files = files_at(paths)
    chunks = [files[first : first + batch_size] for first in range(0, len(files), batch_size)]
    good: list[str] = []
    rejected: list[tuple[str, str]] = []
    rows: list[Any] = []
    predicted: list[str | None] = []
    names: tuple[str, ...] = ()
    bar = keras.utils.Progbar(len(files), unit_name="image") if verbose else None
    pool = ThreadPoolExecutor(concurrency)
    try:
        for chunk, found in zip(chunks, pool.map(lambda chunk: _answers(ask, chunk), chunks), strict=True):
            for path, answer in zip(chunk, found, strict=True):
                if isinstance(answer, str):
                    rejected.append((path, f"no image: {answer}"))
                    continue
                row, own_names, label = answer
                if own_names != (names := names or own_names):
                    raise ServerError(f"{url} has answered with other classes than before: ask one version of it.")
                good.append(path)
                rows.append(row)
                predicted.append(label or None)
            if bar is not None:
                bar.add(len(chunk))
    finally:
        pool.shutdown(cancel_futures=True)  # where the server refuses one request, the others need not be tried
    probabilities = np.array(rows, np.float32).reshape(len(rows), len(names))
    return Predictions(tuple(good), probabilities, names, tuple(predicted), tuple(rejected))


def _answers(ask: Ask, paths: Sequence[str]) -> list[Any]:
    """For each file the reason why it is no image, or its probabilities, the classes' names and that of the class."""
    read = [_read(path) for path in paths]
    encoded = [each for each in read if isinstance(each, bytes)]
    answer = ask(encoded) if encoded else {name: [] for name in _OUTPUTS}
    told = iter(zip(*(answer[name] for name in _OUTPUTS), strict=True))
    found: list[Any] = []
    for each in read:
        if isinstance(each, str):
            found.append(each)
            continue
        probabilities, names, label, status = next(told)
        found.append(status or (probabilities, tuple(names), label))
    return found


def _read(path: str) -> bytes | str:
    try:
        return read_image(path)
    except BadImageError as error:
        return str(error)
    except tf.errors.OpError as error:
        return reason_of(error)


def _asker(url: str, timeout: float) -> Ask:
    rest = re.fullmatch(r"https?://[^/?#@\s]+/v1/models/[^/?#:\s]+(/versions/\d+)?/?", url)
    grpc = re.fullmatch(r"grpc://([^/?#@\s]+)/([^/?#\s]+)/?", url)
    must = "`url` must be like http://HOST:8501/v1/models/NAME or grpc://HOST:8500/NAME"
    require(bool(rest or grpc), must, url=url)
    return _grpc(grpc[1], grpc[2], timeout) if grpc else _rest(url.rstrip("/"), timeout)


def _rest(url: str, timeout: float) -> Ask:
    retries = urllib3.Retry(
        _RETRIES,
        read=0,
        backoff_factor=0.5,
        status_forcelist=_BUSY,
        allowed_methods=None,
        raise_on_status=False,
        respect_retry_after_header=False,  # which may say hours
    )
    pool = urllib3.PoolManager(maxsize=16, retries=retries, timeout=timeout)

    def ask(encoded: list[bytes]) -> Answer:
        instances = [{"b64": base64.b64encode(each).decode("ascii")} for each in encoded]
        body = json.dumps({"signature_name": _SIGNATURE, "instances": instances})
        try:
            reply = pool.request("POST", f"{url}:predict", body=body, headers={"Content-Type": "application/json"})
        except (urllib3.exceptions.HTTPError, ValueError) as error:  # ValueError: of a host that is none
            raise ServerError(f"{url} cannot be reached: {_cause(error)}") from error
        try:
            answer = json.loads(reply.data)
        except ValueError:
            answer = {}
        if reply.status != 200 or not isinstance(answer, dict) or not isinstance(answer.get("predictions"), list):
            said = answer.get("error") if isinstance(answer, dict) else None
            raise ServerError(_words(url, reply.status, str(said or reply.data[:200].decode("utf-8", "replace"))))
        rows = answer["predictions"]
        if len(rows) != len(encoded) or not all(map(_is_answer, rows)):
            raise ServerError(_words(url, 400, f"{_SIGNATURE} does not answer {', '.join(_OUTPUTS)} for each image"))
        return {name: [row[name] for row in rows] for name in _OUTPUTS}

    return ask


def _is_answer(row: Any) -> bool:
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in _OUTPUTS[2:]):
        return False
    probabilities, names = row.get("probabilities"), row.get("class_names")
    return (
        isinstance(probabilities, list)
        and isinstance(names, list)
        and len(probabilities) == len(names)
        and all(isinstance(share, (int, float)) for share in probabilities)
    )


def _grpc(address: str, name: str, timeout: float) -> Ask:
    try:
        import grpc
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
    except ImportError as error:
        raise MissingPackageError(
            f"`url` of grpc:// needs further packages: pip install 'keras-sgdr[serving]'. Received: grpc://{address}."
        ) from error

    policy = {
        "maxAttempts": _RETRIES + 1,
        "initialBackoff": "0.5s",
        "maxBackoff": "4s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(address, options=[("grpc.service_config", config), *unlimited])
    service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def ask(encoded: list[bytes]) -> Answer:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, _SIGNATURE
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(encoded))
        try:
            outputs = service.Predict(request, timeout=timeout).outputs
        except grpc.RpcError as error:
            status = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504}
            code = error.code().name
            raise ServerError(_words(f"grpc://{address}/{name}", status.get(code, code), error.details())) from error
        if not set(_OUTPUTS) <= set(outputs):
            raise ServerError(_words(address, 400, f"{_SIGNATURE} does not answer {', '.join(_OUTPUTS)}"))
        arrays = {each: tf.make_ndarray(outputs[each]) for each in _OUTPUTS}
        return {each: as_lists(values) for each, values in arrays.items()}

    return ask


def _cause(error: Any) -> str:
    while getattr(error, "reason", None) is not None and error.reason is not error:
        error = error.reason
    return str(error).rpartition(": ")[2] or type(error).__name__


def _words(url: str, status: Any, said: str) -> str:
    advice = {
        400: "the model there takes other requests: it must be an export of this version of `keras-sgdr`",
        404: "no such model, or not loaded yet: `GET` the address to see its state",
        413: "too much at once: a smaller --batch-size",
        429: "the server is busy",
        503: "the server cannot be reached, is busy, or has not loaded the model yet",
        504: "no answer in time: is the address right? else a longer --timeout, or a smaller --batch-size",
    }
    return f"{url} answers {status} ({advice.get(status, 'see the log of the server')}): {' '.join(said.split())[:500]}"
