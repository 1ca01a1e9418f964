"""DifferentialLR under `tf.distribute`. `python -m` this module trains on two logical CPUs, in a process of its own."""

import contextlib
import sys

import keras
import numpy as np
import pytest

from keras_sgdr.optimizers.differential_lr import DifferentialLR
from tests.small_models import data
from tests.two_cpus import run_module, two_cpus


def trained(strategy, *, policy="float32", phases=(False, True), **options):
    """Trains with the first group frozen or not, compiling with the same optimizer each time."""
    keras.config.set_dtype_policy(policy)
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(n) for n in (6, 5, 3))])
        groups = [[layer] for layer in model.layers]
        inner = keras.optimizers.AdamW(weight_decay=0.1, use_ema=True, ema_momentum=0.5, **options)
        optimizer = DifferentialLR(inner, groups, [1e-3, 1e-2, 1e-1], weight_decays=[0.5, 0.2, 0.1])
        for trainable in phases:
            model.layers[0].trainable = trainable
            model.compile(optimizer, "mse")
            model.fit(*data(), batch_size=16, shuffle=False, verbose=0)
            assert optimizer.weight_decay == 0.1
    return model.get_weights()


def main():
    strategy = two_cpus()
    for expected, weights in zip(trained(None), trained(strategy), strict=True):
        np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-6)
    # Norms below the gradients', which are those of the whole batch
    for clip in ({"global_clipnorm": 0.1}, {"clipnorm": 0.05}, {"clipvalue": 0.01}):
        alone, unclipped = trained(None, **clip), trained(None)
        assert np.abs(alone[0] - unclipped[0]).max() > 1e-5
        for expected, weights in zip(alone, trained(strategy, **clip), strict=True):
            np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)
    weights = trained(strategy, policy="mixed_float16", phases=(True,))
    assert all(np.isfinite(weight).all() for weight in weights)

    sys.stdout.write("held\n")


@pytest.mark.slow
def test_two_replicas_train_as_one_through_freezing_and_unfreezing():
    assert run_module(__name__).endswith("held\n")


if __name__ == "__main__":
    main()
