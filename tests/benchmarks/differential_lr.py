"""What differential rates and SGDR add to a training step: ratios of times measured in the same run, by turns.

Run `python -m tests.benchmarks.differential_lr`; it takes about three minutes.
"""

import argparse

import keras
import tensorflow as tf

from keras_sgdr.models.classifier import build_classifier
from keras_sgdr.models.layer_groups import layer_groups
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from tests.benchmarks.paired import paired_times, print_ratios

RATES = [1e-5, 1e-4, 1e-3]
STEPS_PER_EPOCH = 1000


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
    """A compiled model, the callbacks, and one batch of noise."""
    keras.utils.set_random_seed(0)
    model, groups, shape = make_model(batch_size)
    optimizer, callbacks = make_optimizer(groups)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=len(shape) == 2))
    return model, callbacks, (tf.random.uniform(shape), tf.zeros(shape[:1], tf.int32))


def block(make_model, make_optimizer, *, steps, batch_size):
    """What `fit` does in so many steps, without its beginning and end, which would hide them in so small a block."""
    model, callbacks, batch = prepared(make_model, make_optimizer, batch_size)
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    callbacks = keras.callbacks.CallbackList(callbacks, model=model, epochs=1, steps=STEPS_PER_EPOCH, verbose=0)
    model.make_train_function()
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)

    def run():
        for step in range(steps):
            callbacks.on_train_batch_begin(step)
            callbacks.on_train_batch_end(step, model.train_function(batches))

    return run


def compare(title, make_model, *, steps, rounds, batch_size):
    ways = {name: block(make_model, way, steps=steps, batch_size=batch_size) for name, way in WAYS.items()}
    print_ratios(title, paired_times(ways, rounds=rounds), steps=steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=8, help="of EfficientNetLite0")
    arguments = parser.parse_args()
    print("Time of a step over that with a bare optimizer in the same round. Aim on EfficientNetLite0: 1.01.")
    compare("Two hidden layers", two_layers, steps=20, rounds=arguments.rounds, batch_size=32)
    few = {"rounds": max(1, arguments.rounds // 12), "batch_size": arguments.batch_size}
    compare("EfficientNetLite0 at 96 pixels", efficientnet, steps=2, **few)


if __name__ == "__main__":
    main()
