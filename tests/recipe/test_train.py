import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.models.batch_norm import recalibrate_batch_norm
from keras_sgdr.models.layer_groups import layer_groups
from keras_sgdr.recipe import builders as from_recipe
from keras_sgdr.recipe import stages as steps
from keras_sgdr.recipe import whole_network
from keras_sgdr.recipe.evaluate import evaluate_run
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run import Run, set_stage_seed
from keras_sgdr.recipe.train import digest_of, find_learning_rate, index_for, train_image_classifier
from keras_sgdr_cli.demo import write_digits
from keras_sgdr_cli.main import cli

CLASSES = ("one", "seven", "zero")
SMALL = Recipe(
    image_size=32, batch_size=16, augmentation="basic", resize="squish", head_cycles=1, n_cycles=2, cycle_len=1
)


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
    stages = [row["stage"] for row in result.history]
    assert stages[:3] == ["head", "head, augmented", "head, live"]
    # A first attempt at step 8 may be undone: the head is good at these few images already.
    assert set(stages[3:]) <= {"all", "all, undone"}
    assert [row["epoch"] for row in result.history[3:]] in ([1, 2, 3], [1, 2, 3] * 2, [1, 1, 2, 3])
    assert all(np.isfinite(row["loss"]) and np.isfinite(row["val_loss"]) for row in result.history)


def test_run_directory_holds_what_was_promised(result):
    names = {path.name for path in result.output.iterdir()}
    assert names == {
        "model.keras",
        "classifier.json",
        "run.json",
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


def test_rates_of_training_are_the_chosen_ones(result):
    stages = json.loads((result.output / "run.json").read_text())["stages"]
    chosen = stages["find_rate"]
    assert 0 < chosen["learning_rate"] <= 1e-3
    assert "the curve" in chosen["why"]
    # Cycles of one and two epochs of 9 batches, of which the first 4 rise to the peak. The last batch of the
    # first epoch is the last of the 5 of its cosine, that of the second epoch the fifth of 14.
    rates = [row["learning_rate"] for row in result.history if row["stage"].startswith("all")]
    assert rates[0] == pytest.approx(chosen["learning_rate"] * (1 + np.cos(np.pi * 4 / 5)) / 2, rel=1e-4)
    outcome = stages["train_all"]
    last = outcome["learning_rate"] or outcome["undone"][-1]["learning_rate"]
    assert rates[-2] == pytest.approx(last * (1 + np.cos(np.pi * 4 / 14)) / 2, rel=1e-4)
    assert [each["learning_rate"] for each in outcome["undone"]][:1] in ([], [chosen["learning_rate"]])


def test_curves_are_kept_for_programs_too(result):
    for name in ("head", "all"):
        with (result.output / f"lr_finder_{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert 10 < len(rows) <= 100
        assert float(rows[0]["learning_rate"]) < float(rows[-1]["learning_rate"])


def test_run_ends_with_the_best_of_what_it_had(result):
    outcome = json.loads((result.output / "run.json").read_text())["stages"]["train_all"]
    assert [each["name"] for each in outcome["candidates"]] == ["the head", "cycle 1", "cycle 2"]
    best = next(each for each in outcome["candidates"] if each["name"] == outcome["best"])
    assert result.plain.accuracy == pytest.approx(best["accuracy"])
    assert result.plain.loss == pytest.approx(best["loss"], abs=1e-3)
    assert best["loss"] <= outcome["candidates"][0]["loss"]
    assert outcome["verdict"]


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


def test_predict_names_what_is_no_image_and_keeps_the_rest(result, folder, tmp_path):
    (tmp_path / "notes.jpg").write_text("no image")
    good = sorted((folder / "zero").iterdir())[0]
    arguments = ["predict", str(result.output), str(tmp_path / "notes.jpg"), str(good), "--format", "json"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    assert [row["path"] for row in json.loads(done.stdout)] == [str(good)]
    assert f"{tmp_path / 'notes.jpg'}: no image: " in done.stderr
    assert "Graph execution" not in done.stderr


def test_evaluate_command_sees_the_held_out_images(result, folder, tmp_path):
    done = CliRunner().invoke(cli, ["evaluate", str(result.output), str(folder), "-o", str(tmp_path / "plots")])
    assert done.exit_code == 0, done.stderr
    assert f"plain: accuracy {result.plain.accuracy:.4f}" in done.stdout
    assert f"with test-time augmentation: accuracy {result.tta.accuracy:.4f}" in done.stdout
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"confusion_matrix.png", "top_losses.png"}


def test_folder_of_new_images_is_evaluated_whole(result, folder, tmp_path):
    new = tmp_path / "new"
    for name in CLASSES:
        shutil.copytree(folder / name, new / name)
    (new / "one" / "another.png").write_bytes(sorted((new / "one").iterdir())[0].read_bytes())
    assert len(evaluate_run(result.output, new, tta_views=0, verbose=0)["plain"].labels) == 181
    assert len(evaluate_run(result.output, folder, split="train", tta_views=0, verbose=0)["plain"].labels) == 144
    with pytest.raises(ValueError, match=r"Received: split='test', folder=.* with all"):
        evaluate_run(result.output, new, split="test")
    with pytest.raises(ValueError, match="Received: split='holiday'"):
        evaluate_run(result.output, new, split="holiday")


def test_folder_that_lacks_a_class_is_evaluated_and_one_with_another_is_refused(result, folder, tmp_path):
    new = tmp_path / "new"
    (new / "seven").mkdir(parents=True)
    shutil.copy(sorted((folder / "seven").iterdir())[0], new / "seven")
    done = CliRunner().invoke(cli, ["evaluate", str(result.output), str(new), "--tta-views", "0"])
    assert done.exit_code == 0, done.stderr
    assert "no images of: one, zero" in done.stdout
    assert "1 images" in done.stdout
    (new / "seven").rename(new / "eight")
    with pytest.raises(ValueError, match=r"no other classes than one, seven, zero\. Received: eight"):
        evaluate_run(result.output, new, verbose=0)


def test_split_that_is_there_is_evaluated(result, folder, tmp_path):
    for split, number in (("Train", 3), ("val", 2), ("testing", 1)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for path in sorted((folder / name).iterdir())[:number]:
                shutil.copy(path, tmp_path / split / name)
    for split, count in ((None, 6), ("train", 9), ("valid", 6), ("test", 3), ("all", 18)):
        found = evaluate_run(result.output, tmp_path, split=split, tta_views=0, verbose=0)["plain"]
        assert len(found.labels) == count


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

    Its batch norms have seen the images; without that its activations die out, and nothing that is done to the
    images would show.
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
        head_views=0,
        head_cycles=1,
        n_cycles=1,
        cycle_len=1,
        tta_views=1,
        head_learning_rate=1e-3,
        learning_rate=1e-3,
    )


def test_interrupted_run_ends_as_an_unbroken_one(folder, quick, tmp_path, monkeypatch):
    """Interrupted twice: between two stages, and in the midst of the last."""
    # at a rate that does no harm, for that would be undone
    recipe = dataclasses.replace(quick, n_cycles=2, cycle_mult=1, learning_rate=1e-5)
    unbroken = train_image_classifier(folder, output=tmp_path / "unbroken", recipe=recipe, verbose=0)
    # Another rate than the finder's may be given when its curve has been seen.
    first = dataclasses.replace(recipe, learning_rate=0.5)
    broken = {"output": tmp_path / "broken", "recipe": first, "verbose": 0, "resume": True}

    def ctrl_c(*arguments, **options):
        raise KeyboardInterrupt

    class CtrlCInTheSecondEpoch(whole_network.CycleCandidates):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations.numpy() == 6:
                raise KeyboardInterrupt

    # with an image cache, too, which changes nothing
    cached = dataclasses.replace(recipe, image_cache="memory")
    for name, interrupting in {"compile_all": ctrl_c, "CycleCandidates": CtrlCInTheSecondEpoch}.items():
        with monkeypatch.context() as patch:
            patch.setattr(whole_network, name, interrupting)
            with pytest.raises(KeyboardInterrupt):
                train_image_classifier(folder, **broken)
        broken["recipe"] = recipe
    assert (tmp_path / "broken" / "train_all.checkpoint").is_file()
    with pytest.raises(ValueError, match=r"Received: \{'cycle_len': 3\}"):
        train_image_classifier(folder, **{**broken, "recipe": dataclasses.replace(recipe, cycle_len=3)})
    resumed = train_image_classifier(folder, **{**broken, "recipe": cached})
    assert not list((tmp_path / "broken").glob("*.checkpoint"))
    # To the last bits, in which threads add up differently.
    assert [row["stage"] for row in resumed.history] == [row["stage"] for row in unbroken.history]
    assert [row["stage"] for row in resumed.history][-2:] == ["all", "all"]
    for mine, theirs in zip(resumed.history, unbroken.history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert np.allclose(resumed.plain.probabilities, unbroken.plain.probabilities, atol=1e-4)


def test_gradual_unfreezing_trains_a_group_more_in_each_cycle(folder, quick, tmp_path, monkeypatch):
    # at a rate that does no harm, for that would end it
    slow = {"learning_rate": 1e-6, "gradual_unfreezing": True}
    recipe = dataclasses.replace(quick, n_cycles=3, cycle_mult=1, tta_views=0, **slow)
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

    class NeverStops(whole_network.CycleCandidates):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            self.model.stop_training = False

    monkeypatch.setattr(whole_network, "CycleCandidates", NeverStops)
    monkeypatch.setattr(whole_network, "MAX_ATTEMPTS", 1)  # nothing is learnt here that would be better than the head
    monkeypatch.setattr(Run, "fit", spy)
    result = train_image_classifier(folder, output=tmp_path / "run", recipe=recipe, verbose=0)
    assert moved[1:] == [[False, True, True], [True, True, True], [True, True, True]]
    assert [row["epoch"] for row in result.history[2:]] == [1, 2, 3]


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
    """Besides those of the images as they are."""
    recipe = dataclasses.replace(quick, head_cycles=0, head_views=2)
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
    assert [row["stage"] for row in result.history][:2] == ["head", "head, augmented"]
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
        ({"gradual_unfreezing": True}, "n_cycles=1, num_groups=3"),
    ],
)
def test_bad_settings_are_named(arguments, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        Recipe(**arguments)


def test_rate_that_ruins_the_network_is_undone_and_the_head_stands(folder, result, tmp_path, capsys):
    """A network thrown off by its rate, and by a tenth of it, ends as the head alone, and says so."""
    recipe = dataclasses.replace(SMALL, head_cycles=0, learning_rate=3.0, tta_views=0)
    ruined = train_image_classifier(folder, output=tmp_path / "run", recipe=recipe)
    outcome = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["train_all"]
    assert outcome["best"] == "the head"
    assert [row["stage"] for row in ruined.history if row["stage"].startswith("all")] == ["all, undone"] * 2
    head = [row for row in ruined.history if row["stage"].startswith("head")]
    assert ruined.plain.loss == pytest.approx(min(row["val_loss"] for row in head), abs=1e-3)
    said = capsys.readouterr().out
    assert "undone: cycle 1" in said
    assert "Training the whole network made it no better" in said


def test_curve_without_an_answer_costs_no_run(folder, quick, tmp_path, monkeypatch):
    flat = LRCurve(np.geomspace(1e-6, 1, 60), np.full(60, 2.0), guessing_loss=1.0)
    monkeypatch.setattr(steps, "lr_find", lambda *_, **__: flat)
    monkeypatch.setattr(steps, "find_rate", lambda *_, **__: flat)
    recipe = dataclasses.replace(quick, head_learning_rate=None, learning_rate=None)
    train_image_classifier(folder, output=tmp_path / "run", recipe=recipe, verbose=0)
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert stages["find_head_rate"]["learning_rate"] == 1e-3
    assert "it is flat" in stages["find_head_rate"]["why"]
    assert stages["find_rate"]["learning_rate"] == 1e-3
    assert "has not diverged" in stages["find_rate"]["why"]


def test_model_no_better_than_guessing_says_so(quick, tmp_path, capsys):
    """Labels that have nothing to do with the images."""
    rng = np.random.default_rng(0)
    for i in range(60):
        path = tmp_path / "noise" / ("rare" if i % 3 == 0 else "common") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(rng.integers(0, 256, (32, 32, 3)).astype("uint8")).numpy())
    recipe = dataclasses.replace(quick, valid_fraction=0.5, head_cycles=0)
    train_image_classifier(tmp_path / "noise", output=tmp_path / "run", recipe=recipe)
    said = capsys.readouterr().out
    assert "WARNING: this model is no better than guessing. It is right on" in said
    assert said.index("no better than guessing") < said.index("exported")


def test_changed_images_are_not_resumed_with(folder, quick, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "images")
    before = digest_of(index_for(copy, quick))
    assert digest_of(index_for(copy, quick)) == before
    sorted((copy / "one").iterdir())[0].rename(copy / "one" / "another.png")
    assert digest_of(index_for(copy, quick)) != before


@pytest.mark.parametrize("name", ["train", "valid"])
def test_class_may_be_called_as_a_split_is_if_one_says_so(quick, tmp_path, name):
    for label in (name, "truck"):
        (tmp_path / label).mkdir()
        for i in range(5):
            (tmp_path / label / f"{i}.png").write_bytes(b"")
    index = index_for(tmp_path, dataclasses.replace(quick, train="."))
    assert index.class_names == tuple(sorted((name, "truck")))
    assert len(index.train) == 8
    assert len(index.valid) == 2


def test_every_setting_that_may_change_is_one_and_is_read_by_a_stage():
    assert set(steps.READ_BY) <= {field.name for field in dataclasses.fields(Recipe)}
    assert set(steps.READ_BY.values()) <= {name for name, _, _ in steps.STAGES}


@pytest.mark.parametrize(("images", "epochs"), [(5, 70), (100, 49), (600, 10), (5000, 7)])
def test_first_cycle_of_a_small_folder_has_more_epochs(images, epochs):
    """About 200 batches of 32: 100 images make 4 batches an epoch, 600 make 19."""
    run = Run.__new__(Run)  # without its model
    run.recipe, run.index = Recipe(), SimpleNamespace(train=range(images))
    assert run.cycle_len == epochs
    run.recipe = Recipe(cycle_len=3)
    assert run.cycle_len == 3


def test_softened_model_has_a_temperature():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    before = model.predict(x, verbose=0)
    whole_network.soften(model, 2.0)
    roots = np.sqrt(before)
    np.testing.assert_allclose(model.predict(x, verbose=0), roots / roots.sum(axis=1, keepdims=True), rtol=1e-5)


def test_model_that_has_diverged_is_the_worst_candidate(folder):
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.set_weights([np.full(weight.shape, np.nan, "float32") for weight in model.weights])
    run = SimpleNamespace(recipe=SMALL, index=index_for(folder, SMALL), model=model)
    found = Run.candidate(run, "the model")
    assert found.loss == pytest.approx(np.log(1e7))


def test_heads_optimum_does_not_depend_on_the_order_of_its_images():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)).astype("float32"), rng.integers(0, 3, 60).astype("int32")
    kernels = []
    for seed in (1, 2):
        data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(60, seed=seed).batch(16)
        head = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, "softmax")])
        from_recipe.fit_head([data, data], data, head)
        kernels.append(head.layers[-1].get_weights()[0])
    assert np.array_equal(*kernels)
