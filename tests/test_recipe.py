import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from keras_sgdr import from_recipe, steps
from keras_sgdr.data.dataset import load_dataset
from keras_sgdr.finished_run import evaluate_run
from keras_sgdr.models.batch_norm import recalibrate_batch_norm
from keras_sgdr.models.layer_groups import layer_groups
from keras_sgdr.recipe import digest_of, find_learning_rate, index_for, train_image_classifier
from keras_sgdr.run import Run, set_stage_seed
from keras_sgdr.settings import Recipe
from keras_sgdr.training.lr_curve import LRCurve
from keras_sgdr_cli.demo import write_digits
from keras_sgdr_cli.main import cli

CLASSES = ("one", "seven", "zero")
SMALL = Recipe(image_size=32, batch_size=16, augmentation="basic", resize="squish", head_cycles=1, n_cycles=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Handwritten digits of three classes, 60 of each."""
    everything = tmp_path_factory.mktemp("all")
    write_digits(everything)
    few = tmp_path_factory.mktemp("digits")
    for name in CLASSES:
        (few / name).mkdir()
        for path in sorted((everything / name).iterdir())[:60]:
            path.rename(few / name / path.name)
    return few


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory):
    return train_image_classifier(folder, output=tmp_path_factory.mktemp("out") / "run", recipe=SMALL, verbose=0)


def test_digits_are_learnt(result):
    assert result.tta.accuracy > 0.9
    assert result.class_names == CLASSES
    assert len(result.plain.labels) == 36


def test_history_has_every_epoch_of_every_stage(result):
    assert [row["stage"] for row in result.history] == ["head"] * 2 + ["head, augmented"] + ["all"] * 3
    assert all(np.isfinite(row["loss"]) and np.isfinite(row["val_loss"]) for row in result.history)


def test_run_directory_holds_what_was_promised(result):
    names = {path.name for path in result.output.iterdir()}
    assert names == {
        "model.keras",
        "classifier.json",
        "run.json",
        "history.csv",
        "predictions.npz",
        "lr_finder_head.png",
        "lr_finder_all.png",
        "schedule.png",
        "history.png",
        "confusion_matrix.png",
        "top_losses.png",
        "export",
    }


def test_rates_of_training_are_the_finders_suggestions(result):
    stages = json.loads((result.output / "run.json").read_text())["stages"]
    first = next(row for row in result.history if row["stage"] == "all")
    # the rate at the end of the first epoch is that of its last batch, far below the peak it started from
    assert 0 < first["learning_rate"] < stages["find_rate"]["learning_rate"]


def test_model_predicts_the_same_in_a_new_process(result, folder, tmp_path):
    paths = sorted((folder / "seven").iterdir())[:5]
    images = np.stack([tf.image.resize(tf.io.decode_png(path.read_bytes(), 3), (32, 32)) for path in paths])
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, keras, keras_sgdr\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "np.save(sys.argv[2] + '/out.npy', model.predict(np.load(sys.argv[2] + '/images.npy'), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", code, str(result.output / "model.keras"), str(tmp_path)], check=True)
    assert np.allclose(np.load(tmp_path / "out.npy"), result.model.predict(images, verbose=0), atol=1e-6)


def test_predict_command_agrees_with_the_export(result, folder):
    paths = [folder / "one", sorted((folder / "zero").iterdir())[0]]
    done = CliRunner().invoke(cli, ["predict", str(result.output), *map(str, paths)])
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert len(rows) == 61
    serve = tf.saved_model.load(str(result.export)).signatures["serving_default"]
    answer = serve(image_bytes=tf.constant([Path(row["path"]).read_bytes() for row in rows]))
    printed = np.array([[float(row[name]) for name in CLASSES] for row in rows])
    assert np.allclose(printed, answer["probabilities"], atol=1e-5)
    assert [row["predicted_class"].encode() for row in rows] == answer["predicted_class"].numpy().tolist()


def test_predict_names_what_is_no_picture_and_keeps_the_rest(result, folder, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    good = sorted((folder / "zero").iterdir())[0]
    arguments = ["predict", str(result.output), str(tmp_path / "notes.jpg"), str(good), "--format", "json"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    assert [row["path"] for row in json.loads(done.stdout)] == [str(good)]
    assert f"{tmp_path / 'notes.jpg'}: not a picture: " in done.stderr
    assert "Graph execution" not in done.stderr


def test_evaluate_command_sees_the_held_out_pictures(result, folder, tmp_path):
    done = CliRunner().invoke(cli, ["evaluate", str(result.output), str(folder), "-o", str(tmp_path / "plots")])
    assert done.exit_code == 0, done.stderr
    assert f"plain: accuracy {result.plain.accuracy:.4f}" in done.stdout
    assert f"with test-time augmentation: accuracy {result.tta.accuracy:.4f}" in done.stdout
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"confusion_matrix.png", "top_losses.png"}


def test_folder_of_new_pictures_is_evaluated_whole(result, folder, tmp_path):
    new = tmp_path / "new"
    for name in CLASSES:
        shutil.copytree(folder / name, new / name)
    (new / "one" / "another.png").write_bytes(sorted((new / "one").iterdir())[0].read_bytes())
    assert len(evaluate_run(result.output, new, tta_views=0, verbose=0)["plain"].labels) == 181
    assert len(evaluate_run(result.output, new, split="valid", tta_views=0, verbose=0)["plain"].labels) == 36
    assert len(evaluate_run(result.output, folder, split="train", tta_views=0, verbose=0)["plain"].labels) == 144
    with pytest.raises(ValueError, match="Received: split='test'"):
        evaluate_run(result.output, new, split="test")


def test_export_command_adds_a_version(result, tmp_path):
    for version in ("1", "2"):
        done = CliRunner().invoke(cli, ["export", str(result.output), str(tmp_path)])
        assert done.stdout.strip() == str(tmp_path / version)


def test_finished_run_is_resumed_to_the_same_result(result, folder):
    again = train_image_classifier(folder, output=result.output, recipe=SMALL, resume=True, verbose=0)
    assert np.array_equal(again.tta.probabilities, result.tta.probabilities)
    for mine, theirs in zip(again.model.weights, result.model.weights, strict=True):
        assert np.array_equal(mine.numpy(), theirs.numpy()), mine.path


@pytest.fixture(scope="module")
def quick(folder, tmp_path_factory):
    """A recipe that takes seconds: a small network with random weights.

    Its batch norms have seen the pictures; without that its activations die out, and nothing that is done to the
    pictures would show.
    """
    keras.utils.set_random_seed(0)
    backbone = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
    recalibrate_batch_norm(backbone, load_dataset(index_for(folder, SMALL).train, image_size=32, batch_size=72))
    path = tmp_path_factory.mktemp("weights") / "alive.weights.h5"
    backbone.save_weights(path)
    return Recipe(
        backbone="MobileNet",
        weights=str(path),
        image_size=32,
        batch_size=32,
        augmentation="basic",
        head_epochs=1,
        head_cycles=1,
        n_cycles=1,
        tta_views=1,
        head_learning_rate=1e-3,
        learning_rate=1e-3,
    )


def test_interrupted_run_ends_as_an_unbroken_one(folder, quick, tmp_path, monkeypatch):
    """Interrupted twice: between two stages, and in the midst of the last."""
    recipe = dataclasses.replace(quick, n_cycles=2, cycle_mult=1)
    unbroken = train_image_classifier(folder, output=tmp_path / "unbroken", recipe=recipe, verbose=0)
    # Another rate than the finder's may be given when its curve has been seen.
    first = dataclasses.replace(recipe, learning_rate=0.5)
    broken = {"output": tmp_path / "broken", "recipe": first, "verbose": 0, "resume": True}

    def ctrl_c(*arguments, **options):
        raise KeyboardInterrupt

    class CtrlCInTheSecondEpoch(steps.StopWhenOverfitting):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations.numpy() == 6:
                raise KeyboardInterrupt

    # with an image cache, too, which changes nothing
    cached = dataclasses.replace(recipe, image_cache="memory")
    for name, interrupting in {"compile_all": ctrl_c, "StopWhenOverfitting": CtrlCInTheSecondEpoch}.items():
        with monkeypatch.context() as patch:
            patch.setattr(steps, name, interrupting)
            with pytest.raises(KeyboardInterrupt):
                train_image_classifier(folder, **broken)
        broken["recipe"] = recipe
    assert (tmp_path / "broken" / "train_all.checkpoint").is_file()
    with pytest.raises(ValueError, match=r"Received: \{'cycle_len': 3\}"):
        train_image_classifier(folder, **{**broken, "recipe": dataclasses.replace(recipe, cycle_len=3)})
    resumed = train_image_classifier(folder, **{**broken, "recipe": cached})
    assert not list((tmp_path / "broken").glob("*.checkpoint"))
    # To the last bits, in which threads add up differently.
    assert [row["stage"] for row in resumed.history] == ["head", "head, augmented", "all", "all"]
    for mine, theirs in zip(resumed.history, unbroken.history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert np.allclose(resumed.plain.probabilities, unbroken.plain.probabilities, atol=1e-4)


def test_gradual_unfreezing_trains_a_group_more_in_each_cycle(folder, quick, tmp_path, monkeypatch):
    recipe = dataclasses.replace(quick, n_cycles=3, cycle_mult=1, gradual_unfreezing=True, tta_views=0)
    moved = []

    def weights_of(group):
        return [weight.numpy().tobytes() for layer in group for weight in layer.weights]

    fit = Run.fit

    def spy(self, model, data, valid, stage, epochs, *callbacks, **options):
        groups = layer_groups(self.model)
        before = [weights_of(group) for group in groups]

        def compare(*_):  # before the best cycle's weights come back
            moved.append([weights_of(group) != old for group, old in zip(groups, before, strict=True)])

        comparing = keras.callbacks.LambdaCallback(on_epoch_end=compare)
        return fit(self, model, data, valid, stage, epochs, *callbacks, comparing, **options)

    monkeypatch.setattr(steps, "StopWhenOverfitting", partial(steps.StopWhenOverfitting, patience=9))
    monkeypatch.setattr(Run, "fit", spy)
    result = train_image_classifier(folder, output=tmp_path / "run", recipe=recipe, verbose=0)
    assert moved[2:] == [[False, True, True], [True, True, True], [True, True, True]]
    assert [(row["stage"], row["epoch"]) for row in result.history[2:]] == [("all", 1), ("all", 2), ("all", 3)]


def test_stage_draws_the_same_dropout_whatever_was_drawn_before():
    ones = np.ones((4, 50), "float32")

    def make():
        return keras.Sequential([keras.Input((50,)), keras.layers.Dropout(0.5), keras.layers.Dropout(0.5)])

    def draw(model, stage):
        set_stage_seed(model, 7, stage)
        return np.asarray(model(ones, training=True))

    model = make()
    first = draw(model, 3)
    assert not np.array_equal(np.asarray(model(ones, training=True)), first)
    assert not np.array_equal(draw(model, 4), first)
    assert np.array_equal(draw(model, 3), first)
    assert np.array_equal(draw(make(), 3), first)
    # two layers that drop alike would keep a half; two that do not, a quarter
    assert 0.1 < np.mean(first > 0) < 0.4


def test_head_is_trained_on_the_activations_of_augmented_views(folder, quick, tmp_path, monkeypatch):
    """Not of the pictures as they are; with nothing left to train on pictures but the last step."""
    recipe = dataclasses.replace(quick, head_cycles=2, head_views=2)
    seen = []
    precompute = from_recipe.precompute_features

    def spy(model, dataset, **options):
        features, rest = precompute(model, dataset, **options)
        seen.append(
            (options["views"], np.concatenate([activations for activations, _ in features.as_numpy_iterator()]))
        )
        return features, rest

    monkeypatch.setattr(from_recipe, "precompute_features", spy)
    result = train_image_classifier(folder, output=tmp_path / "run", recipe=recipe, verbose=0)
    assert [row["stage"] for row in result.history] == ["head"] + ["head, augmented"] * 2 + ["all"]
    (_, plain), _, (views, augmented) = seen
    assert views == 2
    assert plain.shape == augmented.shape == (144, plain.shape[1])
    assert np.abs(np.sort(plain, axis=0) - np.sort(augmented, axis=0)).max() > 1e-3


def test_find_learning_rate_leaves_no_file(folder, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    curve = find_learning_rate(folder, recipe=quick, num_steps=20)
    assert len(curve.learning_rates) == len(curve.losses) <= 20
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"augmentation": "sideways"}, "augmentation='sideways'"),
        ({"image_size": 0}, "image_size=0"),
        ({"n_cycles": 1.5}, "n_cycles=1.5"),
        ({"group_factor": 0.5}, "group_factor=0.5"),
        ({"num_groups": 1}, "num_groups=1"),
        ({"cycle_mult": 0}, "cycle_mult=0"),
        ({"tta_views": -1}, "tta_views=-1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"resize": "stretch"}, "resize='stretch'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"valid_fraction": None}, "valid_fraction=None"),
        ({"max_zoom": "1.1"}, "max_zoom='1.1'"),
        ({"gradual_unfreezing": "no"}, "gradual_unfreezing='no'"),
    ],
)
def test_bad_settings_are_named(arguments, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        Recipe(**arguments)


def test_curve_without_an_answer_costs_no_run(tmp_path):
    said = []
    run = SimpleNamespace(directory=SimpleNamespace(path=tmp_path), say=said.append)
    flat = LRCurve(np.geomspace(1e-6, 1, 60), np.full(60, 2.0))
    values = Run.suggested(run, flat, "valley", "curve.png", otherwise=1e-3)
    assert values == {"learning_rate": 1e-3}
    assert "it is flat" in said[0]
    assert (tmp_path / "curve.png").is_file()


def test_changed_pictures_are_not_resumed_with(folder, quick, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "pictures")
    before = digest_of(index_for(copy, quick))
    assert digest_of(index_for(copy, quick)) == before
    sorted((copy / "one").iterdir())[0].rename(copy / "one" / "another.png")
    assert digest_of(index_for(copy, quick)) != before


@pytest.mark.parametrize("name", ["train", "valid"])
def test_class_may_be_called_as_a_split_is(quick, tmp_path, name):
    for label in (name, "truck"):
        (tmp_path / label).mkdir()
        for i in range(5):
            (tmp_path / label / f"{i}.png").write_bytes(b"")
    index = index_for(tmp_path, quick)
    assert index.class_names == tuple(sorted((name, "truck")))
    assert len(index.train) == 8
    assert len(index.valid) == 2


def test_every_setting_that_may_change_is_one_and_is_read_by_a_stage():
    assert set(steps.READ_BY) <= {field.name for field in dataclasses.fields(Recipe)}
    assert set(steps.READ_BY.values()) <= {name for name, _, _ in steps.STAGES}
