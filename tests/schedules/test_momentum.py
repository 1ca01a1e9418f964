"""Momentum that moves against the rate, under SGDRScheduler; test_one_cycle.py has OneCycleScheduler's."""

import keras
import numpy as np
import pytest

from keras_sgdr.checkpoint.training_state import TrainingState
from keras_sgdr.lr_finder.lr_find import lr_find
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.schedules.cosine_cycles import CosineCycles
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from tests.schedules.test_one_cycle import replay
from tests.schedules.test_sgdr_scheduler import run

# Cycles of 5 and 10 batches: how high the rate stands, (1 + cos(pi * i / n)) / 2
HEIGHTS = [1, 0.9045084972, 0.6545084972, 0.3454915028, 0.0954915028]
HEIGHTS += [1, 0.9755282581, 0.9045084972, 0.7938926261, 0.6545084972, 0.5, 0.3454915028, 0.2061073739, 0.0954915028]
HEIGHTS += [0.0244717419]
MOMENTA = 0.95 - 0.1 * np.array(HEIGHTS)


class Momenta(keras.callbacks.Callback):
    def __init__(self, scheduler):
        super().__init__()
        self.scheduler, self.seen = scheduler, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.scheduler.present_momentum)
        assert self.model.optimizer.momentum == 0.5


class Fail(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def two_weights(optimizer=None):
    """The loss is the sum of two weights, in a layer each; both begin at 1."""
    inputs = keras.Input((1,))
    layers = [keras.layers.Dense(1, kernel_initializer="ones", use_bias=False) for _ in range(2)]
    model = keras.Model(inputs, keras.layers.add([layer(inputs) for layer in layers]))
    optimizer = optimizer or keras.optimizers.SGD(momentum=0.5)
    model.compile(DifferentialLR(optimizer, [[layer] for layer in layers], [1e-3, 1e-1]), loss=lambda _, y: y)
    return model


def fit(model, *callbacks, **arguments):
    ones = np.ones((5, 1), "float32")
    model.fit(ones, ones, batch_size=1, epochs=3, verbose=0, callbacks=list(callbacks), **arguments)


def scheduler(**arguments):
    return SGDRScheduler(0.1, cycle_mult=2, momentum=(0.95, 0.85), **arguments)


@pytest.mark.parametrize("case", [{}, {"min_lr": 0.02}, {"peak_decay": 0.5}])
def test_momentum_is_lowest_at_each_peak_and_rises_as_the_rate_falls(case):
    cycles = CosineCycles(0.1, cycle_mult=2, **case)
    momenta = [cycles.momentum(step, steps_per_epoch=5, highest=0.95, lowest=0.85) for step in range(15)]
    np.testing.assert_allclose(momenta, MOMENTA, atol=1e-9)
    assert momenta[0] == momenta[5] == 0.85


def test_momentum_falls_in_the_warm_up_and_stays_lowest_where_the_rate_cannot_move():
    cycles = CosineCycles(0.1, warmup="start", warmup_steps=4)
    momenta = [cycles.momentum(step, steps_per_epoch=9, highest=0.95, lowest=0.85) for step in range(5)]
    np.testing.assert_allclose(momenta, [0.93, 0.91, 0.89, 0.87, 0.85])
    assert CosineCycles(0.1, min_lr=0.1).momentum(3, steps_per_epoch=5, highest=0.95, lowest=0.85) == 0.85


def test_each_group_is_trained_with_the_momentum_of_the_step():
    model = two_weights()
    fit(model, scheduler())
    for weight, peak in zip(model.get_weights(), (1e-3, 1e-1), strict=True):
        assert weight.item() == pytest.approx(replay(peak * np.array(HEIGHTS), MOMENTA), rel=1e-5)
    assert model.optimizer.momentum == 0.5


def test_momentum_goes_on_where_it_would_have_been():
    moving = scheduler()
    momenta = Momenta(moving)
    fit(two_weights(), moving, momenta, initial_epoch=1)
    np.testing.assert_allclose(momenta.seen, MOMENTA[5:], rtol=1e-6)


def test_momentum_is_put_back_after_a_training_that_failed():
    model = two_weights()
    before = [variable.path for variable in model.optimizer.variables]
    with pytest.raises(KeyboardInterrupt):
        fit(model, scheduler(), Fail())
    fit(model, scheduler())
    assert model.optimizer.momentum == 0.5
    slots = {variable.path for variable in model.optimizer.variables} - set(before)
    assert all("dense" in path for path in slots)


@pytest.mark.parametrize("is_recompiled", [False, True])
def test_training_after_one_that_failed_is_with_the_optimizers_own_momentum(is_recompiled):
    model, plain = two_weights(), two_weights()
    begun = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        fit(model, scheduler(), Fail())
    assert model.optimizer.momentum == 0.5
    model.set_weights(begun)
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))
    for each in (model, plain):
        if is_recompiled:
            each.compile(each.optimizer, loss=lambda _, y: y)
        each.optimizer.learning_rate = 0.1
        fit(each)
    np.testing.assert_array_equal(model.get_weights(), plain.get_weights())
    assert "make_train_function" not in vars(model)


def find_rate(model):
    lr_find(model, (np.ones((5, 1), "float32"),) * 2, num_steps=3, verbose=0)


def train_on_a_batch_and_undo(model):
    state = TrainingState(model)
    model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
    state.restore()


@pytest.mark.parametrize("nested", [find_rate, train_on_a_batch_and_undo])
def test_momentum_is_moved_on_after_a_training_inside_a_callback(nested):
    plain, model = two_weights(), two_weights()
    fit(plain, scheduler())

    class Nest(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            nested(self.model)

    moving = scheduler()
    momenta = Momenta(moving)
    fit(model, moving, momenta, Nest())
    np.testing.assert_allclose(momenta.seen, MOMENTA, rtol=1e-6)
    np.testing.assert_allclose(model.get_weights(), plain.get_weights(), rtol=1e-6)
    assert moving.present_momentum is None
    assert "make_train_function" not in vars(model)


def test_no_momentum_is_present_after_a_training_that_failed():
    model, failed = two_weights(), scheduler()
    with pytest.raises(KeyboardInterrupt):
        fit(model, failed, Fail())
    assert failed.present_momentum == 0.85
    fit(model)
    assert failed.present_momentum is None


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.AdamW])
def test_model_saved_during_training_is_as_any_other(optimizer, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    name = "momentum" if optimizer is keras.optimizers.SGD else "beta_1"
    model.compile(optimizer(0.1, **{name: 0.5}), "mse")
    saved = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            saved.append([variable.numpy() for variable in self.model.optimizer.variables])

    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(model, scheduler(), Keep(), checkpoint)
    for epoch in range(3):
        loaded = keras.models.load_model(tmp_path / f"{epoch + 1}.keras").optimizer
        for variable, expected in zip(loaded.variables, saved[epoch], strict=True):
            np.testing.assert_array_equal(variable.numpy(), expected)
        assert getattr(loaded, name) == 0.5
    assert any(np.abs(value).sum() > 0 for value in saved[0][2:])


def test_momentum_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"Received: momentum=\(0.85, 0.95\)"):
        SGDRScheduler(0.1, momentum=(0.85, 0.95))
    with pytest.raises(ValueError, match="Received: optimizer='SGD'"):
        run(SGDRScheduler(0.1, momentum=(0.95, 0.85)), steps_per_epoch=5, epochs=1)
