import json

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from keras_sgdr_cli.main import cli


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(3):
                image = tf.image.resize(rng.integers(0, 256, (4, 4, 3)), (32, 32))
                encoded = tf.io.encode_png(tf.cast(image, tf.uint8)).numpy()
                (tmp_path / "pets" / split / name / f"{i}.png").write_bytes(encoded)
    return tmp_path / "pets"


def run(*arguments: object):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_check_of_a_good_folder_finds_nothing(folder):
    done = run("check", folder)
    assert done.exit_code == 0, done.output
    assert "nothing wrong" in done.stdout


def test_check_finds_a_leak_and_a_text_and_moves_the_text_away_and_back(folder, tmp_path):
    (folder / "valid" / "dog" / "copy.png").write_bytes((folder / "train" / "dog" / "0.png").read_bytes())
    text = folder / "train" / "cat" / "notes.jpg"
    text.write_text("not an image")
    done = run("check", folder, "--format", "json", "--quarantine", tmp_path / "away")
    assert done.exit_code == 1
    kinds = {finding["kind"] for finding in json.loads(done.stdout)["findings"]}
    assert {"leak", "unreadable"} <= kinds
    assert not text.exists()
    assert run("check", folder, "--quarantine", tmp_path / "away", "--undo").exit_code == 0
    assert text.read_text() == "not an image"


def test_undo_needs_a_directory(folder):
    assert run("check", folder, "--undo").exit_code == 2


def test_show_writes_a_grid(folder, tmp_path):
    done = run("show", folder, "-o", tmp_path / "grid.png", "--image-size", 32, "--views", 2, "--images", 3)
    assert done.exit_code == 0, done.output
    grid = tf.io.decode_png((tmp_path / "grid.png").read_bytes())
    assert min(grid.shape[:2]) > 100
    assert float(tf.math.reduce_std(tf.cast(grid, tf.float32))) > 10


def test_backbones_lists_the_default_with_its_weights():
    (line,) = [line for line in run("backbones").stdout.splitlines() if line.startswith("EfficientNetLite0")]
    assert line.endswith("here")


def test_cache_is_listed_and_cleared(tmp_path):
    assert run("cache", "list", "--directory", tmp_path).stdout.startswith("0 entries")
    assert run("cache", "clear", "--directory", tmp_path).stdout.startswith("freed 0.0 MiB")
