"""Several workers train what one would: weights, rates, the finder's losses and what validation counts."""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.distribution import train_in_step
from tests.distribution.cluster import run_workers

PROGRAM = ["-m", "tests.distribution.train_in_step"]


def trained(count, folder, directory, *settings, **environment):
    output = directory / f"of_{count}"
    printed = run_workers([[*PROGRAM, folder, output, *settings]] * count, folder=directory, **environment)
    assert all(text.endswith("held\n") for text in printed)
    return np.load(f"{output}.npz")


@pytest.fixture(scope="module")
def alone(digits_folder, tmp_path_factory):
    """One process. Of 143 training and 35 validation images the last batch can be divided neither by 2 nor by 3."""
    return trained(1, digits_folder, tmp_path_factory.mktemp("alone"), "batch_size=42")


def assert_same(together, alone):
    assert together["rates"].shape == alone["rates"].shape
    np.testing.assert_allclose(together["rates"], alone["rates"], rtol=1e-6)
    if "curve" in alone:
        np.testing.assert_allclose(together["curve"], alone["curve"], rtol=1e-4)
    for name in alone.files:
        if name.startswith(("weight_", "val_")):
            np.testing.assert_allclose(together[name], alone[name], atol=1e-5, err_msg=name)


def test_two_workers_train_an_epoch_as_one(digits_folder, tmp_path):
    settings = ["batch_size=42", "find=0", "epochs=1"]
    train_in_step.main(digits_folder, tmp_path / "of_1", *settings)
    assert_same(trained(2, digits_folder, tmp_path, *settings), np.load(tmp_path / "of_1.npz"))


@pytest.mark.slow
def test_two_workers_train_as_one(alone, digits_folder, tmp_path):
    assert alone["rates"].shape == (3 * 4,)
    assert_same(trained(2, digits_folder, tmp_path, "batch_size=42"), alone)


@pytest.mark.slow
def test_three_workers_train_as_one(alone, digits_folder, tmp_path):
    assert_same(trained(3, digits_folder, tmp_path, "batch_size=42"), alone)


@pytest.mark.slow
def test_a_lost_worker_ends_the_others_and_both_go_on_to_the_same_weights(alone, digits_folder, tmp_path):
    settings = ["batch_size=42", "find=0"]
    # In the midst of the second epoch, of four batches
    command = [*PROGRAM, digits_folder, tmp_path / "of_2", *settings, "kill_worker=1", "kill_at=6"]
    left, _ = run_workers([command] * 2, folder=tmp_path, codes=[1, -signal.SIGKILL])
    assert "UnavailableError" in left
    together = trained(2, digits_folder, tmp_path, *settings)
    assert len(together["rates"]) == 2 * 4
    for name in alone.files:
        if name.startswith(("weight_", "val_")):
            np.testing.assert_allclose(together[name], alone[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_four_replicas_of_two_or_four_workers_train_as_one(digits_folder, tmp_path):
    settings = ["batch_size=44", "epochs=2"]  # of whose last batch the parts are uneven
    train_in_step.main(digits_folder, tmp_path / "of_1", *settings)
    alone = np.load(tmp_path / "of_1.npz")
    assert_same(trained(2, digits_folder, tmp_path, *settings, "replicas=2"), alone)
    assert_same(trained(4, digits_folder, tmp_path, *settings), alone)


@pytest.mark.slow
def test_a_fault_on_one_worker_ends_the_finder_on_all(digits_folder, tmp_path):
    command = [*PROGRAM, digits_folder, tmp_path / "out", "batch_size=42", "fail_worker=1"]
    other, faulty = run_workers([command] * 2, folder=tmp_path, codes=[1, 1], timeout=120)
    assert "its images hold NaN" in faulty or "this worker's images" in faulty
    assert "UnavailableError" in other


@pytest.mark.slow
def test_checkpoints_of_different_moments_are_refused_on_all_workers(digits_folder, tmp_path):
    settings = ["batch_size=42", "find=0"]
    trained(2, digits_folder, tmp_path, *settings, "epochs=1")
    file = tmp_path / "of_2-1.checkpoint"
    earlier = file.read_bytes()
    trained(2, digits_folder, tmp_path, *settings, "epochs=2")
    command = [*PROGRAM, digits_folder, tmp_path / "of_2", *settings]
    for text, leave in (
        ("epoch 2, batch 0 on worker 0, epoch 1, batch 0 on worker 1", lambda: file.write_bytes(earlier)),
        ("epoch 2, batch 0 on worker 0, no file of use on worker 1", lambda: file.write_bytes(b"none")),
        ("epoch 2, batch 0 on worker 0, epoch 0, batch 0 on worker 1", file.unlink),
    ):
        leave()
        chief, other = run_workers([command] * 2, folder=tmp_path, codes=[1, 1])
        assert text in chief
        assert (text if "no file" not in text else "of2-1.checkpoint") in other.replace("of_2", "of2")


@pytest.mark.slow
def test_a_port_that_is_taken_is_said(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cluster = {"worker": ["127.0.0.1:1", f"127.0.0.1:{taken.getsockname()[1]}"]}
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
        code = "from keras_sgdr import distribution_strategy; distribution_strategy(timeout_seconds=20)"
        environment = os.environ | {"TF_CONFIG": config, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"This worker must be able to listen at {cluster['worker'][1]}" in done.stderr
