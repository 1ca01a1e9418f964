"""Finder and scheduler under `tf.distribute`. `python -m` this module trains on two logical CPUs, in a new process."""

import sys
import tempfile

import keras
import numpy as np
import pytest

from keras_sgdr.lr_finder.lr_find import lr_find
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from tests.schedules.test_sgdr_scheduler import RateRecorder
from tests.two_cpus import run_module, two_cpus


def rates_in_cycles():
    """Of 4 and 8 batches, where the highest rate is 1."""
    return np.array([(1 + np.cos(np.pi * i / n)) / 2 for n in (4, 8) for i in range(n)])


def trained(strategy, *, probe):
    import tensorflow as tf

    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 4)).astype("float32")
    # Not shuffled: two plain trainings under a strategy see two orders, whatever the seeds.
    dataset = tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1, keepdims=True))).batch(8)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(1)])
        optimizer = DifferentialLR(keras.optimizers.Adam(), [model.layers], 0.1, movable_momentum=True)
        model.compile(optimizer, "mse", metrics=["mae"])
        curve = lr_find(model, dataset, num_steps=9) if probe else None
        recorder = RateRecorder()
        with tempfile.TemporaryDirectory() as folder:
            saving = keras.callbacks.ModelCheckpoint(f"{folder}/model.keras")
            callbacks = [SGDRScheduler(0.1, cycle_mult=2, momentum=(0.95, 0.85)), recorder, saving]
            model.fit(dataset, epochs=3, callbacks=callbacks, shuffle=False, verbose=0)
            saved = keras.models.load_model(saving.filepath).optimizer
    # The optimizer's own, also in the midst of training
    assert (len(saved.variables), saved.beta_1, model.optimizer.beta_1) == (len(model.optimizer.variables), 0.9, 0.9)
    return model.get_weights(), recorder.rates, curve


def main():
    strategy = two_cpus()
    plain, rates, _ = trained(strategy, probe=False)
    probed, _, curve = trained(strategy, probe=True)
    assert len(curve.losses) == 9
    for expected, weights in zip(plain, probed, strict=True):
        np.testing.assert_array_equal(weights, expected)
    np.testing.assert_allclose(rates, 0.1 * rates_in_cycles(), rtol=1e-5)

    sys.stdout.write("held\n")


@pytest.mark.slow
def test_finder_leaves_no_trace_and_rates_are_right_on_two_replicas():
    assert run_module(__name__).endswith("held\n")


if __name__ == "__main__":
    main()
