"""Precomputing in processes of its own: killed with -9, after which the next run must be right; and their memory."""

import multiprocessing
import os
import resource
import signal
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.precompute.feature_cache import FeatureCache
from keras_sgdr.precompute.precompute import precompute_features

# Four, for tests/test_array_store.py is killed at all of them.
NUM_MOMENTS, NUM_BATCHES = 4, 6
# The process that has imported TensorFlow, and of which every child is a copy, costs its start once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def labelled_images(number=4 * NUM_BATCHES):
    images = np.random.default_rng(0).uniform(0, 255, (number, 32, 32, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((images, np.arange(number) % 3)).batch(4)


def frozen_model():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Conv2D(4, 3, strides=2), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    freeze_to(model, -1, num_groups=2)
    return model


def precompute(directory, dataset=None):
    return precompute_features(
        frozen_model(), dataset or labelled_images(), directory=directory, source=1, shuffle=False, verbose=0
    )


def precompute_and_be_killed(directory, moment, count, renamed_at):
    """Kills itself before it touches a file of the cache for the n-th time; notes when the last renaming was."""

    def on_event(event, arguments):
        if directory not in str(arguments):
            return
        if count.value == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "os.rename":
            renamed_at.value = count.value
        count.value += 1

    sys.addaudithook(on_event)
    precompute(directory)


def run_child(target, *arguments):
    child = CONTEXT.Process(target=target, args=arguments)
    child.start()
    child.join()
    return child.exitcode


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The moments to be killed at, and the batches of a run that was not."""
    directory = tmp_path_factory.mktemp("unbroken")
    count, renamed_at = CONTEXT.Value("i", 0), CONTEXT.Value("i", 0)
    assert run_child(precompute_and_be_killed, str(directory), -1, count, renamed_at) == 0
    moments = np.linspace(0, count.value - 1, NUM_MOMENTS - 2).astype(int)
    features, _ = precompute(directory)
    return [*map(int, moments), renamed_at.value, renamed_at.value + 1], list(features)


@pytest.mark.parametrize("number", range(NUM_MOMENTS))
def test_killed_at_any_moment_the_next_run_is_right(tmp_path, unbroken, number):
    moments, expected = unbroken
    values = CONTEXT.Value("i", 0), CONTEXT.Value("i", 0)
    assert run_child(precompute_and_be_killed, str(tmp_path), moments[number], *values) == -signal.SIGKILL
    features, _ = precompute(tmp_path)
    for ours, theirs in zip(features, expected, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert [entry.complete for entry in FeatureCache(tmp_path).entries()] == [True]


def report_peak(directory, num_images, peak_mib, activations_mib):
    """Precomputes images made on the fly, trains on them, and says how much memory the process had at its most."""

    def make(index):
        seeds = tf.stack([tf.cast(index, tf.int32), 0])
        return tf.random.stateless_uniform((32, 32, 32, 3), seeds, maxval=255.0), tf.zeros(32, tf.int32)

    features, rest = precompute(directory, tf.data.Dataset.range(num_images // 32).map(make))
    rest.compile("sgd", "sparse_categorical_crossentropy")
    rest.fit(features, epochs=2, verbose=0, shuffle=False)
    # bytes on macOS, kibibytes elsewhere
    scale = 2**20 if sys.platform == "darwin" else 2**10
    peak_mib.value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // scale
    activations_mib.value = FeatureCache(directory).entries()[0].num_bytes // 2**20


def test_peak_memory_does_not_grow_with_the_number_of_labelled_images(tmp_path):
    peaks, sizes = [], []
    for number in (256, 8192):
        peak, size = CONTEXT.Value("i", 0), CONTEXT.Value("i", 0)
        assert run_child(report_peak, str(tmp_path / str(number)), number, peak, size) == 0
        peaks.append(peak.value)
        sizes.append(size.value)
    assert peaks[1] - peaks[0] < 0.3 * (sizes[1] - sizes[0])
