"""Images behind a URL: in fsspec's memory, and in S3, which is moto's server in a process of its own."""

import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr import index_folder, load_dataset, side_on, train_image_classifier, write_shards
from keras_sgdr.data.check.check_folder import check_folder
from keras_sgdr.data.index.read_files import file_stamps
from keras_sgdr.recipe.upload import RunUpload
from tests.s3 import CREDENTIALS

VIEWS = {"image_size": 16, "batch_size": 5, "shuffle": True, "seed": 3}


@pytest.fixture(scope="module")
def folder(image_folder, tmp_path_factory) -> Path:
    """`image_folder`, one of whose names is a pattern, a table of it, and shards."""
    root = tmp_path_factory.mktemp("local")
    copy = shutil.copytree(image_folder, root / "images")
    (copy / "train" / "a" / "00.png").rename(copy / "train" / "a" / "[0] *.png")
    names = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*.png"))
    rows = [f"{name},{Path(name).parent.name},{name.split('/')[0]}\n" for name in names]
    (copy / "labels.csv").write_text("filename,label,split\n" + "".join(rows))
    write_shards(index_folder(copy), root / "shards")
    return root


@pytest.fixture(scope="module", params=["memory://bucket/data", "s3://bucket/data"])
def url(request, folder):
    """The URL of a copy of all that."""
    if request.param.startswith("s3"):
        request.getfixturevalue("s3")
    system = fsspec.filesystem(request.param.partition("://")[0])
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"{request.param}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return request.param


def epoch_of(split):
    return list(load_dataset(split, augmentation=side_on(max_zoom=1.2), **VIEWS).as_numpy_iterator())


@pytest.fixture(scope="module")
def expected(folder):
    return epoch_of(index_folder(folder / "images").train)


@pytest.mark.parametrize("what", ["images", "images/labels.csv", "shards"])
def test_batches_are_those_of_the_files_on_this_machine(url, folder, expected, what):
    index, local = index_folder(f"{url}/{what}"), index_folder(folder / what)
    for split in ("train", "valid"):
        paths = getattr(index, split).paths
        assert list(paths) == [f"{url}/{Path(path).relative_to(folder)}" for path in getattr(local, split).paths]
    assert index.root.removeprefix(url) == local.root.removeprefix(str(folder))
    batches = epoch_of(index.train)
    for (images, labels), (expected_images, expected_labels) in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(images, expected_images)


def test_check_reads_what_is_there_and_stamps_change_with_it(url, folder):
    system = fsspec.filesystem(url.partition("://")[0])
    first = f"{url}/images/train/b/00.png"
    content = system.cat_file(first)
    before = dict(
        zip((first, f"{url}/images/train/b/01.png"), file_stamps([first, first.replace("00", "01")]), strict=True)
    )
    system.pipe_file(first, b"no image")
    report = check_folder(f"{url}/images")
    assert [(each.kind, each.path) for each in report.errors] == [("unreadable", first)]
    after = list(file_stamps(list(before)))
    assert after[0] != before[first]
    assert after[1] == before[f"{url}/images/train/b/01.png"]
    system.pipe_file(first, content)


def test_a_file_that_goes_away_is_named_with_the_reason(url, folder):
    system = fsspec.filesystem(url.partition("://")[0])
    index = index_folder(f"{url}/images")
    dataset = load_dataset(index.valid, image_size=8, batch_size=4)
    assert len(list(dataset)) == 2
    content = system.cat_file(f"{url}/images/valid/b/01.png")
    system.rm_file(f"{url}/images/valid/b/01.png")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"valid/b/01.png \(A URL must be .* that is there"):
        list(dataset)
    system.pipe_file(f"{url}/images/valid/b/01.png", content)


def test_damaged_and_missing_shards_are_named(url):
    system = fsspec.filesystem(url.partition("://")[0])
    shard = f"{url}/shards/valid-00000.tfrecord"
    content, index = system.cat_file(shard), index_folder(f"{url}/shards")
    system.pipe_file(shard, content.replace(b"IDAT", b"IDOT"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{shard} is damaged: the checksum"):
        list(load_dataset(index.valid, image_size=8, batch_size=4))
    system.rm_file(shard)
    with pytest.raises(ValueError, match=rf"Received: no file {shard}"):
        index_folder(f"{url}/shards")
    system.pipe_file(shard, content)


def test_a_bucket_or_folder_that_is_not_there_is_named(url):
    for missing in (f"{url}/nothing", url.replace("bucket", "no-such-bucket")):
        with pytest.raises(FileNotFoundError, match=rf"Received: no folder {missing}\."):
            index_folder(missing)
        with pytest.raises(FileNotFoundError, match=rf"Received: no file {missing}/labels.csv"):
            index_folder(f"{missing}/labels.csv")
    with pytest.raises(ValueError, match=r"Received: s4://bucket/pets: "):
        index_folder("s4://bucket/pets")


@pytest.mark.parametrize(
    "wrong",
    [
        dict.fromkeys(CREDENTIALS),
        pytest.param({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, marks=pytest.mark.slow),  # it tries again and again
    ],
)
def test_a_store_that_cannot_be_asked_is_named(s3, monkeypatch, wrong):
    """Without credentials; and where nobody listens."""
    for name, value in wrong.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3.clear_instance_cache()
    with pytest.raises(ConnectionError, match=r"Received: s3://bucket/data.*: (NoCredentials|EndpointConnection)Error"):
        index_folder("s3://bucket/data/images")
    s3.clear_instance_cache()


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(ImportError, match=r"Received: oci://bucket.*ocifs.*keras-sgdr\[remote\]"):
        index_folder("oci://bucket")


def test_what_is_written_here_is_not_written_to_a_url(folder):
    index = index_folder(folder / "images")
    for url in ("s3://bucket/shards", Path("s3://bucket/shards")):
        with pytest.raises(ValueError, match=r"`directory` must be on this machine. Received: directory='s3:/"):
            write_shards(index, url)
        with pytest.raises(ValueError, match=r"`output` must be on this machine. Received: output='s3:/"):
            train_image_classifier(folder / "images", output=url)


def test_what_has_changed_of_a_run_is_copied(s3, url, tmp_path):
    system = fsspec.filesystem(url.partition("://")[0])
    (tmp_path / "export" / "1").mkdir(parents=True)
    for name in ("run.json", "export/1/saved_model.pb", ".lock", "model.keras"):
        (tmp_path / name).write_text(name)
    copy = RunUpload(tmp_path, f"{url}/runs/pets/")
    copy({"event": "message", "text": ""})
    found = {path.partition("runs/pets/")[2]: path for path in system.find(f"{url}/runs/pets")}
    assert sorted(found) == ["export/1/saved_model.pb", "model.keras", "run.json"]
    assert all(system.cat_file(path) == name.encode() for name, path in found.items())
    system.rm_file(found["model.keras"])
    (tmp_path / "run.json").write_text("another")
    copy({"event": "epoch"})
    assert system.cat_file(found["run.json"]) == b"run.json"
    copy({"event": "stage"})
    assert system.cat_file(found["run.json"]) == b"another"
    system.invalidate_cache()
    assert not system.exists(found["model.keras"])
    (tmp_path / "export" / "1" / "saved_model.pb").unlink()
    copy({"event": "stage"})
    system.invalidate_cache()
    assert [path.rpartition("/")[2] for path in system.find(f"{url}/runs/pets")] == ["run.json"]
    with pytest.raises(FileNotFoundError, match=r"Received: s3://no-such-bucket/run/model.keras: "):
        RunUpload(tmp_path, "s3://no-such-bucket/run").copy()
    with pytest.raises(ValueError, match=r"Received: url='runs'"):
        RunUpload(tmp_path, "runs")
