"""The finder on what a user trains on: a folder of images, shuffled, augmented and cached by `load_dataset`."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sgdr.augmentation.random_view import side_on
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.folder import index_folder
from keras_sgdr.lr_finder.lr_find import lr_find
from tests.lr_finder.test_lr_finder import bytes_of


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """22 images of noise, of two classes."""
    root = tmp_path_factory.mktemp("finder")
    generator = np.random.default_rng(0)
    for part, count in (("train", 11), ("valid", 2)):
        for name in "ab":
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (16, 20, 3), "uint8")
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return index_folder(root).train


def make_dataset(split, **arguments):
    return load_dataset(split, image_size=16, batch_size=8, shuffle=True, seed=3, verbose=0, **arguments)


def make_model():
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Rescaling(1 / 64),
        keras.layers.Conv2D(4, 3),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
    ]
    layers += [keras.layers.Dropout(0.5), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.parametrize("make_augmentation", [lambda: None, pytest.param(side_on, marks=pytest.mark.slow)])
def test_training_after_a_finder_sees_the_same_images(split, make_augmentation):
    def trained(*, probes):
        model, dataset = make_model(), make_dataset(split, class_weight="balanced", augmentation=make_augmentation())
        if probes:
            # A pass of three batches, and one batch of the next
            assert len(lr_find(model, dataset, num_steps=4, stop_factor=np.inf, verbose=0).losses) == 4
        seen = [images.numpy().tobytes() for images, *_ in dataset]
        return seen, model.fit(dataset, epochs=1, shuffle=False, verbose=0).history, bytes_of(model)

    assert trained(probes=True) == trained(probes=False)


def test_losses_are_those_of_the_images_in_their_order(split):
    """At rates at which nothing moves, the curve is the loss of each batch of the first epochs."""
    dataset = make_dataset(split)  # of 3 batches an epoch
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Rescaling(1 / 64)])
    model.add(keras.layers.Dense(2, activation="softmax"))
    model.compile(keras.optimizers.SGD(), keras.losses.SparseCategoricalCrossentropy())
    curve = lr_find(model, dataset, start_lr=1e-12, end_lr=1e-11, num_steps=6, verbose=0)
    expected = [
        -np.log(model.predict_on_batch(images)[np.arange(len(images)), labels.numpy()]).mean()
        for _ in range(2)
        for images, labels in dataset
    ]
    np.testing.assert_allclose(curve.losses, expected, rtol=1e-3)
    assert len({round(float(loss), 4) for loss in expected}) == 6
    repeated = lr_find(model, dataset, start_lr=1e-12, end_lr=1e-11, num_steps=2, repeats=3, verbose=0)
    assert len({tuple(curve.losses.tolist()) for curve in repeated.repeats}) == 3
    assert dataset.epoch_counter.numpy() == 2
