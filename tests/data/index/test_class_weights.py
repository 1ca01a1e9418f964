"""What an image counts, against scikit-learn and Keras."""

import keras
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.class_weights import balanced_weights
from keras_sgdr.data.index.folder import index_folder
from keras_sgdr.data.index.split import Split, split_off, with_classes

OPTIONS = {"image_size": 8, "batch_size": 5}


@pytest.fixture(scope="module")
def split(image_folder) -> Split:
    """12 images of "a" and 3 of "b"."""
    return index_folder(image_folder).train.take([*range(11), 0, 11, 15, 18])


def batches_of(dataset):
    return [np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True)]


def test_balanced_weights_are_scikit_learn_s(split):
    weights = balanced_weights(split)
    np.testing.assert_allclose(
        [weights[0], weights[1]], compute_class_weight("balanced", classes=np.arange(2), y=split.labels)
    )
    _, labels, weights = batches_of(load_dataset(split, class_weight="balanced", shuffle=True, **OPTIONS))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, compute_sample_weight("balanced", labels), rtol=1e-6)


def test_classes_without_images_do_not_count():
    split = Split("train", ["x"] * 4, np.array([0, 0, 0, 2], np.int32), ("a", "b", "c"))
    assert balanced_weights(split) == {0: 4 / 6, 2: 2.0}


def test_weights_multiply_and_follow_their_images(split):
    own = np.arange(15, dtype=np.float64)
    numbered = Split("train", split.paths, np.arange(15, dtype=np.int32), tuple("abcdefghijklmno"))
    dataset = load_dataset(numbered.weighted(own), class_weight={3: 10.0}, shuffle=True, seed=1, **OPTIONS)
    _, labels, weights = batches_of(dataset)
    assert labels.tolist() != list(range(15))
    np.testing.assert_array_equal(weights, np.where(labels == 3, 30.0, labels))


def test_fit_multiplies_the_loss(split):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    model.add(keras.layers.Rescaling(1 / 255))
    model.add(keras.layers.Dense(2, "softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy")
    images, labels = batches_of(load_dataset(split, **OPTIONS))
    weights = np.array([0.25, 4.0])[labels]
    losses = -np.log(np.maximum(model.predict(images, verbose=0)[np.arange(15), labels], 1e-7))
    dataset = load_dataset(split, class_weight={0: 0.25, 1: 4.0}, **OPTIONS)
    assert model.evaluate(dataset, verbose=0) == pytest.approx(np.mean(weights * losses), rel=1e-4)


def test_mixed_images_count_as_their_parts(split):
    import keras_cv

    dataset = load_dataset(split, class_weight="balanced", augmentation=keras_cv.layers.MixUp(), **OPTIONS)
    _, labels, weights = batches_of(dataset)
    of_class = compute_class_weight("balanced", classes=np.arange(2), y=split.labels)
    assert np.any((labels > 0.01) & (labels < 0.99))
    np.testing.assert_allclose(weights, labels @ of_class, rtol=1e-5)


def test_oversampled_classes_are_as_frequent_and_the_epoch_is_longer(split):
    dataset = load_dataset(split.weighted(np.arange(15)).oversampled(), shuffle=True, **OPTIONS)
    assert dataset.cardinality() == 5
    first, second = batches_of(dataset), batches_of(dataset)
    for _, labels, weights in (first, second):
        assert np.bincount(labels).tolist() == [12, 12]
        assert np.bincount(weights.astype(int))[12:].tolist() == [4, 4, 4]
    assert first[1].tolist() != second[1].tolist()
    again = batches_of(load_dataset(split.oversampled(), shuffle=True, **OPTIONS))
    np.testing.assert_array_equal(again[0], first[0])


def test_weights_of_left_out_images_go_with_them(split, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"text")
    paths = [*split.paths[:4], str(tmp_path / "bad.png"), *split.paths[5:]]
    dirty = Split("train", paths, split.labels, split.class_names)
    with pytest.warns(UserWarning, match=r"Left out 1 of 15"):
        dataset = load_dataset(dirty.weighted(np.arange(15)), on_bad_image="skip", **OPTIONS)
    assert batches_of(dataset)[2].tolist() == [0, 1, 2, 3, *range(5, 15)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": "equal"}, "Received: class_weight='equal'"),
        ({"class_weight": {2: 1.0}}, r"Received: class_weight=\{2: 1.0\}"),
        ({"class_weight": {0: -1.0}}, r"Received: class_weight=\{0: -1.0\}"),
        ({"class_weight": {0: float("nan")}}, r"Received: class_weight=\{0: nan\}"),
    ],
)
def test_wrong_weights_are_refused(split, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(split, **options)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"Received: an array of shape \(1,\) for 15 images"),
        ([-1.0] * 15, r"for 15 images, the lowest -1.0"),
        ([np.nan] * 15, r"for 15 images, the lowest nan"),
    ],
)
def test_wrong_weights_of_images_are_refused(split, weights, message):
    with pytest.raises(ValueError, match=message):
        split.weighted(weights)


def test_weights_follow_their_images_into_every_split(split):
    own = np.arange(15)
    own[11] = 0  # the same image as the first one
    numbered = split.weighted(own)
    assert numbered.take([3, 14, 3]).weights.tolist() == [3, 14, 3]
    assert numbered.oversampled().weights.tolist() == [*own, *[12, 13, 14] * 3]
    weight_of = dict(zip(numbered.paths, own, strict=True))
    parts = [*split_off(numbered, fraction=0.3, seed=0)]
    parts.append(with_classes(numbered, ["0", "a", "b"], where="here"))
    for part in parts:
        assert part.weights.tolist() == [weight_of[path] for path in part.paths]
    assert numbered.weighted(np.ones(15)).weights.tolist() == [1] * 15


@pytest.mark.parametrize("labels", [None, np.ones((15, 2), np.float32)])
def test_weights_of_classes_need_one_label_each(split, labels):
    other = Split("test", split.paths, labels, split.class_names if labels is not None else ())
    with pytest.raises(ValueError, match=r"Received: class_weight='balanced' for the split 'test' without"):
        load_dataset(other, class_weight="balanced")
    with pytest.raises(ValueError, match=r"Received: split 'test' without"):
        other.oversampled()
    if labels is None:
        with pytest.raises(ValueError, match=r"Received: the split 'test' without"):
            other.weighted(np.ones(15))
