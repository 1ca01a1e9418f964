"""What a model sees: which images, in which order, and how they look."""

import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sgdr.augmentation.random_view import RandomView, side_on
from keras_sgdr.data.dataset import load_dataset as dataset_module
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.decode.png import decode_png
from keras_sgdr.data.index.folder import Split, index_folder
from keras_sgdr.precompute.cache_key import content_key
from tests.data.conftest import image_of


def epoch_of(dataset):
    batches = list(dataset.as_numpy_iterator())
    return [np.concatenate(part) for part in zip(*batches, strict=True)]


@pytest.fixture(scope="module")
def split(image_folder) -> Split:
    return index_folder(image_folder).train


@pytest.fixture(scope="module")
def numbered(split) -> Split:
    """The same images, each labelled with its index."""
    return Split("train", split.paths, np.arange(len(split), dtype=np.int32), tuple(map(str, range(len(split)))))


OPTIONS = {"image_size": 16, "batch_size": 5, "shuffle": True}
VIEW = {"max_zoom": 1.2}


@pytest.fixture(scope="module")
def reference(numbered):
    """The 15 batches of three epochs, shuffled and augmented, one thread after the other."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    dataset = load_dataset(numbered, augmentation=side_on(**VIEW), **OPTIONS).with_options(options)
    return [batch for _ in range(3) for batch in dataset.as_numpy_iterator()]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for (images, labels), (expected_images, expected_labels) in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(images, expected_images)


def test_batches_hold_the_images_in_order(split):
    dataset = load_dataset(split, image_size=(24, 32), batch_size=5, resize="squish")
    assert dataset.cardinality() == 5
    assert dataset.element_spec[0] == tf.TensorSpec((None, 24, 32, 3), tf.uint8)
    images, labels = epoch_of(dataset)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, split.labels)
    np.testing.assert_array_equal(images, [np.asarray(Image.open(path)) for path in split.paths])


def test_split_without_labels_gives_images_alone(split):
    dataset = load_dataset(Split("test", split.paths, None, ()), image_size=8, batch_size=4)
    assert next(iter(dataset)).shape == (4, 8, 8, 3)


def test_labels_of_several_classes_pass_through(split):
    labels = np.eye(2, dtype=np.float32)[split.labels]
    dataset = load_dataset(Split("train", split.paths, labels, ("a", "b")), image_size=8, batch_size=22)
    np.testing.assert_array_equal(next(iter(dataset))[1], labels)


def test_shuffle_orders_each_epoch_differently_and_completely(numbered):
    dataset = load_dataset(numbered, image_size=8, batch_size=5, shuffle=True)
    orders = [epoch_of(dataset)[1] for _ in range(3)]
    for order in orders:
        assert sorted(order) == list(range(22))
    assert len({tuple(order) for order in orders}) == 3


def test_another_seed_makes_other_epochs(numbered, reference):
    other = load_dataset(numbered, augmentation=side_on(**VIEW), seed=4, **OPTIONS)
    images, labels = next(other.as_numpy_iterator())
    assert not np.array_equal(labels, reference[0][1])
    views = {label: image for batch in reference[:5] for image, label in zip(*batch, strict=True)}
    assert all(np.abs(image - views[label]).max() > 1 for image, label in zip(images, labels, strict=True))


def test_view_of_a_image_depends_on_epoch_and_index_but_not_on_the_batch(numbered, reference):
    images, _ = epoch_of(load_dataset(numbered, image_size=16, batch_size=7, augmentation=side_on(**VIEW)))
    for number, is_same in ((0, True), (1, False)):
        for image, label in (
            pair for batch in reference[5 * number : 5 * number + 5] for pair in zip(*batch, strict=True)
        ):
            assert (np.abs(image - images[label]).max() <= 1e-3) == is_same


def test_no_tuner_holds_up_the_end_of_a_pass(numbered):
    assert load_dataset(numbered, image_size=32, verbose=0).repeat().options().autotune.enabled is False


def test_stream_begins_at_any_step(numbered, reference):
    for step in (3, 7):
        late = load_dataset(numbered, augmentation=side_on(**VIEW), initial_step=step, **OPTIONS)
        assert_same(list(late.as_numpy_iterator()), reference[step : 5 * (step // 5 + 1)])
        assert late.num_steps == 5
    assert_same([next(late.as_numpy_iterator())], reference[10:11])


def test_any_number_of_threads_gives_the_same_batches(numbered, reference):
    options = tf.data.Options()
    options.threading.private_threadpool_size = 16
    dataset = load_dataset(numbered, augmentation=side_on(**VIEW), **OPTIONS).with_options(options)
    assert_same(list(dataset.as_numpy_iterator()), reference[:5])


def test_a_dataset_of_another_size_traces_no_decoder_anew(split):
    load_dataset(split, image_size=17)
    before = decode_png.experimental_get_tracing_count()
    load_dataset(split, image_size=18, resize="pad", cache="memory", verbose=0)
    assert decode_png.experimental_get_tracing_count() == before


def test_skipped_images_are_not_opened(numbered):
    missing = Split("train", ["/nowhere.png"] * 10 + list(numbered.paths[10:]), numbered.labels, numbered.class_names)
    assert len(list(load_dataset(missing, image_size=8, batch_size=5, initial_step=2))) == 3


def test_pass_that_is_left_is_begun_anew(numbered):
    dataset = load_dataset(numbered, image_size=8, batch_size=5, shuffle=True)
    first = next(iter(dataset))[1].numpy()
    assert dataset.epoch_counter.numpy() == 0
    np.testing.assert_array_equal(epoch_of(dataset)[1][:5], first)
    assert dataset.epoch_counter.numpy() == 1


def test_stream_without_end_is_one_epoch_after_the_other_and_can_be_put_back(numbered, reference):
    endless = load_dataset(numbered, augmentation=side_on(**VIEW), **OPTIONS)
    assert_same(list(endless.repeat().take(15).as_numpy_iterator()), reference)
    assert endless.epoch_counter.numpy() == 3
    endless.epoch_counter.assign(1)
    assert_same(list(endless.as_numpy_iterator()), reference[5:10])


def test_fit_sees_another_epoch_each_time(numbered):
    class Seen(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.values = []

        def call(self, inputs):
            tf.py_function(lambda x: self.values.append(x.numpy()), [inputs[:, 0, 0, 0]], [])
            return keras.ops.mean(keras.ops.cast(inputs, "float32"), axis=(1, 2))

    seen = Seen()
    model = keras.Sequential([keras.Input((8, 8, 3)), seen, keras.layers.Dense(22)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    dataset = load_dataset(numbered, image_size=8, batch_size=11, shuffle=True)
    model.fit(dataset, epochs=2, verbose=0, shuffle=False)
    dataset.epoch_counter.assign(0)
    batches = [images[:, 0, 0, 0] for _ in range(2) for images, _ in dataset.as_numpy_iterator()]
    np.testing.assert_array_equal(seen.values, batches)


def test_drop_remainder_leaves_out_the_last_images(numbered):
    dataset = load_dataset(numbered, image_size=8, batch_size=5, drop_remainder=True)
    assert [len(labels) for _, labels in dataset] == [5, 5, 5, 5]
    assert dataset.cardinality() == 4


@pytest.mark.parametrize("content", [b"text", b"", b"\xff\xd8\xff\xe0 no more"])
def test_bad_file_is_named_on_the_way(numbered, tmp_path, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    paths = list(numbered.paths)
    paths[7] = str(tmp_path / "bad.jpg")
    dataset = load_dataset(Split("train", paths, numbered.labels, numbered.class_names), image_size=8, batch_size=5)
    batches = iter(dataset)
    next(batches)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Received: not an image:\] \[.*bad\.jpg"):
        next(batches)


@pytest.mark.parametrize(("bad", "batch_size"), [(21, 5), (21, 7), (20, 5), (4, 5)])
def test_bad_file_is_named_in_fit(numbered, tmp_path, bad, batch_size):
    (tmp_path / "bad.jpg").write_bytes(b"text")
    paths = [*numbered.paths[:bad], str(tmp_path / "bad.jpg"), *numbered.paths[bad + 1 :]]
    split = Split("train", paths, numbered.labels, numbered.class_names)
    model = keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Received: not an image:\] \[.*bad\.jpg"):
        model.fit(load_dataset(split, image_size=8, batch_size=batch_size), shuffle=False, verbose=0)


def test_bad_files_are_left_out_with_a_warning_and_the_count_is_right(numbered, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"text")
    paths = [*numbered.paths[:7], str(tmp_path / "bad.jpg"), *numbered.paths[8:]]
    split = Split("train", paths, numbered.labels, numbered.class_names)
    with pytest.warns(UserWarning, match=r"Left out 1 of 22 files that are not images: .*bad\.jpg \(it is no image"):
        dataset = load_dataset(split, image_size=8, batch_size=7, on_bad_image="skip")
    assert dataset.cardinality() == 3
    assert epoch_of(dataset)[1].tolist() == [index for index in range(22) if index != 7]


def test_names_are_any_bytes(image_folder, tmp_path):
    image = next((image_folder / "train" / "a").iterdir())
    names = [b"a\nb.png", b"<script>.png", b" .png", b"bad\xff\xfe.png", "\u00e9.png".encode()]
    for part in ("train", "valid"):
        folder = tmp_path / part / os.fsdecode(b"cl\xe9ss")
        folder.mkdir(parents=True)
        for name in names:
            shutil.copy(image, folder / os.fsdecode(name))
    split = index_folder(tmp_path).train
    assert {os.fsencode(path).rpartition(b"/")[2] for path in split.paths} == set(names)
    for cache in (None, tmp_path / "cache"):
        dataset = load_dataset(split, image_size=8, batch_size=5, cache=cache, verbose=0)
        assert len(epoch_of(dataset)[1]) == 5
        assert len(content_key(dataset.source)) == 64
    (tmp_path / "train" / folder.name / os.fsdecode(names[3])).write_bytes(b"text")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Received: not an image:.*bad.*png"):
        epoch_of(load_dataset(split, image_size=8, batch_size=5))


def test_source_tells_all_that_the_batches_depend_on(split, tmp_path, monkeypatch):
    # The batches are not looked at, and to make the graph for them takes a second each.
    monkeypatch.setattr(dataset_module, "stream", lambda plan, *_: tf.data.Dataset.range(plan.num_steps))
    copies = [str(tmp_path / f"{number}.png") for number in range(22)]
    for path, copy in zip(split.paths, copies, strict=True):
        shutil.copy(path, copy)
    own = Split("train", copies, split.labels, split.class_names)

    def key(split=own, **options):
        options = {"image_size": 16, "augmentation": side_on(), "verbose": 0, **options}
        return content_key(load_dataset(split, **options).source)

    changes = [
        {"image_size": 17},
        {"batch_size": 3},
        {"resize": "pad"},
        {"augmentation": side_on(max_zoom=1.3)},
        {"augmentation": None},
        {"shuffle": True},
        {"seed": 1},
        {"initial_step": 1},
        {"batch_size": 21, "drop_remainder": True},
        {"class_weight": "balanced"},
        {"class_weight": {0: 2.0}},
        {"split": own.weighted(np.ones(22))},
        {"split": own.take(range(20)).oversampled()},
        {"split": own.take([1, 0, *range(2, 22)])},
        {"split": Split("train", copies, 1 - own.labels, own.class_names)},
    ]
    keys = [key(), *(key(**change) for change in changes)]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    image_of(99).save(copies[4])
    assert key() != keys[0]


def test_source_is_not_told_of_a_layer_that_does_not_describe_itself(split, monkeypatch):
    class Own(keras.layers.Layer):
        def __init__(self, size):
            super().__init__()

        def call(self, inputs):
            return inputs

        def get_config(self):
            raise NotImplementedError

    monkeypatch.setattr(dataset_module, "stream", lambda plan, *_: tf.data.Dataset.range(plan.num_steps))
    assert load_dataset(split, augmentation=Own(object()), image_size=8).source is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "Received: batch_size=0"),
        ({"batch_size": 2.0}, "Received: batch_size=2.0"),
        ({"initial_step": -1}, "Received: initial_step=-1"),
        ({"resize": "stretch"}, "Received: resize='stretch'"),
        ({"image_size": 0}, "Received: image_size=0"),
        ({"on_bad_image": "ignore"}, "Received: on_bad_image='ignore'"),
        ({"batch_size": 23, "drop_remainder": True}, "Received: 22 images with batch_size=23"),
    ],
)
def test_wrong_arguments_are_refused(split, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(split, **options)


def test_training_images_are_cropped_anywhere_along_the_long_side(tmp_path):
    values = np.arange(0, 240, 2, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(values[None, :, None], (20, 120, 3)).copy()).save(tmp_path / "wide.png")
    split = Split("train", [str(tmp_path / "wide.png")] * 800, None, ())
    still = RandomView(max_rotate_degrees=0.0, max_lighting=0.0)
    (views,) = load_dataset(split, image_size=20, batch_size=800, augmentation=still).as_numpy_iterator()
    starts = np.rint(views[:, 0, 0, 0] / 2).astype(int)
    # 101 places, of which each is as likely
    assert starts.min() == 0
    assert starts.max() == 100
    np.testing.assert_allclose(np.quantile(starts, [0.25, 0.5, 0.75]), [25, 50, 75], atol=6)
    (centred,) = load_dataset(split.take([0]), image_size=20).as_numpy_iterator()
    assert centred[0, 0, 0, 0] == 100
