"""Folders as they come: every command names every bad file, and exits with the right code."""

import csv
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from keras_sgdr.models.classifier import build_classifier, save_classifier
from keras_sgdr_cli.main import cli
from tests.data.decode.odd_images import REFUSED

BAD = ["tiff.jpg", "heic.jpg", "page.jpg", "pointer.jpg", "packed.jpg", "text.jpg", "empty.jpg", "rle.bmp", "half.jpg"]
BAD += ["checksum.png", "cut.gif"]


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory):
    """300 files, of which 40 are bad in 12 ways: the eleven of `BAD`, and links to nothing."""
    root = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    bad = []
    for number in range(300):
        name = "cat" if number % 2 else "dog"
        (root / name).mkdir(exist_ok=True)
        if number % 7 or len(bad) == 40:
            image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 36))
            image.save(root / name / f"{number:03}.jpg")
            continue
        kind = len(bad) % 12
        bad.append(root / name / f"{number:03}{'.jpg' if kind == 11 else BAD[kind][-4:]}")
        if kind == 11:
            bad[-1].symlink_to("/nowhere/gone.jpg")
        else:
            bad[-1].write_bytes(REFUSED[BAD[kind]][0])
    assert len(bad) == 40
    return root, {str(path) for path in bad}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    save_classifier(build_classifier(2, image_size=32, weights=None), directory, class_names=("cat", "dog"))
    return directory


def test_check_names_all_and_moves_all_away_and_back(bad_folder, tmp_path):
    root, bad = bad_folder
    copy = shutil.copytree(root, tmp_path / "copy", symlinks=True)
    names = {path.replace(str(root), str(copy)) for path in bad}
    done = run("check", copy, "-o", tmp_path / "findings.csv", "--quarantine", tmp_path / "away")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0].startswith("Found: 40 unreadable")
    assert "unreadable: and 35 more" in done.stdout
    assert "moved 40 files" in done.stderr
    with (tmp_path / "findings.csv").open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file) if row["kind"] == "unreadable"} == names
    assert run("check", copy).exit_code == 0
    assert run("check", copy, "--quarantine", tmp_path / "away", "--undo").stdout == "moved 40 files back\n"
    done = run("check", copy, "--format", "json")
    assert {each["path"] for each in json.loads(done.stdout)["findings"] if each["kind"] == "unreadable"} == names


@pytest.mark.parametrize("command", ["train", "predict", "evaluate"])
def test_commands_name_all(bad_folder, finished_run, command, tmp_path):
    root, bad = bad_folder
    arguments = {
        "train": ("train", root, "-o", tmp_path / "run", "--image-size", 32, "--weights", "none"),
        "predict": ("predict", finished_run, root),
        "evaluate": ("evaluate", finished_run, root, "--tta", "off"),
    }
    done = run(*arguments[command])
    assert done.exit_code == 1
    assert {path for path in bad if path in done.stderr} == bad
    assert "Traceback" not in done.stderr
    if command == "predict":
        assert len(done.stdout.splitlines()) == 1 + 260
    else:
        assert len(done.stderr.strip().splitlines()) == 1
    if command == "train":
        assert "Found: 40 unreadable" in done.stdout
        with (tmp_path / "run" / "findings.csv").open(newline="") as file:
            assert {row["path"] for row in csv.DictReader(file) if row["kind"] == "unreadable"} == bad


def test_train_finds_what_check_finds(bad_folder, tmp_path):
    root, _ = bad_folder
    copy = shutil.copytree(root, tmp_path / "copy", symlinks=True)
    Image.new("RGB", (40, 36), "teal").save(copy / "cat" / "photo", "JPEG")
    Image.new("RGB", (40, 36), "navy").save(copy / "stray.jpg")
    (copy / "cat" / "pixmap.ppm").write_bytes(REFUSED["pixmap.jpg"][0])
    (copy / "dog" / "notes.txt").write_text("not now")
    shutil.copy(copy / "cat" / "001.jpg", copy / "dog" / "copy.png")
    run("check", copy, "-o", tmp_path / "checked.csv")
    done = run("train", copy, "-o", tmp_path / "run", "--image-size", 32, "--weights", "none")
    assert "left out: 1 .jpg, 1 .ppm, 1 .txt" in done.stdout
    checked, trained = (tmp_path / "checked.csv").read_text(), (tmp_path / "run" / "findings.csv").read_text()
    assert checked == trained
    with (tmp_path / "checked.csv").open(newline="") as file:
        assert {"unreadable", "left out", "wrong suffix"} <= {row["kind"] for row in csv.DictReader(file)}


def test_check_reports_a_bad_layout_as_json(tmp_path):
    (tmp_path / "cat").mkdir()
    done = run("check", tmp_path, "--format", "json")
    assert done.exit_code == 1
    assert [each["kind"] for each in json.loads(done.stdout)["findings"]] == ["layout"]


def test_several_labels_are_refused_in_one_line_before_any_work(tmp_path):
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.jpg")
    rows = "".join(f"{number}.jpg,{number % 2},{number // 2}\n" for number in range(4))
    (tmp_path / "labels.csv").write_text("filename,beach,night\n" + rows)
    done = run("train", tmp_path / "labels.csv", "-o", tmp_path / "run")
    assert done.exit_code == 1
    (line,) = done.stderr.strip().splitlines()
    assert "must have one label" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [("--train", "Bilder", "--valid", "Proben"), ("--suffix", ".jpg")])
def test_layout_can_be_named_on_the_command_line(tmp_path, options):
    rng = np.random.default_rng(1)
    for number in range(16):
        folder = tmp_path / ("Proben" if number % 4 == 0 else "Bilder") / "ab"[number // 8]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 36))
        image.save(folder / f"{number}.jpg")
        if options[0] == "--suffix":
            image.save(tmp_path / f"{number}.jpg")
    path = tmp_path
    if options[0] == "--suffix":
        path = tmp_path / "labels.csv"
        path.write_text("name,class\n" + "".join(f"{number},{'ab'[number // 8]}\n" for number in range(16)))
    done = run("check", path, *options)
    assert done.exit_code == 0, done.stdout
    assert "train: 12 images of 2 classes" in done.stdout
    assert "valid: 4 images" in done.stdout
