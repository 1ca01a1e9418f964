import keras
import numpy as np
import pytest

from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from keras_sgdr.schedules.snapshots import CycleSnapshots, Snapshot, SnapshotEnsemble, StopWhenOverfitting
from tests.schedules.test_sgdr_scheduler import shared_model

X = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Recorder(keras.callbacks.Callback):
    """The kernel after each batch."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def on_train_batch_end(self, batch, logs=None):
        self.kernels.append(self.model.get_weights()[0])


class Script(keras.callbacks.Callback):
    """Replaces the validation loss of each epoch by one written down."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.losses[epoch]


def train(*callbacks, scheduler, epochs=7, losses=None):
    model = shared_model()
    recorder = Recorder()
    script = [] if losses is None else [Script(losses)]
    validation = {"validation_data": (X, Y)} if losses is None else {}
    history = model.fit(
        X, Y, batch_size=1, epochs=epochs, verbose=0, callbacks=[*script, scheduler, *callbacks, recorder], **validation
    )
    return model, recorder.kernels, history


@pytest.mark.parametrize("on_disk", [False, True])
def test_snapshots_hold_the_weights_after_the_last_batch_of_each_cycle(on_disk, tmp_path):
    scheduler = SGDRScheduler(0.1, cycle_mult=2, n_cycles=3)
    snapshots = CycleSnapshots(scheduler, directory=tmp_path / "s" if on_disk else None)
    model, kernels, history = train(snapshots, scheduler=scheduler)
    assert [(s.cycle, s.epoch) for s in snapshots.snapshots] == [(0, 0), (1, 2), (2, 6)]
    assert [s.value for s in snapshots.snapshots] == [history.history["val_loss"][epoch] for epoch in (0, 2, 6)]
    for snapshot, batch in zip(snapshots.snapshots, (5, 15, 35), strict=True):
        snapshot.load(model)
        np.testing.assert_array_equal(model.get_weights()[0], kernels[batch - 1])
    names = ["cycle-01.weights.h5", "cycle-02.weights.h5", "cycle-03.weights.h5"]
    assert sorted(path.name for path in tmp_path.rglob("*.h5")) == (names if on_disk else [])


def test_cycle_that_is_not_finished_leaves_no_snapshot():
    scheduler = SGDRScheduler(0.1, cycle_mult=2)
    snapshots = CycleSnapshots(scheduler)
    with pytest.warns(UserWarning, match="cut short"):
        train(snapshots, scheduler=scheduler, epochs=5)
    assert [s.cycle for s in snapshots.snapshots] == [0, 1]


@pytest.mark.parametrize(("mode", "best_epoch"), [("min", 1), ("max", 2)])
def test_restore_best_cycle_gives_back_its_weights(mode, best_epoch):
    scheduler = SGDRScheduler(0.1, n_cycles=3)
    snapshots = CycleSnapshots(scheduler, restore_best_cycle=True, mode=mode)
    model, kernels, _ = train(snapshots, scheduler=scheduler, epochs=3, losses=[2.0, 1.0, 3.0])
    np.testing.assert_array_equal(model.get_weights()[0], kernels[5 * (best_epoch + 1) - 1])


def test_best_is_never_a_cycle_that_ended_at_nan():
    scheduler = SGDRScheduler(0.1, n_cycles=2)
    snapshots = CycleSnapshots(scheduler)
    train(snapshots, scheduler=scheduler, epochs=2, losses=[float("nan"), 1.0])
    assert snapshots.best.cycle == 1


def test_second_training_begins_with_no_snapshots():
    scheduler = SGDRScheduler(0.1, n_cycles=2)
    snapshots = CycleSnapshots(scheduler)
    for _ in range(2):
        train(snapshots, scheduler=scheduler, epochs=2)
    assert len(snapshots.snapshots) == 2


@pytest.mark.parametrize(
    ("patience", "losses", "epochs"),
    [
        (1, [3.0, 2.0, 2.5, 1.0], 3),
        (2, [3.0, 2.0, 2.5, 1.0], 4),
        (2, [1.0, 2.0, 2.5, 1.0], 3),
        (1, [1.0, float("nan"), 0.5, 0.1], 2),
    ],
)
def test_training_stops_after_patience_cycles_that_ended_worse(patience, losses, epochs):
    scheduler = SGDRScheduler(0.1, n_cycles=4)
    stop = StopWhenOverfitting(scheduler, patience=patience)
    _, _, history = train(stop, scheduler=scheduler, epochs=4, losses=losses)
    assert len(history.epoch) == epochs


def test_loss_that_rises_within_a_cycle_does_not_stop():
    scheduler = SGDRScheduler(0.1, cycle_len=2, n_cycles=2)
    stop = StopWhenOverfitting(scheduler)
    _, _, history = train(stop, scheduler=scheduler, epochs=4, losses=[1.0, 2.0, 9.0, 1.5])
    assert len(history.epoch) == 4


def test_ensemble_predicts_the_mean_of_its_snapshots_and_leaves_the_model():
    scheduler = SGDRScheduler(0.1, n_cycles=3)
    snapshots = CycleSnapshots(scheduler)
    model, _, _ = train(snapshots, scheduler=scheduler, epochs=3)
    before = model.get_weights()
    predicted = SnapshotEnsemble(model, snapshots.snapshots, last=2).predict(X, verbose=0)
    each = [X @ s.weights[0] + s.weights[1] for s in snapshots.snapshots[1:]]
    np.testing.assert_allclose(predicted, np.mean(each, axis=0), rtol=1e-5, atol=1e-6)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_mean_of_float16_does_not_overflow():
    inputs = keras.Input((1,), dtype="float16")
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, dtype="float16")(inputs))
    snapshots = [Snapshot(cycle, cycle, 0.0, [np.full((1, 1), 30000, "float16")]) for cycle in range(4)]
    assert SnapshotEnsemble(model, snapshots).predict(np.ones((1, 1), "float16"), verbose=0) == 30000


def test_ensemble_reads_files(tmp_path):
    scheduler = SGDRScheduler(0.1, n_cycles=2)
    snapshots = CycleSnapshots(scheduler, directory=tmp_path)
    model, _, _ = train(snapshots, scheduler=scheduler, epochs=2)
    from_files = SnapshotEnsemble(model, sorted(tmp_path.iterdir())).predict(X, verbose=0)
    from_objects = SnapshotEnsemble(model, snapshots.snapshots).predict(X, verbose=0)
    np.testing.assert_array_equal(from_files, from_objects)


@pytest.mark.parametrize("callback", [CycleSnapshots, StopWhenOverfitting])
def test_what_is_not_logged_is_refused_after_the_first_epoch(callback):
    scheduler = SGDRScheduler(0.1, cycle_len=2)
    with pytest.raises(ValueError, match=r"\['learning_rate', 'loss', 'val_loss'\]. Received: monitor='val_acc'"):
        train(callback(scheduler, monitor="val_acc"), scheduler=scheduler, epochs=2)


@pytest.mark.parametrize("callback", [CycleSnapshots, StopWhenOverfitting])
def test_what_is_no_scheduler_is_refused(callback):
    with pytest.raises(TypeError, match=r"Received: scheduler=0\.1"):
        callback(0.1)
    with pytest.raises(TypeError, match=r"Received: scheduler=<class .*Pass the object itself"):
        callback(SGDRScheduler)


@pytest.mark.parametrize("callback", [CycleSnapshots, StopWhenOverfitting])
def test_scheduler_of_no_callback_of_the_fit_is_refused(callback):
    with pytest.raises(ValueError, match="which is not among its callbacks"):
        train(callback(SGDRScheduler(0.1)), scheduler=SGDRScheduler(0.1), epochs=1)


def test_ensemble_keeps_the_structure_of_several_outputs():
    inputs = keras.Input((2,))
    outputs = {"one": keras.layers.Dense(1)(inputs), "two": keras.layers.Dense(2)(inputs)}
    model = keras.Model(inputs, outputs)
    kept = [[value + step for value in model.get_weights()] for step in (0.0, 1.0)]
    snapshots = [Snapshot(cycle, cycle, 0.0, weights) for cycle, weights in enumerate(kept)]
    predicted = SnapshotEnsemble(model, snapshots).predict(X, verbose=0)
    for name in ("one", "two"):
        means = []
        for weights in kept:
            model.set_weights(weights)
            means.append(model.predict(X, verbose=0)[name])
        np.testing.assert_allclose(predicted[name], np.mean(means, axis=0), rtol=1e-6)


def test_one_file_is_no_list_of_snapshots():
    with pytest.raises(TypeError, match=r"Received: snapshots='cycle-01.weights.h5'"):
        SnapshotEnsemble(None, "cycle-01.weights.h5")


def test_arguments_out_of_range_are_refused():
    scheduler = SGDRScheduler(0.1)
    with pytest.raises(ValueError, match="Received: mode='best'"):
        CycleSnapshots(scheduler, mode="best")
    with pytest.raises(ValueError, match="Received: patience=0"):
        StopWhenOverfitting(scheduler, patience=0)
    with pytest.raises(ValueError, match=r"Received: snapshots=\[\]"):
        SnapshotEnsemble(None, [])
    with pytest.raises(ValueError, match="Received: last=0"):
        SnapshotEnsemble(None, ["a"], last=0)
