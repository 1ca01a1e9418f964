"""`keras-sgdr train` on two workers: each decides alike, and the files are where one process would leave them."""

import csv
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.distribution.cluster import path_of_output, run_workers, start_workers

CYCLES = ["--n-cycles", "2", "--cycle-len", "1", "--tta", "flip"]
SHORT = ["--learning-rate", "1e-4", "--dropout", "0", "--cycle-len", "1", "--tta", "off"]
TRAIN = ["-c", "from keras_sgdr_cli.main import main; main()", "train"]


@pytest.mark.slow
def test_workers_with_other_images_are_refused(digits_folder, tiny_options, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(digits_folder, other)
    next(other.rglob("*.png")).unlink()
    commands = [[*TRAIN, folder, "-o", tmp_path / "run", *tiny_options] for folder in (digits_folder, other)]
    for printed in run_workers(commands, folder=tmp_path, codes=[1, 1]):
        assert "All workers must have the same images" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_chief_that_refuses_ends_the_others(digits_folder, trained_run, tiny_options, tmp_path):
    command = [*TRAIN, digits_folder, "-o", trained_run, *tiny_options]
    chief, other = run_workers([command] * 2, folder=tmp_path, codes=[1, 1])
    assert "`output` must not hold a run already" in chief
    assert "All workers must go on to the end" in other


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lost_worker_is_told_and_the_run_goes_on(digits_folder, tiny_options, run, tmp_path, number):
    directory, *_ = run
    command = [*TRAIN, digits_folder, "-o", tmp_path / "run", *tiny_options, *CYCLES]
    workers = start_workers([command] * 2, folder=tmp_path)
    # Step 8 writes this at the end of its first epoch, and has two more before it
    while not (tmp_path / "run" / "train_all.checkpoint").is_file():
        assert all(worker.poll() is None for worker in workers)
    workers[1].send_signal(number)
    assert workers[1].wait(timeout=120) == (1 if number == signal.SIGTERM else -number)
    assert workers[0].wait(timeout=120) == 1
    assert "All workers must go on to the end" in path_of_output(0, tmp_path).read_text(errors="replace")
    run_workers([[*command, "--resume"]] * 2, folder=tmp_path)
    with np.load(directory / "predictions.npz") as unbroken, np.load(tmp_path / "run" / "predictions.npz") as file:
        np.testing.assert_allclose(file["plain"], unbroken["plain"], atol=1e-5)


@pytest.fixture(scope="module")
def run(digits_folder, tiny_options, tmp_path_factory):
    """The recipe as `trained_run` has it, but by two workers."""
    folder = tmp_path_factory.mktemp("workers")
    command = [*TRAIN, digits_folder, "-o", folder / "run", *tiny_options, *CYCLES]
    chief, other = run_workers([command] * 2, folder=folder, timeout=500)
    return folder / "run", chief, other


@pytest.mark.slow
def test_chief_alone_prints_and_writes(run):
    directory, chief, other = run
    assert "step 8: train the whole network" in chief
    assert "step" not in other
    assert (directory / "report.html").is_file()
    assert (directory / "export" / "1" / "saved_model.pb").is_file()
    assert not [path for path in directory.parent.iterdir() if path.name not in ("run", "worker-0.txt", "worker-1.txt")]


@pytest.mark.slow
def test_each_image_is_predicted_once_and_in_its_place(run):
    from keras_sgdr import index_folder, load_classifier, load_dataset

    directory, *_ = run
    journal = json.loads((directory / "run.json").read_text())
    index = index_folder(journal["settings"]["folder"], valid_fraction=journal["settings"]["valid_fraction"])
    with np.load(directory / "predictions.npz") as file:
        kept = dict(file)
    valid = load_dataset(index.valid, image_size=32, resize="squish")
    expected = load_classifier(directory).model.predict(valid, verbose=0)
    np.testing.assert_allclose(kept["plain"], expected, atol=1e-5)
    assert kept["labels"].tolist() == index.valid.labels.tolist()


@pytest.mark.slow
def test_history_is_of_all_images(run):
    directory, *_ = run
    with (directory / "history.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["stage"].startswith("all")]
    # An accuracy of 144 training and 36 validation images, and no mean of the workers' own
    for row in rows:
        for name, count in (("accuracy", 144), ("val_accuracy", 36)):
            right = float(row[name]) * count
            assert right == pytest.approx(round(right), abs=1e-3)


def last_epoch(directory):
    """What the journal of a run has of step 8's last epoch."""
    return json.loads((directory / "run.json").read_text())["stages"]["train_all"]["history"][-1]


@pytest.mark.slow
def test_averages_smoothing_and_class_weights_are_those_of_one_process(digits_folder, tiny_options, tmp_path):
    given = ["--ema", "0.9", "--label-smoothing", "0.1", "--class-weight", "balanced", *SHORT]
    alone, together = ([*TRAIN, digits_folder, *tiny_options, *given, "-o", tmp_path / name] for name in ("one", "two"))
    subprocess.run([sys.executable, *map(str, alone)], check=True, capture_output=True, timeout=300)
    run_workers([together] * 2, folder=tmp_path, timeout=500)
    one, two = (last_epoch(tmp_path / name) for name in ("one", "two"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["val_loss"] == pytest.approx(one["val_loss"], rel=1e-4)


@pytest.mark.slow
def test_two_workers_train_in_mixed_precision(digits_folder, tiny_options, tmp_path):
    from keras_sgdr import load_classifier

    # Of one process it is not: each worker's batch norms see its half of a batch.
    given = ["--backbone", "MobileNet", "--weights", "none", "--precision", "mixed_bfloat16", *SHORT]
    run_workers([[*TRAIN, digits_folder, *tiny_options, *given, "-o", tmp_path / "run"]] * 2, folder=tmp_path)
    assert last_epoch(tmp_path / "run")["val_loss"] < 0.1
    model = load_classifier(tmp_path / "run").model
    assert {layer.compute_dtype for layer in model.layers if layer.weights} == {"bfloat16", "float32"}
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
