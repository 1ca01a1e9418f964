"""`keras-sgdr check` and `show`: each option, and what it changes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command_line import assert_one_line, run, run_well


def write_images(folder: Path, count: int, first: int = 0) -> None:
    """Smooth images that differ from each other, 48 pixels wide and 32 high."""
    folder.mkdir(parents=True)
    for i in range(first, first + count):
        noise = np.random.default_rng(i).integers(0, 256, (4, 4, 3)).astype("uint8")
        Image.fromarray(noise).resize((48, 32), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")


@pytest.fixture
def folder(tmp_path):
    """Six images of each of two classes to train on, and three to validate."""
    for i, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "pets" / "train" / name, 6, first=20 * i)
        write_images(tmp_path / "pets" / "valid" / name, 3, first=20 * i + 10)
    return tmp_path / "pets"


@pytest.fixture
def table(folder):
    """A CSV file that names the images without their suffix, with labels in the second column."""
    rows = []
    for path in sorted(folder.rglob("*.png")):
        parity = "odd" if int(path.stem) % 2 else "even"
        rows.append(f"{path.parent.relative_to(folder) / path.stem},{path.parent.name};{parity}")
    (folder / "labels.csv").write_text("\n".join(["filename,labels", *rows]) + "\n")
    return folder / "labels.csv"


def counts(*arguments: object) -> dict:
    """The number of images of each class in each split, as `check` reports them."""
    return json.loads(run("check", *arguments, "--format", "json").stdout)["counts"]


def test_check_of_a_good_folder_finds_nothing(folder):
    done = run_well("check", folder)
    assert "nothing wrong" in done.stdout
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("cat")]
    assert row[1:3] == ["6", "3"]


def test_check_finds_a_leak_and_a_text_and_moves_the_text_away_and_back(folder, tmp_path):
    (folder / "valid" / "dog" / "copy.png").write_bytes((folder / "train" / "dog" / "20.png").read_bytes())
    text = folder / "train" / "cat" / "notes.jpg"
    text.write_text("not an image")
    done = run("check", folder, "--format", "json", "--quarantine", tmp_path / "away")
    assert done.exit_code == 1
    kinds = {finding["kind"] for finding in json.loads(done.stdout)["findings"]}
    assert {"leak", "unreadable"} <= kinds
    assert not text.exists()
    assert [path.read_text() for path in (tmp_path / "away").rglob("notes.jpg")] == ["not an image"]
    assert run("check", folder, "--quarantine", tmp_path / "away", "--undo").exit_code == 0
    assert text.read_text() == "not an image"


def test_check_writes_all_findings_where_it_is_told(folder, tmp_path):
    copies = 7  # more than the report shows
    for i in range(copies):
        shutil.copy(folder / "train" / "cat" / "00.png", folder / "train" / "cat" / f"copy{i}.png")
    done = run_well("check", folder, "-o", tmp_path / "made" / "findings.csv")
    with (tmp_path / "made" / "findings.csv").open(newline="") as file:
        found = [row["path"] for row in csv.DictReader(file) if row["kind"] == "duplicate"]
    assert len(found) == copies
    assert sum(path in done.stdout for path in found) < copies


def test_undo_needs_a_directory(folder):
    assert run("check", folder, "--undo").exit_code == 2


def test_check_reads_splits_under_the_names_that_are_given(folder):
    (folder / "train").rename(folder / "learn")
    (folder / "valid").rename(folder / "look")
    shutil.copytree(folder / "look", folder / "try")
    assert set(counts(folder)) != {"train", "valid", "test"}
    found = counts(folder, "--train", "learn", "--valid", "look", "--test", "try")
    assert {split: sum(each.values()) for split, each in found.items()} == {"train": 12, "valid": 6, "test": 6}


def test_check_holds_out_the_fraction_that_is_given(folder):
    assert counts(folder / "train", "--valid-fraction", "0.34")["valid"] == {"cat": 2, "dog": 2}
    assert counts(folder / "train", "--valid-fraction", "0.5")["valid"] == {"cat": 3, "dog": 3}


def test_check_holds_out_other_images_with_another_seed(folder):
    # One image twice: a leak where one of the two is held out, and a mere copy elsewhere.
    shutil.copy(folder / "train" / "cat" / "00.png", folder / "train" / "cat" / "twin.png")
    codes = {run("check", folder / "train", "--seed", seed).exit_code for seed in range(8)}
    assert codes == {0, 1}


def test_check_reads_a_table_of_names_without_suffix_and_with_several_labels(table):
    unread = run("check", table, "--format", "table")
    assert unread.exit_code == 1
    assert "Found: 1 layout." in unread.stdout  # no file is called so
    # Several labels are understood, and nothing is trained on them yet.
    several = run("check", table, "--suffix", ".png", "--label-delimiter", ";")
    assert several.exit_code == 1
    assert "several of cat, dog, even, odd" in several.stdout
    assert set(counts(table, "--suffix", ".png")["train"]) == {"cat;even", "cat;odd", "dog;even", "dog;odd"}


def grid(folder: Path, output: Path, *options: object) -> np.ndarray:
    """The image that `show` writes."""
    run_well("show", folder, "-o", output, "--image-size", 32, "--images", 2, "--views", 2, *options)
    return np.asarray(Image.open(output).convert("RGB")).astype("float64")


def panels(image: np.ndarray, rows: int, columns: int) -> list[np.ndarray]:
    """The coloured parts of a grid of images, row by row."""
    coloured = (image.max(axis=2) - image.min(axis=2)) > 12

    def spans(used: np.ndarray) -> list[tuple[int, int]]:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], used.astype(int), [0]])))
        return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True) if end - begin > 20]

    across = spans(coloured.mean(axis=0) > 0.05)
    down = spans(coloured.mean(axis=1) > 0.05)
    assert (len(down), len(across)) == (rows, columns)
    return [image[top:bottom, left:right] for top, bottom in down for left, right in across]


def test_show_draws_each_image_as_it_is_and_augmented(folder, tmp_path):
    output = tmp_path / "grids" / "grid.png"
    done = run_well("show", folder, "-o", output, "--image-size", 32, "--views", 3, "--images", 2)
    assert done.stdout.strip() == str(output)
    shown = panels(np.asarray(Image.open(output).convert("RGB")).astype("float64"), rows=2, columns=4)
    plain, *views = (panel[5:265, 5:265] for panel in shown[:4])
    assert all(np.abs(view - plain).mean() > 2 for view in views)


def test_show_draws_the_training_images_themselves(folder, tmp_path):
    shown = panels(grid(folder, tmp_path / "grid.png", "--resize", "squish"), rows=2, columns=3)
    for panel in (shown[0], shown[3]):
        small = np.asarray(Image.fromarray(panel.astype("uint8")).resize((8, 8), Image.Resampling.BOX), "float64")
        distances = [
            np.abs(np.asarray(Image.open(path).resize((8, 8), Image.Resampling.BOX), "float64") - small).mean()
            for path in sorted((folder / "train").rglob("*.png"))
        ]
        assert min(distances) < 6 < sorted(distances)[1]


IDLE = ("--batch-size", 1, "--backbone", "MobileNet", "--weights", "none", "--dropout", 0.5, "--test", "valid")
SHAPING = (
    ("--seed", 5),
    ("--resize", "pad"),
    ("--augmentation", "basic"),
    ("--max-zoom", 3),
    ("--image-size", 24),
    ("--train", "valid", "--valid", "train"),
)


@pytest.mark.slow
def test_show_goes_by_the_options_that_shape_images_and_by_no_others(folder, tmp_path):
    reference = grid(folder, tmp_path / "grid.png")
    assert np.array_equal(grid(folder, tmp_path / "idle.png", *IDLE), reference)
    for options in SHAPING:
        other = grid(folder, tmp_path / "other.png", *options)
        assert other.shape != reference.shape or not np.array_equal(other, reference), options


def test_show_holds_out_images_of_one_folder_and_reads_a_table(folder, table, tmp_path):
    few, many = (grid(folder / "train", tmp_path / "grid.png", "--valid-fraction", value) for value in ("0.2", "0.8"))
    assert not np.array_equal(few, many)
    grid(table, tmp_path / "grid.png", "--suffix", ".png")
    assert_one_line(run("show", table, "-o", tmp_path / "grid.png"), "00")
    result = run("show", table, "-o", tmp_path / "grid.png", "--suffix", ".png", "--label-delimiter", ";")
    assert_one_line(result, "label")


def test_check_finds_wrong_labels_by_what_images_look_like(digits_folder, tmp_path):
    folder = shutil.copytree(digits_folder, tmp_path / "digits")
    for label, other in (("one", "zero"), ("zero", "seven"), ("seven", "one")):
        for image in sorted((digits_folder / label).iterdir())[:4]:
            (folder / label / image.name).rename(folder / other / f"swapped-{label}-{image.name}")
    given = ("check", folder, "--output", tmp_path / "found.csv", "--labels", "--image-size", 64)
    stdout = run(*given).stdout
    assert "wrong label" in stdout
    assert "would more images help? a linear head on 144 images is wrong on" in stdout
    with (tmp_path / "found.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["kind"] == "wrong label"]
    swapped = [row for row in found if "swapped-" in row["path"]]
    assert len(swapped) >= 9
    assert len(found) <= 16
    for row in swapped:
        assert f"rather than {Path(row['path']).parent.name} (" in row["detail"]
    # each looks like what it is
    true = [row for row in swapped if f"looks like {Path(row['path']).name.split('-')[1]} (" in row["detail"]]
    assert len(true) >= 8
    assert "wrong label" not in run(*given[:2]).stdout
    run(*given, "--changes", tmp_path / "changes.csv")
    assert "moved" in run_well("relabel", folder, tmp_path / "changes.csv").stdout
    mended = [path for path in folder.rglob("swapped-*.png") if path.name.split("-")[1] == path.parent.name]
    assert len(mended) >= 8
    assert run_well("relabel", folder, "--undo").stdout == f"moved {len(found)} images back\n"
    assert not [path for path in folder.rglob("swapped-*.png") if path.name.split("-")[1] == path.parent.name]
    assert run("relabel", folder).exit_code == 2
    assert run("check", folder, "--changes", tmp_path / "changes.csv").exit_code == 2
