"""SGDR and the finders under Keras's other backends, each in a process of its own."""

import pytest

from tests.backends import BACKENDS, run_under

MODELS = """
import numpy as np
from keras_sgdr.optimizers.access import read_learning_rate
from keras_sgdr.lr_finder.lr_find import LRFinder, lr_find
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from keras_sgdr.schedules.sgdr_schedule import SGDR
from keras_sgdr.checkpoint.training_state import to_numpy, variables_of

x = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
y = (x.sum(axis=1) > 0).astype("int32")

def make_model(optimizer=None):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential([layers.Input((4,)), layers.Dense(8, activation="relu"), layers.BatchNormalization(),
                              layers.Dropout(0.3), layers.Dense(2, activation="softmax")])
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

def bytes_of(model):
    return [to_numpy(variable).tobytes() for variable in variables_of(model)]
"""

RESTORED = """
class Explode(keras.callbacks.Callback):
    def __init__(self, error):
        super().__init__()
        self.error = error
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise self.error

class Broken(keras.utils.PyDataset):
    def __len__(self):
        return 3
    def __getitem__(self, index):
        if index == 2:
            raise OSError("the disk is gone")
        return x[:16], y[:16]

def interrupted(error):
    def probe(model):
        model.fit(x, y, epochs=0, verbose=0)
        with LRFinder(num_steps=20) as finder:
            finder.keep(model)
            try:
                model.fit(x, y, epochs=9, batch_size=16, callbacks=[finder, Explode(error)], verbose=0)
            except type(error):
                return
        raise AssertionError("the callback's error is gone")
    return probe

def as_callback(model):
    model.fit(x, y, epochs=9, batch_size=16, callbacks=[LRFinder(num_steps=20)], verbose=0)
    assert model.stop_training is False

def diverging(model):
    assert len(lr_find(model, (x, y), start_lr=1.0, stop_factor=1.1, num_steps=40).losses) < 40

def not_a_number(model):
    curve = lr_find(model, (x, y), end_lr=1e38, stop_factor=np.inf, num_steps=20)
    assert len(curve.losses) < 20 and not np.isfinite(curve.losses[-1])

def data_error(model):
    try:
        lr_find(model, Broken(), num_steps=20)
    except OSError:
        return
    raise AssertionError("the data's error is gone")

def whole(model):
    lr_find(model, (x, y), num_steps=20)

def trained(probe, optimizer):
    model = make_model(optimizer())
    if probe:
        probe(model)
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    return bytes_of(model), history.history

def scheduled():
    return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5))

def scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=1024.0)

def accumulating():
    return keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)

def averaging():
    return keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=2)

ctrl_c = interrupted(KeyboardInterrupt())
for optimizer in (scheduled, scaled, accumulating, averaging):
    plain = trained(None, optimizer)
    for probe in (whole, ctrl_c):
        assert trained(probe, optimizer) == plain, (probe, optimizer)
plain = trained(None, keras.optimizers.Adam)
for probe in (whole, ctrl_c, interrupted(RuntimeError()), as_callback, diverging, not_a_number, data_error):
    assert trained(probe, keras.optimizers.Adam) == plain, probe
"""

TRUE_LOSSES = """
model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
model.compile(keras.optimizers.SGD(0.1), loss="mse", metrics=["mae"])
values = np.full((6, 1), 2, dtype="float32")

class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return values[index:index + 1], 3 * values[index:index + 1]

for rate in (0.1, keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)):
    model.compile(keras.optimizers.SGD(rate), loss="mse", metrics=["mae"])
    curve = lr_find(model, Batches(), start_lr=1e-3, end_lr=1e-1, num_steps=6, stop_factor=np.inf)
    weight, bias, losses = 1.0, 0.0, []
    for rate, value in zip(curve.learning_rates, values[:, 0], strict=True):
        error = weight * value + bias - 3 * value
        losses.append(error**2)
        weight, bias = weight - rate * 2 * error * value, bias - rate * 2 * error
    np.testing.assert_allclose(curve.losses, losses, rtol=1e-4)
"""

OF_GROUPS = """
from keras_sgdr.lr_finder.lr_find_groups import lr_find_groups
from keras_sgdr.optimizers.differential_lr import DifferentialLR

layers = [keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(start))
          for start in (0.5, 2)]
inputs = keras.Input((1,))
model = keras.Model(inputs, layers[1](layers[0](inputs)))
model.compile(DifferentialLR(keras.optimizers.SGD(), [[layer] for layer in layers], [1e-3, 1e-1]), "mse")
halves, threes = np.full((8, 1), 0.5, "float32"), np.full((8, 1), 3, "float32")
before = bytes_of(model)
found = lr_find_groups(model, (halves, threes), start_lr=1e-3, end_lr=1.0, num_steps=8, stop_factor=np.inf, verbose=0)
for group, curve in enumerate(found.curves):
    weights, losses = [0.5, 2.0], []
    for rate in curve.learning_rates:
        error = weights[0] * weights[1] * 0.5 - 3.0
        losses.append(error**2)
        weights[group] -= rate * 2 * error * weights[1 - group] * 0.5
    np.testing.assert_allclose(curve.losses, losses, rtol=1e-4)
assert bytes_of(model) == before
np.testing.assert_allclose(model.optimizer.learning_rates, [1e-3, 1e-1], rtol=1e-6)
"""

SCHEDULED = """
expected = [0.1, .0904508497, .0654508497, .0345491503, .0095491503,
            0.1, .0975528258, .0904508497, .0793892626, .0654508497, .05, .0345491503, .0206107374, .0095491503,
            .0024471742]

class Weights(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = [1.0]
    def on_train_batch_end(self, batch, logs=None):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.seen.append(float(to_numpy(self.model.trainable_variables[0]).item()))

def steps(rate, callbacks):
    # Each update of a weight w with the loss w * 1 is the rate itself.
    dense = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
    model = keras.Sequential([keras.layers.Input((1,)), dense])
    model.compile(keras.optimizers.SGD(rate), loss=lambda true, predicted: predicted)
    weights = Weights()
    ones = np.ones((5, 1), "float32")
    model.fit(ones, ones, batch_size=1, epochs=3, verbose=0, callbacks=[*callbacks, weights])
    return -np.diff(weights.seen)

np.testing.assert_allclose(steps(0.5, [SGDRScheduler(0.1, cycle_mult=2)]), expected, atol=2e-7)
np.testing.assert_allclose(steps(SGDR(0.1, steps_per_epoch=5, cycle_mult=2), []), expected, atol=2e-7)
"""

RESUMED = """
import tempfile
from pathlib import Path
from keras_sgdr.checkpoint.training_checkpoint import TrainingCheckpoint
from tests.small_models import state
from tests.checkpoint.test_training_checkpoint import KilledError, run, scheduled

path = Path(tempfile.mkdtemp()) / "run"
unbroken = make_model()
expected = run(unbroken, *scheduled()).history
for kill_after in (7, None):
    model = make_model()
    try:
        checkpoint = TrainingCheckpoint(path, save_every=3)
        history = run(model, *scheduled(), checkpoint=checkpoint, kill_after=kill_after).history
    except KilledError:
        pass
for value, other in zip(state(model), state(unbroken), strict=True):
    np.testing.assert_array_equal(value, other)
assert history == expected
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_finder_and_sgdr_hold_on_the_other_backends(backend):
    code = MODELS + RESTORED + TRUE_LOSSES + OF_GROUPS + SCHEDULED
    # On torch, dropout and the iterators of data draw from one global generator, which no checkpoint can put back.
    code += (RESUMED if backend == "jax" else "") + 'print("held")'
    assert run_under(backend, code).endswith("held\n")
