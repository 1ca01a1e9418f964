"""What a server can be asked, as TensorFlow Serving asks: through the tensors that a signature names."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from keras_sgdr.data.decode.decode_image import decode_image
from keras_sgdr.evaluation.tta_layer import TTA
from keras_sgdr.serving.savedmodel import export_savedmodel
from keras_sgdr.serving.signatures import signatures
from tests.data.decode.odd_images import FILES, HUGE, REFUSED
from tests.serving.conftest import NAMES

GOOD = list(FILES.values())


class Session:
    """An export in a TensorFlow session without Keras, as TensorFlow Serving holds it."""

    def __init__(self, path):
        self.graph = tf.Graph()
        self.session = tf.compat.v1.Session(graph=self.graph)
        with self.graph.as_default():
            meta = tf.compat.v1.saved_model.load(self.session, ["serve"], str(path))
        self.signatures = dict(meta.signature_def)

    def __call__(self, name, value):
        signature = self.signatures[name]
        (given,) = signature.inputs.values()
        outputs = {key: tensor.name for key, tensor in signature.outputs.items()}
        return self.session.run(outputs, {given.name: value})


# Reading in a session is the server's way, whatever TensorFlow says of its age
@pytest.fixture(scope="module")
def served(exported):
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    return Session(exported)


@pytest.fixture(scope="module")
def expected(model):
    images = np.stack([decode_image(each, image_size=(24, 32)).numpy() for each in GOOD])
    return images, model.predict(images.astype("float32"), verbose=0)


def test_all_formats_and_orientations_have_the_models_probabilities_in_every_signature(served, expected):
    images, probabilities = expected
    assert np.abs(probabilities - probabilities[0]).max() > 1e-3
    examples = []
    for encoded in GOOD:
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
        example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
        examples.append(example.SerializeToString())
    answers = {
        "serving_default": served("serving_default", GOOD),
        "tolerant": served("tolerant", GOOD),
        "pixels": served("pixels", images),
        "float_pixels": served("float_pixels", images + np.float32(0.3)),  # rounded
    }
    for name, answer in answers.items():
        np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-5, err_msg=name)
        best = [NAMES[i].encode() for i in probabilities.argmax(1)]
        assert list(answer["predicted_class"]) == best
        assert [list(row) for row in answer["class_names"]] == [[name.encode() for name in NAMES]] * len(GOOD)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        assert [list(row) for row in answer["top_classes"]] == [[NAMES[i].encode() for i in row] for row in order]
        np.testing.assert_allclose(answer["top_probabilities"], -np.sort(-probabilities, axis=1), atol=1e-5)
    assert set(answers["tolerant"]["status"]) == {b""}
    classified = served("classify", examples)
    np.testing.assert_allclose(classified["scores"], probabilities, atol=1e-5)
    assert list(classified["classes"][0]) == [name.encode() for name in NAMES]
    assert served.signatures["classify"].method_name == "tensorflow/serving/classify"


def test_pixels_of_any_size_are_cut_and_resized_as_files_are(served):
    image = decode_image(FILES["rgba.png"], image_size=(100, 60), resize="squish")
    encoded = tf.io.encode_png(image).numpy()
    by_file, by_pixels = served("serving_default", [encoded]), served("pixels", image.numpy()[np.newaxis])
    np.testing.assert_allclose(by_pixels["probabilities"], by_file["probabilities"], atol=1e-6)


def test_features_are_what_the_last_layer_reads(model, served, expected):
    features = served("features", GOOD)["features"]
    weights, bias = model.layers[-1].get_weights()
    logits = features @ weights + bias
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(exponentials / exponentials.sum(axis=1, keepdims=True), expected[1], atol=1e-5)


def test_bad_images_fail_a_request_by_name_or_have_a_row_with_their_reason(served, expected):
    bad = {name: encoded for name, (encoded, _) in REFUSED.items()}
    mixed = [GOOD[0], *bad.values(), GOOD[1]]
    answer = served("tolerant", mixed)
    np.testing.assert_allclose(answer["probabilities"][[0, -1]], expected[1][:2], atol=1e-5)
    assert np.isnan(answer["probabilities"][1:-1]).all()
    assert np.isnan(answer["top_probabilities"][1:-1]).all()
    assert set(answer["predicted_class"][1:-1]) == {b""}
    status = dict(zip(bad, answer["status"][1:-1], strict=True))
    assert status["empty.jpg"] == b"the file is empty"
    assert status["page.jpg"] == b"it is no JPEG, PNG, GIF, BMP or WebP image"
    assert status["half.jpg"] == status["cut.gif"] == status["cut.webp"] == b"it is damaged"
    assert {status[name] for name in HUGE} == {
        b"it has more than 268435456 pixels as a JPEG, or 67108864 in another format"
    }
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="instance 1: the file is empty; instance 3: it is no JPEG"
    ):
        served("serving_default", [GOOD[0], b"", GOOD[0], b"text"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one image"):
        served("serving_default", np.array([], object))


def test_views_are_averaged_and_the_plain_image_can_be_asked_for(model, expected, tmp_path):
    images, probabilities = expected
    averaged = keras.Sequential([keras.Input((24, 32, 3)), TTA(model, ("flip", "zoom"))]).predict(images, verbose=0)
    threshold = float(np.sort(averaged[0])[-2:].mean())  # that of the first image's best class, but of no other
    path = export_savedmodel(model, tmp_path, class_names=NAMES, views=("flip", "zoom"), threshold=threshold)
    loaded = tf.saved_model.load(str(path)).signatures
    assert np.abs(averaged - probabilities).max() > 1e-4
    encoded = tf.constant(GOOD)
    for name, wanted in (("serving_default", averaged), ("serve_tta", averaged), ("serve_plain", probabilities)):
        answer = loaded[name](image_bytes=encoded)
        np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-5, err_msg=name)
        named = [NAMES[row.argmax()].encode() if row.max() >= threshold else b"" for row in wanted]
        assert list(answer["predicted_class"].numpy()) == named
        assert named[0] or name == "serve_plain"
    card = json.loads((path / "assets/model_card.json").read_text())
    assert card["views"] == ["flip", "zoom"]
    assert card["threshold"] == threshold


def test_the_five_best_of_many_classes_are_named():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(7, "softmax")])
    names = [f"class {i}" for i in range(7)]
    found = signatures(model, names, resize="squish", views=(), threshold=None)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    answer = found["pixels"].function(tf.constant(pixels))
    best = np.argsort(-model.predict(pixels, verbose=0), axis=1, kind="stable")[:, :5]
    assert answer["top_classes"].numpy().tolist() == [[names[i].encode() for i in row] for row in best]


@pytest.mark.parametrize(
    ("precision", "tolerance"), [pytest.param("float16", 2e-3, marks=pytest.mark.slow), ("bfloat16", 2e-2)]
)
def test_weights_are_rounded_and_take_half_the_room(precision, tolerance, model, expected, exported, tmp_path):
    path = export_savedmodel(model, tmp_path, class_names=NAMES, views="flip", precision=precision)
    plain = tf.saved_model.load(str(path)).signatures["serve_plain"](image_bytes=tf.constant(GOOD))["probabilities"]
    assert 0 < np.abs(plain - expected[1]).max() < tolerance
    found = dict(tf.train.list_variables(str(path / "variables/variables")))
    sizes = [np.prod(shape, dtype=int) for name, shape in found.items() if name.endswith("VARIABLE_VALUE")]
    reader = tf.train.load_checkpoint(str(path / "variables/variables"))
    types = {
        dtype.name for name, dtype in reader.get_variable_to_dtype_map().items() if name.endswith("VARIABLE_VALUE")
    }
    assert types == {precision}
    assert sum(sizes) == model.count_params()
    assert json.loads((path / "assets/model_card.json").read_text())["precision"] == precision


def test_values_that_no_pixel_has_are_the_nearest_that_one_has(served):
    far = np.full((1, 24, 32, 3), 300.0, np.float32)
    far[:, 12:] = -40.0
    near = served("float_pixels", np.clip(far, 0, 255))["probabilities"]
    np.testing.assert_array_equal(served("float_pixels", far)["probabilities"], near)


def test_weights_beyond_float16_are_refused(tmp_path):
    layers = [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax")]
    model = keras.Sequential(layers)
    model.layers[-1].set_weights([np.full((3, 2), 1e5, "float32"), np.zeros(2, "float32")])
    with pytest.raises(ValueError, match=r"bfloat16\. Received: precision='float16', largest=100000"):
        export_savedmodel(model, tmp_path, class_names=["a", "b"], precision="float16")


@pytest.mark.slow
def test_tensorflows_own_command_shows_and_runs_it(exported, tmp_path):
    """`saved_model_cli`, as a person would look at an export."""
    command = Path(sys.executable).with_name("saved_model_cli")
    shown = subprocess.run([command, "show", "--dir", exported, "--all"], capture_output=True, text=True, check=True)
    for name in ("serving_default", "tolerant", "pixels", "float_pixels", "features", "classify"):
        assert f"signature_def['{name}']" in shown.stdout
    np.save(tmp_path / "pixels.npy", np.zeros((1, 24, 32, 3), np.uint8))
    options = ["--tag_set", "serve", "--signature_def", "pixels", "--inputs", f"pixels={tmp_path / 'pixels.npy'}"]
    run = subprocess.run([command, "run", "--dir", exported, *options], capture_output=True, text=True, check=True)
    assert "Result for output key predicted_class:\n[b'" in run.stdout


def test_warm_up_requests_are_the_servers_messages_and_can_be_played(served, exported):
    from tensorflow_serving.apis import prediction_log_pb2

    records = tf.data.TFRecordDataset(str(exported / "assets.extra/tf_serving_warmup_requests"))
    sizes = []
    for record in records.as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "pets"
        images = tf.make_ndarray(request.inputs["image_bytes"])
        assert list(request.inputs) == ["image_bytes"]
        answer = served(request.model_spec.signature_name, images)
        assert np.isfinite(answer["probabilities"]).all()
        sizes.append(len(answer["probabilities"]))
    assert sizes == [1, 8] * 2


def test_what_lies_beside_the_graph_is_what_a_server_reads(exported, model):
    from tensorflow_serving.config import model_server_config_pb2

    card = json.loads((exported / "assets/model_card.json").read_text(encoding="utf-8"))
    assert card["name"] == "pets"
    assert card["classes"] == list(NAMES)
    assert card["metrics"] == {"accuracy": 0.5}
    assert card["preprocessing"]["image_size"] == [24, 32]
    assert card["preprocessing"]["resize"] == "crop"
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode() + weight.tobytes())
    assert card["weights"] == {"sha256": digest.hexdigest(), "parameters": model.count_params()}
    assert (exported / "assets/labels.txt").read_text(encoding="utf-8").splitlines() == list(NAMES)
    text = (exported.parent / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config[0]
    assert (config.name, config.base_path, config.model_platform) == ("pets", "/models/pets", "tensorflow")
    readme = (exported.parent / "README.md").read_text()
    assert "-e MODEL_NAME=pets tensorflow/serving" in readme
    for name in card["signatures"]:
        assert f"- `{name}`: " in readme


def test_what_an_operator_has_changed_stays(model, exported):
    (exported.parent / "models.config").write_text("mine")
    again = export_savedmodel(model, exported.parent, class_names=NAMES)
    assert (exported.parent / "models.config").read_text() == "mine"
    shutil.rmtree(again)


def test_names_that_no_address_holds_are_changed_and_lines_ends_escaped(model, tmp_path):
    names = ("two\nlines", "back\\slash", "c")
    path = export_savedmodel(model, tmp_path / "a b", class_names=names)
    assert json.loads((path / "assets/model_card.json").read_text())["name"] == "a_b"
    assert (path / "assets/labels.txt").read_text().splitlines() == ["two\\nlines", "back\\\\slash", "c"]
    assert json.loads((path / "assets/model_card.json").read_text())["classes"] == list(names)


def test_two_exports_have_the_same_weights_and_operations(exported, model, tmp_path):
    again = export_savedmodel(model, tmp_path / "pets", class_names=NAMES, about={"metrics": {"accuracy": 0.5}})

    def told(node):
        values = {
            name: each for name, each in node.attr.items() if each.WhichOneof("value") in ("tensor", "shape", "type")
        }
        return node.op, sorted((name, each.SerializeToString(deterministic=True)) for name, each in values.items())

    def operations(path):
        from tensorflow.core.protobuf import saved_model_pb2

        graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
        # Names are counted up; a constant's value, or a shape, is not.
        functions = [[told(node) for node in function.node_def] for function in graph.library.function]
        return sorted(functions), sorted(told(node) for node in graph.node)

    assert operations(again) == operations(exported)
    for name in ("variables/variables.data-00000-of-00001", "assets/model_card.json", "assets/labels.txt"):
        assert (again / name).read_bytes() == (exported / name).read_bytes()
    assert str(tmp_path).encode() not in (again / "saved_model.pb").read_bytes()
