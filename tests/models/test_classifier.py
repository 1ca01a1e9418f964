import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_sgdr.models.classifier import build_classifier, load_classifier, save_classifier
from keras_sgdr.models.efficientnet_lite import EfficientNetLite0

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 32, 40, 3)).astype("float32")


@pytest.fixture(scope="module")
def classifier():
    return build_classifier(4, weights=None, image_size=(32, 40))


def test_outputs_are_probabilities_of_float32(classifier):
    probabilities = classifier.predict(IMAGES, verbose=0)
    assert probabilities.shape == (2, 4)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)


def test_outputs_are_float32_under_mixed_precision_too(classifier):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_classifier(4, backbone="MobileNetV2", weights=None, image_size=(32, 40))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("Conv1").compute_dtype == "float16"
    assert model.predict(IMAGES, verbose=0).dtype == np.float32
    # Images are scaled before they are rounded to half precision.
    assert model.get_layer("preprocessing").compute_dtype == "float32"


def test_the_backbone_s_layers_are_the_model_s_own(classifier):
    assert not any(isinstance(layer, keras.Model) for layer in classifier.layers)
    assert classifier.get_layer("block1a_dwconv")


@pytest.mark.parametrize(
    ("constructor", "suffix"),
    [
        (EfficientNetLite0, ".keras"),
        (keras.applications.MobileNetV2, ".weights.h5"),
        (keras.applications.MobileNetV2, ".h5"),
    ],
)
def test_weights_of_a_backbone_come_from_a_file(tmp_path, constructor, suffix):
    backbone = constructor(include_top=False, weights=None, input_shape=(32, 32, 3))
    if suffix == ".weights.h5":
        backbone.save_weights(tmp_path / "w.weights.h5")
    elif suffix == ".keras":
        backbone.save(tmp_path / "w.keras")
    else:
        _save_legacy_weights(backbone, tmp_path / "w.h5")
    model = build_classifier(2, backbone=constructor.__name__, weights=tmp_path / f"w{suffix}", image_size=32)
    for layer in backbone.layers[1:]:
        for ours, theirs in zip(model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def _save_legacy_weights(model, path):
    """The layout of the files that Keras downloads: a group per layer, in order."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.4.0"
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{i}".encode() for i in range(len(layer.weights))]
            group.attrs["weight_names"] = names
            for name, value in zip(names, layer.get_weights(), strict=True):
                group.create_dataset(name.decode(), data=value)


def test_efficientnet_s_published_weights_mean_the_same_from_a_file(tmp_path, monkeypatch):
    # The published file holds ImageNet's deviation where the variance belongs; Keras makes up for it in an extra layer.
    backbone = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    normalization = next(layer for layer in backbone.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights([np.array(v) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])] + [np.array(0)])
    _save_legacy_weights(backbone, tmp_path / "efficientnetb0_notop.h5")
    path = str(tmp_path / "efficientnetb0_notop.h5")
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: path)
    published = build_classifier(2, backbone="EfficientNetB0", weights="imagenet", image_size=32)
    from_file = build_classifier(2, backbone="EfficientNetB0", weights=path, image_size=32)
    scaled = [
        keras.Model(model.input, model.get_layer("stem_conv_pad").output).predict(IMAGES[:, :, :32], verbose=0)
        for model in (published, from_file)
    ]
    assert np.ptp(scaled[0]) > 3
    np.testing.assert_allclose(scaled[1], scaled[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_nasnet_s_published_weights_fit_any_size(tmp_path, monkeypatch):
    # Keras itself refuses them for images that are not 224 pixels high and wide.
    backbone = keras.applications.NASNetMobile(include_top=False, weights=None, input_shape=(224, 224, 3))
    _save_legacy_weights(backbone, tmp_path / "w.h5")
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: str(tmp_path / "w.h5"))
    model = build_classifier(2, backbone="NASNetMobile", weights="imagenet", image_size=64)
    for ours, theirs in zip(model.get_weights()[:-2], backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"num_classes": 1}, r"num_classes=1\."),
        ({"num_classes": 2.5}, r"num_classes=2\.5"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
        ({"dropout": float("nan")}, r"dropout=nan"),
        ({"image_size": 31}, r"image_size=31"),
        ({"image_size": (32, 32, 1)}, r"image_size=\(32, 32, 1\)"),
        ({"image_size": (64.0, 64)}, r"image_size=\(64\.0, 64\)"),
        ({"backbone": "Xception", "image_size": 64}, r"image_size=64"),
        ({"backbone": "LeNet"}, r"backbone='LeNet'"),
        ({"weights": "noisy-student"}, r"weights='noisy-student'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        build_classifier(**{"num_classes": 3, "weights": None, "image_size": 32} | arguments)


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: weights='.*none\.keras'"):
        build_classifier(3, weights=tmp_path / "none.keras")


def test_a_file_of_another_backbone_is_refused(tmp_path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=r"a file of EfficientNetLite0 without its top .*Received: weights='.*other"):
        build_classifier(3, weights=tmp_path / "other.keras", image_size=32)


def test_a_saved_classifier_comes_back(classifier, tmp_path):
    names = ["ant", "bee", "größer", "cow"]
    save_classifier(classifier, tmp_path / "run", class_names=names, resize="squish")
    loaded = load_classifier(tmp_path / "run")
    assert loaded.class_names == tuple(names)
    assert loaded.image_size == (32, 40)
    assert loaded.resize == "squish"
    np.testing.assert_array_equal(loaded.model.predict(IMAGES, verbose=0), classifier.predict(IMAGES, verbose=0))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["classifier.json", "model.keras"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.resize = "crop"


def test_plain_keras_loads_the_file_in_a_new_process(tmp_path):
    # VGG's preprocessing swaps the channels, the only step of any that is not a layer.
    model = build_classifier(3, backbone="VGG16", weights=None, image_size=32)
    save_classifier(model, tmp_path, class_names="abc")
    np.save(tmp_path / "images.npy", IMAGES[:, :, :32])
    program = (
        "import keras, numpy, sys; folder = sys.argv[1]; model = keras.models.load_model(folder + '/model.keras');"
        "numpy.save(folder + '/out.npy', model.predict(numpy.load(folder + '/images.npy'), verbose=0));"
        "assert 'keras_sgdr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=tmp_path, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model.predict(IMAGES[:, :, :32], verbose=0), atol=1e-6)


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a", "b", "c", "c"], ["a", "b", "c", "d", "d"]])
def test_class_names_must_fit_the_model(classifier, tmp_path, names):
    with pytest.raises(ValueError, match=r"must be 4 different names.*Received: class_names=\['a', 'b', 'c'"):
        save_classifier(classifier, tmp_path, class_names=names)
    assert not any(tmp_path.iterdir())


def test_a_model_of_any_size_is_refused(tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(inputs)))
    with pytest.raises(ValueError, match=r"Received: a model of input shape \(None, None, None, 3\)"):
        save_classifier(model, tmp_path, class_names="ab")


@pytest.mark.parametrize("missing", ["model.keras", "classifier.json", ""])
def test_a_missing_file_is_named(tmp_path, missing):
    for file in {"model.keras", "classifier.json"} - {missing}:
        (tmp_path / file).touch()
    with pytest.raises(FileNotFoundError, match=r"Received: path='.*', which lacks (model\.keras|classifier\.json)"):
        load_classifier(tmp_path if missing else tmp_path / "none")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"class_names": [], "image_size": 3, "resize": "crop"}'])
def test_a_damaged_description_is_refused(tmp_path, text):
    (tmp_path / "model.keras").touch()
    (tmp_path / "classifier.json").write_text(text)
    with pytest.raises(ValueError, match=r"must hold a classifier\.json .*Received: path='"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"<html>not found</html>",
        lambda content: content[:400] + bytes(byte ^ 255 for byte in content[400:500]) + content[500:],
    ],
    ids=["empty", "half", "other", "changed"],
)
def test_a_damaged_model_is_named(tmp_path, damage):
    layers = [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()]
    model = build_classifier(3, backbone=keras.Sequential(layers), image_size=8)
    save_classifier(model, tmp_path, class_names="abc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier.json", "model.keras"]
    file = tmp_path / "model.keras"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"`path` must hold a model\.keras .*Received: .*model\.keras"):
        load_classifier(tmp_path)


def test_files_of_two_classifiers_are_refused(classifier, tmp_path):
    save_classifier(classifier, tmp_path, class_names="abcd")
    described = json.loads((tmp_path / "classifier.json").read_text())
    (tmp_path / "classifier.json").write_text(json.dumps(described | {"class_names": ["a"]}))
    with pytest.raises(ValueError, match=r"Received: path='.*' with 1 classes at 32x40"):
        load_classifier(tmp_path)


def own_backbone(**kwargs):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv0")(keras.layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, keras.layers.Conv2D(5, 3, strides=2, name="conv1")(x), name="own", **kwargs)


def test_a_model_of_one_s_own_is_copied_with_its_weights():
    backbone = own_backbone()
    model = build_classifier(3, backbone=backbone, image_size=(32, 40))
    features = keras.Model(model.input, model.get_layer("conv1").output).predict(IMAGES, verbose=0)
    np.testing.assert_allclose(features, backbone.predict(IMAGES, verbose=0), atol=1e-6)
    assert model.input_shape == (None, 32, 40, 3)
    assert model.get_layer("conv0") is not backbone.get_layer("conv0")
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)


def test_a_sequential_backbone_that_pools_is_copied():
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalMaxPooling2D(name="pool")]
    model = build_classifier(3, backbone=keras.Sequential([keras.Input((32, 40, 3)), *layers]), image_size=(32, 40))
    assert [layer.name for layer in model.layers[-3:]] == ["pool", "head_dropout", "head_predictions"]
    assert model.predict(IMAGES, verbose=0).shape == (2, 3)


def test_tokens_are_pooled():
    layers = [keras.layers.Conv2D(4, 8, strides=8), keras.layers.Reshape((20, 4))]
    model = build_classifier(3, backbone=keras.Sequential([keras.Input((32, 40, 3)), *layers]), image_size=(32, 40))
    assert isinstance(model.get_layer("head_pool"), keras.layers.GlobalAveragePooling1D)


@pytest.mark.parametrize(
    ("backbone", "received"),
    [
        (keras.Sequential([keras.layers.Dense(2)]), r"backbone=<Sequential"),
        (keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)]), r"backbone=.* \[\(None, 8, 8, 1\)"),
        (keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]), r"backbone=.* \[\(None, 8\)"),
    ],
)
def test_a_model_that_is_no_backbone_is_refused(backbone, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        build_classifier(3, backbone=backbone, image_size=8)


@keras.saving.register_keras_serializable(package="test_classifier")
class Undescribed(keras.layers.Layer):
    """Gives itself a configuration that it does not take."""

    def call(self, inputs):
        return inputs

    def get_config(self):
        return {**super().get_config(), "num_patches": 4}


def test_a_layer_that_does_not_describe_itself_is_named():
    backbone = keras.Sequential([keras.Input((8, 8, 3)), Undescribed()])
    with pytest.raises(ValueError, match=r"Undescribed: \{'num_patches': 4\}.*Received: backbone=<Sequential"):
        build_classifier(3, backbone=backbone, image_size=8)


class Reversed(keras.Sequential):
    """Lists its weights in another order than its copy does, as some subclassed models do."""

    @property
    def weights(self):
        return super().weights[::-1]


def test_weights_are_copied_layer_by_layer():
    layers = [keras.layers.Dense(3, use_bias=False, name=name) for name in ("a", "b")]
    backbone = Reversed([keras.Input((8, 8, 3)), *layers])
    model = build_classifier(3, backbone=backbone, image_size=8)
    for layer in layers:
        np.testing.assert_array_equal(model.get_layer(layer.name).get_weights(), layer.get_weights())


@pytest.mark.parametrize("nested", [False, True])
def test_statistics_that_a_backbone_normalizes_by_are_copied(nested):
    normalization = keras.layers.Normalization()
    normalization.adapt(IMAGES)
    layers = [keras.Sequential([keras.Input((32, 40, 3)), normalization])] if nested else [normalization]
    backbone = keras.Sequential([keras.Input((32, 40, 3)), *layers])
    model = build_classifier(3, backbone=backbone, image_size=(32, 40))
    copied = keras.Model(model.input, model.get_layer("head_pool").input)
    np.testing.assert_allclose(copied.predict(IMAGES, verbose=0), backbone.predict(IMAGES, verbose=0), atol=1e-5)


def test_a_backbone_of_another_size_is_refused():
    backbone = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"Received: image_size=\(8, 8\), backbone=.* \(None, 16, 16, 3\)"):
        build_classifier(3, backbone=backbone, image_size=8)


def test_saved_classifier_leaves_the_optimizer_out(tmp_path):
    backbone = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(64, 9), keras.layers.Conv2D(64, 9)])
    model = build_classifier(3, backbone=backbone, image_size=32)
    save_classifier(model, tmp_path / "plain", class_names=["a", "b", "c"])
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")
    model.fit(np.zeros((2, 32, 32, 3)), np.zeros(2), verbose=0)
    save_classifier(model, tmp_path / "trained", class_names=["a", "b", "c"])
    plain, trained = ((tmp_path / name / "model.keras").stat().st_size for name in ("plain", "trained"))
    assert trained == pytest.approx(plain, rel=0.02)
    assert not keras.models.load_model(tmp_path / "trained" / "model.keras").compiled
