"""What each worker of the tests runs: `python -m tests.distribution.train_in_step FOLDER OUTPUT [NAME=VALUE …]`.

Trains a small network with what a user would: `load_dataset`, `DifferentialLR`, `SGDRScheduler`, the finder before it
and a `TrainingCheckpoint`. Everything that should not depend on the number of workers goes to OUTPUT.npz.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

from keras_sgdr import (
    DifferentialLR,
    SGDRScheduler,
    TrainingCheckpoint,
    basic,
    distribution_strategy,
    index_folder,
    load_dataset,
    lr_find,
)
from keras_sgdr.distribution.workers import Workers

SETTINGS = {
    "batch_size": 24,
    "epochs": 3,
    "find": 1,
    "kill_worker": -1,
    "kill_at": 10,
    "fail_worker": -1,
    "replicas": 1,
}


class Rates(keras.callbacks.Callback):
    """The rate of each step; and this process ends itself, as if its machine was lost, before one of them."""

    def __init__(self, kill_at=None):
        super().__init__()
        self.rates, self._kill_at = [], kill_at

    def on_train_batch_begin(self, batch, logs=None):
        if len(self.rates) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


def make_model():
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        keras.layers.DepthwiseConv2D(3),
        keras.layers.BatchNormalization(trainable=False),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    inner = keras.optimizers.SGD(momentum=0.9, global_clipnorm=0.05, weight_decay=1e-3)
    optimizer = DifferentialLR(inner, [layers[:3], layers[3:]], [0.1, 0.5])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def give_each_worker(count):
    """Several processors, as others have GPUs: by itself the strategy takes one of a machine without GPUs."""
    import tensorflow as tf
    from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    CollectiveAllReduceExtended._initialize_local_devices = lambda self, resolver, worker_device: (
        tuple(f"{worker_device}/device:CPU:{number}" for number in range(count)),
        "CPU",
    )


def broken(images, *rest):
    import tensorflow as tf

    return tf.debugging.check_numerics(images * float("nan"), "this worker's images"), *rest


def main(folder, output, *settings):
    values = SETTINGS | {name: int(value) for name, value in (setting.split("=") for setting in settings)}
    if values["replicas"] > 1:
        give_each_worker(values["replicas"])
    strategy = distribution_strategy("auto", timeout_seconds=120)
    workers = Workers(strategy)
    index = index_folder(folder, valid_fraction=0.2)
    train_split, valid_split = index.train.take(range(143)), index.valid.take(range(35))
    options = {"image_size": 32, "batch_size": values["batch_size"], "strategy": strategy, "verbose": 0}
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make_model()
    kills = values["kill_worker"] == workers.number
    rates = Rates(values["kill_at"] if kills else None)
    schedule = SGDRScheduler(0.5, cycle_len=1, n_cycles=values["epochs"])
    checkpoint = TrainingCheckpoint(Path(f"{output}-{workers.number}.checkpoint"))
    start = checkpoint.restore(model)
    train = load_dataset(train_split, shuffle=True, augmentation=basic(), initial_step=start.step, **options)
    valid = load_dataset(valid_split, **options)
    if values["fail_worker"] == workers.number:
        train = train.map(broken)
    curve = lr_find(model, train, num_steps=12, verbose=0) if values["find"] else None
    callbacks = [schedule, rates, checkpoint]
    log = model.fit(
        train,
        validation_data=valid,
        initial_epoch=start.epoch,
        epochs=values["epochs"],
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    ).history
    if workers.is_chief:
        weights = {f"weight_{number}": weight for number, weight in enumerate(model.get_weights())}
        found = {} if curve is None else {"curve": curve.losses}
        np.savez(f"{output}.npz", rates=rates.rates, **found, **weights, **{k: np.array(v) for k, v in log.items()})
    sys.stdout.write("held\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
