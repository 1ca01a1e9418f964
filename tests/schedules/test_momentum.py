"""Momentum that moves against the rate, under SGDRScheduler; test_one_cycle.py has OneCycleScheduler's."""

import re

import keras
import numpy as np
import pytest

from keras_sgdr.checkpoint.training_state import TrainingState
from keras_sgdr.lr_finder.lr_find import lr_find
from keras_sgdr.optimizers.access import sync_variables
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
W = keras.Variable(1.0)


class Momenta(keras.callbacks.Callback):
    def __init__(self, scheduler):
        super().__init__()
        self.scheduler, self.seen = scheduler, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.scheduler.present_momentum)
        # Between two steps all is the optimizer's own, for whoever reads or saves it.
        sync_variables(self.model)
        assert self.model.optimizer.momentum == float(self.model.optimizer.momentum_variable.numpy()) == 0.5


class Fail(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def two_weights(optimizer=None):
    """The loss is the sum of two weights, in a layer each; both begin at 1."""
    inputs = keras.Input((1,))
    layers = [keras.layers.Dense(1, kernel_initializer="ones", use_bias=False) for _ in range(2)]
    model = keras.Model(inputs, keras.layers.add([layer(inputs) for layer in layers]))
    optimizer = optimizer or keras.optimizers.SGD(momentum=0.5)
    groups = [[layer] for layer in layers]
    model.compile(DifferentialLR(optimizer, groups, [1e-3, 1e-1], movable_momentum=True), loss=lambda _, y: y)
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


@pytest.mark.parametrize("arguments", [{"nesterov": True}, None], ids=["nesterov", "rmsprop"])
def test_compiled_step_moves_momentum_as_one_that_is_not_compiled(arguments):
    """Both ask, while the step is compiled, whether there is momentum."""
    weights = []
    for run_eagerly in (False, True):
        inner = keras.optimizers.SGD(momentum=0.5, **arguments) if arguments else keras.optimizers.RMSprop(momentum=0.5)
        model = two_weights(inner)
        model.compile(model.optimizer, loss=lambda _, y: y, run_eagerly=run_eagerly)
        fit(model, scheduler())
        weights.append(model.get_weights())
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-5)


def test_momentum_goes_on_where_it_would_have_been():
    moving = scheduler()
    momenta = Momenta(moving)
    fit(two_weights(), moving, momenta, initial_epoch=1)
    np.testing.assert_allclose(momenta.seen, MOMENTA[5:], rtol=1e-6)


def test_one_momentum_holds_for_all_batches_of_an_update():
    """Each update is of the mean of two gradients, both 1; the fifth batch waits for the next epoch's first."""
    model = two_weights(keras.optimizers.SGD(momentum=0.5, gradient_accumulation_steps=2))
    fit(model, scheduler())
    # Batch 5, the second cycle's first, ends the update that batch 4 began: a restart takes the peak at once.
    heights = np.array(HEIGHTS)[[0, 2, 5, 6, 8, 10, 12]]
    for weight, peak in zip(model.get_weights(), (1e-3, 1e-1), strict=True):
        assert weight.item() == pytest.approx(replay(peak * heights, 0.95 - 0.1 * heights), rel=1e-5)


@pytest.mark.parametrize("is_recompiled", [False, True])
def test_training_after_one_that_failed_is_with_the_optimizers_own_momentum(is_recompiled):
    model, plain = two_weights(), two_weights()
    begun = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        fit(model, scheduler(), Fail())
    assert model.optimizer.momentum == 0.5
    model.set_weights(begun)
    for variable in model.optimizer.variables:
        if variable is not model.optimizer.momentum_variable:
            variable.assign(np.zeros(variable.shape))
    for each in (model, plain):
        if is_recompiled:
            each.compile(each.optimizer, loss=lambda _, y: y)
        each.optimizer.learning_rate = 0.1
        fit(each)
    np.testing.assert_array_equal(model.get_weights(), plain.get_weights())


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


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.AdamW])
def test_model_saved_during_training_has_the_optimizers_own_momentum(optimizer, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    name = "momentum" if optimizer is keras.optimizers.SGD else "beta_1"
    inner = optimizer(**{name: 0.5})
    model.compile(DifferentialLR(inner, [[layer] for layer in model.layers], 0.1, movable_momentum=True), "mse")
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
        assert getattr(loaded, name) == loaded.get_config()["inner_optimizer"]["config"][name] == 0.5
        assert float(loaded.momentum_variable.numpy()) == 0.5
    assert any(np.abs(value).sum() > 0 for value in saved[0][3:])


def test_optimizer_whose_momentum_cannot_be_moved_is_refused_with_the_call_that_can():
    calls = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for optimizer in (keras.optimizers.SGD(momentum=0.9), DifferentialLR(keras.optimizers.Adam(), [model.layers], 0.1)):
        model.compile(optimizer, "mse")
        with pytest.raises(ValueError, match=r"with movable_momentum=True .* Received: optimizer=") as error:
            run(SGDRScheduler(0.1, momentum=(0.95, 0.85)), steps_per_epoch=5, epochs=1, model=model)
        calls.append(re.search(r"DifferentialLR\(keras.*=True\)", str(error.value))[0])
    model.compile(eval(calls[0]), "mse")
    run(SGDRScheduler(0.1, momentum=(0.95, 0.85)), steps_per_epoch=5, epochs=1, model=model)


def test_optimizer_without_momentum_cannot_have_it_moved():
    with pytest.raises(ValueError, match=r"`movable_momentum` must be False .* Received: inner_optimizer=SGD. Write"):
        DifferentialLR(keras.optimizers.SGD(), [[W]], 0.1, movable_momentum=True)


def test_momentum_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"Received: momentum=\(0.85, 0.95\)"):
        SGDRScheduler(0.1, momentum=(0.85, 0.95))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_momentum_is_the_optimizers_own_after_data_of_unknown_length():
    """Of whose first epoch Keras begins one batch more than there are."""
    import tensorflow as tf

    ones = np.ones((1, 1), "float32")
    signature = (tf.TensorSpec((1, 1)), tf.TensorSpec((1, 1)))
    data = tf.data.Dataset.from_generator(lambda: iter([(ones, ones)] * 5), output_signature=signature)
    model = two_weights()
    model.run_eagerly = True  # a compiled step sets it back before it finds that there is no batch
    model.fit(data, epochs=1, verbose=0, shuffle=False, callbacks=[scheduler(steps_per_epoch=5)])
    assert float(model.optimizer.momentum_variable.numpy()) == 0.5
