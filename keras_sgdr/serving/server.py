"""A server for trying an export out: TensorFlow Serving's REST API for predictions, and a page to drop an image on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import jinja2
import tensorflow as tf
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from keras_sgdr.data.decode.corrupt_images import reason_of
from keras_sgdr.data.decode.decode_image import decode_image
from keras_sgdr.data.index.file_names import in_utf8
from keras_sgdr.evaluation.class_maps import class_maps, overlay
from keras_sgdr.models.classifier import Classifier
from keras_sgdr.serving.served_model import ServedModel, as_lists, version_at
from keras_sgdr.validation import InvalidValueError, require

_LOG = logging.getLogger(__name__)

FOR_PRODUCTION = (
    "This server is for trying out. For production there is TensorFlow Serving, which loads the same export."
)
_MAX_INSTANCES = 256
# Pixels of 25 images of 224 x 224 as JSON; a bodyful of empty lists would keep the interpreter for ten seconds.
_MAX_VALUES = 4_000_000
# Twice as deep as batches of images; TensorFlow ends the process that asks for a tensor of 255 dimensions.
_MAX_DEPTH = 8
_BODY_SECONDS = 60

MakeMap = Callable[[bytes, str], Any]


class Server:
    """The answers of `app`; one model, of which the newest version that is there answers.

    Args:
        directory: The folder of the export's versions, or one version.
        make_map: From an image's bytes and the name of a class to an RGB image, uint8, that shows what speaks for it,
            by the model whose export this is; None for no maps.
        max_bytes: The longest body of a request.
        reload_seconds: How often to look for a newer version.

    Raises:
        FileNotFoundError: If there is no export.
        ValueError: If it is damaged.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        make_map: MakeMap | None = None,
        max_bytes: int = 16 << 20,
        reload_seconds: float = 2.0,
    ) -> None:
        self._directory = Path(directory)
        self._make_map, self._max_bytes, self._reload_seconds = make_map, max_bytes, reload_seconds
        self.model = self._mapped = _warm(directory)
        self._refused: Path | None = None
        self.name = str(self.model.card["name"])

    def app(self) -> Starlette:
        """Returns the application, for any ASGI server."""
        routes = [
            Route("/", self._page),
            Route("/map", self._map, methods=["POST"]),
            Route("/v1/models/{name}", self._status),
            Route("/v1/models/{name}/metadata", self._metadata),
            Route("/v1/models/{name}:predict", self._predict, methods=["POST"]),
            Route("/v1/models/{name}/versions/{version}", self._status),
            Route("/v1/models/{name}/versions/{version}/metadata", self._metadata),
            Route("/v1/models/{name}/versions/{version}:predict", self._predict, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {HTTPException: _error, InvalidValueError: _bad_request, Exception: _failure}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._reloading)

    def reload(self) -> None:
        """Takes a newer version, if there is one; one that cannot be read, perhaps half a copy, is left for later."""
        newest = None
        try:
            newest = version_at(self._directory)
            if newest != self.model.path:
                self.model = _warm(newest)
        except (InvalidValueError, OSError) as error:
            if newest != self._refused:  # once, not at every look
                _LOG.warning("%s goes on: %s", self.model.path, error)
            self._refused = newest

    @contextlib.asynccontextmanager
    async def _reloading(self, _: Starlette) -> AsyncIterator[None]:
        # More at once than there are processors would only wait for each other, each with its memory.
        self._limiter = anyio.CapacityLimiter(os.cpu_count() or 1)
        task = asyncio.create_task(self._reload_for_ever())
        yield
        task.cancel()

    async def _reload_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._reload_seconds)
            await run_in_threadpool(self.reload)

    def _model_of(self, request: Request) -> ServedModel:
        name, version = request.path_params["name"], request.path_params.get("version")
        model = self.model
        if name != self.name or version not in (None, str(model.version)):
            if request.method == "GET":
                raise HTTPException(404, f"Could not find any versions of model {name}")
            asked = f"{name}, {version}" if version else name
            raise HTTPException(404, f"Servable not found for request: {'Specific' if version else 'Latest'}({asked})")
        return model

    async def _status(self, request: Request) -> Response:
        model = self._model_of(request)
        status = {"error_code": "OK", "error_message": ""}
        version = {"version": str(model.version), "state": "AVAILABLE", "status": status}
        return JSONResponse({"model_version_status": [version]})

    async def _metadata(self, request: Request) -> Response:
        model = self._model_of(request)
        found = {
            each: json_format.MessageToDict(definition, preserving_proto_field_name=True)
            for each, definition in model.signature_defs.items()
        }
        spec = {"name": self.name, "signature_name": "", "version": str(model.version)}
        return JSONResponse({"model_spec": spec, "metadata": {"signature_def": {"signature_def": found}}})

    async def _predict(self, request: Request) -> Response:
        model = self._model_of(request)
        body = await self._body(request)
        return Response(await self._run(_answer, model, body), media_type="application/json")

    async def _page(self, _: Request) -> Response:
        page = _PAGE.render(name=self.name, has_maps=self._make_map is not None, note=FOR_PRODUCTION)
        return HTMLResponse(page)

    async def _map(self, request: Request) -> Response:
        if self._make_map is None or self.model is not self._mapped:
            raise HTTPException(
                404, "There are no maps: only a run, with its model.keras, makes them, of its own export"
            )
        body = await self._body(request)
        image = await self._run(self._make_map, body, request.query_params.get("class", ""))
        return Response(tf.io.encode_jpeg(image).numpy(), media_type="image/jpeg")

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > self._max_bytes:
                        raise HTTPException(413, f"The body of a request may have {self._max_bytes} bytes")
        except TimeoutError:
            raise HTTPException(408, f"The body of a request may take {_BODY_SECONDS} seconds") from None
        except ClientDisconnect:
            raise HTTPException(400, "The client has gone") from None
        return bytes(body)


def _warm(path: str | os.PathLike[str]) -> ServedModel:
    model = ServedModel(path)
    model.warm_up()
    return model


def map_maker(classifier: Classifier) -> MakeMap:
    """Returns what makes the maps of a classifier that is here, for `Server`."""

    def make(encoded: bytes, class_name: str) -> Any:
        names = [in_utf8(name) for name in classifier.class_names]
        require(class_name in names, f"`class` must be one of {', '.join(names)}", **{"class": class_name})
        try:
            image = decode_image(encoded, image_size=classifier.image_size, resize=classifier.resize)[tf.newaxis]
        except tf.errors.OpError as error:
            raise InvalidValueError(f"It is no image: {reason_of(error)}.") from error
        return overlay(image, class_maps(classifier.model, image, [names.index(class_name)]))[0]

    return make


def _parsed(body: bytes) -> dict[str, Any]:
    if body.count(b",") > _MAX_VALUES:
        raise HTTPException(413, f"A request may have {_MAX_VALUES} values")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"JSON Parse error: {error}") from error
    if not isinstance(asked, dict) or not ("instances" in asked) ^ ("inputs" in asked):
        raise HTTPException(400, "The body must be a JSON object with one of 'instances' and 'inputs'")
    return asked


def _answer(model: ServedModel, body: bytes) -> str:
    asked = _parsed(body)
    signature = asked.get("signature_name") or "serving_default"
    if signature not in model.signatures:
        raise HTTPException(400, f'Serving signature name: "{signature}" not found in signature def')
    names = list(model.inputs_of(signature))
    if "instances" in asked:
        inputs = _by_name(_rows(asked["instances"]), names)
    else:
        given = asked["inputs"]
        inputs = given if isinstance(given, dict) and set(given) <= set(names) else {names[0]: given}
    inputs = {name: _decoded(value) for name, value in inputs.items()}
    for value in inputs.values():
        _rows(value)
    outputs = {name: as_lists(value) for name, value in model(signature, inputs).items()}
    if "instances" in asked:
        columns = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
        alone = next(iter(outputs)) if len(outputs) == 1 else None
        return json.dumps({"predictions": [row[alone] for row in columns] if alone else columns})
    return json.dumps({"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))})


def _rows(values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise HTTPException(400, "'instances', and each of 'inputs', must be a list that is not empty")
    if len(values) > _MAX_INSTANCES:
        raise HTTPException(413, f"A request may have {_MAX_INSTANCES} instances. Received: {len(values)}")
    return values


def _by_name(rows: list[Any], names: list[str]) -> dict[str, Any]:
    """Instances as columns: all are values of the one input, or all objects with it by name."""
    (name,) = names  # of each of our signatures
    by_name = [isinstance(row, dict) and set(row) == {name} for row in rows]
    if any(by_name) and not all(by_name):
        raise HTTPException(400, f"All instances must be objects with {name}, or none")
    return {name: [row[name] for row in rows] if all(by_name) else rows}


def _decoded(value: Any, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise HTTPException(400, f"An input may have lists within lists {_MAX_DEPTH} deep. Received: deeper ones")
    if isinstance(value, dict):
        if set(value) != {"b64"} or not isinstance(value["b64"], str):
            raise HTTPException(400, 'An object in an input must be {"b64": "…"}')
        try:
            return base64.b64decode(value["b64"] + "=" * (-len(value["b64"]) % 4), validate=True)
        except ValueError as error:
            raise HTTPException(400, f"Unable to base64 decode: {error}") from error
    return [_decoded(each, depth + 1) for each in value] if isinstance(value, list) else value


async def _error(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": in_utf8(error.detail)}, status_code=error.status_code)


async def _bad_request(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": in_utf8(str(error))}, status_code=400)


async def _failure(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"{type(error).__name__}: {in_utf8(str(error))}"}, status_code=500)


_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("keras_sgdr.serving", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
).get_template("page.html.j2")
