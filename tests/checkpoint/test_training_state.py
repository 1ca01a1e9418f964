import random

import keras
import numpy as np
import pytest

from keras_sgdr.checkpoint.training_state import TrainingState, to_numpy, variables_of
from tests.lr_finder.test_lr_finder import make_data, make_model


def built_model(optimizer=None):
    model = make_model(optimizer)
    model.fit(*make_data(), epochs=1, verbose=0)
    return model


def test_training_state_holds_what_get_weights_leaves_out():
    model = built_model()
    paths = [variable.path for variable in variables_of(model)]
    assert len(paths) == len({id(variable) for variable in variables_of(model)})
    for name in ("seed_generator_state", "moving_mean", "iteration", "learning_rate", "momentum", "accuracy"):
        assert any(name in path for path in paths), name


def test_restore_puts_back_every_variable_and_generator():
    model = built_model()
    before = [to_numpy(variable).tobytes() for variable in variables_of(model)]
    state = TrainingState(model)
    drawn = random.random(), np.random.random()
    model.fit(*make_data(seed=1), epochs=2, verbose=0)
    model.stop_training = True
    assert len(state.differing()) > 10
    state.restore()
    assert [to_numpy(variable).tobytes() for variable in variables_of(model)] == before
    assert state.differing() == []
    assert model.stop_training is False
    assert (random.random(), np.random.random()) == drawn


def test_digest_tells_states_apart():
    model = built_model()
    digest = TrainingState(model).digest()
    assert TrainingState(model).digest() == digest
    model.optimizer.learning_rate = 0.5
    assert TrainingState(model).digest() != digest


def test_restored_values_are_copies():
    model = built_model()
    state = TrainingState(model)
    copied = [value.copy() for value in state.values]
    model.fit(*make_data(), epochs=1, verbose=0)
    for value, copy in zip(state.values, copied, strict=True):
        np.testing.assert_array_equal(value, copy)


@pytest.mark.parametrize("kind", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_loss_scale_is_part_of_the_state(kind):
    model = built_model(keras.optimizers.LossScaleOptimizer(kind(0.01), initial_scale=8.0))
    state = TrainingState(model)
    model.optimizer.dynamic_scale.assign(2.0)
    state.restore()
    assert float(model.optimizer.dynamic_scale) == 8.0
