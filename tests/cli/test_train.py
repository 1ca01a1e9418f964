"""`keras-sgdr train` and `lr-find`: each option, and what it changes."""

import csv
import dataclasses
import json
import shutil
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sgdr import EfficientNetLite0, Recipe
from keras_sgdr.recipe import train as recipe_train
from keras_sgdr.recipe.stages import STAGES
from keras_sgdr.validation import InvalidValueError
from keras_sgdr_cli.main import cli
from tests.cli.command_line import assert_one_line, run, run_well

# Every setting, and none at its default
SETTINGS = {
    "backbone": "tiny.keras",
    "weights": None,
    "image_size": 32,
    "resize": "pad",
    "batch_size": 16,
    "valid_fraction": 0.25,
    "train": "learn",
    "valid": "look",
    "test": "try",
    "label_delimiter": ";",
    "suffix": ".png",
    "augmentation": "basic",
    "max_zoom": 1.3,
    "image_cache": "./images",
    "dropout": 0.1,
    "head_views": 1,
    "head_cycles": 1,
    "n_cycles": 2,
    "cycle_len": 1,
    "cycle_mult": 3,
    "gradual_unfreezing": True,
    "num_groups": 2,
    "group_factor": 2.5,
    "head_learning_rate": 3e-3,
    "learning_rate": 2e-3,
    "tta": "off",
    "answer_precision": 0.9,
    "seed": 3,
}
# Those whose effect has tests of its own in recipe/test_options.py, recipe/test_plan.py and cli/test_go_on.py
MORE_SETTINGS = {
    "learning_rates": (1e-4, 1e-3, 1e-2),
    "rate_batch_size": 16,
    "sizes": (24, 32),
    "class_weight": "balanced",
    "oversample": True,
    "mixup": 0.2,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "ema": 0.99,
    "accumulate": 2,
    "precision": "mixed_bfloat16",
    "xla": "off",
    "group_by": "[a-z]+",
    "max_epochs": 3,
    "max_minutes": 2.5,
    "start_from": "runs/before",
}
IMAGES_OF_A_CLASS = {"train": 24, "valid": 8, "test": 4}


def as_options(settings) -> list[str]:
    """The settings as a user types them."""
    words = []
    for name, value in settings.items():
        words.append("--from" if name == "start_from" else f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(
                ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
            )
    return words


def history(directory) -> list[dict[str, str]]:
    with (directory / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def table(digits_folder, tmp_path_factory):
    """A CSV file with the names of digits, without their suffix, their label and their split."""
    path = tmp_path_factory.mktemp("table") / "labels.csv"
    rows = ["filename,label,split"]
    splits = [name for name, count in IMAGES_OF_A_CLASS.items() for _ in range(count)]
    for label in ("one", "seven", "zero"):
        for image, split in zip(sorted((digits_folder / label).iterdir()), splits, strict=False):
            rows.append(f"{image.with_suffix('')},{label},{split}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(table, tiny_backbone, trained_run, tmp_path_factory):
    """A run with every setting that its folder leaves open, over another run: where it is, and what it printed."""
    directory = shutil.copytree(trained_run, tmp_path_factory.mktemp("runs") / "run")
    unread = ("label_delimiter", "train", "valid", "test")
    given = {name: value for name, value in SETTINGS.items() if name not in unread}
    given |= {"backbone": tiny_backbone, "image_cache": directory.parent / "images"}
    (directory / "log.csv").write_text("of the run before\n")
    arguments = ["train", table, "-o", directory, "--csv-log", *as_options(given)]
    assert_one_line(run(*arguments), "resume", "overwrite")
    return directory, run_well(*arguments, "--overwrite").stdout


def test_train_records_the_settings_that_it_was_given(trained, tiny_backbone):
    recorded = json.loads((trained[0] / "run.json").read_text())["settings"]
    # A cache changes the time alone, and so is not recorded.
    names = set(SETTINGS) - {"label_delimiter", "train", "valid", "test", "image_cache"}
    assert {name: recorded[name] for name in names} == {
        name: str(tiny_backbone) if name == "backbone" else SETTINGS[name] for name in names
    }


def test_train_reads_a_table_of_names_without_suffix(trained):
    images = {name: 3 * count for name, count in IMAGES_OF_A_CLASS.items()}
    assert f"train: {images['train']} images of 3 classes" in trained[1]
    predictions = np.load(trained[0] / "predictions.npz")
    assert predictions["plain"].shape == (images["valid"], 3)
    assert predictions["test"].shape == (images["test"], 3)
    # as seen from the folder of the images, not from the table's
    class_names = json.loads((trained[0] / "classifier.json").read_text())["class_names"]
    assert {path.split("/")[0] for path in predictions["paths"]} == set(class_names)


def test_train_makes_the_model_that_was_asked_for(trained):
    model = keras.models.load_model(trained[0] / "model.keras")
    assert model.input_shape == (None, 32, 32, 3)
    (dropout,) = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert dropout.rate == SETTINGS["dropout"]
    assert json.loads((trained[0] / "classifier.json").read_text())["resize"] == "pad"


def test_train_takes_the_given_rates_and_leaves_the_finders_out(trained):
    assert not list(trained[0].glob("lr_finder*"))
    rows = history(trained[0])
    assert [row["stage"] for row in rows[:3]] == ["head", "head, augmented", "head, live"]
    # the rate of the last of an epoch's five batches, 4/5 along the half cosine
    last = (1 + np.cos(np.pi * 4 / 5)) / 2
    (live,) = [row for row in rows if row["stage"] == "head, live"]
    assert float(live["learning_rate"]) == pytest.approx(SETTINGS["head_learning_rate"] * last, rel=1e-4)
    stages = json.loads((trained[0] / "run.json").read_text())["stages"]
    assert stages["find_rate"]["learning_rate"] == SETTINGS["learning_rate"]


def test_train_writes_each_epoch_as_keras_does(trained):
    with (trained[0] / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trained_epochs = [row for row in history(trained[0]) if row["stage"] in ("head, live", "all", "all, undone")]
    assert [row["epoch"] for row in rows] == [str(int(row["epoch"]) - 1) for row in trained_epochs]  # Keras's, from 0
    for name in ("loss", "val_loss", "val_accuracy"):
        assert [float(row[name]) for row in rows] == pytest.approx([float(row[name]) for row in trained_epochs])


def test_train_plans_the_cycles_and_the_groups_that_were_asked_for(trained):
    # 72 images in batches of 16; 1 epoch and then 3
    assert "4 epochs of 5 batches in 2 cycles" in trained[1]
    header = next(line for line in trained[1].splitlines() if line.startswith("cycle") and "group" in line)
    assert header.split()[-4:] == ["group", "0", "group", "1"]
    first = next(line for line in trained[1].splitlines() if line.split()[:3] == ["1", "1", "5"])
    highest = [float(part) for part in first.replace(" to ", " ").split()[3:]]
    assert highest[2] / highest[0] == pytest.approx(SETTINGS["group_factor"], rel=0.01)
    assert highest[2] <= SETTINGS["learning_rate"]


def test_train_looks_at_the_number_of_views_that_was_asked_for(trained):
    assert "activations of 1 augmented views" in trained[1]
    predictions = np.load(trained[0] / "predictions.npz")
    assert np.array_equal(predictions["tta"], predictions["plain"])  # no views of the evaluation


def test_train_keeps_decoded_images_in_the_directory(trained):
    kept = [path for path in (trained[0].parent / "images").rglob("*") if path.is_file()]
    decoded = 3 * (IMAGES_OF_A_CLASS["train"] + IMAGES_OF_A_CLASS["valid"]) * 8 * 8 * 3
    assert sum(path.stat().st_size for path in kept) >= decoded


def test_train_with_the_defaults_runs_both_finders_and_averages_views(trained_run):
    assert {path.name for path in trained_run.glob("lr_finder*")} == {
        f"lr_finder_{part}.{kind}" for part in ("head", "all") for kind in ("csv", "png")
    }
    predictions = np.load(trained_run / "predictions.npz")
    assert not np.array_equal(predictions["tta"], predictions["plain"])
    assert np.allclose(predictions["tta"].sum(axis=1), 1, atol=1e-5)


def test_train_finds_splits_under_the_names_that_are_given(tmp_path, digits_folder, tiny_options):
    for split, begin, end in (("learn", 0, 5), ("look", 5, 8), ("try", 8, 10)):
        for label in ("one", "seven"):
            (tmp_path / split / label).mkdir(parents=True)
            for image in sorted((digits_folder / label).iterdir())[begin:end]:
                shutil.copy(image, tmp_path / split / label)
    (tmp_path / "learn" / "one" / "notes.jpg").write_text("no image, so that the run ends with the check")
    names = ["--train", "learn", "--valid", "look", "--test", "try"]
    result = run("train", tmp_path, "-o", tmp_path / "run", *names, *tiny_options)
    assert_one_line(result, "notes.jpg")
    assert "train: 11 images of 2 classes" in result.stdout
    assert "valid: 6 images" in result.stdout
    assert "test: 4 images" in result.stdout


def test_train_refuses_several_labels_in_a_cell(tmp_path, digits_folder):
    names = [str(path) for path in sorted((digits_folder / "one").iterdir())[:8]]
    rows = [f"{name},{label}" for name, label in zip(names, ["one;odd", "one"] * 4, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,label", *rows]))
    result = run("train", tmp_path / "labels.csv", "-o", tmp_path / "run", "--label-delimiter", ";")
    assert_one_line(result, "labels")
    assert not (tmp_path / "run").exists()


def test_resume_of_a_finished_run_trains_nothing(digits_folder, trained_run, tiny_options, tmp_path):
    directory = shutil.copytree(trained_run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".keras", ".csv", ".npz")}
    cycles = ["--head-cycles", 1, "--n-cycles", 2, "--cycle-len", 1, "--tta", "flip"]
    result = run_well("train", digits_folder, "-o", directory, *tiny_options, *cycles, "--resume")
    assert result.stdout.count("done before") == len(STAGES)
    assert run_well("train", digits_folder, "-o", directory, *tiny_options, *cycles, "--resume", "--quiet").stdout == ""
    assert {name: (directory / name).read_bytes() for name in before} == before


def test_tensorboard_needs_its_package(digits_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = run("train", digits_folder, "-o", tmp_path / "run", "--tensorboard")
    assert result.exit_code == 2
    assert "pip install tensorboard" in result.stderr
    assert not (tmp_path / "run").exists()


def test_overwrite_begins_again_and_removes_what_the_run_before_has_left(trained, trained_run):
    assert "done before" not in trained[1]
    assert (trained_run / "lr_finder_all.png").exists()
    assert not (trained[0] / "lr_finder_all.png").exists()


@pytest.fixture
def captured(monkeypatch):
    """The recipe with which a command would have begun."""
    recipes = []

    def capture(folder, *, recipe, **arguments):
        recipes.append(recipe)
        raise InvalidValueError("captured")

    monkeypatch.setattr(recipe_train, "train_image_classifier", capture)
    monkeypatch.setattr(recipe_train, "find_learning_rate", capture)
    return recipes


def taken_by(command: str) -> list[str]:
    return [option.name for option in cli.commands[command].params if option.name in SETTINGS | MORE_SETTINGS]


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in ("train", "lr-find") for name in taken_by(command)]
)
def test_an_option_fills_its_setting_and_no_other(captured, tmp_path, command, name):
    settings = {name: (SETTINGS | MORE_SETTINGS)[name]} | ({"n_cycles": 2} if name == "gradual_unfreezing" else {})
    if name == "start_from":
        settings = {name: str(tmp_path)}
        (tmp_path / "config.toml").write_text("seed = 3")  # not of what two runs share
    run(command, tmp_path, "-o", tmp_path / "run", *as_options(settings))
    assert captured == [dataclasses.replace(Recipe(), **settings)]
    assert captured[0] != Recipe()


def suggestions(stdout: str) -> dict[str, float]:
    """The rules and the rates that `lr-find` has printed."""
    pairs = [line.split() for line in stdout.splitlines()]
    rules = ("minimum", "steep", "valley", "slide", "inflection", "divergence")
    return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] in rules}


def test_lr_find_prints_suggestions_and_plots_the_curve(digits_folder, tmp_path):
    plot = tmp_path / "plots" / "curve.png"
    result = run_well("lr-find", digits_folder, "-o", plot, "--num-steps", 40, "--image-size", 32)
    rates = suggestions(result.stdout)
    assert len(rates) > 2
    assert all(1e-7 < rate < 10 for rate in rates.values())
    assert "40/40" in result.stdout
    assert f"plot: {plot}" in result.stdout
    assert np.asarray(Image.open(plot).convert("L")).std() > 10


def test_lr_find_is_of_the_head_alone_or_of_the_whole_network(digits_folder, tiny_options, tmp_path):
    options = ["--num-steps", 30, *tiny_options]
    head = run("lr-find", digits_folder, *options, "-o", tmp_path / "head.png")
    # The head has nothing to learn from these features; the curve is there to be looked at.
    assert_one_line(head, "30 points")
    assert (tmp_path / "head.png").is_file()
    whole = run_well("lr-find", digits_folder, *options, "-o", tmp_path / "whole.png", "--unfreeze")
    assert suggestions(whole.stdout)


def test_weights_are_imagenets_or_those_of_a_file_or_random(digits_folder, tmp_path, monkeypatch):
    models = []

    def capture(recipe, model, split, **_):
        models.append(model)
        raise InvalidValueError("captured")

    monkeypatch.setattr(recipe_train, "make_features", capture)
    backbone = EfficientNetLite0(include_top=False, weights="imagenet", input_shape=(32, 32, 3))
    backbone.save_weights(tmp_path / "lite0.weights.h5")
    for weights in ("imagenet", tmp_path / "lite0.weights.h5", "none"):
        assert_one_line(run("lr-find", digits_folder, "--image-size", 32, "--weights", weights), "captured")
    kernels = [model.get_layer("stem_conv").get_weights()[0] for model in models]
    assert np.array_equal(kernels[0], backbone.get_layer("stem_conv").get_weights()[0])
    assert np.array_equal(kernels[1], kernels[0])
    assert not np.array_equal(kernels[2], kernels[0])
