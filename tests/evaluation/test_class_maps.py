"""Class-activation maps: against the closed form of a pooled head, and on images whose answer stands in one corner."""

import keras
import numpy as np
import pytest

from keras_sgdr.evaluation.class_maps import class_maps, overlay
from keras_sgdr.models.classifier import build_classifier
from keras_sgdr.validation import InvalidValueError

SIZE = 16


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype("float32")


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(1)


def backbone(*layers):
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Rescaling(1 / 255), *layers])


def test_maps_of_a_pooled_head_are_its_weights_on_the_feature_map(images):
    body = backbone(keras.layers.Conv2D(6, 3, padding="same", activation="relu"))
    model = build_classifier(3, backbone=body, image_size=SIZE)
    labels = np.array([0, 2, 1, 1])
    pool = model.get_layer("head_pool")
    features = keras.Model(model.input, pool.input).predict(images, verbose=0)
    kernel = model.layers[-1].get_weights()[0]
    # Zhou et al., 2016: with an average between map and head, the gradients are the head's weights.
    expected = np.maximum(np.einsum("nhwk,kn->nhw", features, kernel[:, labels]), 0)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(class_maps(model, images, labels), expected, atol=1e-4)


def tokens():
    patches = keras.layers.Conv2D(8, 4, strides=4, activation="relu")
    return [patches, keras.layers.Reshape((16, 8))]


def pooled():
    return [keras.layers.Conv2D(8, 4, strides=4, activation="relu"), keras.layers.GlobalMaxPooling2D()]


@pytest.mark.parametrize("layers", [tokens, pooled])
def test_maps_point_at_the_corner_that_holds_the_answer(layers):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 40, (64, SIZE, SIZE, 3)).astype("float32")
    labels, corners = draw.integers(0, 2, 64), draw.integers(0, 4, 64)
    for image, label, corner in zip(images, labels, corners, strict=True):
        top, left = 12 * (corner // 2), 12 * (corner % 2)
        image[top : top + 4, left : left + 4, label] = 255
    model = build_classifier(2, backbone=backbone(*layers()), image_size=SIZE, dropout=0.0)
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, epochs=60, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[1] == 1
    maps = class_maps(model, images, labels)
    assert maps.shape == images.shape[:3]
    rows, columns = np.unravel_index(maps.reshape(64, -1).argmax(axis=1), (SIZE, SIZE))
    found = 2 * (rows >= SIZE // 2) + (columns >= SIZE // 2)
    assert np.mean(found == corners) > 0.9


def test_a_class_that_nothing_speaks_for_has_an_empty_map(images):
    body = backbone(keras.layers.Conv2D(2, 1, activation="relu"))
    model = build_classifier(2, backbone=body, image_size=SIZE)
    model.layers[-1].set_weights([np.array([[-1.0, 1.0], [-1.0, 1.0]]), np.zeros(2)])
    assert not class_maps(model, images, np.zeros(4, int)).any()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([keras.layers.Flatten, lambda: keras.layers.Dense(4)], "a feature map"),
        ([lambda: keras.layers.Conv2D(4, 3), lambda: keras.layers.GlobalAveragePooling2D(keepdims=True)], "one place"),
    ],
    ids=["no feature map", "pooled before"],
)
def test_a_backbone_without_places_is_refused(images, layers, message):
    model = build_classifier(2, backbone=backbone(*(make() for make in layers)), image_size=SIZE)
    with pytest.raises(InvalidValueError, match=message):
        class_maps(model, images, np.zeros(4, int))


def test_a_head_that_is_no_softmax_is_refused(images):
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    with pytest.raises(InvalidValueError, match="dense layer with a softmax"):
        class_maps(backbone(*layers), images, np.zeros(4, int))


def test_many_images_are_mapped_as_few_are(images, monkeypatch):
    body = backbone(keras.layers.Conv2D(6, 3, padding="same", activation="relu"))
    model = build_classifier(3, backbone=body, image_size=SIZE)
    labels = np.array([0, 2, 1, 1])
    together = class_maps(model, images, labels)
    monkeypatch.setattr("keras_sgdr.evaluation.class_maps._AT_ONCE", 3)
    np.testing.assert_allclose(class_maps(model, images, labels), together, atol=1e-5)


def test_overlay_is_red_where_the_map_is_strong_and_blue_where_it_is_not():
    images = np.full((1, 2, 2, 3), 100.0)
    red, blue = overlay(images, np.array([[[1.0, 0.0], [0.5, 1.0]]]))[0, 0]
    assert red[0] > 150 > 100 > red[2]
    assert blue[2] > 150 > 100 > blue[0]
