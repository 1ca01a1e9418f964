"""Shards: what is written, and that a model sees from them what it sees from the folder."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sgdr import index_folder, load_dataset, side_on, write_shards
from keras_sgdr.data.check.check_folder import check_folder
from keras_sgdr.data.check.quarantine import quarantine
from keras_sgdr.data.check.relabel import relabel
from keras_sgdr.data.index.split import FolderIndex, Split

VIEWS = {"image_size": 16, "batch_size": 5, "shuffle": True, "seed": 3}


@pytest.fixture(scope="module")
def folder(image_folder, tmp_path_factory) -> Path:
    """The images of `image_folder`, and in test/ two without labels, one of them of odd name."""
    copy = tmp_path_factory.mktemp("folder") / "images"
    shutil.copytree(image_folder, copy)
    (copy / "test").mkdir()
    for number, name in enumerate(["ähnlich [1].png", os.fsdecode(b"\xff.png")]):
        shutil.copy(copy / "train" / "a" / f"{number:02}.png", copy / "test" / name)
    return copy


@pytest.fixture(scope="module")
def index(folder) -> FolderIndex:
    return index_folder(folder)


@pytest.fixture(scope="module")
def shards(index, tmp_path_factory) -> Path:
    return write_shards(index, tmp_path_factory.mktemp("shards") / "of images")


def batches_of(split, epochs=2, **options):
    dataset = load_dataset(split, augmentation=side_on(max_zoom=1.2), **VIEWS | options)
    return [batch for _ in range(epochs) for batch in dataset.as_numpy_iterator()]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for (images, labels), (expected_images, expected_labels) in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(images, expected_images)


@pytest.fixture(scope="module")
def expected(index):
    """The ten batches of two epochs, from the folder."""
    return batches_of(index.train)


def test_batches_are_those_of_the_folder_from_any_step(index, shards, expected):
    found = index_folder(shards)
    assert found.class_names == index.class_names
    assert_same(batches_of(found.train), expected)
    assert_same(batches_of(found.train, epochs=1, initial_step=6), expected[6:])


def test_batches_are_the_same_from_one_thread_and_from_a_cache(shards, expected):
    one = tf.data.Options()
    one.threading.private_threadpool_size = 1
    train = index_folder(shards).train
    dataset = load_dataset(train, augmentation=side_on(max_zoom=1.2), cache="memory", verbose=0, **VIEWS)
    assert_same(list(dataset.with_options(one).as_numpy_iterator()), expected[:5])
    # joined to plain paths, as `evaluate --split all` does
    joined = Split("all", tuple(train.paths), train.labels, train.class_names)
    dataset = load_dataset(joined, augmentation=side_on(max_zoom=1.2), **VIEWS)
    assert_same(list(dataset.with_options(one).as_numpy_iterator()), expected[:5])


def test_parts_of_a_split_are_those_of_the_folder(index, shards):
    train = index_folder(shards).train
    plain = {"image_size": (24, 32), "resize": "squish", "batch_size": 8, "verbose": 0}
    some = train.take([21, 3, 3, 0]).oversampled()
    files = [Path(index.folders["train"], path.rpartition("train/")[2]) for path in some.paths]
    assert [file.name for file in files] == ["10.png", "03.png", "03.png", "00.png", "10.png", "10.png"]
    for cache in (None, "memory"):
        ((images, labels),) = load_dataset(some, cache=cache, **plain).as_numpy_iterator()
        np.testing.assert_array_equal(images, [np.asarray(Image.open(file)) for file in files])
        np.testing.assert_array_equal(labels, ["ab".index(file.parent.name) for file in files])
    assert list(train.paths[3:6]) == [train.paths[3], train.paths[4], train.paths[5]]
    assert list(train.paths[::-7]) == [train.paths[each] for each in (21, 14, 7, 0)]


def test_names_and_bytes_are_those_of_the_files(folder, shards):
    for split in ("train", "valid", "test"):
        names = [
            path.partition(".tfrecord/")[2].partition("/")[2] for path in getattr(index_folder(shards), split).paths
        ]
        assert names == [os.path.relpath(path, folder) for path in getattr(index_folder(folder), split).paths]
    records = [
        tf.train.Example.FromString(each)
        for each in tf.data.TFRecordDataset(shards / "valid-00000.tfrecord").as_numpy_iterator()
    ]
    for example, path in zip(records, index_folder(folder).valid.paths, strict=True):
        feature = example.features.feature
        assert feature["image/encoded"].bytes_list.value[0] == Path(path).read_bytes()
        assert feature["image/filename"].bytes_list.value[0].decode() == os.path.relpath(path, folder)
        assert feature["image/class/text"].bytes_list.value[0].decode() == Path(path).parent.name
        assert feature["image/class/label"].int64_list.value[0] == "ab".index(Path(path).parent.name)


def test_writing_goes_on_after_a_kill_to_the_same_files(tmp_path):
    """Killed while the third of five shards is written; the shards, their order and the index are those of one call."""
    rng = np.random.default_rng(0)
    for number in range(10):
        image = tmp_path / "images" / f"class {number % 2}" / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (400, 500, 3), np.uint8)).save(image)
    options = "index_folder('images', valid_fraction=0.2), 'killed', shard_megabytes=1"
    code = f"""
import os, signal
from keras_sgdr import index_folder, write_shards
def stop(done, total):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
write_shards({options}, on_progress=stop)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.tfrecord")}
    assert sorted(written) == ["train-00000.tfrecord", "train-00001.tfrecord"]
    with pytest.raises(ValueError, match=r"Received: .*killed, whose writing was stopped.*goes on where it was"):
        index_folder(tmp_path / "killed")
    index = index_folder(tmp_path / "images", valid_fraction=0.2)
    with pytest.raises(FileExistsError, match=r"Received: .*killed, with shards of others"):
        write_shards(index, tmp_path / "killed", shard_megabytes=2)
    done = []
    write_shards(index, tmp_path / "killed", shard_megabytes=1, on_progress=lambda *counts: done.append(counts))
    assert done == [(6, 10), (8, 10), (10, 10)]
    write_shards(index, tmp_path / "whole", shard_megabytes=1)
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "killed") for path in (tmp_path / "killed").rglob("*") if path.is_file()
    )
    for file in files:
        if file.name != "entry.json":  # which says when it was made
            assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert all((tmp_path / "killed" / name).stat().st_mtime_ns == time for name, time in written.items())
    write_shards(index, tmp_path / "killed", shard_megabytes=1, on_progress=lambda *counts: done.append(counts))
    assert len(done) == 3


def test_a_damaged_shard_is_named_where_it_is_read(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    path = copy / "train-00000.tfrecord"
    content = bytearray(path.read_bytes())
    second = bytes(content).index(b"\x89PNG", bytes(content).index(b"\x89PNG") + 1)
    content[second + 50] ^= 1
    path.write_bytes(content)
    index = index_folder(copy)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"train-00000.tfrecord is damaged: the checksum"):
        list(load_dataset(index.train, image_size=8, batch_size=5))
    (finding,) = [each for each in check_folder(index).findings if each.kind == "unreadable"]
    assert finding.path == index.train.paths[1]
    assert "train-00000.tfrecord is damaged" in finding.detail
    with pytest.raises(ValueError, match=r"Received: .*copy, shards"):
        quarantine(check_folder(index), tmp_path / "away")
    with pytest.raises(ValueError, match=r"Received: .*copy. Change .* these shards were written from"):
        relabel(index, tmp_path / "changes.csv")


def test_a_shard_that_is_cut_off_or_gone_is_named(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    index = index_folder(copy)
    size = (copy / "valid-00000.tfrecord").stat().st_size
    os.truncate(copy / "valid-00000.tfrecord", size - 4)
    with pytest.raises(ValueError, match=rf"with {size} bytes. Received: .*/valid-00000.tfrecord with {size - 4}"):
        index_folder(copy)
    (copy / "valid-00000.tfrecord").unlink()
    with pytest.raises(ValueError, match=r"Received: no file .*/valid-00000.tfrecord"):
        index_folder(copy)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"No such file or directory: .*valid-00000.tfrecord"):
        list(load_dataset(index.valid, image_size=8, batch_size=5))


def test_division_is_the_one_that_was_written(shards):
    with pytest.raises(ValueError, match=r"Received: valid='dev', group_by='a' for .*of images"):
        index_folder(shards, valid="dev", group_by="a")
    assert len(index_folder(shards, valid_fraction=0.5).valid) == 6


def test_what_is_no_file_is_refused(index, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, words in ((tmp_path / "pipe.png", "must be a file. "), (tmp_path, "must be a file. ")):
        split = Split("train", [str(path)], np.zeros(1, np.int32), ("a", "b"))
        with pytest.raises(ValueError, match=rf"{words}Received: {path}"):
            write_shards(FolderIndex(str(tmp_path), ("a", "b"), split, index.valid), tmp_path / "shards")
    with pytest.raises(ValueError, match=r"Received: shard_megabytes=0"):
        write_shards(index, tmp_path / "shards", shard_megabytes=0)


def test_labels_of_several_classes_are_kept(folder, tmp_path):
    rows = "train/a/00.png,x y,train\ntrain/b/00.png,y,train\nvalid/a/00.png,x,valid\nvalid/b/00.png,y,valid\n"
    (folder / "labels.csv").write_text("filename,label,split\n" + rows)
    index = index_folder(folder / "labels.csv", label_delimiter=" ")
    found = index_folder(write_shards(index, tmp_path / "shards"))
    assert found.class_names == ("x", "y")
    np.testing.assert_array_equal(found.train.labels, [[1, 1], [0, 1]])
    np.testing.assert_array_equal(found.valid.labels, [[1, 0], [0, 1]])
