"""What a learning-rate finder costs over as many plain steps: ratios of times measured in the same run, by turns.

Run `python -m tests.benchmarks.lr_finder`.
"""

import argparse
import statistics
import time

import keras
import tensorflow as tf

from keras_sgdr.training.lr_finder import lr_find
from tests.benchmarks.differential_lr import efficientnet, two_layers

RANGE = {"start_lr": 1e-9, "end_lr": 1e-7, "stop_factor": float("inf")}


def prepared(make_model, batch_size, steps):
    keras.utils.set_random_seed(0)
    model, _, shape = make_model(batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=len(shape) == 2)
    model.compile(keras.optimizers.AdamW(1e-9), loss, metrics=["accuracy"])
    batch = tf.random.uniform(shape), tf.zeros(shape[:1], tf.int32)
    return model, tf.data.Dataset.from_tensors(batch).repeat(steps)


def compare(title, make_model, *, steps, rounds, batch_size):
    model, dataset = prepared(make_model, batch_size, steps)
    ways = {
        "plain": lambda: model.fit(dataset, shuffle=False, verbose=0),
        "finder": lambda: lr_find(model, dataset, num_steps=steps, **RANGE),
        "finder, verify": lambda: lr_find(model, dataset, num_steps=steps, verify=True, **RANGE),
    }
    times = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:  # the first one traces
                times[name].append(time.perf_counter() - start)
    print(f"\n{title}: {statistics.median(times['plain']) / steps * 1e3:.2f} ms a plain step")
    for name, seconds in times.items():
        ratios = [second / first for second, first in zip(seconds, times["plain"], strict=True)]
        print(f"  {name:16} {statistics.median(ratios):6.3f}   ({min(ratios):.3f} to {max(ratios):.3f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    print(f"Time of {arguments.steps} steps over that of as many plain ones: median of the rounds. Aim: 1.1.")
    shared = {"rounds": arguments.rounds, "batch_size": arguments.batch_size, "steps": arguments.steps}
    compare("Two hidden layers", two_layers, **shared)
    compare("EfficientNetLite0 at 96 pixels", efficientnet, **shared | {"rounds": min(arguments.rounds, 3)})


if __name__ == "__main__":
    main()
