"""What a run of the recipe leaves, and how its stages work together: with a backbone of six layers, so in seconds."""

import contextlib
import csv
import dataclasses
import json
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sgdr.data.dataset.file_decoder import FileDecoder
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.distribution.workers import Workers
from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.models.layer_groups import layer_groups
from keras_sgdr.precompute.feature_cache import CHECKS
from keras_sgdr.recipe import builders, head, stages, train, whole_network
from keras_sgdr.recipe.candidates import Candidate
from keras_sgdr.recipe.images import index_for
from keras_sgdr.recipe.plan import Cycles, planned_cycles
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.run_directory import RunDirectory
from keras_sgdr.recipe.train import find_learning_rate, train_image_classifier
from tests.conftest import DIGITS


@pytest.fixture(scope="module")
def tiny(tiny_recipe):
    """And without the head's finder."""
    return dataclasses.replace(tiny_recipe, head_learning_rate=1e-3)


@pytest.mark.slow  # three whole runs
def test_keeping_decoded_images_changes_nothing(digits_folder, tiny, tmp_path, monkeypatch):
    recipe = dataclasses.replace(tiny, head_views=1, tta="flip", cycle_len=2)
    images, decoded = FileDecoder.images, []

    def noted(decoder, *, first):
        decoded.append(len(decoder.paths))
        return images(decoder, first=first)

    monkeypatch.setattr(FileDecoder, "images", noted)
    outcomes = {}
    # Room for the 36 validation images, and not for all of the 144 others, which are 8 x 8 pixels
    for name, room in (("off", 0), ("memory", 2**30), ("little", 3 * 32 * 32 * 36)):
        monkeypatch.setattr(builders, "available_memory", lambda room=room: 4 * room)
        cache = dataclasses.replace(recipe, image_cache="auto" if name == "little" else name)
        outcomes[name] = train_image_classifier(digits_folder, output=tmp_path / name, recipe=cache, verbose=0)
        assert decoded == {"off": [], "little": [36]}.get(name, [36, 144]), name
        decoded.clear()
    expected = outcomes.pop("off")
    for name, found in outcomes.items():
        assert found.history == expected.history, name
        np.testing.assert_array_equal(found.tta.probabilities, expected.tta.probabilities)


def journal_of(run):
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def journal(trained_run):
    return journal_of(trained_run)["stages"]


@pytest.fixture(scope="module")
def history(trained_run):
    with (trained_run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_directory_holds_what_was_promised(trained_run):
    assert {path.name for path in trained_run.iterdir()} - {"stdout.txt", ".lock"} == {
        "model.keras",
        "classifier.json",
        "run.json",
        "config.toml",
        "report.html",
        "findings.csv",  # of 8 x 8 pixels, each is an odd size
        "history.csv",
        "predictions.npz",
        "lr_finder_head.png",
        "lr_finder_head.csv",
        "lr_finder_all.png",
        "lr_finder_all.csv",
        "schedule.png",
        "history.png",
        "confusion_matrix.png",
        "top_losses.png",
        "export",
    }
    named = {name for stage in stages.STAGES for name in stage.artefacts}
    assert named - {"log.csv"} == {path.name for path in trained_run.iterdir()} - {
        "stdout.txt",
        ".lock",
        "run.json",
        "config.toml",
        "export",
    }


def test_history_has_every_epoch_of_every_stage(history):
    assert list(history[0]) == ["stage", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    names = [row["stage"] for row in history]
    assert names[:3] == ["head", "head, augmented", "head, live"]
    assert names[3:] == ["all"] * 3
    assert [row["epoch"] for row in history[3:]] == ["1", "2", "3"]
    numbers = [float(row[name]) for row in history for name in ("loss", "accuracy", "val_loss", "val_accuracy")]
    assert np.isfinite(numbers).all()
    # An optimum has no rate.
    assert [row["learning_rate"] == "" for row in history] == [True, True, *[False] * (len(history) - 2)]


def test_finders_have_chosen_and_training_follows_a_cosine_from_their_rates(journal, history):
    assert journal["find_head_rate"]["why"] == "the valley of the curve"
    # a cycle of 5 batches, of which the last is noted
    peak = journal["find_head_rate"]["learning_rate"]
    assert float(history[2]["learning_rate"]) == pytest.approx(peak * (1 + np.cos(np.pi * 4 / 5)) / 2, rel=1e-4)
    chosen = journal["find_rate"]
    assert 0 < chosen["learning_rate"] <= 1e-3
    assert "the curve" in chosen["why"]
    # Cycles of 1 and 2 epochs of 5 batches, of which the first 2 rise to the peak. The last batch of the first epoch
    # is the last of the 3 of its cosine, that of the second epoch the third of 8, that of the third the last of 8.
    rates = [float(row["learning_rate"]) for row in history if row["stage"].startswith("all")]
    shares = [(1 + np.cos(np.pi * place)) / 2 for place in (2 / 3, 2 / 8, 7 / 8)]
    assert rates == pytest.approx([chosen["learning_rate"] * share for share in shares], rel=1e-4)


def test_curves_are_kept_for_programs_too(trained_run):
    for name, num_steps, range_of_rates in (("head", 100, (1e-7, 10)), ("all", 50, (1e-5, 1))):
        with (trained_run / f"lr_finder_{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert 10 < len(rows) <= num_steps
        rates, losses = (np.array([float(row[column]) for row in rows]) for column in ("learning_rate", "loss"))
        assert rates[0] == pytest.approx(range_of_rates[0])
        assert np.ptp(np.diff(np.log(rates))) < 1e-3
        assert np.isfinite(losses[:-1]).all()
        assert len(set(losses)) > len(losses) / 2


def test_run_ends_with_the_best_of_what_it_had(journal, trained_run):
    outcome = journal["train_all"]
    assert [each["name"] for each in outcome["candidates"]] == ["the head", "cycle 1", "cycle 2"]
    best = next(each for each in outcome["candidates"] if each["name"] == outcome["best"])
    assert best["loss"] <= outcome["candidates"][0]["loss"]
    predictions = np.load(trained_run / "predictions.npz")["plain"]
    labels = np.repeat(range(3), 12)
    assert np.mean(np.argmax(predictions, axis=1) == labels) == pytest.approx(best["accuracy"])
    assert -np.mean(np.log(predictions[range(36), labels])) == pytest.approx(best["loss"], abs=1e-3)
    assert journal["evaluate"]["accuracy"] == pytest.approx(best["accuracy"])


def test_what_is_said_names_the_choices(trained_run, journal):
    said = (trained_run / "stdout.txt").read_text()
    for name in ("find_head_rate", "find_rate"):
        assert f"{journal[name]['learning_rate']:.1e}, {journal[name]['why']}" in said
    assert journal["train_all"]["verdict"] in said
    assert "chosen on them" in said
    for step in ("step 2: find the head's", f"all of them: {trained_run / 'findings.csv'}", "evaluate, with 2 views"):
        assert step in said


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


def test_finished_run_is_resumed_to_the_same_result(trained_run, digits_folder, tmp_path):
    output = shutil.copytree(trained_run, tmp_path / "run")
    model = keras.models.load_model(output / "model.keras")
    before = (output / "model.keras").stat().st_mtime_ns
    recipe = recipe_of_run(output)
    again = train_image_classifier(digits_folder, output=output, recipe=recipe, resume=True, verbose=0)
    assert (output / "model.keras").stat().st_mtime_ns == before
    assert [row["stage"] for row in again.history][:3] == ["head", "head, augmented", "head, live"]
    assert again.class_names == DIGITS
    for mine, theirs in zip(again.model.weights, model.weights, strict=True):
        assert np.array_equal(mine.numpy(), theirs.numpy()), mine.path


@pytest.mark.parametrize(
    ("num_groups", "phases"), [(3, [(1, 2), (0, 6), (0, 14), (0, 30)]), (5, [(3, 2), (2, 6), (1, 14), (0, 30)])]
)
def test_gradual_unfreezing_begins_with_the_last_two_groups(num_groups, phases):
    """From which group on, up to which epoch: cycles of 2, 4, 8 and 16 epochs."""
    recipe, cycles = Recipe(num_groups=num_groups, n_cycles=4, gradual_unfreezing=True), Cycles(2, 4, 2)
    assert whole_network._phases(recipe, cycles) == phases
    assert whole_network._phases(dataclasses.replace(recipe, gradual_unfreezing=False), cycles) == [(0, 30)]


@pytest.mark.slow
def test_gradual_unfreezing_trains_a_group_more_in_each_cycle(digits_folder, tiny, tmp_path, monkeypatch):
    # at a rate that does no harm, for that would end it
    slow = {"learning_rate": 1e-6, "gradual_unfreezing": True}
    recipe = dataclasses.replace(tiny, n_cycles=3, cycle_mult=1, **slow)
    moved = []

    def weights_of(group):
        return [weight.numpy().tobytes() for layer in group for weight in layer.weights]

    fit = Run.fit

    def spy(self, stage, name, epochs, *callbacks, **options):
        groups = layer_groups(self.model)
        before = [weights_of(group) for group in groups]

        def compare(*_):  # before the best cycle's weights come back
            moved.append([weights_of(group) != old for group, old in zip(groups, before, strict=True)])

        return fit(
            self, stage, name, epochs, *callbacks, keras.callbacks.LambdaCallback(on_epoch_end=compare), **options
        )

    class NeverStops(whole_network.CycleCandidates):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            self.model.stop_training = False

    monkeypatch.setattr(whole_network, "CycleCandidates", NeverStops)
    monkeypatch.setattr(whole_network, "MAX_ATTEMPTS", 1)  # nothing is learnt here that would be better than the head
    monkeypatch.setattr(Run, "fit", spy)
    result = train_image_classifier(digits_folder, output=tmp_path / "run", recipe=recipe, verbose=0)
    assert moved == [[False, True, True], [True, True, True], [True, True, True]]
    assert [row["epoch"] for row in result.history if row["stage"] != "head"] == [1, 2, 3]


@contextlib.contextmanager
def begun(folder, recipe, output):
    """A run before its first stage, so that a stage can be run alone."""
    with RunDirectory(output, settings={}, stages=stages.STAGES) as directory:
        yield Run(recipe, index_for(folder, recipe), directory, 1)


def run_stage(run, name):
    (stage,) = (stage for stage in stages.STAGES if stage.name == name)
    values = stage.run(run)
    run.directory.record(name, values)
    return values


@pytest.mark.parametrize(
    ("tta", "gain", "views"),
    [
        ("auto", 0.2, ["zooms"]),
        ("auto", 0.0, []),
        ("auto", "noise", []),
        ("auto", -0.2, []),
        ("flip", -0.2, ["flip"]),
    ],
)
def test_views_are_kept_if_they_lower_the_loss(digits_folder, tiny, tmp_path, capsys, monkeypatch, tta, gain, views):
    with begun(digits_folder, dataclasses.replace(tiny, tta=tta, answer_precision=0.9), tmp_path / "run") as run:
        labels = run.index.valid.labels
        draw = np.random.default_rng(0)
        # one in six is wrong, and the surer the lower its place
        said = np.where(np.arange(len(labels)) % 6 == 5, (labels + 1) % 3, labels)
        sure = np.linspace(0.9, 0.6, len(labels))[:, None]
        plain = sure * np.eye(3)[said] + (1 - sure) * draw.dirichlet(np.ones(3), len(labels))
        if gain == "noise":  # better on average, by less than it scatters
            gains = np.where(np.arange(len(labels)) % 2 == 0, 0.02, -0.015)
            assert 0 < gains.mean() < gains.std(ddof=1) / np.sqrt(len(labels))
            of_label = plain[np.arange(len(labels)), labels]
            others = (1 - of_label * np.exp(gains)) / (1 - of_label)
            averaged = plain * np.where(np.eye(3)[labels] == 1, np.exp(gains)[:, None], others[:, None])
        else:
            averaged = (1 - abs(gain)) * plain + abs(gain) * (np.eye(3)[labels] if gain > 0 else 1 / 3)
        monkeypatch.setattr(run, "predict", lambda *views: [averaged if kinds else plain for kinds in views])
        chosen = run_stage(run, "evaluate")
    described = json.loads((tmp_path / "run" / "classifier.json").read_text())
    assert chosen["views"] == described["views"] == views
    kept = averaged if views else plain
    confidence, hits = kept.max(axis=1), kept.argmax(axis=1) == labels
    reached = [value for value in confidence if hits[confidence >= value].mean() >= 0.9]
    assert described["threshold"] == (pytest.approx(min(reached)) if reached else None)
    said = capsys.readouterr().out
    assert ("it answers from a probability of" in said) == bool(reached)
    assert ("averages over" in said) == bool(views)


def test_what_a_check_has_found_is_kept_for_the_next_one(digits_folder, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_SGDR_CACHE", str(tmp_path / "cache"))
    with begun(digits_folder, tiny, tmp_path / "run") as run:
        run_stage(run, "check")
    assert list((tmp_path / "cache" / CHECKS).iterdir())
    monkeypatch.setenv("KERAS_SGDR_CACHE", "off")
    with begun(digits_folder, tiny, tmp_path / "other") as run:
        assert run_stage(run, "check")["images"] == 180


def test_head_is_trained_on_the_activations_of_augmented_views(digits_folder, tiny, tmp_path, monkeypatch):
    """Besides those of the images as they are."""
    seen = []
    precompute = builders.precompute_features

    def spy(model, dataset, **options):
        features, rest = precompute(model, dataset, **options)
        activations = np.concatenate([activations for activations, _ in features.as_numpy_iterator()])
        seen.append((options["views"], activations))
        return features, rest

    monkeypatch.setattr(builders, "precompute_features", spy)
    with begun(digits_folder, dataclasses.replace(tiny, head_views=2), tmp_path / "run") as run:
        run_stage(run, "train_head")
        values = run_stage(run, "train_head_augmented")
    assert [row["stage"] for row in values["history"]] == ["head, augmented"]
    (_, plain), _, (views, augmented) = seen
    assert views == 2
    assert plain.shape == augmented.shape == (144, 16)
    assert np.abs(np.sort(plain, axis=0) - np.sort(augmented, axis=0)).max() > 1e-3


def test_find_learning_rate_leaves_no_file(digits_folder, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for whole_network_too in (False, True):
        curve = find_learning_rate(digits_folder, recipe=tiny, whole_network=whole_network_too, num_steps=20)
        assert 10 < len(curve.learning_rates) == len(curve.losses) <= 20
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_curve_without_an_answer_costs_no_run(digits_folder, tiny, tmp_path, monkeypatch):
    flat = LRCurve(np.geomspace(1e-6, 1, 60), np.full(60, 2.0), guessing_loss=1.0)
    monkeypatch.setattr(head, "lr_find", lambda *_, **__: flat)
    monkeypatch.setattr(stages, "find_rate", lambda *_, **__: flat)
    recipe = dataclasses.replace(tiny, head_learning_rate=None, learning_rate=None)
    with begun(digits_folder, recipe, tmp_path / "run") as run:
        found = {name: run_stage(run, name) for name in ("find_head_rate", "find_rate")}
    assert found["find_head_rate"]["learning_rate"] == 1e-3
    assert "it is flat" in found["find_head_rate"]["why"]
    assert found["find_rate"]["learning_rate"] == 1e-3
    assert "has not diverged" in found["find_rate"]["why"]


def test_model_no_better_than_guessing_says_so_before_it_is_exported(tiny, tmp_path):
    """Labels that have nothing to do with the images."""
    rng = np.random.default_rng(0)
    for i in range(60):
        path = tmp_path / "noise" / ("rare" if i % 3 == 0 else "common") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    with begun(tmp_path / "noise", dataclasses.replace(tiny, valid_fraction=0.5), tmp_path / "run") as run:
        run_stage(run, "train_head")
        with pytest.warns(UserWarning, match="This model is no better than guessing. It is right on"):
            run_stage(run, "evaluate")
    assert [stage.name for stage in stages.STAGES][-2:] == ["evaluate", "export"]


def test_labelled_test_images_are_scored_at_the_end(digits_folder, tiny, tmp_path, capsys):
    for split, numbers in {"train": range(30), "test": range(30, 35)}.items():
        for name in DIGITS:
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            paths = sorted((digits_folder / name).iterdir())
            for number in numbers:
                shutil.copy(paths[number], tmp_path / "pets" / split / name)
    with begun(tmp_path / "pets", tiny, tmp_path / "run") as run:
        run_stage(run, "train_head")
        values = run_stage(run, "evaluate")
        plain = run.model.predict(builders.make_dataset(run.recipe, run.index.test), verbose=0)
    probabilities = np.load(tmp_path / "run" / "predictions.npz")["test"]
    assert probabilities.shape == (15, 3)
    np.testing.assert_allclose(probabilities, plain, atol=1e-6)
    accuracy = np.mean(np.argmax(probabilities, axis=1) == np.repeat(range(3), 5))
    assert values["test_accuracy"] == pytest.approx(accuracy)
    assert f"on the 15 test images, by which nothing was chosen: accuracy {accuracy:.4f}" in capsys.readouterr().out


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
    ],
)
def test_verdict_says_whether_the_network_overfits(losses, last, words):
    def candidate(number, loss):
        hits = np.array([loss == 0, True])
        return Candidate("the head" if number == 0 else f"cycle {number}", np.full(2, loss), hits)

    rows = [{"loss": last[0], "val_loss": last[1]}] if last else []
    assert words in whole_network._verdict(rows, [candidate(*each) for each in enumerate(losses)], 1)


def test_backbone_that_is_no_file_is_named(digits_folder, tmp_path):
    with pytest.raises(ValueError, match=r"Received: backbone='nowhere\.keras'"):
        train_image_classifier(digits_folder, output=tmp_path / "run", recipe=Recipe(backbone="nowhere.keras"))


def test_stage_draws_the_same_dropout_whatever_was_drawn_before():
    ones = np.ones((4, 50), "float32")

    def make():
        return keras.Sequential([keras.Input((50,)), keras.layers.Dropout(0.5), keras.layers.Dropout(0.5)])

    def draw(model, stage):
        builders.set_stage_seed(model, 7, stage)
        return np.asarray(model(ones, training=True))

    model = make()
    first = draw(model, 3)
    assert not np.array_equal(np.asarray(model(ones, training=True)), first)
    assert not np.array_equal(draw(model, 4), first)
    assert np.array_equal(draw(model, 3), first)
    assert np.array_equal(draw(make(), 3), first)
    # two layers that drop alike would keep a half; two that do not, a quarter
    assert 0.1 < np.mean(first > 0) < 0.4


def recipe_of_run(run):
    settings = journal_of(run)["settings"]
    return Recipe(**{each.name: settings[each.name] for each in dataclasses.fields(Recipe) if each.name in settings})


def test_changed_images_are_not_resumed_with(trained_run, digits_folder, tmp_path):
    run, images = shutil.copytree(trained_run, tmp_path / "run"), shutil.copytree(digits_folder, tmp_path / "images")
    journal = (run / "run.json").read_text()
    (run / "run.json").write_text(journal.replace(str(digits_folder.resolve()), str(images.resolve())))
    again = {"output": run, "recipe": recipe_of_run(run), "resume": True, "verbose": 0}
    assert train_image_classifier(images, **again).plain.accuracy > 0.5
    sorted((images / "one").iterdir())[0].rename(images / "one" / "another.png")
    with pytest.raises(ValueError, match=r"Received: images='[0-9a-f]{16}'; it began with"):
        train_image_classifier(images, **again)


@pytest.mark.parametrize("name", ["train", "valid"])
def test_class_may_be_called_as_a_split_is_if_one_says_so(tiny, tmp_path, name):
    for label in (name, "truck"):
        (tmp_path / label).mkdir()
        for i in range(5):
            (tmp_path / label / f"{i}.png").write_bytes(b"")
    index = index_for(tmp_path, dataclasses.replace(tiny, train="."))
    assert index.class_names == tuple(sorted((name, "truck")))
    assert len(index.train) == 8
    assert len(index.valid) == 2


@pytest.mark.slow
def test_stages_list_the_settings_that_they_read(digits_folder, tiny, tmp_path, monkeypatch):
    """Those in no stage's list shape the images and the model from the start, and cannot change on resumption."""
    reads = {stage.name: set() for stage in stages.STAGES}
    made_of = {
        "mixes_labels": ["mixup", "cutmix", "label_smoothing"],
        "top_learning_rate": ["learning_rate", "learning_rates", "rate_batch_size"],
        "views": ["tta", "augmentation"],
        "num_views": ["tta", "augmentation"],
        "live_head_rate": ["head_learning_rate", "rate_batch_size"],
    }
    at_work = []

    class Recording:
        def __init__(self, recipe):
            self._recipe = recipe

        def __getattr__(self, name):
            if at_work:
                reads[at_work[0]].update(made_of.get(name, [name]))
            return getattr(self._recipe, name)

        def at_size(self, image_size):
            return Recording(self._recipe.at_size(image_size))

    def recorded(stage):
        def run(run):
            at_work[:] = [stage.name]
            values = stage.run(run)
            at_work.clear()
            return values

        return dataclasses.replace(stage, run=run)

    monkeypatch.setattr(train, "STAGES", tuple(map(recorded, stages.STAGES)))
    monkeypatch.setattr(train, "Run", lambda recipe, *rest: Run(Recording(recipe), *rest))
    recipe = dataclasses.replace(tiny, head_views=1, head_cycles=1, learning_rate=None, head_learning_rate=None)
    recipe = dataclasses.replace(recipe, sizes=(20, 24, 32))  # of which the second is compiled anew
    train_image_classifier(digits_folder, output=tmp_path / "run", recipe=recipe, verbose=0)
    may_change = {name for stage in stages.STAGES for name in stage.settings}
    assert may_change <= {field.name for field in dataclasses.fields(Recipe)}
    for stage in stages.STAGES:
        assert reads[stage.name] & may_change <= {*stage.settings, *stage.may_be_given_later}, stage.name
        assert {*stage.settings, *stage.may_be_given_later} <= reads[stage.name] | {"cycle_mult"}, stage.name


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


def test_a_stage_that_is_resumed_sees_its_activations_in_the_order_of_an_unbroken_run(
    digits_folder, tiny, tmp_path, monkeypatch
):
    """After the stages that come before it, and where those were done by another process."""
    recipe = dataclasses.replace(tiny, head_learning_rate=None)
    monkeypatch.setattr(train, "STAGES", stages.STAGES[:3])
    curves = []
    for name in ("unbroken", "resumed"):
        keras.utils.set_random_seed(recipe.seed)
        with RunDirectory(tmp_path / name, settings={}, stages=stages.STAGES) as directory:
            if name == "resumed":
                for stage in stages.STAGES[:2]:
                    directory.record(stage.name, {"seconds": 0.0})
            train._run_stages(Run(recipe, index_for(digits_folder, recipe), directory, 0))
        curves.append((tmp_path / name / "lr_finder_head.csv").read_text())
    assert curves[0] == curves[1]


def test_model_that_has_diverged_is_the_worst_candidate(digits_folder, tiny):
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.set_weights([np.full(weight.shape, np.nan, "float32") for weight in model.weights])
    index = index_for(digits_folder, tiny)
    valid = load_dataset(index.valid, image_size=32)
    run = SimpleNamespace(index=index, predictor=model, valid_images=lambda: valid, workers=Workers(None))
    run.predict = lambda *views: Run.predict(run, *views)
    found = Run.candidate(run, "the model")
    assert found.loss == pytest.approx(np.log(1e7))


def test_heads_optimum_does_not_depend_on_the_order_of_its_images():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)).astype("float32"), rng.integers(0, 3, 60).astype("int32")
    kernels = []
    for seed in (1, 2):
        data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(60, seed=seed).batch(16)
        head = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, "softmax")])
        builders.fit_head([data, data], data, head, Workers(None))
        kernels.append(head.layers[-1].get_weights()[0])
    assert np.array_equal(*kernels)
