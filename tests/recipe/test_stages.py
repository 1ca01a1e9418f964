"""Each stage alone: with a backbone of six layers, so in seconds."""

import dataclasses
import itertools
import json
import re
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.distribution.workers import Workers
from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.precompute.feature_cache import CHECKS
from keras_sgdr.recipe import builders, head, stages, train
from keras_sgdr.recipe.images import index_for
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.run_directory import RunDirectory
from keras_sgdr.recipe.train import train_image_classifier
from tests.conftest import DIGITS
from tests.recipe.one_stage import COSTS, begun, candidate_of_loss, run_stage


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
        (tmp_path / "run" / "findings.csv").write_text("of a run before")
        assert run_stage(run, "check")["findings"] == {}
        assert not (tmp_path / "run" / "findings.csv").exists()
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
    x[:, :4] = 0  # as after a ReLU
    kernels = []
    for seed in (1, 2):
        data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(60, seed=seed).batch(16)
        head = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, "softmax")])
        builders.fit_head([data, data], data, head, Workers(None))
        kernels.append(head.layers[-1].get_weights()[0])
    assert np.array_equal(*kernels)


def test_each_stage_draws_from_a_seed_of_its_own():
    assert len({stage.seed for stage in stages.STAGES}) == len(stages.STAGES)


def test_minutes_that_have_passed_are_not_planned_with(digits_folder, tiny, tmp_path, monkeypatch, capsys):
    """Epochs of 5 batches, each of which is said to take 10 seconds: 10 minutes have room for 11, and 2 for two."""
    costs = dataclasses.replace(COSTS, train=10.0, prepare_predict=0.0, prepare_train=0.0)
    monkeypatch.setattr(stages, "measure", lambda *_: costs)
    epochs = []
    for passed in (0, 480):
        monkeypatch.setattr(Run, "elapsed", passed)
        with begun(digits_folder, dataclasses.replace(tiny, max_minutes=10, cycle_len=50), tmp_path / "run") as run:
            run.directory.record("check", {"seconds": 0.18})
            planned = run_stage(run, "plan")["stages"]
            epochs.append(int(re.search(r"(\d+) epochs of everything", str(planned))[1]))
            epochs.append(run_stage(run, "fit_plan")["cycles"]["cycle_len"])
        said = capsys.readouterr().out
        assert "in all" in said  # the table
        assert f"{10 - passed / 60:.1f} minutes are left: {epochs[-1]} epochs of everything" in said
        shutil.rmtree(tmp_path / "run")
    assert epochs == [11, 11, 2, 2]


@pytest.mark.parametrize(
    ("head_views", "head_cycles", "made"),
    [(0, 0, []), (2, 0, ["images", "views"]), (0, 1, ["images"]), (2, 1, ["images", "views"])],
)
def test_step_4_makes_the_activations_that_it_reads(head_views, head_cycles, made):
    """Before its seed is set: a run that is resumed has made them too."""
    done = []
    run = SimpleNamespace(
        head_views=head_views,
        recipe=SimpleNamespace(head_cycles=head_cycles),
        precompute=lambda: done.append("images"),
        precompute_views=lambda: done.append("views"),
    )
    (stage,) = (stage for stage in stages.STAGES if stage.name == "train_head_augmented")
    stage.prepare(run)
    assert done == made


def test_what_each_training_leaves_is_what_a_run_goes_on_from(digits_folder, tiny, tmp_path, monkeypatch):
    recipe = dataclasses.replace(tiny, head_views=1, head_cycles=1, sizes=(24, 32), learning_rate=1e-4)
    left, losses = [], iter(np.linspace(0.6, 0.1, 20))  # each model better than the one before, so that all stay
    monkeypatch.setattr(head, "_candidate", lambda _, name: candidate_of_loss(name, next(losses)))
    monkeypatch.setattr(Run, "candidate", lambda _, name: candidate_of_loss(name, next(losses)))
    with begun(digits_folder, recipe, tmp_path / "run") as run:
        for number, stage in enumerate(stages.STAGES, start=1):
            if stage.name in ("train_head", "train_head_augmented", "train_smaller", "train_all"):
                monkeypatch.setattr(train, "STAGES", stages.STAGES[:number])
                train._run_stages(run)
                again = builders.make_model(recipe.at_size(run.recipe.image_size), 3, None)
                run.directory.restore(again)
                left.append(run.model.get_weights())
                for found, expected in zip(again.get_weights(), left[-1], strict=True):
                    np.testing.assert_array_equal(found, expected)
    moved = [[not np.array_equal(*pair) for pair in zip(*models, strict=True)] for models in itertools.pairwise(left)]
    assert moved[0] == [False] * (len(left[0]) - 2) + [True, True]  # in step 4 the head alone, a kernel and a bias
    assert [model[0] for model in moved] == [False, True, True]  # the first layer


def test_a_model_that_has_diverged_is_refused_at_the_end(digits_folder, tiny, tmp_path, monkeypatch):
    with begun(digits_folder, tiny, tmp_path / "run") as run:
        monkeypatch.setattr(run, "predict", lambda *views: [np.full((36, 3), np.nan) for _ in views])
        with pytest.raises(ValueError, match=r"`model` must return finite values. Received: a row \[nan nan nan\]"):
            run_stage(run, "evaluate")
