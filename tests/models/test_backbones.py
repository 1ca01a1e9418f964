import inspect
import re

import keras
import numpy as np
import pytest

from keras_sgdr.models import backbones, pretrained
from keras_sgdr.models.backbones import BACKBONES, find_backbone, imagenet_weights_location, preprocess

# One of each family of keras.applications, the smallest
FAMILIES = {
    "ConvNeXtTiny": "convnext",
    "DenseNet121": "densenet",
    "EfficientNetB0": "efficientnet",
    "EfficientNetV2B0": "efficientnet_v2",
    "InceptionResNetV2": "inception_resnet_v2",
    "InceptionV3": "inception_v3",
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3",
    "NASNetMobile": "nasnet",
    "ResNet50": "resnet",
    "ResNet50V2": "resnet_v2",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "Xception": "xception",
}


@pytest.fixture
def asked_for(monkeypatch):
    """Records what Keras would download instead of downloading it."""
    asked = []

    def get_file(fname=None, origin=None, cache_subdir=None, **_):
        asked.append((fname, cache_subdir))
        raise OSError("no network")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    return asked


def _asks_for(name, image_size, asked):
    images = keras.Input((*image_size, 3))
    with pytest.raises(FileNotFoundError, match=f"Received: backbone='{name}'"):
        pretrained.build_backbone(find_backbone(name), images, weights="imagenet", image_size=image_size)
    keras.backend.clear_session()
    return asked[-1]


def test_every_application_of_keras_is_in_the_table():
    constructors = {name for name, member in vars(keras.applications).items() if inspect.isfunction(member)}
    assert set(BACKBONES) == constructors | {f"EfficientNetLite{n}" for n in range(3)}


@pytest.mark.parametrize("name", ["VGG16", pytest.param("ResNet50V2", marks=pytest.mark.slow), "EfficientNetB0"])
def test_weights_file_is_the_one_that_keras_asks_for(name, asked_for, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    row = find_backbone(name)
    file, folder = _asks_for(name, (96, 96), asked_for)
    assert imagenet_weights_location(row, image_size=(96, 96)) == tmp_path / folder / file


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name in BACKBONES if "Lite" not in name))
def test_every_weights_file_is_the_one_that_keras_asks_for(name, asked_for, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for size in ((128, 128), (160, 192), (96, 96)):
        file, folder = _asks_for(name, size, asked_for)
        assert imagenet_weights_location(find_backbone(name), image_size=size) == tmp_path / folder / file


@pytest.mark.parametrize("size", [(96, 96), pytest.param((128, 160), marks=pytest.mark.slow)])
def test_mobilenet_has_other_weights_for_other_sizes(size, asked_for):
    for name in ("MobileNet", "MobileNetV2"):
        file, _ = _asks_for(name, size, asked_for)
        assert imagenet_weights_location(find_backbone(name), image_size=size).name == file


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_preprocessing_is_what_keras_does(name):
    images = np.random.default_rng(0).uniform(0, 255, (2, 5, 4, 3)).astype("float32")
    tensor = keras.Input((5, 4, 3))
    model = keras.Model(tensor, preprocess(tensor, preprocessing=find_backbone(name).preprocessing))
    expected = getattr(keras.applications, FAMILIES[name]).preprocess_input(images.copy())
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "suggestions"),
    [
        ("resnet50", "ResNet50"),
        ("ResNet34", "ResNet50"),
        ("EfficientNet-B0", "EfficientNetB0"),
        ("convnext", "ConvNeXt"),
        ("zzzz", "EfficientNetLite0, EfficientNetLite1"),
    ],
)
def test_an_unknown_name_gets_close_ones(name, suggestions):
    with pytest.raises(ValueError, match=rf"Received: backbone='{name}'\. Did you mean .*{suggestions}"):
        find_backbone(name)


def test_weights_that_cannot_be_downloaded_are_named_with_their_place(monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", no_network)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    images = keras.Input((64, 64, 3))
    place = re.escape(str(tmp_path / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"))
    with pytest.raises(
        FileNotFoundError,
        match=rf"no network.*Received: backbone='VGG16', weights='imagenet'\. Bring the file .* {place}",
    ):
        pretrained.build_backbone(find_backbone("VGG16"), images, weights="imagenet", image_size=(64, 64))


def test_descriptions_say_which_weights_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnetb0_notop.h5").touch()
    rows = {row["name"]: row for row in backbones.describe_backbones()}
    here = [name for name, row in rows.items() if row["weights_here"]]
    assert [name for name in here if "Lite" not in name] == ["EfficientNetB0"]
    assert "EfficientNetLite0" in here
    assert rows["VGG16"] == {
        "name": "VGG16",
        "parameters": 14_714_688,  # as published by Keras for the model without its top
        "accuracy": 71.3,  # as published by Keras
        "default_size": 224,
        "min_size": 32,
        "preprocessing": "caffe",
        "licence": "CC-BY-4.0",
        "weights_here": False,
    }
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not next(row for row in backbones.describe_backbones() if row["name"] == "EfficientNetLite0")["weights_here"]


def test_lite0_needs_no_cache():
    assert imagenet_weights_location(backbones.BACKBONES["EfficientNetLite0"]).is_file()
