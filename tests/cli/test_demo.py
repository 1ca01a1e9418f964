"""`keras-sgdr demo`, in its full length where it is asked for with `-m slow`."""

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from keras_sgdr_cli.demo import NAMES, write_digits
from tests.cli.command_line import assert_one_line, run, run_well


def test_digits_are_written_one_folder_a_class(tmp_path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    assert write_digits(tmp_path) == 1797
    for i in (0, 7, 1796):
        written = np.asarray(Image.open(tmp_path / NAMES[digits.target[i]] / f"{i:04d}.png"))
        assert np.abs(written / 255 - digits.images[i] / 16).max() < 0.01
    assert sum(1 for _ in tmp_path.rglob("*.png")) == 1797


def test_demo_without_scikit_learn_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert_one_line(run("demo", "-o", tmp_path / "demo"), 'pip install "keras-sgdr[demo]"')


@pytest.mark.slow
def test_demo_trains_and_predicts_through_its_export(tmp_path):
    output = tmp_path / "demo"
    (output / "run").mkdir(parents=True)
    # another run, half done
    (output / "run" / "run.json").write_text('{"settings": {}, "stages": {"check": {}}}')
    assert_one_line(run("demo", "-o", output), "resume", "overwrite")
    done = run_well("demo", "-o", output, "--overwrite")
    stages = json.loads((output / "run" / "run.json").read_text())["stages"]
    assert stages["evaluate"]["accuracy"] > 0.97
    (said, path) = re.search(r"^the export says '(\w+)' to (.+)$", done.stdout, re.MULTILINE).groups()
    assert path.split("/")[-2] == said
    assert f"report: {output / 'run' / 'report.html'}" in done.stdout
    assert "digits" in (output / "run" / "report.html").read_text()
    again = run_well("demo", "-o", output, "--resume")
    assert again.stdout.count("done before") == len(stages)
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
