"""Any layers on a batch: each with draws that depend on the images' seeds alone."""

import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_sgdr.augmentation.random_view import side_on
from keras_sgdr.augmentation.stateless_random import epoch_draws
from keras_sgdr.data.dataset.batch_augmentation import make_batch_augmentation
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.folder import index_folder
from keras_sgdr.data.index.split import Split

NUM = 6
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 16, 16, 3), dtype=np.uint8)
SPLIT = Split("train", ["x"] * NUM, np.arange(NUM, dtype=np.int32) % 3, ("a", "b", "c"))
RANGE = {"value_range": (0, 255)}

# One for each way in which such layers draw; none of them for speed, which is what costs time here.
PER_IMAGE = {
    "a variable of KerasCV's": lambda: keras_cv.layers.RandomCutout(0.4, 0.4),
    "TensorFlow's global state": lambda: keras_cv.layers.RandomBrightness(0.3, **RANGE),
    "a loop, branches and a gamma distribution": lambda: keras_cv.layers.AugMix(**RANGE),
    "a variable of Keras's": lambda: layers.RandomErasing(factor=1.0),
    "several layers in one": lambda: keras.Sequential([layers.RandomFlip(), layers.RandomBrightness(0.2)]),
    "ours, inside another": lambda: keras_cv.layers.Augmenter([side_on(), keras_cv.layers.RandomFlip()]),
}
MIXING = {
    "KerasCV's MixUp": lambda: keras_cv.layers.MixUp(alpha=1.0),
    "Keras's MixUp": lambda: layers.MixUp(alpha=1.0),
    "KerasCV's CutMix": keras_cv.layers.CutMix,
    "Keras's CutMix": layers.CutMix,
    "a choice": lambda: keras_cv.layers.RandomChoice(
        [keras_cv.layers.MixUp(), keras_cv.layers.CutMix()], batchwise=True
    ),
}


def function_of(augmentation, images=IMAGES, split=SPLIT):
    batch = make_batch_augmentation(augmentation, split=split, image_size=images.shape[1:3])
    function = tf.function(batch.augment, autograph=False, reduce_retracing=True)

    def augment(epoch=0, count=None):
        seeds = epoch_draws(len(images), seed=1, epoch=epoch)[1][:count]
        return [part.numpy() for part in function(tf.constant(images[:count]), split.labels[:count], seeds)]

    return augment


@pytest.mark.parametrize("make", PER_IMAGE.values(), ids=PER_IMAGE)
def test_view_is_a_function_of_the_images_own_seed(make):
    augment, again = function_of(make()), function_of(make())
    images, labels = augment()
    assert images.dtype == np.float32
    np.testing.assert_array_equal(labels, SPLIT.labels)
    changed = np.abs(images - IMAGES).max(axis=(1, 2, 3)) > 1
    assert changed.any()
    assert not np.allclose(augment(epoch=1)[0], images)
    np.testing.assert_allclose(augment(count=3)[0], images[:3], atol=1e-3)
    np.testing.assert_allclose(again()[0], images, atol=1e-3)


@pytest.mark.parametrize("make", MIXING.values(), ids=MIXING)
def test_mixed_batch_is_a_function_of_its_images_seeds(make):
    augment, again = function_of(make()), function_of(make())
    images, labels = augment()
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    assert labels.dtype == np.float32
    assert not np.array_equal(augment(epoch=1)[1], labels)
    for _ in range(2):
        np.testing.assert_array_equal(augment()[0], images)
        np.testing.assert_array_equal(again()[1], labels)


def test_mixed_labels_say_how_much_of_each_image_is_shown():
    # Each image is of one value, which its label gives away.
    flat = np.broadcast_to((10.0 + 40 * SPLIT.labels)[:, None, None, None], (NUM, 16, 16, 3)).astype(np.uint8)
    for layer in (keras_cv.layers.MixUp(alpha=1.0), layers.MixUp(alpha=1.0)):
        images, labels = function_of(layer, flat)()
        assert 0 < labels.max(axis=1).min() < 1
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), labels @ [10.0, 50.0, 90.0], atol=1e-3)


def test_two_layers_of_a_kind_draw_differently():
    once, twice = (function_of([keras_cv.layers.RandomFlip() for _ in range(n)])()[0] for n in (1, 2))
    flipped = [(np.abs(images - IMAGES).max(axis=(1, 2, 3)) > 0) for images in (once, twice)]
    # Flipped twice by the same draws, every image would be as it was.
    assert flipped[0].any()
    assert flipped[1].any()


def test_every_way_of_drawing_has_the_distribution_it_had():
    class Draws(layers.Layer):
        def call(self, inputs):
            shape = [4]
            values = [
                tf.random.uniform(shape, 2.0, 4.0),
                tf.cast(tf.random.uniform(shape, 0, 3, tf.int32), tf.float32),
                tf.random.normal(shape, 1.0, 2.0),
                tf.random.truncated_normal(shape),
                tf.reshape(tf.random.gamma([2], [2.0, 2.0], 0.5), [4]),
                tf.cast(tf.random.shuffle(tf.range(4)), tf.float32),
                tf.cast(tf.random.categorical([[0.0, 0.0]], 4)[0], tf.float32),
            ]
            return inputs + tf.reshape(tf.pad(tf.concat(values, 0), [[0, 48 - 28]]), [1, 4, 4, 3])

    count = 3000
    split = Split("train", ["x"] * count, np.zeros(count, np.int32), ("a",))
    drawn = function_of(Draws(), np.zeros((count, 4, 4, 3), np.uint8), split)()[0].reshape(count, -1)[:, :28]
    drawn = drawn.reshape(count, 7, 4)
    np.testing.assert_allclose(drawn.mean(axis=(0, 2)), [3, 1, 1, 0, 4, 1.5, 0.5], atol=0.15)
    np.testing.assert_allclose(
        drawn.std(axis=(0, 2)), [2 / 12**0.5, (2 / 3) ** 0.5, 2, 0.88, 8**0.5, 1.25**0.5, 0.5], atol=0.15
    )
    np.testing.assert_array_equal(np.sort(drawn[:, 5]), np.tile(np.arange(4.0), (count, 1)))


def test_every_turn_of_a_loop_draws_anew():
    class Loops(layers.Layer):
        def call(self, inputs):
            def turn(values):
                return tf.concat([values[1:], tf.random.uniform([1])], axis=0)

            (values,) = tf.while_loop(lambda values: values[0] < 0, turn, [-tf.ones(4)])
            return inputs + tf.reshape(values, [1, 2, 2, 1])

    views = function_of(Loops(), np.zeros((NUM, 2, 2, 3), np.uint8))()[0]
    assert len(np.unique(views)) == 4 * NUM


def test_what_draws_elsewhere_is_left_alone():
    originals = [tf.random.uniform, tf.while_loop, tf.random.Generator.uniform, keras.random.SeedGenerator.next]
    function_of(keras_cv.layers.RandomFlip())()
    assert originals == [tf.random.uniform, tf.while_loop, tf.random.Generator.uniform, keras.random.SeedGenerator.next]


@pytest.fixture(scope="module")
def split(image_folder) -> Split:
    return index_folder(image_folder).train


def batches_of(split, threads, initial_step=0):
    augmentation = [side_on(max_zoom=1.2), layers.RandomBrightness(0.2), keras_cv.layers.MixUp(alpha=1.0)]
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    dataset = load_dataset(
        split, image_size=16, batch_size=8, shuffle=True, augmentation=augmentation, initial_step=initial_step
    ).with_options(options)
    return [batch for _ in range(2) for batch in dataset.as_numpy_iterator()]


@pytest.mark.slow
def test_stream_of_other_layers_is_the_same_with_any_threads_and_from_any_step(split):
    whole = batches_of(split, threads=1)[2:]
    late = batches_of(split, threads=16, initial_step=2)
    assert len(whole) == len(late) == 4
    for (left_images, left), (right_images, right) in zip(late, whole, strict=True):
        np.testing.assert_allclose(left_images, right_images, atol=1e-3)
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_model_trains_on_mixed_labels(split):
    dataset = load_dataset(split, image_size=16, batch_size=11, augmentation=keras_cv.layers.MixUp())
    assert dataset.element_spec[1] == tf.TensorSpec((None, 2), tf.float32)
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Flatten(), layers.Dense(2, activation="softmax")])
    model.compile("adam", keras.losses.CategoricalCrossentropy())
    assert np.isfinite(model.fit(dataset, epochs=1, verbose=0, shuffle=False).history["loss"]).all()


def test_several_labels_are_mixed_too(split):
    several = Split("train", split.paths, np.eye(2, dtype=np.float32)[split.labels], ("a", "b"))
    _, labels = next(iter(load_dataset(several, image_size=8, augmentation=layers.MixUp(alpha=1.0))))
    assert ((labels > 0) & (labels < 1)).numpy().any()


@pytest.mark.parametrize("augmentation", [lambda images: images, "side_on", [side_on(), None], side_on])
def test_something_else_than_layers_is_refused(split, augmentation):
    with pytest.raises(TypeError, match=r"Received: augmentation="):
        load_dataset(split, augmentation=augmentation)


def test_mixing_without_labels_is_refused(split):
    with pytest.raises(ValueError, match=r"Received: mix_up\S* for the split 'test' without labels"):
        load_dataset(Split("test", split.paths, None, ()), augmentation=[side_on(), layers.MixUp()])


def test_layer_that_resizes_is_refused(split):
    with pytest.raises(ValueError, match=r"Received: resizing\S* makes \(1, 9, 9, 3\) of \(1, 8, 8, 3\)"):
        load_dataset(split, image_size=8, augmentation=layers.Resizing(9, 9))


def test_a_layer_that_fails_leaves_the_process_as_it_was(split):
    with pytest.raises(ValueError, match="resizing"):
        load_dataset(split, image_size=8, augmentation=layers.Resizing(9, 9))
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        assert tf.Variable(1.0).numpy() == 1.0


def test_no_layers_leave_images_as_they_are(split):
    assert load_dataset(split, image_size=8, augmentation=[]).element_spec[0].dtype == tf.uint8
