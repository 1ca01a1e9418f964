"""What differential rates and SGDR add to a training step: ratios of times measured in the same run, by turns.

Run `python -m tests.benchmarks.differential_lr`.
"""

import argparse
import statistics
import time

import keras
import numpy as np

from keras_sgdr.models.classifier import build_classifier
from keras_sgdr.models.layer_groups import layer_groups
from keras_sgdr.training.differential_lr import DifferentialLR
from keras_sgdr.training.sgdr import SGDRScheduler

RATES = [1e-5, 1e-4, 1e-3]


def two_layers(_):
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(64), keras.layers.Dense(64, name="middle"), keras.layers.Dense(10)]
    )
    return model, [[layer] for layer in model.layers], (32, 64)


def efficientnet(batch_size):
    model = build_classifier(10, weights=None, image_size=96)
    return model, layer_groups(model), (batch_size, 96, 96, 3)


def bare(_):
    return keras.optimizers.AdamW(1e-3), []


def differential(groups):
    return DifferentialLR(keras.optimizers.AdamW(), groups, RATES), []


def differential_sgdr(groups):
    return DifferentialLR(keras.optimizers.AdamW(), groups, RATES), [SGDRScheduler(1e-3)]


def bare_sgdr(_):
    return keras.optimizers.AdamW(1e-3), [SGDRScheduler(1e-3)]


def multi(groups):
    optimizers = [keras.optimizers.AdamW(rate) for rate in RATES]
    group_of = {v.path: index for index, layers in enumerate(groups) for layer in layers for v in layer.weights}
    return keras.optimizers.MultiOptimizer(lambda variable: optimizers[group_of[variable.path]]), []


WAYS = {
    "bare AdamW": bare,
    "DifferentialLR": differential,
    "DifferentialLR + SGDRScheduler": differential_sgdr,
    "AdamW + SGDRScheduler": bare_sgdr,
    "MultiOptimizer": multi,
}


def prepared(make_model, make_optimizer, batch_size):
    keras.utils.set_random_seed(0)
    model, groups, shape = make_model(batch_size)
    optimizer, callbacks = make_optimizer(groups)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=len(shape) == 2))
    return model, callbacks, shape


def batches(shape, steps):
    random = np.random.default_rng(0)
    x, y = random.random(shape, "float32"), random.integers(0, 10, shape[:1])
    return np.tile(x, (steps, *[1] * (len(shape) - 1))), np.tile(y, steps)


def compare(title, make_model, *, steps, rounds, batch_size):
    runs = {name: prepared(make_model, way, batch_size) for name, way in WAYS.items()}
    times = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, (model, callbacks, shape) in runs.items():
            x, y = batches(shape, steps)
            start = time.perf_counter()
            model.fit(x, y, batch_size=shape[0], shuffle=False, verbose=0, callbacks=callbacks)
            if turn:  # the first one traces
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["bare AdamW"])
    print(f"\n{title}: {base / steps * 1e3:.2f} ms a step with {next(iter(times))}")
    for name, seconds in times.items():
        ratios = [second / first for second, first in zip(seconds, times["bare AdamW"], strict=True)]
        print(f"  {name:32} {statistics.median(ratios):6.3f}   ({min(ratios):.3f} to {max(ratios):.3f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    shared = {"rounds": arguments.rounds, "batch_size": arguments.batch_size}
    print("Time of a step over that with a bare optimizer: median of the rounds. Aim: 1.05, on EfficientNetLite0 1.01.")
    compare("Two hidden layers", two_layers, steps=1000, **shared)
    compare("EfficientNetLite0 at 96 pixels", efficientnet, steps=6, **shared)


if __name__ == "__main__":
    main()
