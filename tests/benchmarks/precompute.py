"""What precomputed activations cost and save: ratios of times measured in the same run.

Run `python -m tests.benchmarks.precompute --pictures 1024 --image-size 224`.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr.models.classifier import build_classifier
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.training.features import precompute_features


def pictures(number, image_size, batch_size=32):
    """Random pictures made on the fly, so that none is kept in memory; making them costs next to nothing."""

    def make(index):
        seeds = tf.stack([tf.cast(index, tf.int32), 0])
        images = tf.random.stateless_uniform((batch_size, image_size, image_size, 3), seeds, 0, 256, tf.int32)
        return tf.cast(images, tf.uint8), tf.cast(tf.range(batch_size) % 10, tf.int32)

    dataset = tf.data.Dataset.range(number // batch_size).map(make).prefetch(2)
    dataset.source = [number, image_size]
    return dataset


def seconds(function, repeats=3):
    """The median time of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compiled(model):
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), "sparse_categorical_crossentropy")
    return model


def epoch_seconds(model, dataset):
    compiled(model)
    model.fit(dataset.take(2), epochs=1, verbose=0, shuffle=False)
    return seconds(lambda: model.fit(dataset, epochs=1, verbose=0, shuffle=False), repeats=2)


def compare_times(arguments):
    model = build_classifier(10, weights="imagenet", image_size=arguments.image_size)
    dataset = pictures(arguments.pictures, arguments.image_size)
    freeze_to(model, -1)

    def build_cache():
        with tempfile.TemporaryDirectory() as directory:
            return precompute_features(model, dataset, directory=directory, dtype="float32", verbose=0)

    # A new model each time, for both have to trace their graph.
    predicting = seconds(lambda: keras.Model(model.input, model.output).predict(dataset, verbose=0))
    building = seconds(build_cache)
    print(f"building the cache / model.predict          {building / predicting:8.3f}   (aim 1.05 or less)")
    live = epoch_seconds(model, dataset)
    with tempfile.TemporaryDirectory() as directory:
        features, head = precompute_features(model, dataset, directory=directory, verbose=0)
        cached = epoch_seconds(head, features)
    print(f"epoch of the head, cached / live            {cached / live:8.4f}   (aim 0.01 or less)")
    freeze_to(model, -2)
    live = epoch_seconds(model, dataset)
    with tempfile.TemporaryDirectory() as directory:
        features, rest = precompute_features(model, dataset, directory=directory, verbose=0)
        cached = epoch_seconds(rest, features)
    print(f"epoch of the last two groups, cached / live {cached / live:8.3f}   (aim 0.5 or less)")


def peak_memory(number, image_size):
    """The peak memory of a process that builds the cache for `number` pictures and trains on it, in MiB."""
    model = build_classifier(10, weights=None, image_size=image_size)
    freeze_to(model, -2)
    with tempfile.TemporaryDirectory() as directory:
        features, rest = precompute_features(model, pictures(number, image_size), directory=directory, verbose=0)
        rest.compile(keras.optimizers.SGD(1e-4), "sparse_categorical_crossentropy")
        rest.predict(features, verbose=0)
        kept = np.prod(rest.input_shape[1:]) * number * 4 / 2**20
    print(f"{number} {kept:.0f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


def compare_memory(arguments):
    peaks = {}
    for number in (arguments.pictures, 8 * arguments.pictures):
        command = [sys.executable, "-m", "tests.benchmarks.precompute", "--peak-memory", str(number)]
        output = subprocess.run([*command, "--image-size", "64"], check=True, capture_output=True, text=True).stdout
        _, kept, peaks[number] = map(float, output.split())
        print(f"peak memory with {number:6} pictures ({kept:.0f} MiB of activations): {peaks[number]:.0f} MiB")
    few, many = peaks.values()
    print(f"peak memory, eight times the pictures / once {many / few:7.3f}   (aim 1)")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--peak-memory", type=int)
    arguments = parser.parse_args()
    if arguments.peak_memory:
        peak_memory(arguments.peak_memory, arguments.image_size)
    else:
        compare_times(arguments)
        compare_memory(arguments)


if __name__ == "__main__":
    main()
