"""`predict_files_at`: against a server of ours over a real socket, and against the errors of others."""

import contextlib
import csv
import http.server
import json
import socket
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.evaluation.predictions import predict_files
from keras_sgdr.serving.client import predict_files_at
from keras_sgdr.serving.served_model import ServedModel
from keras_sgdr.serving.server import Server
from keras_sgdr.validation import ServerError
from tests.cli.command_line import assert_one_line, run, run_well
from tests.data.decode.odd_images import FILES
from tests.serving.listening import listening


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A hundred images of all formats, sizes and orientations, and three files that are none."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(100):
        name = list(FILES)[i % len(FILES)]
        (folder / f"{i}_{name}").write_bytes(FILES[name])
    (folder / "text.jpg").write_text("text")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(FILES["plain.jpg"][: len(FILES["plain.jpg"]) // 2])
    return folder


@pytest.fixture(scope="module")
def rest(trained_run):
    with listening(Server(trained_run / "export")) as address:
        yield f"{address}/v1/models/{trained_run.name}"


@pytest.fixture(scope="module")
def grpc_server(trained_run):
    """TensorFlow Serving's own service, over the export."""
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    model = ServedModel(trained_run / "export")

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        calls = 0

        def Predict(self, request, context):
            Service.calls += 1
            if request.model_spec.name != "pets":
                context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request.model_spec.name}")
            if Service.calls == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "loading")
            inputs = {name: list(tf.make_ndarray(value)) for name, value in request.inputs.items()}
            response = predict_pb2.PredictResponse()
            for name, values in model(request.model_spec.signature_name, inputs).items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
            return response

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="module")
def here(classifier, images):
    return predict_files(classifier, [images])


def assert_same(found, expected):
    assert found.paths == expected.paths
    assert found.class_names == expected.class_names
    assert found.predicted == expected.predicted
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert [path for path, _ in found.rejected] == [path for path, _ in expected.rejected]
    assert len(found.rejected) == 3


def test_rest_answers_as_the_run_does(rest, images, here):
    found = predict_files_at(rest, [images], batch_size=7, concurrency=3)
    assert_same(found, here)
    reasons = {path.rpartition("/")[2]: reason for path, reason in found.rejected}
    assert reasons["empty.png"] == "no image: the file is empty"
    assert "damaged" in reasons["cut.jpg"]


def test_grpc_answers_as_the_run_does_and_is_asked_again_while_it_loads(grpc_server, images, here):
    assert_same(predict_files_at(f"{grpc_server}/pets", [images]), here)
    with pytest.raises(ServerError, match=r"answers 404 .no such model, or not loaded yet.*Servable not found"):
        predict_files_at(f"{grpc_server}/cats", [images])


def test_command_writes_what_it_writes_of_a_run(rest, trained_run, images, tmp_path):
    options = ["--url", rest, "--concurrency", 2, "--timeout", 30, "--batch-size", 50, "-o", tmp_path / "there.csv"]
    assert run("predict", images, *options).exit_code == 1  # some are no images
    assert run("predict", trained_run, images, "-o", tmp_path / "here.csv").exit_code == 1
    there, here = (
        list(csv.DictReader((tmp_path / name).read_text(encoding="utf-8").splitlines()))
        for name in ("there.csv", "here.csv")
    )
    assert len(there) == 100
    for one, other in zip(there, here, strict=True):
        assert one["path"] == other["path"]
        assert one["predicted_class"] == other["predicted_class"]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
    some = next(images.glob("*.webp"))
    assert json.loads(run_well("predict", some, "--url", rest, "--format", "json").stdout)
    assert_one_line(run("predict", some, "--url", "http://127.0.0.1:1/v1/models/pets", "--timeout", 1), "refused")
    assert_one_line(run("predict", some, "--url", "http://[::1/v1/models/pets"), "cannot be reached")


@contextlib.contextmanager
def scripted(*replies):
    """A server that gives these replies, (status, body), one after the other, and counts the requests."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = replies[min(len(seen), len(replies)) - 1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/models/pets", seen
    server.shutdown()
    thread.join()
    server.server_close()


ROW = {"probabilities": [0.25, 0.75], "class_names": ["a", "b"], "predicted_class": "b", "status": ""}
ANSWER = json.dumps({"predictions": [ROW]}).encode()


@pytest.fixture
def one_image(tmp_path):
    (tmp_path / "one.jpg").write_bytes(FILES["plain.jpg"])
    return [tmp_path / "one.jpg"]


def test_a_server_that_is_busy_is_asked_again(one_image):
    with scripted((503, b"{}"), (429, b"{}"), (200, ANSWER)) as (url, seen):
        found = predict_files_at(url, one_image)
    assert len(seen) == 3
    assert found.predicted == ("b",)
    asked = json.loads(seen[0])
    assert asked["signature_name"] == "tolerant"
    assert list(asked["instances"][0]) == ["b64"]


# The texts of TensorFlow Serving 2.x, as its documentation and its sources have them
REFUSALS = {
    "no such model": (404, b'{"error": "Servable not found for request: Latest(pets)"}', "not loaded yet.*Latest"),
    "no signature": (
        400,
        b'{"error": "Serving signature name: \\"tolerant\\" not found in signature def"}',
        "an export of this version.*tolerant",
    ),
    "malformed": (400, b'{ "error": "Malformed request: POST /v1/models/pets:predict" }', "answers 400.*Malformed"),
    "too large": (413, b'{"error": "The body of a request may have 9 bytes"}', "smaller --batch-size"),
    "a proxy's page": (500, b"<html>oops</html>", "answers 500.*oops"),
    "no JSON": (200, b"hello", "answers 200.*hello"),
    "other outputs": (200, b'{"predictions": [[0.1, 0.9]]}', "does not answer probabilities"),
    "an error that is an object": (400, b'{"error": {"code": 5}}', "answers 400.*code"),
    "nothing in a row": (
        200,
        json.dumps({"predictions": [{**ROW, "probabilities": None}]}).encode(),
        "does not answer",
    ),
    "too few rows": (200, b'{"predictions": []}', "does not answer probabilities"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_server_refuses_is_one_line(name, one_image):
    status, body, words = REFUSALS[name]
    with scripted((status, body)) as (url, _), pytest.raises(ServerError, match=words) as caught:
        predict_files_at(url, one_image)
    assert "\n" not in str(caught.value)


def test_a_refusal_ends_all_that_waits(one_image):
    with scripted((400, b'{"error": "no"}')) as (url, seen), pytest.raises(ServerError, match="answers 400"):
        predict_files_at(url, one_image * 50, batch_size=1, concurrency=1)
    assert len(seen) < 10


def test_a_version_with_other_classes_between_two_requests_is_an_error(one_image, tmp_path):
    (tmp_path / "two.jpg").write_bytes(FILES["grey.jpg"])
    turned = json.dumps({"predictions": [{**ROW, "class_names": ["b", "a"]}]}).encode()
    with (
        scripted((200, ANSWER), (200, turned)) as (url, _),
        pytest.raises(ServerError, match="other classes than before"),
    ):
        predict_files_at(url, [*one_image, tmp_path / "two.jpg"], batch_size=1, concurrency=1)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout, one_image):
    with pytest.raises(ValueError, match="`timeout` must be in"):
        predict_files_at("http://host/v1/models/pets", one_image, timeout=timeout)


def test_a_server_that_does_not_answer_is_given_up(one_image):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        with pytest.raises(ServerError, match=r"cannot be reached: .*timed? ?out"):
            predict_files_at(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/models/pets", one_image, timeout=0.3)
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "url", ["pets", "ftp://host/v1/models/pets", "http://host/pets", "grpc://host", "grpc://h/a/b"]
)
def test_an_address_of_another_form_is_refused(url, one_image):
    with pytest.raises(ValueError, match="`url` must be like"):
        predict_files_at(url, one_image)
