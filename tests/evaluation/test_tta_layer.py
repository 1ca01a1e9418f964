"""The layer that looks at fixed views: its views against NumPy's, its means, and what is saved."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sgdr.evaluation.tta import predict_tta
from keras_sgdr.evaluation.tta_layer import TTA

SIZE = 16


@pytest.fixture(scope="module")
def model():
    """A classifier that no symmetry leaves alone."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(3, "softmax"),
        ]
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3)).astype("float32")


def symmetries(images):
    flipped = images[:, :, ::-1]
    return [np.rot90(each, turns, (1, 2)) for each in (images, flipped) for turns in range(4)]


def enlarged(images, zoom, vertical, horizontal):
    """A window, enlarged by Pillow."""
    side = round(SIZE / zoom)
    top, left = (round((SIZE - side) * place) for place in (vertical, horizontal))
    windows = images[:, top : top + side, left : left + side]
    channels = [
        [np.asarray(Image.fromarray(window[..., c]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for c in range(3)]
        for window in windows
    ]
    return np.moveaxis(np.array(channels), 1, -1)


def crops(images):
    corners = [enlarged(images, 8 / 7, vertical, horizontal) for vertical in (0, 1) for horizontal in (0, 1)]
    return [*corners, enlarged(images, 8 / 7, 0.5, 0.5)]


VIEWS = {
    "flip": lambda images: [images, images[:, :, ::-1]],
    "dihedral": symmetries,
    "five_crops": crops,
    "ten_crops": lambda images: [*crops(images), *(crop[:, :, ::-1] for crop in crops(images))],
    "zoom": lambda images: [images, enlarged(images, 1.1, 0.5, 0.5)],
    "zooms": lambda images: [images, enlarged(images, 1.1, 0.5, 0.5), enlarged(images, 1.2, 0.5, 0.5)],
}


@pytest.mark.parametrize("kind", VIEWS)
def test_mean_is_that_of_the_views(model, images, kind):
    views = VIEWS[kind](images)
    layer = TTA(model, kind)
    assert layer.num_views == len(views)
    expected = np.mean([model.predict(np.ascontiguousarray(view), verbose=0) for view in views], axis=0)
    assert np.allclose(layer(images), expected, atol=2e-5)
    # each view has a weight of its own
    for number, view in enumerate(views):
        one = TTA(model, kind, weights=np.eye(len(views))[number])
        assert np.allclose(one(images), model.predict(np.ascontiguousarray(view), verbose=0), atol=2e-5)


def test_kinds_are_combined(model, images):
    layer = TTA(model, ["flip", "zooms"])
    views = [zoomed for flipped in VIEWS["flip"](images) for zoomed in VIEWS["zooms"](np.ascontiguousarray(flipped))]
    expected = np.mean([model.predict(np.ascontiguousarray(view), verbose=0) for view in views], axis=0)
    assert layer.num_views == 6
    assert np.allclose(layer(images), expected, atol=2e-5)


def test_weights_and_the_geometric_mean(model, images):
    plain, mirrored = (model.predict(np.ascontiguousarray(view), verbose=0) for view in VIEWS["flip"](images))
    assert np.allclose(TTA(model, weights=[3, 1])(images), 0.75 * plain + 0.25 * mirrored, atol=1e-6)
    product = plain**0.75 * mirrored**0.25
    expected = product / product.sum(axis=1, keepdims=True)
    assert np.allclose(TTA(model, weights=[3, 1], merge="gmean")(images), expected, atol=1e-6)


@pytest.mark.parametrize(("name", "plain_weight"), [("fastai_0.7", 2 / 7), ("fastai_1", 0.4), ("fastai_2", 0.25)])
def test_weights_by_name_are_those_of_the_plain_image(model, images, name, plain_weight):
    # six views, of which five are not the plain one: fast.ai 0.7 takes two plain copies for them (PEERS.md)
    plain, *others = [
        model.predict(np.ascontiguousarray(zoomed), verbose=0)
        for flipped in VIEWS["flip"](images)
        for zoomed in VIEWS["zooms"](np.ascontiguousarray(flipped))
    ]
    expected = plain_weight * plain + (1 - plain_weight) * np.mean(others, axis=0)
    assert np.allclose(TTA(model, ["flip", "zooms"], weights=name)(images), expected, atol=2e-5)


@pytest.mark.parametrize(("merge", "expected"), [("max", np.max), ("min", np.min)])
def test_the_largest_and_the_smallest_of_all_views(model, images, merge, expected):
    views = [model.predict(np.ascontiguousarray(view), verbose=0) for view in VIEWS["dihedral"](images)]
    merged = expected(views, axis=0)
    merged /= merged.sum(axis=1, keepdims=True)
    assert np.allclose(TTA(model, "dihedral", merge=merge)(images), merged, atol=1e-6)


def test_an_exported_model_is_predict_tta_with_the_same_views(model, images, tmp_path):
    def mirrored(batch, training):
        return keras.ops.flip(batch, axis=2)

    options = {"num_views": 1, "augmentation": mirrored, "plain_weight": 0.5, "verbose": 0}
    expected = predict_tta(model, images, **options)
    served = keras.Sequential([keras.Input((SIZE, SIZE, 3)), TTA(model, "flip")])
    served.export(tmp_path / "export", verbose=False)
    exported = keras.layers.TFSMLayer(tmp_path / "export", call_endpoint="serve")
    assert np.allclose(exported(images), expected, atol=1e-5)


def test_the_smallest_of_views_that_exclude_each_class_is_a_draw():
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    kernel = np.zeros((12, 2), "float32")
    kernel[0, 0] = kernel[3, 1] = 1.0  # red at the left speaks for one, at the right for the other
    model.set_weights([kernel, np.zeros(2, "float32")])
    image = np.zeros((1, 2, 2, 3), "float32")
    image[0, 0, 0, 0] = 255.0
    assert np.allclose(TTA(model, "flip", merge="min")(image), 0.5)


def test_a_saved_model_has_the_layer_with_all_of_it(model, images, tmp_path):
    tta = TTA(model, ["flip", "zooms"], weights=[3, 1, 1, 2, 1, 0], merge="gmean")
    served = keras.Sequential([keras.Input((SIZE, SIZE, 3)), tta])
    expected = served.predict(images, verbose=0)
    served.save(tmp_path / "served.keras")
    loaded = keras.models.load_model(tmp_path / "served.keras")
    assert np.array_equal(loaded.predict(images, verbose=0), expected)
    served.export(tmp_path / "export", verbose=False)
    exported = keras.layers.TFSMLayer(tmp_path / "export", call_endpoint="serve")
    assert np.allclose(exported(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": "mirror"}, "`views` must be of flip, dihedral"),
        ({"views": ()}, "`views` must be of"),
        ({"merge": "median"}, "`merge` must be one of mean, gmean, max, min"),
        ({"weights": "fastai_3"}, "'fastai_0.7', 'fastai_1' or 'fastai_2'"),
        ({"views": "five_crops", "weights": "fastai_1"}, "begin with the plain image"),
        ({"weights": [1.0]}, "`weights` must be 2 numbers >= 0"),
        ({"weights": [0, 0]}, "not all 0"),
        ({"weights": [2, -1]}, "`weights` must be 2 numbers >= 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        TTA(model, **options)


def test_symmetries_of_a_square_want_square_images():
    model = keras.Sequential([keras.Input((8, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    with pytest.raises(ValueError, match="for square images"):
        TTA(model, "dihedral")(np.zeros((1, 8, 16, 3), "float32"))
