"""What precomputed activations cost and save: ratios of times measured in the same run.

Both sides of a ratio take turns, several rounds of one after the other; of the rounds' ratios the median, the lowest
and the highest are printed. Epochs are timed inside `fit`, from the beginning of one to its end, without the first, in
which graphs are traced. They are of half of the images, to keep the whole under five minutes.

Run `python -m tests.benchmarks.precompute --images 1024 --image-size 224 --rounds 3`.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import keras
import tensorflow as tf

from keras_sgdr.models.classifier import build_classifier
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.precompute.feature_cache import FeatureCache
from keras_sgdr.precompute.precompute import precompute_features


def random_images(number, image_size, batch_size=32):
    """Random images made on the fly, so that none is kept in memory; making them costs next to nothing."""

    def make(index):
        seeds = tf.stack([tf.cast(index, tf.int32), 0])
        images = tf.random.stateless_uniform((batch_size, image_size, image_size, 3), seeds, 0, 256, tf.int32)
        return tf.cast(images, tf.uint8), tf.cast(tf.range(batch_size) % 10, tf.int32)

    return tf.data.Dataset.range(number // batch_size).map(make).prefetch(2)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class EpochTimes(keras.callbacks.Callback):
    """Collects how long each epoch takes, in seconds."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def epoch_seconds(model, dataset, epochs):
    """The median time of some epochs of training, after one that is not counted if there are several."""
    times = EpochTimes()
    model.fit(dataset, epochs=epochs, verbose=0, shuffle=False, callbacks=[times])
    return statistics.median(times.seconds[1:] or times.seconds)


def show(what, ratios, aim):
    spread = f"{min(ratios):.4f} to {max(ratios):.4f}"
    print(
        f"{what:<46} {statistics.median(ratios):7.4f}   ({spread} in {len(ratios)} rounds; aim {aim} or less)",
        flush=True,
    )


def compare_building(model, dataset, rounds):
    """Building the cache for the head over predicting with the whole model; both trace a graph each time."""

    def predict(some):
        keras.Model(model.input, model.output).predict(some, verbose=0)

    def build(some):
        with tempfile.TemporaryDirectory() as directory:
            precompute_features(model, some, directory=directory, source=1, verbose=0)

    freeze_to(model, -1)
    for function in (build, predict):
        function(dataset.take(1))  # what TensorFlow does once in a process counts for neither
    ratios = [seconds(lambda: build(dataset)) / seconds(lambda: predict(dataset)) for _ in range(rounds)]
    show("building the cache / model.predict", ratios, 1.05)


def compare_epochs(what, model, dataset, *, group, rounds, cached_epochs, aim):
    """An epoch from the frozen boundary on kept activations over one through the frozen body."""
    freeze_to(model, group)
    with tempfile.TemporaryDirectory() as directory:
        features, rest = precompute_features(model, dataset, directory=directory, source=1, verbose=0)
        for each in (model, rest):
            each.compile(keras.optimizers.SGD(1e-4, momentum=0.9), "sparse_categorical_crossentropy")
        model.fit(dataset.take(2), verbose=0, shuffle=False)
        rest.fit(features.take(2), verbose=0, shuffle=False)
        ratios = [
            epoch_seconds(rest, features, cached_epochs) / epoch_seconds(model, dataset, 1) for _ in range(rounds)
        ]
    show(f"epoch of {what}, cached / live", ratios, aim)


def compare_times(arguments):
    size, rounds = arguments.image_size, arguments.rounds
    model = build_classifier(10, weights="imagenet", image_size=size)
    compare_building(model, random_images(arguments.images, size), rounds)
    half = random_images(arguments.images // 2, size)
    compare_epochs("the head", model, half, group=-1, rounds=rounds, cached_epochs=6, aim=0.01)
    compare_epochs("the last two groups", model, half, group=-2, rounds=rounds, cached_epochs=1, aim=0.5)


def show_peak_memory(number, image_size):
    """Prints the peak memory of a process that builds the cache for `number` images and trains on it, in MiB."""
    model = build_classifier(10, weights=None, image_size=image_size)
    freeze_to(model, "block2a_expand_conv")  # where activations are large
    with tempfile.TemporaryDirectory() as directory:
        dataset = random_images(number, image_size)
        features, rest = precompute_features(model, dataset, directory=directory, source=1, verbose=0)
        rest.predict(features, verbose=0)
        kept = FeatureCache(directory).entries()[0].num_bytes / 2**20
    print(f"{kept:.0f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


def compare_memory(number):
    peaks = []
    for times in (1, 8):
        command = [sys.executable, "-m", "tests.benchmarks.precompute", "--peak-memory", str(times * number)]
        output = subprocess.run([*command, "--image-size", "64"], check=True, capture_output=True, text=True).stdout
        kept, peak = map(float, output.split())
        print(f"peak memory with {times * number:6} images ({kept:.0f} MiB of activations): {peak:.0f} MiB")
        peaks.append(peak)
    print(f"peak memory, eight times the images / once   {peaks[1] / peaks[0]:7.4f}   (aim 1)")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-memory", type=int)
    arguments = parser.parse_args()
    if arguments.peak_memory:
        show_peak_memory(arguments.peak_memory, arguments.image_size)
    else:
        compare_times(arguments)
        compare_memory(arguments.images // 2)


if __name__ == "__main__":
    main()
