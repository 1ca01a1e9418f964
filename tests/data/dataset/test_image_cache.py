"""With a cache and without, a model sees the same images."""

import gc
import multiprocessing
import os
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sgdr.array_store import ArrayWriter
from keras_sgdr.augmentation.random_view import side_on
from keras_sgdr.data.dataset import image_cache
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.folder import Split
from tests.data.conftest import image_of

SIZE = (16, 20)


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    """Small and large ones, tall and wide, some on their side, in several formats; each labelled with its index."""
    folder = tmp_path_factory.mktemp("odd")
    saved = [
        ("small.jpg", (9, 14), {}),
        ("wide.jpg", (24, 90), {"subsampling": 1}),
        ("tall.jpg", (95, 30), {"subsampling": 1}),
        ("halved.jpg", (41, 77), {"subsampling": 2}),
        ("large.jpg", (401, 777), {"subsampling": 2}),
        ("wide.png", (24, 90), {}),
        ("large.png", (130, 211), {}),
        ("large.gif", (99, 80), {}),
    ]
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        saved.append((f"turned{turn}.jpg", (33 + turn, 61), {"exif": exif, "subsampling": 1}))
    for number, (name, size, options) in enumerate(saved):
        image_of(number, *size).save(folder / name, **options)
    paths = [str(folder / name) for name, *_ in saved]
    return Split("train", paths, np.arange(len(paths), dtype=np.int32), tuple(map(str, range(len(paths)))))


def batches_of(dataset, epochs=2):
    return [batch for _ in range(epochs) for batch in dataset.as_numpy_iterator()]


def assert_same(left, right):
    assert len(left) == len(right)
    for ours, theirs in zip(left, right, strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(ours[0], theirs[0])


@pytest.mark.parametrize(
    ("augmentation", "resize"),
    [
        ("view", "crop"),
        pytest.param(None, "crop", marks=pytest.mark.slow),
        pytest.param("view", "pad", marks=pytest.mark.slow),
        pytest.param("flip", "crop", marks=pytest.mark.slow),
    ],
)
def test_batches_are_the_same_with_a_cache(split, tmp_path, augmentation, resize):
    layer = {None: None, "view": side_on(max_zoom=1.2), "flip": keras.layers.RandomFlip()}[augmentation]
    options = {"image_size": SIZE, "batch_size": 4, "resize": resize, "augmentation": layer, "shuffle": True}
    expected = batches_of(load_dataset(split, **options))
    for cache, epochs in (("memory", 1), (tmp_path, 2)):
        cached = load_dataset(split, cache=cache, verbose=0, **options)
        assert_same(batches_of(cached, epochs), expected[: 4 * epochs])
    if layer is not None:
        first, second = (
            {label: image for batch in part for image, label in zip(*batch, strict=True)}
            for part in (expected[:4], expected[4:])
        )
        assert all(np.abs(first[label] - second[label]).max() > 1 for label in first)


def test_small_images_come_whole_from_a_cache_and_are_the_same(split):
    fitting = split.take([index for index, path in enumerate(split.paths) if "large" not in path])
    options = {"image_size": (32, 40), "batch_size": 4, "augmentation": side_on(max_zoom=1.2), "shuffle": True}
    cached = load_dataset(fitting, cache="memory", verbose=0, **options)
    assert_same(batches_of(cached, epochs=1), batches_of(load_dataset(fitting, **options), epochs=1))


def test_threads_and_the_first_step_change_nothing(split, tmp_path):
    def dataset(threads, step):
        stream = load_dataset(
            split,
            image_size=SIZE,
            batch_size=4,
            augmentation=layer,
            shuffle=True,
            cache=tmp_path,
            initial_step=step,
            verbose=0,
        )
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        return stream.with_options(options)

    layer = side_on(max_zoom=1.2)
    expected = batches_of(dataset(1, 0))
    assert_same(batches_of(dataset(16, 2), epochs=2), expected[2:])


def test_files_are_decoded_once(split, tmp_path):
    copies = [tmp_path / Path(path).name for path in split.paths]
    for path, copy in zip(split.paths, copies, strict=True):
        copy.write_bytes(Path(path).read_bytes())
    own = Split("train", list(map(str, copies)), split.labels, split.class_names)
    options = {"image_size": SIZE, "batch_size": 15, "cache": tmp_path / "cache", "verbose": 0}
    expected = batches_of(load_dataset(own, **options), epochs=1)
    for copy in copies:
        stamp = copy.stat()
        copy.write_bytes(b"x" * stamp.st_size)
        os.utime(copy, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert_same(batches_of(load_dataset(own, **options), epochs=1), expected)
    # The images are the same in another order, and when there are several of each.
    images, labels = batches_of(load_dataset(own.take([3, 1, 3, *range(15)]), **options), epochs=1)[0]
    assert labels.tolist() == [3, 1, 3, *range(12)]
    np.testing.assert_array_equal(images, expected[0][0][labels])


def test_changed_and_added_files_are_seen(split, tmp_path):
    def images(paths, **options):
        split = Split("train", list(map(str, paths)), np.zeros(len(paths), np.int32), ("a",))
        options = {"image_size": SIZE, "batch_size": 9, "cache": tmp_path / "cache", "verbose": 0, **options}
        return batches_of(load_dataset(split, **options), epochs=1)[0][0]

    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        image_of(number).save(path)
    before = images(paths[:3])
    image_of(9).save(paths[1])
    after = images(paths[:3])
    assert [np.array_equal(*pair) for pair in zip(before, after, strict=True)] == [True, False, True]
    np.testing.assert_array_equal(images(paths)[:3], after)
    np.testing.assert_array_equal(images(paths)[3:], images(paths[3:], cache=None))
    assert not np.array_equal(images(paths, resize="squish"), images(paths))


def test_interrupted_cache_is_completed(split, tmp_path, monkeypatch):
    options = {"image_size": SIZE, "batch_size": 4, "verbose": 0}
    expected = batches_of(load_dataset(split, **options), epochs=1)
    append, counts = ArrayWriter.append, []

    def interrupted(writer, columns):
        counts.append(len(columns[1]))
        if len(counts) % 3 == 0:
            raise KeyboardInterrupt
        append(writer, columns)

    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "_WRITTEN_BYTES", 2000)
        patch.setattr(ArrayWriter, "append", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                load_dataset(split, cache=tmp_path, **options)
    # 960 bytes an image: three to a batch. What was written the first time is not decoded again.
    assert counts == [3] * 6
    assert [path.name[-8:] for path in tmp_path.iterdir()] == [".partial"]
    assert_same(batches_of(load_dataset(split, cache=tmp_path, **options), epochs=1), expected)
    assert len(list(tmp_path.iterdir())) == 1


def load_in_a_process(split, cache, barrier, results):
    """Says what this process decoded, and what it saw."""
    decoded = []
    images = image_cache.FileDecoder.images

    def counted(decoder, *, first):
        for image in images(decoder, first=first):
            decoded.append(image)
            yield image

    image_cache.FileDecoder.images = counted
    barrier.wait(timeout=120)
    dataset = load_dataset(split, image_size=SIZE, batch_size=4, cache=cache, verbose=0)
    results.put((len(decoded), batches_of(dataset, epochs=1)))


@pytest.mark.slow
def test_two_processes_at_once_decode_once(split, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    barrier, results = context.Barrier(2), context.Queue()
    children = [context.Process(target=load_in_a_process, args=(split, tmp_path, barrier, results)) for _ in "ab"]
    for child in children:
        child.start()
    seen = [results.get(timeout=300) for _ in children]
    for child in children:
        child.join()
    assert sorted(count for count, _ in seen) == [0, len(split)]
    expected = batches_of(load_dataset(split, image_size=SIZE, batch_size=4), epochs=1)
    for _, batches in seen:
        assert_same(batches, expected)


@pytest.fixture
def decoded(monkeypatch):
    """The images that were decoded for a cache, as they come."""
    images, seen = image_cache.FileDecoder.images, []

    def noted(decoder, *, first):
        for image in images(decoder, first=first):
            seen.append(image)
            yield image

    monkeypatch.setattr(image_cache.FileDecoder, "images", noted)
    return seen


def test_datasets_share_what_is_in_memory(split, decoded):
    options = {"image_size": SIZE, "batch_size": 4, "augmentation": side_on(max_zoom=1.2), "seed": 3}
    expected = batches_of(load_dataset(split, **options))
    memory = image_cache.ImageMemory(10**6)
    for _ in range(2):
        assert_same(batches_of(load_dataset(split, cache=memory, verbose=0, **options)), expected)
    assert len(decoded) == len(split)
    load_dataset(split, cache=memory, verbose=0, **{**options, "augmentation": None})
    assert len(decoded) == 2 * len(split), "without augmentation the images are others"


def test_images_that_do_not_fit_into_memory_are_decoded_in_every_epoch(split, decoded):
    options = {"image_size": SIZE, "batch_size": 4, "verbose": 0}
    expected = batches_of(load_dataset(split, **options))
    for max_bytes in (3 * 16 * 20 * len(split) - 1, 0):
        dataset = load_dataset(split, cache=image_cache.ImageMemory(max_bytes), **options)
        assert_same(batches_of(dataset), expected)
    assert not decoded


def test_augmented_images_are_judged_by_some_of_them(split, decoded):
    options = {"image_size": 4096, "batch_size": 4, "verbose": 0, "augmentation": side_on(), "resize": "squish"}
    # For the model they take 12 * 4096 * 4096 bytes each, but they are small.
    load_dataset(split, cache=image_cache.ImageMemory(10**7), **options)
    assert len(decoded) == len(split)
    total = sum(image.nbytes for image in decoded)
    load_dataset(split, cache=image_cache.ImageMemory(total - 1), **options)
    assert len(decoded) == len(split)


@pytest.mark.slow
def test_long_images_that_turn_out_too_large_give_their_room_back(split, decoded, monkeypatch, capsys):
    options = {"image_size": SIZE, "batch_size": 4, "augmentation": side_on()}
    memory = image_cache.ImageMemory(3 * 16 * 20 * len(split) + 100)
    monkeypatch.setattr(image_cache.FileDecoder, "num_bytes", lambda *_, at_most: at_most)
    expected = batches_of(load_dataset(split, **options))
    assert_same(batches_of(load_dataset(split, cache=memory, **options)), expected)
    assert 0 < len(decoded) < len(split), "the images with their margins are larger than the model's input"
    assert "They do not fit, and are decoded in every epoch\n" in capsys.readouterr().out
    few = split.take([0, 1])
    load_dataset(few, cache=memory, verbose=0, **options)
    before = len(decoded)
    load_dataset(few, cache=memory, verbose=0, **options)
    assert len(decoded) == before


def test_room_is_given_back_where_a_file_is_no_image(split, tmp_path, decoded):
    (tmp_path / "z.jpg").write_bytes(b"no image")
    bad = Split("train", [*split.paths[:3], str(tmp_path / "z.jpg")], np.zeros(4, np.int32), ("a",))
    memory = image_cache.ImageMemory(3 * 16 * 20 * 4)
    with pytest.raises(ValueError, match=r"z\.jpg"):
        load_dataset(bad, image_size=SIZE, cache=memory, verbose=0)
    decoded.clear()
    load_dataset(split.take(range(4)), image_size=SIZE, cache=memory, verbose=0)
    assert len(decoded) == 4


def test_images_go_when_the_dataset_goes(split, decoded, monkeypatch):
    made = []
    initialize = image_cache.MemoryImages.__init__

    def noted(self, images):
        initialize(self, images)
        made.append(weakref.ref(self))

    monkeypatch.setattr(image_cache.MemoryImages, "__init__", noted)
    dataset = load_dataset(split, image_size=SIZE, cache="memory", verbose=0).repeat(2).prefetch(1)
    gc.collect()
    assert len(batches_of(dataset, epochs=1)) == 2, "what is made of the dataset keeps them"
    assert made[0]() is not None
    del dataset
    gc.collect()
    assert made[0]() is None


def test_what_is_made_of_a_dataset_in_memory_goes_by_the_files_content(split, tmp_path):
    options = {"image_size": SIZE, "verbose": 0}
    source = repr(load_dataset(split, **options).source)
    for cache in ("memory", image_cache.ImageMemory(10**6)):
        assert repr(load_dataset(split, cache=cache, **options).source) == source


def test_what_is_made_of_a_dataset_on_disk_goes_by_the_whole_path(tmp_path, monkeypatch):
    sources = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        image_of(1, 20, 20).save("a.png")
        os.utime("a.png", (1, 1))
        split = Split("train", ["a.png"], np.zeros(1, np.int32), ("a",))
        sources.append(repr(load_dataset(split, image_size=16, cache=tmp_path / "cache", verbose=0).source))
    assert sources[0] != sources[1]


def test_file_that_changes_is_decoded_again_for_the_memory(tmp_path, decoded):
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for number, path in enumerate(paths):
        image_of(number, 20, 20).save(path)
    split = Split("train", paths, np.zeros(3, np.int32), ("a",))
    memory = image_cache.ImageMemory(10**6)
    options = {"image_size": 16, "batch_size": 3, "verbose": 0}
    load_dataset(split, cache=memory, **options)
    image_of(9, 20, 20).save(paths[1])
    os.utime(paths[1], (1, 1))
    assert_same(batches_of(load_dataset(split, cache=memory, **options)), batches_of(load_dataset(split, **options)))


def test_room_is_told_and_its_lack_refused(split, tmp_path, monkeypatch, capsys):
    options = {"image_size": (100, 200), "batch_size": 4}
    load_dataset(split, cache=tmp_path, **options)
    assert f"Caching 15 images in {tmp_path}: 0.9 MB of " in capsys.readouterr().out
    load_dataset(split, cache=tmp_path, **options)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(image_cache, "available_disk", lambda _: 800_000)
    with pytest.raises(ValueError, match=r"Received: cache='.*other' with 0\.8 MB available and 0\.9 MB needed"):
        load_dataset(split, cache=tmp_path / "other", **options)
    monkeypatch.setattr(image_cache, "available_memory", lambda: 0)
    with pytest.raises(ValueError, match=r"Received: cache='memory' with 0\.0 MB available and 0\.9 MB needed"):
        load_dataset(split, cache="memory", **options)
    monkeypatch.setattr(image_cache, "available_memory", lambda: None)
    load_dataset(split, cache="memory", **options)
    assert "Caching 15 images in memory: 0.9 MB\n" in capsys.readouterr().out


def test_full_disk_is_named_and_the_next_run_goes_on(split, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="Windows limits no process's files")
    monkeypatch.setattr(image_cache, "_WRITTEN_BYTES", 2000)
    options = {"image_size": SIZE, "batch_size": 15, "verbose": 0}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(OSError, match=r"too large: the decoded images could not .*Free some room.*test_full_disk"):
            load_dataset(split, cache=tmp_path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    expected = batches_of(load_dataset(split, **options), epochs=1)
    assert_same(batches_of(load_dataset(split, cache=tmp_path, **options), epochs=1), expected)


def test_bad_files_are_all_named(split, tmp_path):
    paths = list(split.paths)
    for position in (2, 7, 14):
        paths[position] = str(tmp_path / f"bad{position}.jpg")
        (tmp_path / f"bad{position}.jpg").write_bytes(b"text")
    bad = Split("train", paths, split.labels, split.class_names)
    for cache in ("memory", tmp_path / "cache"):
        with pytest.raises(ValueError, match=r"Received: no image: .*bad(14|2|7)\.jpg.*bad.*jpg.*bad.*jpg"):
            load_dataset(bad, image_size=SIZE, cache=cache, verbose=0)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        load_dataset(Split("test", ["/nowhere.png"], None, ()), cache=tmp_path)


@pytest.mark.parametrize("cache", ["", "gs://bucket/cache", 3])
def test_cache_must_be_a_place(split, cache):
    with pytest.raises(ValueError, match=f"Received: cache={cache!r}"):
        load_dataset(split, cache=cache)
