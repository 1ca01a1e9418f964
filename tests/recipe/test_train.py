"""What a run of the recipe leaves, and how it is resumed: with a backbone of six layers, so in seconds."""

import csv
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

from keras_sgdr.data.dataset.file_decoder import FileDecoder
from keras_sgdr.recipe import builders, stages
from keras_sgdr.recipe.images import index_for
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.train import find_learning_rate, train_image_classifier
from tests.conftest import DIGITS


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


def test_what_is_said_names_the_choices(trained_run, journal, history):
    said = (trained_run / "stdout.txt").read_text()
    for name in ("find_head_rate", "find_rate"):
        assert f"{journal[name]['learning_rate']:.1e}, {journal[name]['why']}" in said
    assert journal["train_all"]["verdict"] in said
    assert "chosen on them" in said
    assert "train the whole network, at most 2 cycles\n3 epochs of 5 batches in 2 cycles" in said  # and their rates
    steps = [f"step {number}: " for number in (1, 2, 3, 4, 7, 8)]
    for text in ("check 180 images", *steps, f"all of them: {trained_run / 'findings.csv'}", "evaluate, with 2 views"):
        assert text in said
    assert said.count("step 4: ") == 2  # by the activations of views, and live
    for name in ("lr_finder_head.png", "lr_finder_all.png", "model.keras", "export/1"):
        assert f" {trained_run / name}" in said
    for name, accuracy in (("plain", "accuracy"), ("with views", "tta_accuracy")):
        assert f"{name}: accuracy {journal['evaluate'][accuracy]:.4f}, loss " in said
    assert "averages over 2 views of each image (flip), as it was told" in said
    for row in history[:2]:  # the head, of plain images and of augmented ones
        assert f"validation loss {float(row['val_loss']):.4f}, accuracy {float(row['val_accuracy']):.4f}" in said


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


def test_find_learning_rate_leaves_no_file(digits_folder, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for whole_network_too in (False, True):
        curve = find_learning_rate(digits_folder, recipe=tiny, whole_network=whole_network_too, num_steps=20)
        assert 10 < len(curve.learning_rates) == len(curve.losses) <= 20
    assert not list(tmp_path.iterdir())


def test_backbone_that_is_no_file_is_named(digits_folder, tmp_path):
    with pytest.raises(ValueError, match=r"Received: backbone='nowhere\.keras'"):
        train_image_classifier(digits_folder, output=tmp_path / "run", recipe=Recipe(backbone="nowhere.keras"))


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "nowhere.keras"}, "`backbone` must be"),
        ({"max_minutes": 0.001}, "`max_minutes` must leave time"),
        ({"start_from": "itself"}, "`output` must not be the run to start from"),
    ],
)
def test_a_run_that_cannot_replace_another_leaves_it(trained_run, digits_folder, tmp_path, tiny, settings, message):
    run = shutil.copytree(trained_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "findings.csv"}
    settings = {name: run if value == "itself" else value for name, value in settings.items()}
    recipe = dataclasses.replace(tiny, **settings)
    with pytest.raises(ValueError, match=message):
        train_image_classifier(digits_folder, output=run, recipe=recipe, overwrite=True, verbose=0)
    assert {path: path.read_bytes() for path in before} == before
    assert {path for path in run.rglob("*") if path.is_file()} - {run / "findings.csv"} == before.keys()


def test_resume_where_no_run_is_says_so(digits_folder, tmp_path, tiny, capsys):
    recipe = dataclasses.replace(tiny, max_minutes=0.001)
    with pytest.raises(ValueError, match="`max_minutes` must leave time"):
        train_image_classifier(digits_folder, output=tmp_path / "tpyo", recipe=recipe, resume=True)
    assert f"there is no run to go on with in {tmp_path / 'tpyo'}: begin a new one" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["run", ".", "a/run"])
def test_a_run_among_the_classes_is_refused(tmp_path, tiny, output):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"`output` must lie outside the folder that has the classes.*Received: output="
    ):
        train_image_classifier(tmp_path, output=tmp_path / output, recipe=tiny, verbose=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


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
