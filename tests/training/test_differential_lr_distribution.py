"""DifferentialLR under `tf.distribute`. `python -m` this module trains on two logical CPUs, in a process of its own."""

import contextlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_sgdr.training.differential_lr import DifferentialLR

from .small_models import data


def trained(strategy, *, policy="float32", phases=(False, True)):
    """Trains with the first group frozen or not, compiling with the same optimizer each time."""
    keras.config.set_dtype_policy(policy)
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(n) for n in (6, 5, 3))])
        groups = [[layer] for layer in model.layers]
        inner = keras.optimizers.AdamW(weight_decay=0.1, use_ema=True, ema_momentum=0.5)
        optimizer = DifferentialLR(inner, groups, [1e-3, 1e-2, 1e-1], weight_decays=[0.5, 0.2, 0.1])
        for trainable in phases:
            model.layers[0].trainable = trainable
            model.compile(optimizer, "mse")
            model.fit(*data(), batch_size=16, shuffle=False, verbose=0)
    return model.get_weights()


def main():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two_cpus = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for expected, weights in zip(trained(None), trained(two_cpus), strict=True):
        np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-6)
    weights = trained(two_cpus, policy="mixed_float16", phases=(True,))
    assert all(np.isfinite(weight).all() for weight in weights)


def test_two_replicas_train_as_one_through_freezing_and_unfreezing():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.distribute is TensorFlow's")
    done = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    main()
