"""`keras-sgdr serve`: TensorFlow Serving's REST API, over HTTP's own test client."""

import base64
import json
import random
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from keras_sgdr.serving.server import FOR_PRODUCTION, Server, map_maker
from tests.data.decode.odd_images import FILES, HUGE

GOOD = FILES["plain.jpg"]


def b64(encoded):
    return {"b64": base64.b64encode(encoded).decode()}


@pytest.fixture(scope="module")
def server(exported):
    return Server(exported.parent)


@pytest.fixture(scope="module")
def client(server):
    with TestClient(server.app(), raise_server_exceptions=False) as client:
        yield client


def ask(client, body, where="pets:predict"):
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return client.post(f"/v1/models/{where}", content=content)


def test_rows_and_columns_are_what_the_export_answers(server, client):
    images = [FILES["plain.jpg"], FILES["alpha.webp"]]
    expected = server.model("serving_default", {"image_bytes": images})
    reply = ask(client, {"instances": [{"image_bytes": b64(each)} for each in images]})
    assert reply.status_code == 200
    rows = reply.json()["predictions"]
    without_padding = [{"b64": b64(each)["b64"].rstrip("=")} for each in images]
    assert ask(client, {"signature_name": "", "instances": without_padding}).json()["predictions"] == rows
    columns = ask(client, {"inputs": {"image_bytes": [b64(each) for each in images]}}, "pets/versions/1:predict")
    for i, row in enumerate(rows):
        for name, values in expected.items():
            wanted = values[i].tolist() if isinstance(values[i], np.ndarray) else values[i]
            wanted = [each.decode() for each in wanted] if "class" in name and isinstance(wanted, list) else wanted
            wanted = wanted.decode() if isinstance(wanted, bytes) else wanted
            assert row[name] == wanted
            assert columns.json()["outputs"][name][i] == wanted
    alone = ask(client, {"signature_name": "features", "instances": [b64(images[0])]}).json()["predictions"]
    assert np.shape(alone) == (1, 8)
    pixels = ask(client, {"signature_name": "pixels", "instances": np.zeros((1, 24, 32, 3), int).tolist()}).json()
    assert sum(pixels["predictions"][0]["probabilities"]) == pytest.approx(1)


def test_state_and_signatures_are_told(client):
    status = {"error_code": "OK", "error_message": ""}
    expected = {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": status}]}
    for where in ("pets", "pets/versions/1"):
        assert client.get(f"/v1/models/{where}").json() == expected
    told = client.get("/v1/models/pets/metadata").json()
    assert told["model_spec"] == {"name": "pets", "signature_name": "", "version": "1"}
    assert client.get("/v1/models/cats").json() == {"error": "Could not find any versions of model cats"}
    found = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert found["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert found["method_name"] == "tensorflow/serving/predict"


WRONG = {
    "another model": (404, {"instances": [b64(GOOD)]}, "cats:predict", "Servable not found"),
    "another version": (404, {"instances": [b64(GOOD)]}, "pets/versions/9:predict", "Servable not found"),
    "no JSON": (400, b"\xff{", "pets:predict", "JSON Parse error"),
    # Of more than 254 dimensions, TensorFlow makes no tensor: it ends the process.
    "deep lists": (400, '{"instances": ' + "[" * 300 + "1" + "]" * 300 + "}", "pets:predict", "8 deep"),
    "deeper lists": (400, '{"instances": ' + "[" * 900 + "1" + "]" * 900 + "}", "pets:predict", "8 deep"),
    "base64 of other letters": (400, {"instances": [{"b64": "é"}]}, "pets:predict", "base64"),
    "mixed": (400, {"instances": [b64(GOOD), {"image_bytes": b64(GOOD)}]}, "pets:predict", "or none"),
    "half a pixel": (400, {"signature_name": "pixels", "instances": [[[[1.5, 2, 3]]]]}, "pets:predict", "uint8"),
    "a text for a pixel": (
        400,
        {"signature_name": "pixels", "instances": [[[["1", "2", "3"]]]]},
        "pets:predict",
        "uint8",
    ),
    "true for a pixel": (400, {"signature_name": "pixels", "instances": [[[[True] * 3]]]}, "pets:predict", "uint8"),
    "nothing for a pixel": (
        400,
        {"signature_name": "float_pixels", "instances": [[[[None] * 3]]]},
        "pets:predict",
        "float",
    ),
    "no example": (400, {"signature_name": "classify", "instances": [b64(b"\xff")]}, "pets:predict", ""),
    "an example of nothing": (
        400,
        {"signature_name": "classify", "instances": [""]},
        "pets:predict",
        "the file is empty",
    ),
    "too many values": (413, '{"instances": [1], "x": [' + "[]," * 4_000_001 + "1]}", "pets:predict", "values"),
    "deep JSON": (400, "[" * 100_000, "pets:predict", "JSON Parse error"),
    "no object": (400, [1], "pets:predict", "one of 'instances' and 'inputs'"),
    "neither": (400, {"examples": []}, "pets:predict", "one of 'instances' and 'inputs'"),
    "none": (400, {"instances": []}, "pets:predict", "not empty"),
    "no list": (400, {"instances": {"b64": ""}}, "pets:predict", "must be a list"),
    "no such signature": (400, {"signature_name": "x", "instances": ["a"]}, "pets:predict", 'name: "x" not found'),
    "a signature that is a list": (400, {"signature_name": ["x"], "instances": ["a"]}, "pets:predict", "not found"),
    "no base64": (400, {"instances": [{"b64": "!"}]}, "pets:predict", "base64"),
    "base64 of a number": (400, {"instances": [{"b64": 1}]}, "pets:predict", "must be"),
    "another object": (400, {"instances": [{"image": "a"}]}, "pets:predict", "must be"),
    "numbers": (400, {"instances": [1, 2]}, "pets:predict", "`image_bytes` must be a list"),
    "lists": (400, {"instances": [[b64(GOOD)]]}, "pets:predict", "shape"),
    "ragged": (400, {"signature_name": "pixels", "instances": [[[[1, 2, 3]]], [[[1]]]]}, "pets:predict", "one shape"),
    "out of range": (400, {"signature_name": "pixels", "instances": [[[[1, 2, 900]]]]}, "pets:predict", "pixels"),
    "no image": (400, {"instances": [b64(GOOD), b64(b"text")]}, "pets:predict", "instance 1: it is no JPEG"),
    "a huge header": (400, {"instances": [b64(HUGE["huge.png"])]}, "pets:predict", "instance 0: it has more than"),
    "too many": (413, {"instances": ["a"] * 1000}, "pets:predict", "256 instances"),
    "too long": (413, b" " * (17 << 20), "pets:predict", "bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_the_next_request_answered(name, client):
    code, body, where, words = WRONG[name]
    reply = ask(client, body, where)
    assert (reply.status_code, words in reply.json()["error"]) == (code, True), reply.text
    assert "{{" not in reply.text
    assert "Graph execution" not in reply.text
    assert ask(client, {"instances": [b64(GOOD)]}).status_code == 200


def test_a_bad_image_has_its_reason_where_the_client_wants_it_so(client):
    reply = ask(client, {"signature_name": "tolerant", "instances": [b64(GOOD), b64(b"")]})
    good, bad = json.loads(reply.text)["predictions"]
    assert good["status"] == ""
    assert bad["status"] == "the file is empty"
    assert np.isnan(bad["probabilities"]).all()


def malformed(draw):
    """A request that is broken somewhere: bytes, files cut or changed, shapes, JSON."""
    image = draw.choice(list(FILES.values()))
    changed = bytearray(image)
    for _ in range(draw.randrange(1, 30)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    good = json.dumps({"instances": [b64(image)]})
    return draw.choice(
        [
            lambda: draw.randbytes(draw.randrange(2000)),
            lambda: good[: draw.randrange(len(good) - 1)],
            lambda: {"instances": [b64(draw.randbytes(draw.randrange(500)))]},
            lambda: {"instances": [b64(image[: draw.randrange(len(image) // 2)])]},
            lambda: {"instances": [b64(bytes(changed))]},
            lambda: {"instances": [b64(draw.choice(list(HUGE.values())))]},
            lambda: {"instances": [draw.choice([None, 1, [], {}, "a", [[]], True])]},
            lambda: {"signature_name": draw.choice(["pixels", "classify", "features"]), "instances": [b64(image)]},
            lambda: {"signature_name": "pixels", "instances": np.zeros(draw.sample(range(4), 3)).tolist()},
        ]
    )()


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_malformed_requests_are_errors_of_the_client_and_memory_stays_flat(count, client):
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    draw = random.Random(0)
    codes, before = [], None
    for i in range(count):
        codes.append(ask(client, malformed(draw)).status_code)
        if i == count // 2:
            before = resident()
    # a changed byte may leave an image that can be decoded
    assert set(codes) <= {200, 400, 413}
    assert codes.count(400) > 0.6 * count
    assert resident() - before < 400e6  # less than one of the huge images would take
    assert ask(client, {"instances": [b64(GOOD)]}).status_code == 200


def test_many_clients_at_once_have_the_same_answer(client):
    body = {"instances": [b64(GOOD)] * 3}
    expected, found = ask(client, body).json(), []
    threads = [threading.Thread(target=lambda: found.append(ask(client, body).json())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


@pytest.mark.slow
def test_a_newer_version_takes_over_and_half_a_copy_does_not(exported, tmp_path, caplog):
    shutil.copytree(exported, tmp_path / "1")
    server = Server(tmp_path, reload_seconds=0.05)
    with TestClient(server.app()) as client:

        def version():
            return client.get("/v1/models/pets").json()["model_version_status"][0]["version"]

        assert version() == "1"
        shutil.copytree(exported, tmp_path / ".aside")
        (tmp_path / ".aside").rename(tmp_path / "3")
        for _ in range(1000):
            if version() == "3":
                break
            time.sleep(0.05)
        assert version() == "3"
    (tmp_path / "٩").mkdir()
    (tmp_path / "٩" / "saved_model.pb").write_bytes(b"no number for TensorFlow Serving")
    for damage in ("saved_model.pb", "variables/variables.data-00000-of-00001", "assets/model_card.json"):
        half = shutil.copytree(exported, tmp_path / str(4 + len(damage)))
        (half / damage).write_bytes((half / damage).read_bytes()[:-40])
        caplog.clear()
        server.reload()
        assert server.model.version == 3
        server.reload()
        assert caplog.text.count("must hold a whole export") == 1
        shutil.rmtree(half)
    shutil.copytree(exported, tmp_path / "99")
    server.reload()
    assert server.model.version == 99


def test_page_names_the_model_and_what_is_for_production(client):
    page = client.get("/")
    assert page.status_code == 200
    assert FOR_PRODUCTION in page.text
    assert client.post("/map", content=GOOD).status_code == 404


def test_a_run_has_maps_of_its_images(trained_run, classifier, digits_folder):
    image = next((digits_folder / "seven").iterdir())
    with TestClient(Server(trained_run / "export", make_map=map_maker(classifier)).app()) as client:
        reply = client.post("/map?class=seven", content=image.read_bytes())
        other = client.post("/map?class=zero", content=image.read_bytes())
        assert other.content != reply.content
        assert reply.headers["content-type"] == "image/jpeg"
        (trained_run.parent / "map.jpg").write_bytes(reply.content)
        colours = np.asarray(Image.open(trained_run.parent / "map.jpg")).astype(int)
        assert colours.shape == (32, 32, 3)
        assert np.abs(colours[..., 0] - colours[..., 2]).max() > 50  # grey digits, with red and blue over them
        assert client.post("/map?class=nine", content=image.read_bytes()).status_code == 400
        refused = client.post("/map?class=seven", content=b"text")
        assert refused.status_code == 400
        assert "no image" in refused.json()["error"]
