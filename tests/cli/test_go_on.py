"""`keras-sgdr train` from a file of settings, from a finished run, on a folder that has moved, and not at all."""

import csv
import json
import shutil
import tomllib

import numpy as np
import pytest

from keras_sgdr.models.classifier import load_classifier
from tests.cli.command_line import assert_one_line, run, run_well

# A rate of next to nothing leaves the body as it was.
QUICK = ["--head-views", 0, "--head-cycles", 1, "--cycle-len", 1, "--learning-rate", 1e-12, "--tta", "off"]


@pytest.fixture(scope="module")
def more_images(digits_folder, tmp_path_factory):
    """A folder with two of the classes that `trained_run` knows, and a new one."""
    folder = tmp_path_factory.mktemp("more")
    for name in ("one", "zero"):
        shutil.copytree(digits_folder / name, folder / name)
    shutil.copytree(digits_folder / "seven", folder / "aslant")
    return folder


@pytest.fixture(scope="module")
def continued(more_images, trained_run, tmp_path_factory):
    """A run that goes on from `trained_run`: its directory, and what it printed."""
    directory = tmp_path_factory.mktemp("continued") / "run"
    given = ("train", more_images, "-o", directory, "--from", trained_run, *QUICK)
    return directory, run_well(*given, "--log-format", "json").stdout


def test_a_run_goes_on_from_another_with_its_network_and_its_way_to_read_images(continued, trained_run):
    settings, before = (json.loads((path / "run.json").read_text())["settings"] for path in (continued[0], trained_run))
    shared = ("backbone", "image_size", "resize", "augmentation")
    assert {name: settings[name] for name in shared} == {name: before[name] for name in shared}
    assert settings["n_cycles"] != before["n_cycles"]
    assert load_classifier(continued[0]).class_names == ("aslant", "one", "zero")


def test_what_happens_is_told_as_json_an_object_in_a_line(continued):
    directory, events = continued[0], [json.loads(line) for line in continued[1].splitlines()]
    names = [event["name"] for event in events if event["event"] == "stage"]
    assert names == list(json.loads((directory / "run.json").read_text())["stages"])
    with (directory / "history.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"].startswith(("head, live", "all"))]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [(event["stage"], event["epoch"]) for event in epochs] == [
        ("head, live", 1),
        *[("all", 1)] * (len(rows) - 1),
    ]
    assert [event["val_loss"] for event in epochs] == pytest.approx([float(row["val_loss"]) for row in rows])
    assert events[-1] == {"event": "report", "path": str(directory / "report.html")}
    assert any("3 classes" in event["text"] for event in events if event["event"] == "message")


def test_a_body_that_is_gone_on_from_is_that_of_the_run(continued, trained_run):
    before, after = (load_classifier(path).model.get_weights() for path in (trained_run, continued[0]))
    for one, other in zip(before[:-2], after[:-2], strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_another_backbone_cannot_go_on_from_a_run(more_images, trained_run, tmp_path):
    result = run("train", more_images, "-o", tmp_path / "run", "--from", trained_run, "--backbone", "MobileNetV3Small")
    assert_one_line(result, "`start_from` must be a run with the same backbone")
    result = run("train", more_images, "-o", tmp_path / "run", "--from", tmp_path / "nothing")
    assert result.exit_code == 2
    assert f"it must be the directory of a finished run. Received: {tmp_path / 'nothing'}" in result.stderr


def test_a_run_leaves_a_file_of_settings_that_another_can_be_given(continued, more_images):
    settings = tomllib.loads((continued[0] / "config.toml").read_text())
    assert settings["cycle_len"] == 1
    assert "max_minutes" not in settings
    # What resumes the run has all of its settings; what stands beside the file comes first.
    given = ("train", more_images, "-o", continued[0], "--config", continued[0] / "config.toml", "--resume")
    assert_one_line(run(*given, "--seed", 5), "it began with", "seed=0")
    assert "train_all: done before" in run_well(*given).stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [("cycle_length = 3", "cycle_length"), ("cycle_len = ", "Invalid value"), ("cycle_len = 0", "cycle-len")],
)
def test_a_file_of_settings_that_is_wrong_is_named(more_images, tmp_path, text, message):
    (tmp_path / "config.toml").write_text(text)
    result = run("train", more_images, "-o", tmp_path / "run", "--config", tmp_path / "config.toml")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_has_moved_is_gone_on_with_if_it_is_said(continued, more_images, tmp_path):
    directory = shutil.copytree(continued[0], tmp_path / "run")
    journal = json.loads((directory / "run.json").read_text())
    for stage in ("evaluate", "export"):
        del journal["stages"][stage]
    (directory / "run.json").write_text(json.dumps(journal))
    moved = shutil.copytree(more_images, tmp_path / "moved")
    given = ("train", moved, "-o", directory, "--config", directory / "config.toml", "--resume")
    assert_one_line(run(*given), "it began with folder=")
    assert "train_all: done before" in run_well(*given, "--moved").stdout
    assert json.loads((directory / "run.json").read_text())["settings"]["folder"] == str(moved)
    next((moved / "one").iterdir()).unlink()
    assert_one_line(run(*given, "--moved"), "it began with images=")


def test_a_run_of_another_version_says_why_it_cannot_be_resumed(continued, more_images, tmp_path):
    directory = shutil.copytree(continued[0], tmp_path / "run")
    journal = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**journal, "format": 0, "version": "0.0.9"}))
    given = ("train", more_images, "-o", directory, "--config", directory / "config.toml")
    assert_one_line(run(*given, "--resume"), "by keras-sgdr 0.0.9", "Install that version, or begin again")
    # what is only read can be read all the same
    run_well("evaluate", directory, more_images, "--tta", "off")


def test_a_dry_run_prints_the_plan_and_writes_nothing(more_images, trained_run, tmp_path):
    output = tmp_path / "run"
    given = ("train", more_images, "-o", output, "--from", trained_run, "--head-views", 0, "--dry-run")
    lines = run_well(*given, "--cycle-len", 3, "--tta", "off").stdout.splitlines()
    planned = {line.split()[0]: line.split()[1] for line in lines if ":" in line.split()[1]}
    assert {"check", "find_rate", "train_all", "evaluate", "export"} <= set(planned)
    assert lines[-2].startswith("in all")
    assert any(line.startswith("train_all") and "3 epochs of everything, in 1 cycle" in line for line in lines)
    assert any(line.startswith("on the disk:") for line in lines)
    assert not output.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This model is no better than guessing")  # in one epoch
def test_all_of_it_on_names_in_arabic_with_spaces_and_a_leading_dash(
    digits_folder, tiny_options, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder, output = "- صور الأرقام", "-run ١"
    for name, label in (("one", "-واحد"), ("seven", "سبعة و"), ("zero", "zero 0")):
        shutil.copytree(digits_folder / name, tmp_path / folder / label)
    options = [*tiny_options, "--head-views", 0, "--cycle-len", 1, "--tta", "off", "--sizes", "24,32"]
    del options[options.index("--image-size") : options.index("--image-size") + 2]
    options += ["--group-by", "[0-9]+[.]", "--max-minutes", 3]
    assert "in all" in run_well("train", *options, "--dry-run", "-o", output, "--", folder).stdout
    run_well("train", *options, "-o", output, "--", folder)
    assert load_classifier(tmp_path / output).class_names == ("-واحد", "zero 0", "سبعة و")
    run_well("train", "--config", f"{output}/config.toml", "-o", f"{output}/again", "--from", output, "--", folder)
    assert "-واحد" in run_well("predict", "--", output, folder).stdout
    assert "plain: accuracy" in run_well("evaluate", "--tta", "off", "--", output, folder).stdout
    assert "difference" in run_well("compare", "--", output, f"{output}/again").stdout
