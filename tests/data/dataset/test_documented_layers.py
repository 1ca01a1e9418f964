"""Every layer that README names shows the same views in any process, with any number of threads, from any step."""

import json
import os
import subprocess
import sys

import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.augmentation.random_view import basic, side_on, top_down
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.folder import index_folder

# README names these, and Keras's own stand for "any other". In chains, for it is making the graphs that takes time.
LAYERS = {
    "README's list": lambda: [
        side_on(max_zoom=1.1),
        keras_cv.layers.RandAugment((0, 255)),
        keras_cv.layers.MixUp(),
    ],
    "all others": lambda: [
        basic(max_zoom=1.1),
        top_down(max_zoom=1.1),
        keras.layers.RandomFlip(),
        keras.layers.RandomRotation(0.1, fill_mode="reflect"),
        keras.layers.RandAugment((0, 255)),
        keras.layers.MixUp(),
        keras.layers.CutMix(),
        keras_cv.layers.CutMix(),
    ],
}


def dataset_of(name, folder, *, threads, initial_step=0):
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    return load_dataset(
        index_folder(folder).train.take(range(6, 16)),
        image_size=16,
        batch_size=4,
        shuffle=True,
        augmentation=LAYERS[name](),
        initial_step=initial_step,
    ).with_options(options)


def summed_up(batches):
    """Of each image what tells it from another view, and its labels."""
    rows = [
        np.concatenate([images[:, ::5, ::5].reshape(len(images), -1), labels.reshape(len(labels), -1)], axis=1)
        for images, labels in batches
    ]
    return [row.tolist() for row in rows]


def seen_elsewhere(name, folder):
    """What a new process with 16 threads sees: the second epoch from its second batch on."""
    code = (
        "import json, sys\n"
        "from tests.data.dataset.test_documented_layers import *\n"
        "seen = summed_up(dataset_of(*sys.argv[1:], threads=16, initial_step=4).as_numpy_iterator())\n"
        "print('seen' + json.dumps(seen))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, name, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    return json.loads(result.stdout.rpartition("seen")[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_views_are_the_same_after_a_restart_in_another_process_with_other_threads(image_folder, name):
    dataset = dataset_of(name, image_folder, threads=1)
    epochs = [list(dataset.as_numpy_iterator()) for _ in range(2)]
    here, there = summed_up(epochs[1]), seen_elsewhere(name, image_folder)
    assert [len(batch) for batch in here] == [4, 4, 2]
    for ours, theirs in zip(here[1:], there, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-2)
    # And they are views: other ones in every epoch, of images that are in both.
    first = np.concatenate([images for images, _ in epochs[0]])
    assert all(np.abs(first - image).max(axis=(1, 2, 3)).min() > 0.5 for images, _ in epochs[1] for image in images)
