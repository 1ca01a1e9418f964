"""TensorFlow Lite and ONNX files, run by their own runtimes."""

import json

import numpy as np
import pytest

from keras_sgdr.serving.portable import export_portable, load_portable
from tests.cli.command_line import assert_one_line, run, run_well


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 24, 32, 3)).astype("float32")


@pytest.mark.parametrize(
    ("suffix", "precision", "tolerance"),
    [
        ("tflite", "float32", 1e-5),
        pytest.param("tflite", "float16", 2e-3, marks=pytest.mark.slow),
        ("tflite", "int8", 0.05),
        ("onnx", "float32", 1e-5),
    ],
)
def test_file_says_what_the_model_says(suffix, precision, tolerance, model, images, tmp_path):
    path = tmp_path / f"classifier.{suffix}"
    export_portable(model, path, precision=precision, calibration=images if precision == "int8" else None)
    run_file = load_portable(path)
    found = np.concatenate([run_file(images[:32]), run_file(images[32:])])
    expected = model.predict(images, verbose=0)
    assert found.shape == (40, 3)
    assert 0 < np.abs(found - expected).max() < tolerance or tolerance == 1e-5
    np.testing.assert_allclose(found, expected, atol=tolerance)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "options", "received"),
    [
        ("a.pb", {}, "must end in .tflite, .onnx"),
        ("a.onnx", {"precision": "int8"}, "precision='int8'"),
        ("a.tflite", {"precision": "int4"}, "precision='int4'"),
        ("a.tflite", {"precision": "int8"}, "`calibration` must be images"),
    ],
)
def test_what_cannot_be_written_is_refused(name, options, received, model, tmp_path):
    with pytest.raises(ValueError, match=received):
        export_portable(model, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_command_measures_the_file_on_the_runs_images(trained_run, digits_folder, tmp_path):
    options = ["--format", "tflite", "--precision", "int8", "--folder", digits_folder]
    done = run_well("export", trained_run, tmp_path / "new", *options)
    path = tmp_path / "new" / f"{trained_run.name}_int8.tflite"
    assert str(path) in done.stdout
    card = json.loads(path.with_name(f"{path.name}.json").read_text())
    about, metrics = card["this file"], card["metrics"]["validation"]
    assert about["images"] == metrics["images"] == 36
    stages = json.loads((trained_run / "run.json").read_text())["stages"]
    assert metrics["accuracy"] == pytest.approx(stages["evaluate"]["tta_accuracy"])
    low, high = metrics["accuracy, 95 % interval"]
    assert low < metrics["accuracy"] < high
    assert about["names the same class as the classifier"] > 0.8
    assert 0 < about["largest difference of a probability"] < 0.2
    assert about["bytes"] == path.stat().st_size
    assert card["views"] == ["flip"]
    assert_one_line(run("export", trained_run, tmp_path, "--format", "onnx", "--precision", "int8"), "must be one of")


def test_options_of_another_format_are_refused(trained_run, tmp_path):
    done = run("export", trained_run, tmp_path, "--format", "onnx", "--version", 3)
    assert done.exit_code == 2
    assert "--version is for" in done.stderr
    assert_one_line(run("export", trained_run, tmp_path, "--precision", "int8"), "precision='int8'")
    assert run("export", trained_run, tmp_path, "--folder", tmp_path).exit_code == 2
    (tmp_path / "file").write_text("")
    assert_one_line(run("export", trained_run, tmp_path / "file"), tmp_path / "file")
