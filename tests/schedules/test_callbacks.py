"""What holds for every callback of the package."""

import pickle

import keras
import numpy as np
import pytest

import keras_sgdr
from keras_sgdr import (
    CycleSnapshots,
    DifferentialLR,
    LRFinder,
    OneCycleScheduler,
    SGDRScheduler,
    StopWhenOverfitting,
    TrainingCheckpoint,
)
from tests.lr_finder.test_lr_finder import bytes_of, make_data, make_model

EPOCHS = 2

# The callback last, behind what it needs beside it.
CALLBACKS = {
    "LRFinder": lambda folder: [LRFinder()],
    "SGDRScheduler": lambda folder: [SGDRScheduler(0.1, momentum=(0.95, 0.85))],
    "OneCycleScheduler": lambda folder: [OneCycleScheduler(0.1, momentum=(0.95, 0.85))],
    "CycleSnapshots": lambda folder: [scheduler := SGDRScheduler(0.1), CycleSnapshots(scheduler, directory=folder)],
    "StopWhenOverfitting": lambda folder: [scheduler := SGDRScheduler(0.1), StopWhenOverfitting(scheduler)],
    "TrainingCheckpoint": lambda folder: [SGDRScheduler(0.1), TrainingCheckpoint(folder / "run.checkpoint")],
}
WRITE_NO_RATE = ("CycleSnapshots", "StopWhenOverfitting", "TrainingCheckpoint")

INNER = {"sgd": lambda: keras.optimizers.SGD(momentum=0.9), "adam": keras.optimizers.Adam}


def compiled(inner="sgd"):
    model = make_model()
    groups = [model.layers[:2], model.layers[2:]]
    optimizer = DifferentialLR(INNER[inner](), groups, [0.01, 0.1], movable_momentum=True)
    # Not compiled: there are 18 trainings of eight batches, and a callback is called alike.
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    return model


class Interrupting(keras.callbacks.Callback):
    """Ctrl-C in the midst of the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 6:
            raise KeyboardInterrupt


def fit(model, callbacks):
    x, y = make_data()
    return model.fit(
        x, y, batch_size=16, epochs=EPOCHS, validation_data=(x, y), shuffle=False, verbose=0, callbacks=callbacks
    )


def test_every_callback_is_here():
    public = {name: getattr(keras_sgdr, name) for name in keras_sgdr.__all__}
    callbacks = {
        name for name, what in public.items() if isinstance(what, type) and issubclass(what, keras.callbacks.Callback)
    }
    assert callbacks == set(CALLBACKS)


@pytest.mark.parametrize("name", CALLBACKS)
def test_callback_is_silent_and_can_be_pickled_with_what_it_learnt(name, tmp_path, capsys):
    callbacks = CALLBACKS[name](tmp_path)
    history = fit(compiled("adam"), callbacks).history
    assert np.isfinite(history["loss"]).all()
    assert capsys.readouterr() == ("", "")
    callback = callbacks[-1]
    callback.set_model(None)
    copied = pickle.loads(pickle.dumps(callback))
    if name == "LRFinder":
        assert np.array_equal(copied.curve.losses, callback.curve.losses)
    if name == "CycleSnapshots":
        assert copied.best.value == callback.best.value


def trained(callbacks):
    """All variables of a new model after a training with these callbacks."""
    model = compiled()
    fit(model, callbacks)
    return bytes_of(model)


@pytest.mark.parametrize("name", CALLBACKS)
def test_callback_serves_another_model_after_ctrl_c(name, tmp_path):
    expected = trained(CALLBACKS[name](tmp_path))
    callbacks = CALLBACKS[name](tmp_path)
    (tmp_path / "run.checkpoint").unlink(missing_ok=True)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), [Interrupting(), *callbacks])
    (tmp_path / "run.checkpoint").unlink(missing_ok=True)
    assert trained(callbacks) == expected


@pytest.mark.parametrize("name", WRITE_NO_RATE)
def test_callback_that_only_looks_on_changes_nothing(name, tmp_path):
    scheduler, callback = CALLBACKS[name](tmp_path)
    assert trained([scheduler, callback]) == trained([scheduler])
