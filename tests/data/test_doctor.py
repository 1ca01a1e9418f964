"""A folder with everything wrong that a folder can have."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_sgdr.data.doctor import balanced_weights, check_folder
from keras_sgdr.data.fingerprints import fingerprint, size_of
from keras_sgdr.data.folder import index_folder
from keras_sgdr.data.quarantine import quarantine, restore


def picture(number, height=40, width=50):
    """Another smooth picture for each number: noise of a few pixels, enlarged."""
    noise = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def good_folder(tmp_path) -> Path:
    number = 0
    for split, count in (("train", 5), ("valid", 2)):
        for class_name in ("cats", "dogs"):
            (tmp_path / split / class_name).mkdir(parents=True)
            for position in range(count):
                picture(number).save(tmp_path / split / class_name / f"{position}.jpg", quality=95)
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
    assert report.table().endswith("Found: nothing wrong.")


def test_everything_wrong_is_found_and_named(good_folder):
    train, valid = good_folder / "train", good_folder / "valid"
    (train / "cats" / "text.jpg").write_bytes(b"this is text")
    (train / "cats" / "empty.jpg").write_bytes(b"")
    (train / "dogs" / "cut.jpg").write_bytes((train / "dogs" / "0.jpg").read_bytes()[:700])
    picture(100).save(train / "dogs" / "camera.tiff")
    picture(101).save(train / "dogs" / "really.gif", "PNG")
    (train / "cats" / "copy.jpg").write_bytes((train / "cats" / "0.jpg").read_bytes())
    (train / "dogs" / "wrong.jpg").write_bytes((train / "cats" / "1.jpg").read_bytes())
    (valid / "cats" / "leak.jpg").write_bytes((train / "cats" / "2.jpg").read_bytes())
    Image.open(train / "cats" / "3.jpg").resize((100, 80)).save(train / "cats" / "resized.png")
    Image.open(train / "dogs" / "3.jpg").save(valid / "dogs" / "recoded.jpg", quality=85)
    picture(102, height=12).save(train / "cats" / "small.png")
    picture(103, height=20, width=90).save(train / "cats" / "wide.png")
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
        ("leak", "train/dogs/3.jpg"),
        ("odd size", "train/cats/small.png"),
        ("odd size", "train/cats/wide.png"),
    }
    assert {finding.kind for finding in report.errors} == {"unreadable", "leak", "two labels"}
    leak = next(finding for finding in report.findings if finding.path.endswith("cats/2.jpg"))
    assert leak.other == str(valid / "cats" / "leak.jpg")
    assert "TIFF cannot be decoded" in report.table()
    assert json.loads(json.dumps(report.to_dict()))["findings"][0]["kind"] == "unreadable"


def test_imbalance_is_reported_with_the_weights_it_suggests(good_folder):
    for number in range(200, 216):
        picture(number).save(good_folder / "train" / "cats" / f"{number}.jpg")
    report = check_folder(good_folder)
    assert [finding.kind for finding in report.findings] == ["imbalance"]
    assert report.class_weights == pytest.approx({0: 26 / (2 * 21), 1: 26 / (2 * 5)})
    assert "21 of cats and 5 of dogs" in report.findings[0].detail


def test_folder_that_cannot_be_indexed_is_one_finding(good_folder):
    (good_folder / "train" / "fish").mkdir()
    report = check_folder(good_folder)
    assert [finding.kind for finding in report.errors] == ["layout"]
    assert "fish" in report.findings[0].detail


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
    path = tmp_path / "picture"
    picture(1).save(path, file_format)
    assert size_of(path.read_bytes(), file_format) == (40, 50)
    assert fingerprint(str(path)).picture_format == file_format


def test_weights_leave_out_classes_without_pictures(good_folder):
    split = index_folder(good_folder).train.take([0, 1, 2])
    assert balanced_weights(split) == {0: 0.5}


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
