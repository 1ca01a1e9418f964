"""A folder with everything wrong that a folder can have."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_sgdr.data.check import check_folder as check_folder_module
from keras_sgdr.data.check.check_folder import Finding, FolderReport, check_folder
from keras_sgdr.data.check.duplicates import fingerprint, size_of
from keras_sgdr.data.check.quarantine import quarantine, restore


def make_image(number, height=40, width=50):
    """Another smooth image for each number: noise of a few pixels, enlarged."""
    noise = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def good_folder(tmp_path) -> Path:
    number = 0
    for split, count in (("train", 5), ("valid", 2)):
        for class_name in ("cats", "dogs"):
            (tmp_path / split / class_name).mkdir(parents=True)
            for position in range(count):
                make_image(number).save(tmp_path / split / class_name / f"{position}.jpg", quality=95)
                number += 1
    return tmp_path


def found(report):
    return {(finding.kind, Path(finding.path).relative_to(report.directory).as_posix()) for finding in report.findings}


def test_good_folder_has_no_findings(good_folder):
    seen = []
    report = check_folder(good_folder, on_progress=lambda done, total: seen.append((done, total)))
    assert report.findings == report.errors == ()
    assert report.counts == {"train": {"cats": 5, "dogs": 5}, "valid": {"cats": 2, "dogs": 2}}
    assert report.class_weights == {0: 1.0, 1: 1.0}
    assert seen == [(14, 14)]
    assert report.table().startswith("Found: nothing wrong.\ntrain: 10 images of 2 classes in ")


def test_everything_wrong_is_found_and_named(good_folder):
    train, valid = good_folder / "train", good_folder / "valid"
    (train / "cats" / "text.jpg").write_bytes(b"this is text")
    (train / "cats" / "empty.jpg").write_bytes(b"")
    (train / "dogs" / "cut.jpg").write_bytes((train / "dogs" / "0.jpg").read_bytes()[:700])
    make_image(100).save(train / "dogs" / "camera.tiff")
    make_image(101).save(train / "dogs" / "really.gif", "PNG")
    (train / "cats" / "copy.jpg").write_bytes((train / "cats" / "0.jpg").read_bytes())
    (train / "dogs" / "wrong.jpg").write_bytes((train / "cats" / "1.jpg").read_bytes())
    (valid / "cats" / "leak.jpg").write_bytes((train / "cats" / "2.jpg").read_bytes())
    Image.open(train / "cats" / "3.jpg").resize((100, 80)).save(train / "cats" / "resized.png")
    Image.open(train / "dogs" / "3.jpg").save(valid / "dogs" / "recoded.jpg", quality=85)
    make_image(102, height=12).save(train / "cats" / "small.png")
    make_image(103, height=20, width=90).save(train / "cats" / "wide.png")
    report = check_folder(good_folder)
    assert found(report) == {
        ("unreadable", "train/cats/text.jpg"),
        ("unreadable", "train/cats/empty.jpg"),
        ("unreadable", "train/dogs/cut.jpg"),
        ("unreadable", "train/dogs/camera.tiff"),
        ("wrong suffix", "train/dogs/really.gif"),
        ("duplicate", "train/cats/copy.jpg"),
        ("two labels", "train/dogs/wrong.jpg"),
        ("leak", "train/cats/2.jpg"),
        ("near duplicate", "train/cats/resized.png"),
        ("possible leak", "train/dogs/3.jpg"),
        ("odd size", "train/cats/small.png"),
        ("odd size", "train/cats/wide.png"),
    }
    assert {finding.kind for finding in report.errors} == {"unreadable", "leak", "two labels"}
    leak = next(finding for finding in report.findings if finding.path.endswith("cats/2.jpg"))
    assert leak.other == str(valid / "cats" / "leak.jpg")
    assert "it is a TIFF image: convert it, with `magick" in report.table()
    assert json.loads(json.dumps(report.to_dict()))["findings"][0]["kind"] == "unreadable"


def test_imbalance_is_reported_with_the_weights_it_suggests(good_folder):
    for number in range(200, 216):
        make_image(number).save(good_folder / "train" / "cats" / f"{number}.jpg")
    report = check_folder(good_folder)
    assert [finding.kind for finding in report.findings] == ["imbalance"]
    assert report.class_weights == pytest.approx({0: 26 / (2 * 21), 1: 26 / (2 * 5)})
    assert "21 of cats and 5 of dogs" in report.findings[0].detail


def test_folder_that_cannot_be_indexed_is_one_finding(good_folder):
    (good_folder / "train" / "fish").mkdir()
    report = check_folder(good_folder)
    assert [finding.kind for finding in report.errors] == ["layout"]
    assert "fish" in report.findings[0].detail


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: shutil.rmtree(folder / "valid" / "cats"), "must have the same class folders"),
        (
            lambda folder: [shutil.rmtree(folder / split / "cats") for split in ("train", "valid")],
            "at least two classes",
        ),
        (lambda folder: (folder / "valid").rename(folder / "extra"), "beside extra"),
    ],
)
def test_what_cannot_be_trained_on_is_one_finding(good_folder, make, words):
    make(good_folder)
    report = check_folder(good_folder)
    assert [finding.kind for finding in report.refused] == ["layout"]
    assert words in report.findings[0].detail


def test_what_is_left_out_is_named_by_file_and_by_reason(good_folder):
    cats = good_folder / "train" / "cats"
    make_image(300).save(cats / "a.ppm")
    (cats / "notes.txt").write_text("not now")
    (cats / "page.html").write_text("<!DOCTYPE html>")
    make_image(301).save(cats / "photo", "JPEG")
    make_image(302).save(good_folder / "train" / "stray.jpg")
    (good_folder / "models").mkdir()
    for name in ("labels.csv", "train/OLD.CSV"):
        (good_folder / name).write_text("filename,label\n")
    report = check_folder(good_folder)
    details = {Path(each.path).name: each.detail for each in report.findings if each.kind == "left out"}
    assert details == {
        "a.ppm": "it is a PNM image: convert it, with `magick FILE FILE.png`",
        "notes.txt": "it is no image of a known format",
        "page.html": "it is an HTML page: download the image anew",
        "stray.jpg": "outside the class folders",
        "models": "neither a split nor a class",
        "labels.csv": "a CSV file: pass it in place of the folder to take the labels in it",
        "OLD.CSV": "a CSV file: pass it in place of the folder to take the labels in it",
    }
    assert report.errors == ()
    assert report.counts["train"]["cats"] == 6


def test_classes_that_are_no_labels_are_found(good_folder):
    for split in ("train", "valid"):
        for number, name in enumerate(("NaN", "Cats")):
            (good_folder / split / name).mkdir()
            make_image(400 + number + 10 * len(split)).save(good_folder / split / name / "1.jpg")
    details = [each.detail for each in check_folder(good_folder).findings if each.kind == "odd label"]
    assert details == [
        "a class is called 'NaN': perhaps labels are missing",
        "the classes 'Cats' and 'cats' differ only in their case",
    ]


def test_summary_comes_first_and_is_short_and_the_csv_file_has_everything(good_folder, tmp_path_factory):
    for number in range(20):
        (good_folder / "train" / "cats" / f"bad{number}.jpg").write_text("text")
    report = check_folder(good_folder)
    lines = report.table().splitlines()
    assert lines[0] == "Found: 20 unreadable, 1 imbalance."
    assert sum(line.startswith("unreadable:") for line in lines) == 6
    assert "unreadable: and 15 more" in lines
    path = tmp_path_factory.mktemp("csv") / "findings.csv"
    report.write_csv(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["unreadable"] * 20 + ["imbalance"]
    assert {Path(row["path"]).name for row in rows[:20]} == {f"bad{number}.jpg" for number in range(20)}


def test_second_check_decodes_only_what_has_changed(good_folder, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    bad = good_folder / "train" / "cats" / "bad.jpg"
    bad.write_text("text")
    (good_folder / "train" / "cats" / "copy.jpg").write_bytes((good_folder / "train" / "cats" / "0.jpg").read_bytes())
    first = check_folder(good_folder, cache=cache)
    looked_at = []
    monkeypatch.setattr(check_folder_module, "fingerprint", lambda path: looked_at.append(path) or fingerprint(path))
    assert check_folder(good_folder, cache=cache).findings == first.findings
    assert looked_at == []
    make_image(500).save(bad)
    (good_folder / "train" / "dogs" / "1.jpg").unlink()
    assert {each.kind for each in check_folder(good_folder, cache=cache).findings} == {"duplicate"}
    assert looked_at == [str(bad)]
    for length in (-30, 200, 0):
        for damaged in cache.iterdir():
            damaged.write_bytes(damaged.read_bytes()[:length])
        assert {each.kind for each in check_folder(good_folder, cache=cache).findings} == {"duplicate"}
    assert {each.kind for each in check_folder(good_folder, cache=cache).findings} == {"duplicate"}


def test_second_check_keeps_files_and_reasons_together(good_folder, tmp_path_factory):
    """A PNG whose tail is zeros, whose reason might hold them, before files of one size and time."""
    cats = good_folder / "train" / "cats"
    whole = io.BytesIO()
    make_image(600).save(whole, "PNG")
    (cats / "00.png").write_bytes(whole.getvalue()[:-60] + bytes(60))
    for number in range(4):
        make_image(700 + number).save(cats / f"{number}.bmp")
    (cats / "3.bmp").write_bytes((cats / "3.bmp").read_bytes()[:30] + b"\7" * 6000)
    for path in cats.glob("*.bmp"):
        path.write_bytes(path.read_bytes()[:6000].ljust(6000, b"\0"))
        os.utime(path, (1, 1))
    cache = tmp_path_factory.mktemp("cache")
    first, second = (check_folder(good_folder, cache=cache) for _ in range(2))
    assert first.findings == second.findings
    assert {Path(each.path).name for each in first.errors} >= {"00.png", "3.bmp"}


@pytest.mark.parametrize("text", ["filename,label\nnone.jpg,a\n", "filename,label\n0.jpg,a\n"])
def test_label_file_that_is_refused_is_a_finding(tmp_path, text):
    make_image(1).save(tmp_path / "0.jpg")
    (tmp_path / "labels.csv").write_text(text)
    assert [each.kind for each in check_folder(tmp_path / "labels.csv").findings] == ["layout"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows makes no links or pipes for everybody")
def test_link_to_itself_and_a_pipe_are_unreadable(good_folder, tmp_path_factory):
    cats = good_folder / "train" / "cats"
    (cats / "loop.jpg").symlink_to("loop.jpg")
    (good_folder / "train" / "loop").symlink_to("loop")
    os.mkfifo(cats / "pipe.jpg")  # to read it waits for somebody to write
    os.mkfifo(cats / "notes")
    for _ in range(2):
        report = check_folder(good_folder, cache=tmp_path_factory.getbasetemp() / "prints-of-pipes")
        assert found(report) == {
            ("unreadable", "train/cats/loop.jpg"),
            ("unreadable", "train/cats/pipe.jpg"),
            ("left out", "train/cats/notes"),
        }


def test_dangling_link_is_unreadable_and_can_be_moved_away(good_folder, tmp_path_factory):
    link = good_folder / "train" / "cats" / "gone.jpg"
    link.symlink_to("/nowhere/gone.jpg")
    away = tmp_path_factory.mktemp("away") / "bad"
    report = check_folder(good_folder, cache=tmp_path_factory.mktemp("cache"))
    assert [(each.kind, each.path) for each in report.errors] == [("unreadable", str(link))]
    assert quarantine(report, away) == [str(link)]
    assert not link.is_symlink()
    assert restore(away) == [str(link)]
    assert link.readlink() == Path("/nowhere/gone.jpg")


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: no folder .*nowhere"):
        check_folder(tmp_path / "nowhere")


def test_many_blank_pages_are_found_without_comparing_all_with_all(good_folder):
    for number in range(60):
        Image.new("RGB", (40, 40), (250, 250, 250 - number % 2)).save(
            good_folder / "train" / "cats" / f"page{number}.png"
        )
    kinds = [finding.kind for finding in check_folder(good_folder).findings if finding.path.endswith(".png")]
    assert len(kinds) == 59
    assert set(kinds) == {"duplicate", "near duplicate"}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_sizes_are_read_from_headers(tmp_path, file_format):
    path = tmp_path / "image"
    make_image(1).save(path, file_format)
    assert size_of(path.read_bytes(), file_format) == (40, 50)
    assert fingerprint(str(path)).image_format == file_format


def test_quarantine_moves_files_and_restore_brings_them_back(good_folder, tmp_path_factory):
    bad = good_folder / "train" / "cats" / "text.jpg"
    bad.write_bytes(b"this is text")
    away = tmp_path_factory.mktemp("away") / "bad"
    assert quarantine(check_folder(good_folder), away) == [str(bad)]
    assert not bad.exists()
    assert (away / "train" / "cats" / "text.jpg").read_bytes() == b"this is text"
    assert check_folder(good_folder).findings == ()
    with pytest.raises(FileExistsError, match=r"Received: .*moved\.json exists"):
        quarantine(check_folder(good_folder), away)
    assert restore(away) == [str(bad)]
    assert bad.read_bytes() == b"this is text"
    with pytest.raises(FileNotFoundError, match=r"Received: no file .*moved\.json"):
        restore(away)


def unreadable(*paths):
    return [Finding("unreadable", str(path), "") for path in paths]


def report_of(folder, *findings):
    return FolderReport(str(folder), (), {}, {}, tuple(findings))


def test_nothing_is_written_when_nothing_is_wrong(good_folder, tmp_path_factory):
    away = tmp_path_factory.mktemp("away") / "bad"
    assert quarantine(report_of(good_folder), away) == []
    assert not away.exists()


def test_quarantine_keeps_files_apart_and_leaves_others_alone(tmp_path):
    folder, away = tmp_path / "folder", tmp_path / "away"
    names = ["a..b.jpg", "a_b.jpg", "_/x.jpg", "../x.jpg", "there.jpg"]
    for content, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(str(content))
    away.mkdir()
    (away / "there.jpg").write_text("another")
    quarantine(report_of(folder, *unreadable(*(folder / name for name in names))), away)
    assert sorted(path.read_text() for path in away.rglob("*.jpg")) == ["0", "1", "2", "3", "4", "another"]
    assert not any((folder / name).exists() for name in names)
    assert len(restore(away)) == 5
    assert [(folder / name).read_text() for name in names] == ["0", "1", "2", "3", "4"]


def test_restore_overwrites_nothing(tmp_path):
    folder, away = tmp_path / "folder", tmp_path / "away"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_text("old")
    quarantine(report_of(folder, *unreadable(folder / "a.jpg", folder / "b.jpg")), away)
    (folder / "b.jpg").write_text("new")
    with pytest.raises(FileExistsError, match=r"Received: 1 that exist again, such as .*b\.jpg"):
        restore(away)
    assert (folder / "b.jpg").read_text() == "new"
    assert not (folder / "a.jpg").exists()
    (folder / "b.jpg").unlink()
    assert len(restore(away)) == 2


ODD_NAMES = [
    b"caf\xe9.jpg",
    b"<script>alert(1).jpg",
    b"new\nline.jpg",
    "\N{GRINNING FACE}.jpg".encode(),
    b"\x1b[31m.jpg",
]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are Linux's")
def test_odd_file_names_are_reported_in_text_that_can_be_read(good_folder):
    for name in ODD_NAMES:
        (good_folder / "train" / "cats" / os.fsdecode(name)).write_bytes(b"this is text")
    report = check_folder(good_folder)
    assert len(report.errors) == len(ODD_NAMES)
    lines = [line for line in report.table().encode("utf-8").decode().splitlines() if "unreadable:" in line]
    assert len(lines) == len(ODD_NAMES)
    assert all(line.isprintable() for line in lines)
    assert any(r"caf\xe9.jpg" in line for line in lines)
    assert any(r"new\nline.jpg" in line for line in lines)
    text = json.dumps(report.to_dict(), ensure_ascii=False).encode("utf-8")
    names = {Path(finding["path"]).name for finding in json.loads(text)["findings"]}
    assert names == {r"caf\xe9.jpg", *(name.decode() for name in ODD_NAMES[1:])}


def photograph_copies(photograph):
    """The same image, as it comes back from the web."""
    whole = Image.fromarray(photograph)
    half = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.LANCZOS)
    return {
        "quality60.jpg": (whole, {"quality": 60}),
        "quality30.jpg": (whole, {"quality": 30}),
        "half.jpg": (half, {"quality": 75}),
        "lighter.jpg": (whole.point(lambda value: min(255, value + 8)), {"quality": 85}),
        "copy.png": (whole, {}),
    }


def test_recompressed_photographs_are_found_and_different_ones_are_not(tmp_path):
    from skimage import data

    photographs = {"astronaut": data.astronaut(), "chelsea": data.chelsea(), "coffee": data.coffee()}
    for split in ("train", "valid"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "b").mkdir()
        make_image(200 if split == "train" else 201).save(tmp_path / split / "b" / "other.jpg")
    for name, photograph in photographs.items():
        Image.fromarray(photograph).save(tmp_path / "train" / "a" / f"{name}.jpg", quality=92)
        # Another image of the same scene
        Image.fromarray(photograph[:150, :200]).save(tmp_path / "valid" / "a" / f"{name}_corner.jpg", quality=92)
        for copy, (image_, options) in photograph_copies(photograph).items():
            image_.save(tmp_path / "valid" / "a" / f"{name}_{copy}", **options)
    leaks = check_folder(tmp_path).findings
    assert {finding.kind for finding in leaks} == {"possible leak"}
    expected = {f"{name}_{copy}" for name in photographs for copy in photograph_copies(photographs[name])}
    assert {Path(finding.other).name for finding in leaks} == expected
    assert all(Path(finding.other).name.startswith(Path(finding.path).stem) for finding in leaks)


def test_digits_that_look_alike_are_no_copies(tmp_path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:400], digits.target, strict=False)):
        folder = tmp_path / ("valid" if number % 5 == 0 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32)).save(folder / f"{number}.png")
    assert check_folder(tmp_path).findings == ()


def test_file_that_a_csv_lists_twice_is_named_as_such_and_stays(tmp_path):
    for number in range(8):
        make_image(number).save(tmp_path / f"{number}.jpg", quality=95)
    rows = [f"{number}.jpg,{'ab'[number % 2]},{'train' if number < 4 else 'valid'}" for number in range(8)]
    rows += ["0.jpg,a,train", "1.jpg,a,train", "6.jpg,a,train"]
    (tmp_path / "images.csv").write_text("\n".join(["filename,label,split", *rows]))
    report = check_folder(tmp_path / "images.csv")
    assert {(each.kind, Path(each.path).name, each.detail) for each in report.findings} == {
        ("duplicate", "0.jpg", "listed twice"),
        ("two labels", "1.jpg", "listed twice, as a and as b"),
        ("leak", "6.jpg", "listed twice, in train and in valid"),
    }
    assert quarantine(report, tmp_path / "away", kinds=("leak", "two labels", "duplicate")) == []
    assert (tmp_path / "0.jpg").is_file()
