"""Images written one after the other: whole or not at all, whatever happens to the writer."""

import multiprocessing
import os
import resource
from contextlib import closing

import numpy as np
import pytest

from keras_sgdr.data.dataset import image_store
from keras_sgdr.data.dataset.image_store import FileStore, FileWriter, MemoryStore, locked

COUNT = 60


def image(number):
    generator = np.random.default_rng(number)
    return generator.integers(0, 256, (20 + number % 7, 30 + number % 11, 3), np.uint8)


def write(folder, written=None):
    with locked(folder), closing(FileWriter(folder)) as writer:
        for number in range(writer.num_images, COUNT):
            pixels = image(number)
            writer.append(pixels, np.array(pixels.shape[:2], np.int32))
            if written is not None:
                written.value = number
        writer.complete()


def assert_whole(store):
    assert store.sizes.tolist() == [list(image(number).shape[:2]) for number in range(COUNT)]
    for number in reversed(range(COUNT)):
        expected = image(number).reshape(-1)
        pixels = np.empty(len(expected), np.uint8)
        store.read_into(pixels, number)
        np.testing.assert_array_equal(pixels, expected)
    part = np.empty(50, np.uint8)
    store.read_into(part, 7, 100)
    np.testing.assert_array_equal(part, image(7).reshape(-1)[100:150])


@pytest.fixture
def small_flushes(monkeypatch):
    monkeypatch.setattr(image_store, "_FLUSHED_BYTES", 5000)


def test_what_was_written_is_read_in_any_order(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileStore(tmp_path / "k")
    write(tmp_path / "k")
    assert_whole(FileStore(tmp_path / "k"))
    memory = MemoryStore()
    for number in range(COUNT):
        memory.append(image(number), np.array(image(number).shape[:2], np.int32))
    assert memory.num_images == COUNT
    assert_whole(memory)


def test_images_are_there_for_who_reads_them_when_the_folder_is_removed(tmp_path):
    write(tmp_path / "k")
    store = FileStore(tmp_path / "k")
    for path in (tmp_path / "k").iterdir():
        path.unlink()
    assert_whole(store)


@pytest.mark.parametrize("file", ["pixels.bin", "sizes.bin"])
@pytest.mark.parametrize("lost_bytes", [1, 5, 8, 5000, 100_000])
def test_bytes_lost_in_an_interruption_are_written_again(tmp_path, small_flushes, file, lost_bytes):
    with closing(FileWriter(tmp_path / "k")) as writer:
        for number in range(20):
            writer.append(image(number), np.array(image(number).shape[:2], np.int32))
        assert 15 < writer.num_images <= 20
    path = tmp_path / "k.partial" / file
    os.truncate(path, max(path.stat().st_size - lost_bytes, 0))
    write(tmp_path / "k")
    assert_whole(FileStore(tmp_path / "k"))


def test_killed_at_many_moments_nothing_is_half_there(tmp_path, small_flushes):
    # fork, so that a child begins to write at once; it runs nothing but NumPy and files.
    context = multiprocessing.get_context("fork")
    written = context.Value("i", 0)
    kills = 0
    for moment in np.linspace(0, COUNT - 3, 12).astype(int):
        child = context.Process(target=write, args=(tmp_path / "k", written))
        child.start()
        while written.value < moment and child.is_alive():
            pass
        child.kill()
        child.join()
        kills += child.exitcode == -9
        if (tmp_path / "k").exists():
            assert_whole(FileStore(tmp_path / "k"))
    assert kills >= 8
    write(tmp_path / "k")
    assert_whole(FileStore(tmp_path / "k"))


def test_two_writers_take_turns(tmp_path, small_flushes):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=write, args=(tmp_path / "k",)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert_whole(FileStore(tmp_path / "k"))


def test_full_disk_keeps_what_was_written(tmp_path, small_flushes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path / "k")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with closing(FileWriter(tmp_path / "k")) as writer:
        assert 10 < writer.num_images < COUNT
    write(tmp_path / "k")
    assert_whole(FileStore(tmp_path / "k"))


def test_damaged_images_are_refused(tmp_path):
    write(tmp_path / "k")
    store = FileStore(tmp_path / "k")
    os.truncate(tmp_path / "k" / "pixels.bin", 1000)
    with pytest.raises(ValueError, match="Received: 1000 bytes"):
        FileStore(tmp_path / "k")
    with pytest.raises(OSError, match="has become shorter"):
        store.read_into(np.empty(100, np.uint8), 40)
