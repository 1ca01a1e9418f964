"""Runs that are broken off and gone on with, compared bit by bit with unbroken ones."""

import itertools
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_sgdr.checkpoint.checkpoint_file import read_tree, write_tree
from keras_sgdr.checkpoint.training_checkpoint import TrainingCheckpoint, TrainingPosition
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.schedules.one_cycle import OneCycleScheduler
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from keras_sgdr.schedules.snapshots import CycleSnapshots, StopWhenOverfitting
from tests.schedules.test_sgdr_scheduler import RateRecorder
from tests.schedules.test_snapshots import Script
from tests.small_models import state

STEPS = 4
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(STEPS * 8, 4)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int32")


def stream(step):
    """Batches without end, in another order in each epoch, from a global step on."""
    for now in itertools.count(step):
        order = np.random.default_rng(now // STEPS).permutation(len(X))
        chosen = order[now % STEPS * 8 :][:8]
        yield X[chosen], Y[chosen]


def make_model(optimizer=None, *, run_eagerly=True):
    """Not compiled by default: most trainings here have a dozen batches."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            # On PyTorch it draws from a global generator, of which no file knows.
            layers.Dropout(0.0 if keras.backend.backend() == "torch" else 0.3),
            layers.Dense(2, activation="softmax"),
        ]
    )
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    compiled = {"metrics": ["accuracy"], "run_eagerly": run_eagerly}
    model.compile(optimizer, "sparse_categorical_crossentropy", **compiled)
    return model


class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends a training as a crash does: after so many batches, counted over all epochs."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_begin(self, batch, logs=None):
        if self.left == 0:
            raise KilledError
        self.left -= 1


def run(model, *callbacks, checkpoint=None, kill_after=None, epochs=3, data=stream, **arguments):
    """Trains, from the checkpoint if there is one, and returns the history."""
    start = TrainingPosition() if checkpoint is None else checkpoint.restore(model)
    every = [*callbacks, *([] if checkpoint is None else [checkpoint])]
    every += [] if kill_after is None else [Kill(kill_after)]
    epochs = start.epoch if start.stopped else epochs
    arguments = {"steps_per_epoch": STEPS, "validation_data": (X, Y), "verbose": 0, "shuffle": False} | arguments
    return model.fit(data(start.step), epochs=epochs, initial_epoch=start.epoch, callbacks=every, **arguments)


def broken_off(make_model, make_callbacks, path, *, kill_after, save_every="epoch", **arguments):
    """Trains twice, each time with a new model and new callbacks: up to a crash, and to the end."""
    for batches in (kill_after, None):
        model, callbacks = make_model(), make_callbacks()
        remembering = [
            callback for callback in callbacks if hasattr(callback, "wait") or hasattr(callback, "get_state")
        ]
        checkpoint = TrainingCheckpoint(path, save_every=save_every, callbacks=remembering)
        try:
            history = run(model, *callbacks, checkpoint=checkpoint, kill_after=batches, **arguments)
        except KilledError:
            continue
    return model, callbacks, history


def assert_same(run, unbroken):
    (model, history), (expected_model, expected) = run, unbroken
    for value, expected_value in zip(state(model), state(expected_model), strict=True):
        np.testing.assert_array_equal(value, expected_value)
    assert history.history == expected.history
    assert history.epoch == expected.epoch


def differential_model():
    model = make_model()
    groups = [model.layers[:2], [model.layers[3]]]
    inner = keras.optimizers.AdamW(use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=3)
    model.compile(DifferentialLR(inner, groups, [1e-3, 1e-2]), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def scaled_model():
    inner = keras.optimizers.Adam(0.01)
    return make_model(keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0), run_eagerly=False)


def compiled_model():
    return make_model(run_eagerly=False)


def scheduled():
    return [SGDRScheduler(0.05, cycle_mult=2, n_cycles=2)]


@pytest.mark.parametrize(
    ("make", "save_every"), [(compiled_model, "epoch"), (scaled_model, 3), (differential_model, 1)]
)
def test_resumed_run_ends_where_an_unbroken_one_does(make, save_every, tmp_path):
    unbroken = make()
    history = run(unbroken, *scheduled())
    arguments = {"kill_after": STEPS + 3, "save_every": save_every}
    model, _, resumed = broken_off(make, scheduled, tmp_path / "run", **arguments)
    assert_same((model, resumed), (unbroken, history))


def test_schedulers_go_on_in_the_midst_of_an_epoch(tmp_path):
    """The rate of each batch, and the momentum, by which SGD's velocity tells one run from another."""

    def make():
        model = make_model()
        optimizer = DifferentialLR(keras.optimizers.SGD(momentum=0.9), [model.layers], 0.1, movable_momentum=True)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def schedulers():
        return [OneCycleScheduler(0.1, momentum=(0.95, 0.85)), RateRecorder()]

    unbroken, callbacks = make(), schedulers()
    history = run(unbroken, *callbacks)
    model, resumed_callbacks, resumed = broken_off(
        make, schedulers, tmp_path / "run", kill_after=STEPS + 3, save_every=2
    )
    assert resumed_callbacks[1].rates == callbacks[1].rates[STEPS + 2 :]
    assert_same((model, resumed), (unbroken, history))


LOSSES = [5.0, 4.0, 4.5, 3.0, 3.5, 3.2, 3.1, 2.0]


def remembering_callbacks():
    """Cycles of one epoch: stops after the third that ends worse, with the fourth's weights; 7 epochs of 8."""
    scheduler = SGDRScheduler(0.01, n_cycles=8)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=2)
    early = keras.callbacks.EarlyStopping("val_loss", patience=9)
    snapshots = CycleSnapshots(scheduler, restore_best_cycle=True)
    return [Script(LOSSES), scheduler, snapshots, StopWhenOverfitting(scheduler, patience=3), plateau, early]


@pytest.fixture(scope="module")
def unbroken_with_callbacks():
    model, callbacks = make_model(), remembering_callbacks()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Another callback sets")  # the scheduler, over ReduceLROnPlateau
        return model, callbacks, run(model, *callbacks, epochs=8)


@pytest.mark.filterwarnings("ignore:Another callback sets")
@pytest.mark.parametrize("kill_after", [STEPS, 5 * STEPS + 1, 7 * STEPS])
def test_callbacks_remember(kill_after, unbroken_with_callbacks, tmp_path):
    unbroken, remembering, history = unbroken_with_callbacks
    assert len(history.epoch) == 7
    arguments = {"kill_after": kill_after, "epochs": 8}
    model, resumed_callbacks, resumed = broken_off(make_model, remembering_callbacks, tmp_path / "run", **arguments)
    assert_same((model, resumed), (unbroken, history))
    for name in ("best", "wait", "cooldown_counter"):
        assert getattr(resumed_callbacks[4], name) == getattr(remembering[4], name)
    assert resumed_callbacks[5].best_epoch == remembering[5].best_epoch == 3
    assert [s.value for s in resumed_callbacks[2].snapshots] == LOSSES[:7]


def test_model_checkpoint_counts_on_in_the_midst_of_an_epoch(tmp_path):
    class Watched(keras.callbacks.ModelCheckpoint):
        wait = None  # for `broken_off` to know it as one that remembers

        def _save_model(self, *args, **kwargs):
            saved.append(int(self.model.optimizer.iterations.numpy()))

    def make_callbacks():
        return [Watched(str(tmp_path / "model.keras"), save_freq=3)]

    saved = []
    broken_off(make_model, make_callbacks, tmp_path / "run", kill_after=STEPS + 1, save_every=1)
    assert saved == [3, 6, 9, 12]


def test_images_go_on_in_the_midst_of_an_epoch(tmp_path):
    # Here, for the rest of the module serves the backends without TensorFlow too.
    from keras_sgdr.augmentation.random_view import side_on
    from keras_sgdr.data.dataset.load_dataset import load_dataset
    from keras_sgdr.data.index.folder import index_folder

    for number in range(24):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        keras.utils.save_img(path, RANDOM.uniform(0, 255, (20, 24, 3)), scale=False)
    split = index_folder(tmp_path, valid_fraction=0.1).train  # of 22, the last batch smaller

    def make():
        keras.utils.set_random_seed(1)
        layers = keras.layers
        model = keras.Sequential([layers.Input((16, 16, 3)), layers.Flatten(), layers.Dense(2, activation="softmax")])
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", run_eagerly=True)
        return model

    def schedule():
        return [SGDRScheduler(0.05, cycle_len=2)]

    def data(step):
        options = {"image_size": 16, "batch_size": 6, "augmentation": side_on(), "shuffle": True}
        return load_dataset(split, **options, initial_step=step).repeat()

    unbroken = make()
    arguments = {"data": data, "validation_data": None, "epochs": 2}
    history = run(unbroken, *schedule(), **arguments)
    model, _, resumed = broken_off(make, schedule, tmp_path / "run", kill_after=STEPS + 3, save_every=2, **arguments)
    assert_same((model, resumed), (unbroken, history))


KILLED = """
import os, signal
import numpy as np
from tests.checkpoint.test_training_checkpoint import TrainingCheckpoint, make_model, run, scheduled

write, count = np.savez, 0

def killed(file, **arrays):
    global count
    count += 1
    if count == 3:
        file.write(b"PK")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, **arrays)

np.savez = killed
run(make_model(), *scheduled(), checkpoint=TrainingCheckpoint("run", save_every=3))
"""


def test_process_killed_while_it_writes_leaves_the_checkpoint_before(tmp_path):
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # the checkpoint, and what the killed process had begun to write
    unbroken, model = make_model(), make_model()
    history = run(unbroken, *scheduled())
    checkpoint = TrainingCheckpoint(tmp_path / "run", save_every=3)
    assert checkpoint.restore(model) == TrainingPosition(1, 0, STEPS)
    assert_same((model, run(model, *scheduled(), checkpoint=checkpoint)), (unbroken, history))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class StopAt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 1


@pytest.mark.parametrize(("save_every", "position"), [(3, (0, 2, STEPS)), ("epoch", (0, 0, None))])
def test_epoch_that_is_stopped_in_its_midst_is_not_taken_for_done(save_every, position, tmp_path):
    checkpoint = TrainingCheckpoint(tmp_path / "run", save_every=save_every)
    run(make_model(), StopAt(), checkpoint=checkpoint)
    assert checkpoint.restore(make_model()) == TrainingPosition(*position)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint in the midst of the first epoch."""
    path = tmp_path_factory.mktemp("checkpoint") / "run"
    run(make_model(), StopAt(), checkpoint=TrainingCheckpoint(path, save_every=2))
    return path


def test_arguments_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must be a file, or free for one. Received: path="):
        TrainingCheckpoint(tmp_path)
    with pytest.raises(ValueError, match="Received: save_every=0"):
        TrainingCheckpoint(tmp_path / "run", save_every=0)
    with pytest.raises(TypeError, match=r"Received: <.*RateRecorder"):
        TrainingCheckpoint(tmp_path / "run", callbacks=[RateRecorder()])
    with pytest.raises(ValueError, match="Received: save_every=2"):
        run(make_model(), checkpoint=TrainingCheckpoint(tmp_path / "run", save_every=2), steps_per_epoch=None)


def test_model_that_is_not_the_checkpoints_is_refused(written):
    checkpoint = TrainingCheckpoint(written)
    with pytest.raises(ValueError, match=r"the checkpoint's, \['Adam'\]. Received: \['SGD'\]. Compile"):
        checkpoint.restore(make_model(keras.optimizers.SGD()))
    wider = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(8)])
    wider.compile("adam")
    with pytest.raises(ValueError, match=r"is float32\(5, 8\), in the checkpoint float32\(4, 8\)"):
        checkpoint.restore(wider)
    with pytest.raises(ValueError, match="Received: a model without weights"):
        checkpoint.restore(keras.Sequential([keras.layers.Dense(8)]))
    with pytest.raises(ValueError, match="Received: a model without optimizer"):
        checkpoint.restore(keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)]))
    with pytest.raises(ValueError, match=r"`callbacks` must be those of the checkpoint, 0. Received: callbacks=\[<"):
        TrainingCheckpoint(written, callbacks=[keras.callbacks.EarlyStopping()]).restore(make_model())


def test_training_that_does_not_go_on_where_the_checkpoint_was_written_is_refused(written):
    model = make_model()
    with pytest.raises(ValueError, match=r"`path` must not hold a checkpoint that was not restored.* Received: path="):
        model.fit(X, Y, callbacks=[TrainingCheckpoint(written)], verbose=0)
    checkpoint = TrainingCheckpoint(written)
    checkpoint.restore(model)
    with pytest.raises(ValueError, match=r"must be 0, where the checkpoint was written. Received: initial_epoch=1"):
        model.fit(X, Y, batch_size=8, initial_epoch=1, epochs=2, callbacks=[checkpoint], verbose=0)
    with pytest.raises(ValueError, match=r"must have the 4 batches .* Received: steps=2"):
        model.fit(X, Y, batch_size=16, callbacks=[checkpoint], verbose=0)


class Remembering:
    """No callback, yet it has something to remember."""

    def get_state(self):
        return {"count": 3}

    def set_state(self, state):
        self.restored = state


def test_objects_that_are_no_callbacks_are_remembered_too(tmp_path):
    path = tmp_path / "run"
    make_model().fit(X, Y, verbose=0, callbacks=[TrainingCheckpoint(path, callbacks=(Remembering() for _ in "ab"))])
    restored = [Remembering(), Remembering()]
    checkpoint = TrainingCheckpoint(path, callbacks=restored)
    model = make_model()
    model.fit(X, Y, initial_epoch=checkpoint.restore(model).epoch, epochs=2, verbose=0, callbacks=[checkpoint])
    assert [each.restored for each in restored] == [{"count": 3}] * 2


def test_callbacks_that_do_not_come_before_the_checkpoint_are_refused(tmp_path):
    for order in (slice(1, None), slice(None, None, -1)):
        stop = keras.callbacks.EarlyStopping("loss")
        checkpoint = TrainingCheckpoint(tmp_path / "run", callbacks=stop)
        with pytest.raises(ValueError, match=r"Received: not_before_it=\['EarlyStopping'\]"):
            make_model().fit(X, Y, callbacks=[stop, checkpoint][order], verbose=0)


def test_optimizer_whose_slots_are_others_is_refused(tmp_path):
    """Those of equal shapes, which would be taken for one another."""

    def model(optimizer, order=None):
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(4) for _ in range(3)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        if order is not None:
            groups = [layers[place] if isinstance(place, slice) else [layers[place]] for place in order]
            optimizer = DifferentialLR(optimizer, groups, 0.1)
        model.compile(optimizer, "mse")
        return model

    def momentum():
        return keras.optimizers.SGD(0.1, momentum=0.9)

    path = tmp_path / "run"
    model(momentum(), (0, 1, 2)).fit(X, X, verbose=0, callbacks=[TrainingCheckpoint(path)])
    for other, received in [
        (model(momentum(), (1, 0, 2)), r"\['SGD'\] with other groups"),
        (model(momentum(), (slice(0, 2), 2)), r"\['SGD'\] with other groups"),
        (model(momentum()), r"\['SGD'\]"),
        (model(keras.optimizers.Lion(0.1), (0, 1, 2)), r"\['Lion'\]"),
    ]:
        with pytest.raises(ValueError, match=rf"the checkpoint's, \['SGD'\]. Received: {received}"):
            TrainingCheckpoint(path).restore(other)
    assert TrainingCheckpoint(path).restore(model(momentum(), (0, 1, 2))).epoch == 1


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file"])
def test_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "run").write_bytes(content)
    with pytest.raises(ValueError, match=r"`path` must be a checkpoint. Received: path=.*run .*begin anew"):
        TrainingCheckpoint(tmp_path / "run").restore(make_model())


def test_tree_comes_back_as_it_was_written(tmp_path):
    half = np.array(keras.ops.convert_to_numpy(keras.ops.array([1.5, -2.0], "bfloat16")))
    values = {"a": [np.arange(3), None, "text", np.float32(0.1), (1, float("inf"))], "b": {"c": half}}
    write_tree(tmp_path / "new" / "tree", values)
    read = read_tree(tmp_path / "new" / "tree")
    assert read["a"][1:] == [None, "text", float(np.float32(0.1)), [1, float("inf")]]
    for array, expected in ((read["a"][0], np.arange(3)), (read["b"]["c"], half)):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
