"""Batches that machines of a tf.data service make, against those of this process."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sgdr import basic, index_folder, load_dataset

COMMAND = [sys.executable, "-c", "from keras_sgdr_cli.main import main; main()", "data-service"]
OPTIONS = {"image_size": 16, "batch_size": 8, "shuffle": True}


@contextlib.contextmanager
def started(*arguments):
    """A server as the command line starts it, and what it says first."""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def dispatcher(*arguments):
    with started("dispatcher", *arguments) as (process, line):
        yield process, re.search(r"grpc://\S+:\d+", line)[0]


def worker(service, port=0):
    return started("worker", "--dispatcher", service.removeprefix("grpc://"), "--port", str(port))


def free_port():
    """None that the system gives to connections: what looks for a server that has gone could take it."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def bytes_of(batches):
    return sorted(b"".join(part.tobytes() for part in batch) for batch in batches)


@pytest.fixture(scope="module")
def split(digits_folder):
    return index_folder(digits_folder, valid_fraction=0.2).train.take(range(75))


@pytest.mark.slow
def test_every_batch_comes_once_in_an_epoch(split):
    local = load_dataset(split, augmentation=basic(), **OPTIONS)
    with dispatcher("--port", "0") as (_, service), worker(service), worker(service) as (second, _):
        remote = load_dataset(split, augmentation=basic(), service=service, **OPTIONS)
        assert remote.num_steps == len(local)
        for _ in range(2):
            assert bytes_of(remote.as_numpy_iterator()) == bytes_of(local.as_numpy_iterator())
        second.send_signal(signal.SIGINT)
        assert second.wait(timeout=30) == 0


@pytest.mark.slow
def test_what_a_lost_worker_had_begun_is_missing_and_the_next_epoch_is_whole(split):
    local = load_dataset(split, **OPTIONS)
    whole = [bytes_of(local.as_numpy_iterator()) for _ in range(3)]
    port = free_port()
    with dispatcher("--port", "0") as (_, service), worker(service), worker(service, port) as (lost, _):
        remote = load_dataset(split, service=service, **OPTIONS)
        batches = remote.as_numpy_iterator()
        seen = [next(batches)]
        lost.kill()
        lost.wait()
        with worker(service, port):
            seen += list(batches)
            # Each at most once
            found = bytes_of(seen)
            assert len(set(found)) == len(found)
            assert set(found) <= set(whole[0])
            assert bytes_of(remote.as_numpy_iterator()) == whole[1]


@pytest.mark.slow
def test_dispatcher_that_is_started_again_goes_on(split, tmp_path):
    local = load_dataset(split, **OPTIONS)
    whole = [bytes_of(local.as_numpy_iterator()) for _ in range(2)]
    port = str(free_port())
    with dispatcher("--port", port, "--journal", str(tmp_path)) as (first, service), worker(service):
        remote = load_dataset(split, service=service, **OPTIONS)
        assert bytes_of(remote.as_numpy_iterator()) == whole[0]
        first.kill()
        first.wait()
        with dispatcher("--port", port, "--journal", str(tmp_path)):
            assert bytes_of(remote.as_numpy_iterator()) == whole[1]


@pytest.mark.slow
def test_a_damaged_file_is_named(tmp_path):
    for number in range(9):
        path = tmp_path / ("train" if number < 8 else "valid") / "class" / f"{number}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(np.full((20, 20, 3), 9 * number, np.uint8)).save(path)
    (tmp_path / "train" / "class" / "4.png").write_bytes(b"no image")
    with dispatcher("--port", "0") as (_, service), worker(service):
        split = index_folder(tmp_path).train
        with pytest.raises(Exception, match=r"not an image.*4\.png"):
            list(load_dataset(split, service=service, **OPTIONS).as_numpy_iterator())


@pytest.mark.parametrize("service", ["host:5000", "grpc://host", "http://host:5000", "grpc://host:70000"])
def test_other_addresses_are_refused(split, service):
    with pytest.raises(ValueError, match=f"Received: service='{service}'"):
        load_dataset(split, service=service, **OPTIONS)


def test_a_service_where_nobody_listens_is_said_at_once(split):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"must listen at {address}. Received: Connection refused"):
            load_dataset(split, service=f"grpc://{address}", **OPTIONS)


def test_service_has_no_part_in_caches_and_strategies(split):
    with pytest.raises(ValueError, match="`cache` must be None with a `service`"):
        load_dataset(split, service="grpc://host:5000", cache="memory", verbose=0, **OPTIONS)
    with pytest.raises(ValueError, match="`strategy` must be None with a `service`"):
        load_dataset(split, service="grpc://host:5000", strategy=tf.distribute.get_strategy(), **OPTIONS)
