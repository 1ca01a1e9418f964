"""Trains on two logical CPUs, in a process of its own, for TensorFlow fixes its devices when it starts."""

import subprocess
import sys

import keras
import pytest


def two_cpus():
    """A strategy of two replicas; to be called before anything else of TensorFlow."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def run_module(name, *arguments):
    """Runs `python -m` a test module, whose own assertions must hold, and returns what it printed."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.distribute is TensorFlow's")
    done = subprocess.run(
        [sys.executable, "-m", name, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
