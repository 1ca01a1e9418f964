"""Steps 5 to 8: rates of the groups, cycles, and that the whole network ends no worse than it began."""

import dataclasses
import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.models.layer_groups import layer_groups
from keras_sgdr.recipe import builders, stages, whole_network
from keras_sgdr.recipe.candidates import Candidate
from keras_sgdr.recipe.images import index_for
from keras_sgdr.recipe.plan import Cycles, planned_cycles
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.run_directory import RunDirectory
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from tests.recipe.one_stage import begun, candidate_of_loss, run_stage


@pytest.mark.parametrize(
    ("num_groups", "phases"), [(3, [(1, 2), (0, 6), (0, 14), (0, 30)]), (5, [(3, 2), (2, 6), (1, 14), (0, 30)])]
)
def test_gradual_unfreezing_begins_with_the_last_two_groups(num_groups, phases):
    """From which group on, up to which epoch: cycles of 2, 4, 8 and 16 epochs."""
    recipe, cycles = Recipe(num_groups=num_groups, n_cycles=4, gradual_unfreezing=True), Cycles(2, 4, 2)
    assert whole_network._phases(recipe, cycles) == phases
    assert whole_network._phases(dataclasses.replace(recipe, gradual_unfreezing=False), cycles) == [(0, 30)]


def optimizer_state(model):
    """How many steps an optimizer has made, and how large its momenta are."""
    optimizer = model.optimizer
    return int(optimizer.iterations), float(sum(np.abs(momentum).sum() for momentum in optimizer._momentums))


def test_rate_that_ruins_the_network_is_undone_and_the_head_stands(digits_folder, tiny, tmp_path, capsys):
    """A network thrown off by its rate, and by a tenth of it, ends as the head alone, and says so.

    What an earlier rule of step 7 chose on flowers did so: the run ended with the share of the largest class.
    """
    begins = []
    with begun(digits_folder, dataclasses.replace(tiny, learning_rate=100.0), tmp_path / "run") as run:
        notes = keras.callbacks.LambdaCallback(on_train_begin=lambda _: begins.append(optimizer_state(run.model)))
        run._callbacks = (notes,)
        run_stage(run, "train_head")
        head = run.candidate("the head")
        run_stage(run, "find_rate")
        outcome = run_stage(run, "train_all")
        after = run.candidate("what is left")
    assert outcome["best"] == "the head"
    assert [row["stage"] for row in outcome["history"]] == ["all, undone"] * 2
    assert [each["learning_rate"] for each in outcome["undone"]] == [100.0, 10.0]
    # the second attempt begins with an optimizer that has seen nothing
    assert begins == [(0, 0.0)] * 2
    assert after.accuracy == head.accuracy
    assert after.loss == pytest.approx(head.loss, abs=1e-3)
    said = capsys.readouterr().out
    assert said.count("undone: cycle 1") == 2
    assert outcome["verdict"] in said


@pytest.mark.parametrize(
    ("losses", "last", "words"),
    [
        ([0.5], None, "made it no better"),
        ([0.5, 0.3, 0.4], (0.3, 0.4), "It overfits: the validation loss rose from 0.3000 after cycle 1 to 0.4000"),
        ([0.5, 0.3], (0.1, 0.3), "It overfits: the training loss 0.1000 is far below the validation loss 0.3000"),
        ([0.5, 0.3], (0.2, 0.3), "It does not overfit yet: more cycles may help (--n-cycles 2)"),
        ([0.0, 0.3], (0.2, 0.3), "Every validation image is right with the head alone"),
        ([0.5, 0.0], (0.2, 0.3), "Every validation image is right after cycle 1"),
    ],
)
def test_verdict_says_whether_the_network_overfits(losses, last, words):
    def candidate(number, loss):
        hits = np.array([loss == 0, True])
        return Candidate("the head" if number == 0 else f"cycle {number}", np.full(2, loss), hits)

    rows = [{"loss": last[0], "val_loss": last[1]}] if last else []
    assert words in whole_network._verdict(rows, [candidate(*each) for each in enumerate(losses)], 1)


@pytest.mark.parametrize(("images", "epochs"), [(5, 70), (100, 49), (600, 10), (5000, 7)])
def test_first_cycle_of_a_small_folder_has_more_epochs(images, epochs):
    """About 200 batches of 32: 100 images make 4 batches an epoch, 600 make 19."""
    assert planned_cycles(Recipe(), images) == Cycles(epochs, 1, 2)
    assert planned_cycles(Recipe(cycle_len=3), images).cycle_len == 3


def test_softened_model_has_a_temperature():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    before = model.predict(x, verbose=0)
    whole_network.soften(model, 2.0)
    roots = np.sqrt(before)
    np.testing.assert_allclose(model.predict(x, verbose=0), roots / roots.sum(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("rate", [1e-3, pytest.param(10.0, marks=pytest.mark.slow)], ids=["better", "ruined"])
def test_a_callback_that_stops_before_the_first_cycle_ends_leaves_the_better_model(digits_folder, tiny, tmp_path, rate):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    recipe = dataclasses.replace(tiny, cycle_len=3, learning_rate=rate)
    with RunDirectory(tmp_path / "run", settings={}, stages=stages.STAGES) as directory:
        run = Run(recipe, index_for(digits_folder, recipe), directory, 0, [Stop()])
        run_stage(run, "train_head")
        run_stage(run, "fit_plan")
        head = run.candidate("the head")
        values = run_stage(run, "train_all")
        after = run.candidate("after it")
    assert [row["epoch"] for row in values["history"]] == [1]
    before, stopped = (each["name"] for each in values["candidates"])
    assert (before, stopped) == ("the head", "the training up to where a callback stopped it")
    assert after.loss <= head.loss + 1e-4


def test_steps_of_groups_stand_in_the_ratios_of_group_factor(tiny, digits_folder, monkeypatch):
    """With SGD a step is the rate times the gradient: so each group's rate can be seen in its weights."""
    monkeypatch.setattr(builders.keras.optimizers, "AdamW", keras.optimizers.SGD)
    recipe = dataclasses.replace(tiny, group_factor=4.0, dropout=0.0)
    model = builders.make_model(recipe, 3, None)
    builders.compile_all(model, recipe, rate=0.5)
    images, labels = next(iter(load_dataset(index_for(digits_folder, recipe).train, image_size=32)))
    with tf.GradientTape() as tape:
        chosen = tf.gather(model(images, training=True), labels, batch_dims=1)
        loss = -tf.reduce_mean(tf.math.log(chosen))
    weights = [[weight for layer in group for weight in layer.trainable_weights] for group in layer_groups(model)]
    flat = [weight for group in weights for weight in group]
    gradients = dict(zip(map(id, flat), tape.gradient(loss, [weight.value for weight in flat]), strict=True))
    before = {id(weight): weight.numpy() for weight in flat}
    model.train_on_batch(images, labels)
    for group, rate in zip(weights, (0.5 / 16, 0.5 / 4, 0.5), strict=True):
        steps = np.concatenate([(before[id(weight)] - weight.numpy()).ravel() for weight in group])
        slopes = np.concatenate([gradients[id(weight)].numpy().ravel() for weight in group])
        assert np.abs(steps).max() > 0
        assert np.dot(steps, slopes) / np.dot(slopes, slopes) == pytest.approx(rate, rel=1e-2)


def cycles_that_end_with(losses, *, before, guessing_loss):
    """Goes through the ends of epochs, two a cycle, until it is told to stop: the callback, and the epochs that ran."""
    schedule = SGDRScheduler(1e-3, cycle_len=2, n_cycles=len(losses))
    told = iter(losses)
    cycles = whole_network.CycleCandidates(
        schedule, candidate_of_loss("before", before), guessing_loss, lambda name: candidate_of_loss(name, next(told))
    )
    cycles.set_model(keras.Sequential())
    cycles.model.stop_training = False
    for epoch in range(schedule.epochs):
        cycles.on_epoch_end(epoch)
        if cycles.model.stop_training:
            break
    return cycles, epoch + 1


@pytest.mark.parametrize(
    ("losses", "epochs", "best"),
    [
        ([0.5, 0.4, 0.3], 6, 3),
        ([0.5, 0.4, 0.45], 6, 2),
        ([0.5, 0.55, 0.3], 4, 1),
        ([0.5, 0.5, 0.4], 6, 3),  # as good as the one before is no reason to stop
        ([0.65, 0.5], 4, 2),  # worse than the head at first
        ([0.65, 0.64, 0.63], 6, 0),
    ],
)
def test_cycles_go_on_until_one_is_worse_than_those_before(losses, epochs, best):
    cycles, ran = cycles_that_end_with(losses, before=0.6, guessing_loss=1.5)
    assert (ran, cycles.best, cycles.does_harm) == (epochs, best, False)
    names = [f"cycle {number + 1}" for number in range(epochs // 2)]
    assert [each.name for each in cycles.candidates] == names
    again = whole_network.CycleCandidates(
        SGDRScheduler(1e-3, cycle_len=2), candidate_of_loss("before", 0.6), 1.5, candidate_of_loss
    )
    assert not again.does_harm  # nothing has ended yet
    again.set_state(cycles.get_state())
    assert again.best == best
    assert [each.name for each in again.candidates] == names


@pytest.mark.parametrize(
    ("before", "guessing_loss", "most"),
    [
        (0.4, 1.6, 0.8),  # half-way back to guessing, in the logarithm
        (2.0, 1.6, 2.0),  # a head that is worse than guessing can only get better
        (1e-4, 1.6, 0.08),  # next to nothing: a twentieth of guessing
    ],
)
def test_a_first_cycle_does_harm_that_ends_far_above_the_head(before, guessing_loss, most):
    for loss, harm in ((0.99 * most, False), (1.01 * most, True)):
        cycles, ran = cycles_that_end_with([loss, loss / 2], before=before, guessing_loss=guessing_loss)
        assert cycles.does_harm is harm
        assert ran == (2 if harm else 4)


@pytest.mark.parametrize(("steps_per_epoch", "cycle_len", "warmup"), [(100, 1, 12), (5, 2, 5), (5, 1, 2), (1, 1, 0)])
def test_each_cycle_rises_over_12_batches_or_half_of_a_short_one(steps_per_epoch, cycle_len, warmup):
    run = SimpleNamespace(cycles=Cycles(cycle_len, 2, 3), steps_per_epoch=steps_per_epoch)
    schedule = whole_network._schedule(run, 1e-3, 2)
    rates = schedule.preview(steps_per_epoch=steps_per_epoch).learning_rates
    first = cycle_len * steps_per_epoch
    assert len(rates) == first + 3 * first
    assert np.argmax(rates[:first]) == warmup
    # the second is three times as long
    assert np.argmax(rates[first:]) == warmup
    assert np.max(rates) == pytest.approx(1e-3)


class Noted(keras.callbacks.Callback):
    """The weights at the end of each epoch, and how wide the images were."""

    def __init__(self):
        super().__init__()
        self.weights, self.sizes = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())
        self.sizes.append(self.model.input_shape[1])


def assert_same_weights(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def run_with(monkeypatch, run, *told):
    """Lets a run find its model to be what it is told, one after the other, and notes the weights of each epoch."""
    said, noted = iter(told), Noted()
    monkeypatch.setattr(run, "candidate", lambda name: candidate_of_loss(name, *next(said)))
    run._callbacks = (noted,)
    return noted


def test_the_network_ends_with_the_weights_of_its_best_cycle(digits_folder, tiny, tmp_path, monkeypatch, capsys):
    recipe = dataclasses.replace(tiny, n_cycles=3, cycle_mult=1, learning_rate=1e-4)
    with begun(digits_folder, recipe, tmp_path / "run") as run:
        noted = run_with(monkeypatch, run, [0.6], [0.5], [0.3, 4.0], [0.4])
        outcome = run_stage(run, "train_all")
    expected = noted.weights[1]
    assert_same_weights(run.model.get_weights(), [*expected[:-2], expected[-2] / 4, expected[-1] / 4])
    assert_same_weights(
        keras.models.load_model(tmp_path / "run" / "model.keras").get_weights(), run.model.get_weights()
    )
    assert [row["epoch"] for row in outcome["history"]] == [1, 2, 3]
    assert (outcome["best"], outcome["temperature"], outcome["learning_rate"]) == ("cycle 2", 4, 1e-4)
    assert outcome["candidates"] == [
        {"name": name, "loss": pytest.approx(loss), "accuracy": 0.5}
        for name, loss in (("the head", 0.6), ("cycle 1", 0.5), ("cycle 2", 0.3), ("cycle 3", 0.4))
    ]
    assert outcome["undone"] == []
    said = capsys.readouterr().out
    assert "cycle 2 (loss 0.3000, accuracy 0.5000), its logits divided by 4.00" in said
    assert "at most 3 cycles" in said
    assert "rose from 0.3000 after cycle 2 to 0.4000" in said


@pytest.mark.parametrize(
    ("limit", "loss"), [({"max_epochs": 1}, 5.0), ({"max_minutes": 60}, 0.65)], ids=["harm", "no better"]
)
def test_a_run_that_is_to_end_in_time_makes_one_attempt(digits_folder, tiny, tmp_path, monkeypatch, limit, loss):
    recipe = dataclasses.replace(tiny, **limit)
    with begun(digits_folder, recipe, tmp_path / "run") as run:
        before = run.model.get_weights()
        run_with(monkeypatch, run, [0.6], [loss])
        outcome = run_stage(run, "train_all")
    assert_same_weights(run.model.get_weights(), before)
    assert [each["learning_rate"] for each in outcome["undone"]] == [1e-3]
    assert (outcome["best"], outcome["learning_rate"]) == ("the head", None)
    assert [row["stage"] for row in outcome["history"]] == ["all, undone"]
    assert "give a lower --learning-rate" in outcome["verdict"]


def test_a_size_that_made_the_network_no_better_is_undone(digits_folder, tiny, tmp_path, monkeypatch, capsys):
    recipe = dataclasses.replace(tiny, sizes=(20, 24, 32))
    with begun(digits_folder, recipe, tmp_path / "run") as run:
        noted = run_with(monkeypatch, run, [0.6], [0.5], [0.5], [0.7])
        outcome = run_stage(run, "train_smaller")
    assert noted.sizes == [20, 24]
    assert_same_weights(run.model.get_weights(), noted.weights[0])
    assert run.model.input_shape[1] == 32
    assert [row["stage"] for row in outcome["history"]] == ["all, 20 px", "all, 24 px"]
    assert outcome["undone"] == [24]
    said = capsys.readouterr().out
    assert "on images of 20 pixels" in said
    assert "undone" not in said.partition("on images of 24 pixels")[0]
    for text in ("on the validation images: at 20 pixels (loss 0.5000", "undone: at 24 pixels (loss 0.7000"):
        assert text in said


@pytest.mark.parametrize(
    ("losses", "trained"),
    [([0.5, 0.4, 0.3], [[1, 2], [0, 1, 2], [0, 1, 2]]), ([5.0, 5.0], [[1, 2], [1, 2]])],
    ids=["three cycles", "harm in the first"],
)
def test_gradual_unfreezing_trains_a_group_more_in_each_cycle(
    digits_folder, tiny, tmp_path, monkeypatch, losses, trained
):
    recipe = dataclasses.replace(tiny, gradual_unfreezing=True, n_cycles=3, cycle_mult=1)
    with begun(digits_folder, recipe, tmp_path / "run") as run:
        weights = [run.model.get_weights()]
        noted = run_with(monkeypatch, run, [0.6], *([loss] for loss in losses))
        outcome = run_stage(run, "train_all")
    assert [row["epoch"] for row in outcome["history"]] == ([1, 2, 3] if len(losses) == 3 else [1, 1])
    weights += noted.weights
    group_of = [
        number for number, group in enumerate(layer_groups(run.model)) for layer in group for _ in layer.weights
    ]
    moved = [
        sorted({group for group, old, new in zip(group_of, before, after, strict=True) if not np.array_equal(old, new)})
        for before, after in itertools.pairwise(weights)
    ]
    assert moved == trained
