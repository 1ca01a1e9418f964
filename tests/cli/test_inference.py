"""`keras-sgdr evaluate`, `predict` and `export`, of a run of the real recipe."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sgdr import export_savedmodel
from tests.cli.command_line import assert_one_line, run, run_well

CLASSES = ("one", "seven", "zero")


def table_of(text: str) -> dict[str, dict[str, str]]:
    """The rows of `predict`, under the names of the files."""
    return {row["path"]: row for row in csv.DictReader(io.StringIO(text))}


@pytest.fixture(scope="module")
def images(digits_folder, tmp_path_factory):
    """A folder with a few digits of each class, of which a run has never heard."""
    folder = tmp_path_factory.mktemp("few")
    for name in CLASSES:
        (folder / name).mkdir()
        for path in sorted((digits_folder / name).iterdir())[:4]:
            shutil.copy(path, folder / name)
    return folder


@pytest.fixture(scope="module")
def predicted(trained_run, images):
    return table_of(run_well("predict", trained_run, images).stdout)


def test_predict_says_what_the_model_says_of_pillows_images(trained_run, images, predicted):
    paths = sorted(map(str, images.rglob("*.png")))
    assert sorted(predicted) == paths
    # grey, 8 x 8, and squished to 32 x 32
    decoded = [
        np.asarray(Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)) for path in paths
    ]
    model, pixels = keras.models.load_model(trained_run / "model.keras"), np.stack(decoded).astype("float32")
    # the run was told to average over the image and its mirror image
    expected = (model.predict(pixels, verbose=0) + model.predict(pixels[:, :, ::-1].copy(), verbose=0)) / 2
    printed = np.array([[float(predicted[path][name]) for name in CLASSES] for path in paths])
    assert np.abs(printed - expected).max() < 0.04  # Pillow rounds to whole pixel values twice
    assert np.array_equal(printed.argmax(axis=1), expected.argmax(axis=1))
    for path, row in zip(paths, printed, strict=True):
        assert predicted[path]["predicted_class"] == CLASSES[row.argmax()]
        assert float(predicted[path]["probability"]) == row.max()


def test_predict_and_export_do_not_know_below_the_threshold(trained_run, images, predicted, tmp_path):
    probabilities = sorted(float(row["probability"]) for row in predicted.values())
    directory = shutil.copytree(trained_run, tmp_path / "run")
    described = json.loads((directory / "classifier.json").read_text())
    described["threshold"] = (probabilities[4] + probabilities[5]) / 2
    (directory / "classifier.json").write_text(json.dumps(described))
    expected = {
        path: row["predicted_class"] if float(row["probability"]) > described["threshold"] else ""
        for path, row in predicted.items()
    }
    assert list(expected.values()).count("") == 5
    again = table_of(run_well("predict", directory, images).stdout)
    assert {path: row["predicted_class"] for path, row in again.items()} == expected
    rows = json.loads(run_well("predict", directory, images, "--format", "json").stdout)
    assert {row["path"]: row["predicted_class"] or "" for row in rows} == expected
    served = tf.saved_model.load(run_well("export", directory, tmp_path / "served").stdout.strip())
    encoded = tf.constant([Path(path).read_bytes() for path in expected])
    answer = served.signatures["serving_default"](image_bytes=encoded)["predicted_class"].numpy()
    assert [name.decode() for name in answer] == list(expected.values())


def test_predict_writes_json_to_a_file(trained_run, images, predicted, tmp_path):
    output = tmp_path / "made" / "classes.json"
    done = run_well("predict", trained_run, images, "--format", "json", "-o", output)
    assert "predicted_class" not in done.stdout
    rows = json.loads(output.read_text(encoding="utf-8"))
    assert [row["path"] for row in rows] == list(predicted)
    for row in rows:
        assert row["predicted_class"] == predicted[row["path"]]["predicted_class"]
        assert row["probabilities"] == pytest.approx(
            {name: float(predicted[row["path"]][name]) for name in CLASSES}, abs=1e-6
        )


def test_predict_gives_the_same_in_batches_of_any_size(trained_run, images, predicted):
    for size in (1, 5):
        again = table_of(run_well("predict", trained_run, images, "--batch-size", size).stdout)
        assert list(again) == list(predicted)
        for path, row in again.items():
            assert float(row["probability"]) == pytest.approx(float(predicted[path]["probability"]), abs=1e-5)


def test_predict_names_a_file_that_is_no_image_and_goes_on(trained_run, images, tmp_path):
    (tmp_path / "notes.jpg").write_text("not an image")
    image = next(images.rglob("*.png"))
    done = run("predict", trained_run, tmp_path / "notes.jpg", image)
    assert list(table_of(done.stdout)) == [str(image)]
    assert_one_line(done, "notes.jpg")
    assert done.exit_code == 1


def scores(stdout: str) -> dict[str, tuple[float, float, int]]:
    """Accuracy, loss and number of images of each line of `evaluate`."""
    lines = re.findall(
        r"^(.+): accuracy ([\d.]+), loss ([\d.]+), calibration error [\d.]+, (\d+) images$", stdout, re.MULTILINE
    )
    return {name: (float(accuracy), float(loss), int(count)) for name, accuracy, loss, count in lines}


def expected_scores(rows: dict[str, dict[str, str]]) -> tuple[float, float, int]:
    """Accuracy and log-loss from the table that `predict` writes, the class being the file's folder."""
    actual = {path: Path(path).parent.name for path in rows}
    accuracy = np.mean([row["predicted_class"] == actual[path] for path, row in rows.items()])
    loss = -np.mean([np.log(float(row[actual[path]])) for path, row in rows.items()])
    return pytest.approx((accuracy, loss, len(rows)), abs=6e-5)


def test_evaluate_scores_another_folder_as_predict_does(trained_run, images, predicted):
    found = scores(run_well("evaluate", trained_run, images).stdout)
    assert set(found) == {"plain", "with views"}
    assert found["with views"] == expected_scores(predicted)


def test_evaluate_says_what_the_views_change(trained_run, images):
    lines = run_well("evaluate", trained_run, images).stdout
    found = scores(lines)
    change, p_value = re.search(
        r"^the views change the accuracy by ([-+][\d.]+), p = (.+)$", lines, re.MULTILINE
    ).groups()
    expected = found["with views"][0] - found["plain"][0]
    assert float(change) == pytest.approx(expected, abs=1.1e-4)
    assert 0 < float(p_value) <= 1


def test_evaluate_looks_at_the_split_that_is_asked_for(trained_run, digits_folder):
    everything = table_of(run_well("predict", trained_run, digits_folder).stdout)
    options = ["--batch-size", 50]
    found = {
        split: scores(run_well("evaluate", trained_run, digits_folder, "--split", split, *options).stdout)["with views"]
        for split in ("train", "valid", "all")
    }
    assert found["all"] == expected_scores(everything)
    assert [found[split][2] for split in ("train", "valid", "all")] == [144, 36, 180]
    right = {split: accuracy * count for split, (accuracy, _, count) in found.items()}
    assert right["train"] + right["valid"] == pytest.approx(right["all"], abs=0.02)
    # of the folder that the run was trained on, what it has held out
    assert scores(run_well("evaluate", trained_run, digits_folder, *options).stdout)["with views"] == found["valid"]
    assert_one_line(run("evaluate", trained_run, digits_folder, "--split", "test"), "test")


def test_evaluate_agrees_with_the_run_on_its_validation_images(trained_run, digits_folder):
    stages = json.loads((trained_run / "run.json").read_text())["stages"]
    found = scores(run_well("evaluate", trained_run, digits_folder, "--tta", "flip").stdout)
    assert found["plain"][0] == pytest.approx(stages["evaluate"]["accuracy"], abs=6e-5)
    assert found["with views"][0] == pytest.approx(stages["evaluate"]["tta_accuracy"], abs=6e-5)


def test_evaluate_leaves_views_out_and_says_what_is_confused(trained_run, images, predicted, tmp_path):
    done = run_well("evaluate", trained_run, images, "--batch-size", 5, "-o", tmp_path / "plots")
    without = scores(run_well("evaluate", trained_run, images, "--tta", "off").stdout)
    assert without == {"plain": pytest.approx(scores(done.stdout)["plain"], abs=2e-4)}
    wrong = [(Path(path).parent.name, row["predicted_class"]) for path, row in predicted.items()]
    confused = {pair: wrong.count(pair) for pair in wrong if pair[0] != pair[1]}
    printed = re.findall(r"^ *(\d+)  (\w+) taken for (\w+)$", done.stdout, re.MULTILINE)
    assert {(actual, taken): int(count) for count, actual, taken in printed} == confused
    for name in ("confusion_matrix.png", "top_losses.png"):
        assert np.asarray(Image.open(tmp_path / "plots" / name).convert("L")).std() > 5


@pytest.mark.slow
def test_evaluate_reads_splits_under_the_names_that_are_given_and_tables(trained_run, images, predicted, tmp_path):
    for split in ("learn", "look", "try"):
        shutil.copytree(images, tmp_path / "folder" / split)
    (tmp_path / "folder" / "look" / "zero" / "more.png").write_bytes(next(images.glob("zero/*")).read_bytes())
    names = ["--train", "learn", "--valid", "look", "--test", "try"]
    for split, count in (("train", 12), ("valid", 13), ("test", 12), ("all", 37)):
        done = run_well("evaluate", trained_run, tmp_path / "folder", *names, "--split", split)
        assert scores(done.stdout)["plain"][2] == count
    rows = [f"{Path(path).with_suffix('')},{Path(path).parent.name}" for path in predicted]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,label", *rows]))
    done = run_well("evaluate", trained_run, tmp_path / "labels.csv", "--suffix", ".png")
    assert scores(done.stdout)["with views"] == expected_scores(predicted)


CLIENT = """
import json, sys
for module in ("keras", "keras_sgdr", "keras_cv"):
    sys.modules[module] = None  # an import of it fails
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answer = serve(image_bytes=tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
print(json.dumps([
    answer["probabilities"].numpy().tolist(),
    [name.decode() for name in answer["predicted_class"].numpy()],
    [name.decode() for name in answer["class_names"].numpy()[0]],
]))
"""


def test_export_answers_in_a_process_without_keras_as_predict_does(trained_run, predicted, tmp_path):
    done = run_well("export", trained_run, tmp_path / "served")
    assert done.stdout.strip() == str(tmp_path / "served" / "1")
    command = [sys.executable, "-c", CLIENT, done.stdout.strip(), *predicted]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    probabilities, classes, class_names = answer
    assert class_names == list(CLASSES)
    assert classes == [row["predicted_class"] for row in predicted.values()]
    expected = [[float(row[name]) for name in CLASSES] for row in predicted.values()]
    assert np.allclose(probabilities, expected, atol=1e-5)


def test_export_counts_versions_up_or_takes_the_one_that_is_given(trained_run, tmp_path):
    versions = [
        Path(run_well("export", trained_run, tmp_path, *options).stdout.strip()).name
        for options in ((), ("--version", 7), ())
    ]
    assert versions == ["1", "7", "8"]
    assert_one_line(run("export", trained_run, tmp_path, "--version", 7), "version=7")


def test_compare_names_what_differs_between_two_runs(trained_run, digits_folder, predicted, images, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained_run, other)
    model = keras.models.load_model(other / "model.keras")
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias + np.array([300, 0, 0], np.float32)])
    model.save(other / "model.keras")
    journal = json.loads((other / "run.json").read_text())
    journal["settings"]["seed"] = 4
    (other / "run.json").write_text(json.dumps(journal))
    done = run_well("compare", trained_run, other, images, "-o", tmp_path / "differing.csv", "--batch-size", 5)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["settings that differ:", "seed: 0, 4"]
    actual = {path: Path(path).parent.name for path in predicted}
    after = table_of(run_well("predict", other, images).stdout)
    accuracies = [np.mean([row[path]["predicted_class"] == actual[path] for path in row]) for row in (predicted, after)]
    for directory, accuracy in zip((trained_run, other), accuracies, strict=True):
        assert any(line.startswith(f"{directory}: accuracy {accuracy:.4f}") for line in lines)
    with (tmp_path / "differing.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    changed = {p for p in predicted if predicted[p]["predicted_class"] != after[p]["predicted_class"]}
    assert set(rows) == changed
    assert changed
    assert all(row[str(other)] == after[path]["predicted_class"] for path, row in rows.items())
    assert f"differ on {len(changed)} images:" in done.stdout
    same = run_well("compare", trained_run, trained_run, "--split", "all").stdout
    assert "the same settings" in same
    assert "180 images" in same
    assert "difference +0.0000, p = 1" in same


def test_runs_with_other_classes_are_not_compared(trained_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained_run, other)
    described = json.loads((other / "classifier.json").read_text())
    (other / "classifier.json").write_text(json.dumps({**described, "class_names": ["a", "b", "c"]}))
    assert_one_line(run("compare", trained_run, other), "the same classes to be compared", "a, b, c")
    shutil.copy(trained_run / "classifier.json", other)
    (other / "run.json").unlink()
    assert_one_line(run("compare", other, trained_run), "`folder` must be given")


@pytest.mark.slow
def test_compare_takes_exports_and_fails_below_an_agreement(trained_run, images, predicted, tmp_path):
    export = run_well("export", trained_run, tmp_path / "served").stdout.strip()
    same = run_well("compare", trained_run, tmp_path / "served", images, "--min-agreement", 1).stdout
    assert "kind: 'a run', 'an export'" in same
    assert "they agree on 100.00%, and differ on 0 images" in same
    assert len(re.findall(r"images, ([\d.]+) ms an image$", same, re.MULTILINE)) == 2
    assert "the same settings" in run_well("compare", export, tmp_path / "served", images).stdout
    # a model whose classes are turned round
    model = keras.models.load_model(trained_run / "model.keras")
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel[:, ::-1], bias[::-1]])
    other = export_savedmodel(model, tmp_path / "other", class_names=CLASSES, resize="squish", views=("flip",))
    middle = sum(row["predicted_class"] == "seven" for row in predicted.values())
    agreement = middle / len(predicted)
    done = run("compare", trained_run, other, images, "--min-agreement", 0.99)
    assert f"they agree on {agreement:.2%}" in done.stdout
    assert_one_line(done, f"they agree on {agreement:.4f}, less than 0.99")
    assert done.exit_code == 1
