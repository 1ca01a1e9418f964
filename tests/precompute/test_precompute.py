import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.folder import index_folder
from keras_sgdr.data.index.split import Split
from keras_sgdr.models import frozen_boundary
from keras_sgdr.models.backbones import BACKBONES
from keras_sgdr.models.classifier import build_classifier
from keras_sgdr.models.layer_groups import freeze_to, unfreeze
from keras_sgdr.precompute.feature_cache import FeatureCache
from keras_sgdr.precompute.precompute import precompute_features
from tests.models.test_applications import FAMILIES

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (10, 32, 32, 3)).astype("float32")
LABELS = (np.arange(10) % 3).astype("int32")


def labelled_images(batch_size=4):
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(batch_size)


def small_model(dropout=0.0):
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv0")(x)
    x = keras.layers.BatchNormalization(name="bn0")(x)
    y = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1")(x)
    x = keras.layers.Add(name="add")([x, y])
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv2")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="dense")(x))


def compiled(model):
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name == "EfficientNetLite0" else pytest.mark.slow) for name in FAMILIES],
)
def test_activations_are_those_of_the_live_body_in_the_same_order(tmp_path, family):
    size = max(32, BACKBONES[family].min_size)
    images = np.random.default_rng(0).uniform(0, 255, (6, size, size, 3)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((images, LABELS[:6])).batch(4)
    model = build_classifier(3, backbone=family, weights=None, image_size=size)
    freeze_to(model, -1)
    features, rest = precompute_features(model, dataset, directory=tmp_path, shuffle=False, verbose=0)
    live = keras.Model(model.input, model.get_layer("head_pool").output).predict(images, verbose=0)
    assert [len(labels) for _, labels in features] == [4, 2]
    np.testing.assert_allclose(np.concatenate([rows for rows, _ in features]), live, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in features]), LABELS[:6])
    np.testing.assert_allclose(rest.predict(features, verbose=0), model.predict(images, verbose=0), atol=1e-5)


@pytest.mark.parametrize("boundary", [-1, "conv2", "conv1"])
def test_training_on_activations_equals_training_through_the_frozen_body(boundary):
    live, model = small_model(), small_model()
    for each in (live, model):
        freeze_to(each, boundary)
    features, rest = precompute_features(model, labelled_images(), shuffle=False, verbose=0)
    compiled(live).fit(labelled_images(), epochs=3, verbose=0, shuffle=False)
    compiled(rest).fit(features, epochs=3, verbose=0, shuffle=False)
    assert len(rest.trainable_variables) == len(model.trainable_variables)
    for ours, theirs in zip(model.get_weights(), live.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_sequential_model_is_cut_too():
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    freeze_to(model, -1, num_groups=2)
    before = model.layers[-1].get_weights()
    features, rest = precompute_features(model, labelled_images(), verbose=0)
    compiled(rest).fit(features, verbose=0, shuffle=False)
    assert not np.array_equal(model.layers[-1].get_weights()[0], before[0])


def test_the_cut_is_at_the_smallest_tensor_and_before_the_dropout():
    model = small_model(dropout=0.5)
    freeze_to(model, -1)
    features, rest = precompute_features(model, labelled_images(), verbose=0)
    assert features.element_spec[0].shape == (None, 4)
    assert "dropout" in [layer.name for layer in rest.layers]
    ones = np.ones((16, 4))
    assert not np.allclose(rest(ones, training=True), rest(ones, training=True))


def test_a_boundary_inside_a_residual_block_carries_two_tensors():
    model = small_model()
    freeze_to(model, "add")
    model.get_layer("conv1").trainable = True
    features, rest = precompute_features(model, labelled_images(), shuffle=False, verbose=0)
    np.testing.assert_allclose(rest.predict(features, verbose=0), model.predict(IMAGES, verbose=0), atol=1e-6)


def test_shuffling_is_new_in_every_epoch_and_keeps_labels_with_their_activations():
    model = small_model()
    freeze_to(model, -1)
    features, _ = precompute_features(model, labelled_images(), shuffle=True, seed=3, verbose=0)
    ordered, _ = precompute_features(model, labelled_images(), shuffle=False, verbose=0)
    label_of = {rows.tobytes(): label for batch in ordered for rows, label in zip(*map(np.asarray, batch), strict=True)}
    orders = []
    for _ in range(2):
        rows = [pair for batch in features for pair in zip(*map(np.asarray, batch), strict=True)]
        assert all(label_of[row.tobytes()] == label for row, label in rows)
        orders.append([row.tobytes() for row, _ in rows])
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(label_of)
    assert orders[0] != orders[1] != list(label_of)
    again, _ = precompute_features(model, labelled_images(), shuffle=True, seed=3, verbose=0)
    assert [row.tobytes() for batch in again for row in np.asarray(batch[0])] == orders[0]


def test_sample_weights_and_bare_images_keep_their_structure():
    model = small_model()
    freeze_to(model, -1)
    weighted = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, np.arange(10.0))).batch(4)
    features, _ = precompute_features(model, weighted, shuffle=False, verbose=0)
    np.testing.assert_array_equal(np.concatenate([weights for _, _, weights in features]), np.arange(10.0))
    features, rest = precompute_features(model, labelled_images().map(lambda image, _: image), shuffle=False, verbose=0)
    assert rest.predict(features, verbose=0).shape == (10, 3)
    assert features.cardinality() == 3


@pytest.mark.parametrize(("policy", "kept"), [("mixed_float16", "float16"), ("mixed_bfloat16", "float32")])
def test_activations_under_mixed_precision_are_kept_without_a_loss(tmp_path, policy, kept):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    freeze_to(model, -1)
    features, rest = precompute_features(model, labelled_images(), directory=tmp_path, shuffle=False, verbose=0)
    assert features.element_spec[0].dtype == policy.removeprefix("mixed_")
    entry = tmp_path / FeatureCache(tmp_path).entries()[0].key
    assert (entry / "column_0.bin").stat().st_size == 10 * 4 * np.dtype(kept).itemsize
    np.testing.assert_allclose(rest.predict(features, verbose=0), model.predict(IMAGES, verbose=0), atol=2e-2)


def test_a_model_with_nothing_frozen_is_refused():
    model = small_model()
    unfreeze(model)
    with pytest.raises(ValueError, match=r"Received: a model whose first layer with weights, 'conv0', is trainable"):
        precompute_features(model, labelled_images(), verbose=0)


def test_a_model_with_nothing_trainable_is_refused():
    model = small_model()
    model.trainable = False
    with pytest.raises(ValueError, match="Received: a model with none"):
        precompute_features(model, labelled_images(), verbose=0)


def test_a_moving_batch_norm_is_not_frozen():
    model = small_model()
    freeze_to(model, -1)
    model.get_layer("bn0").trainable = True
    features, _ = precompute_features(model, labelled_images(), verbose=0)
    assert features.element_spec[0].shape == (None, 15, 15, 4)


def test_a_body_that_is_not_deterministic_stops_with_the_reason():
    @keras.saving.register_keras_serializable(package="test_features")
    class Noise(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.generator = keras.random.SeedGenerator(0)

        def call(self, inputs):
            return inputs / 255 + keras.random.normal(keras.ops.shape(inputs), seed=self.generator)

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(2, 3, name="conv")(Noise()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalMaxPooling2D()(x)))
    freeze_to(model, -1, num_groups=2)
    with pytest.raises(RuntimeError, match=r"Received: a difference of .* on the first batch"):
        precompute_features(model, labelled_images(), verbose=0)


def test_an_endless_or_empty_dataset_is_refused():
    model = small_model()
    freeze_to(model, -1)
    with pytest.raises(ValueError, match="Received: a dataset that repeats for ever"):
        precompute_features(model, labelled_images().repeat(), verbose=0)
    with pytest.raises(ValueError, match="Received: an empty dataset"):
        precompute_features(model, labelled_images().take(0), verbose=0)


def test_a_dataset_that_begins_in_an_epoch_s_midst_is_refused(frozen, tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for path, image in zip(paths, IMAGES, strict=False):
        keras.utils.save_img(path, image, scale=False)
    split = Split("train", paths, np.zeros(4, np.int32), ("a",))
    late = load_dataset(split, image_size=32, batch_size=1, initial_step=2)
    with pytest.raises(ValueError, match=r"Received: one of `load_dataset` with an `initial_step` in the midst"):
        precompute_features(frozen, late, verbose=0)


def test_a_dataset_of_another_length_in_every_pass_is_refused(frozen):
    lengths = iter((4, 3, 2, 1))

    def images():
        yield from IMAGES[: next(lengths)]

    spec = tf.TensorSpec((32, 32, 3), tf.float32)
    dataset = tf.data.Dataset.from_generator(images, output_signature=spec).batch(4)
    with pytest.raises(ValueError, match=r"Received: 7 in 2 passes"):
        precompute_features(frozen, dataset, views=2, verbose=0)


def test_an_entry_that_vanishes_at_once_is_told(frozen, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureCache, "read", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"Received: \w{64} missing in .*test_an_entry_that"):
        precompute_features(frozen, labelled_images(), directory=tmp_path, verbose=0)


def counting_body(model):
    """Counts the batches that go through the first layer of a body."""
    seen = []
    first = model.layers[1]
    call = first.call
    first.call = lambda inputs: (tf.py_function(lambda: seen.append(1), [], []), call(inputs))[1]
    return seen


@pytest.fixture
def frozen():
    model = small_model()
    freeze_to(model, -1)
    return model


def test_activations_on_disk_are_those_in_memory(frozen, tmp_path):
    in_memory, _ = precompute_features(frozen, labelled_images(), shuffle=False, verbose=0)
    for _ in range(2):
        on_disk, rest = precompute_features(frozen, labelled_images(), directory=tmp_path, shuffle=False, verbose=0)
        for ours, theirs in zip(on_disk, in_memory, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(rest.predict(on_disk, verbose=0), frozen.predict(IMAGES, verbose=0), atol=1e-6)
    assert len(FeatureCache(tmp_path).entries()) == 1


def test_half_precision_halves_the_entry_and_feeds_the_rest_what_it_takes(frozen, tmp_path):
    full, _ = precompute_features(frozen, labelled_images(), dtype="float32", shuffle=False, verbose=0)
    half, rest = precompute_features(
        frozen, labelled_images(), dtype="float16", directory=tmp_path, shuffle=False, verbose=0
    )
    assert half.element_spec[0].dtype == tf.float32
    for ours, theirs in zip(half, full, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0].numpy().astype("float16"))
    assert (tmp_path / FeatureCache(tmp_path).entries()[0].key / "column_0.bin").stat().st_size == 10 * 4 * 2
    assert compiled(rest).fit(half, verbose=0, shuffle=False)


def keys_after(frozen, directory, **change):
    arguments = {"source": {"file": 1}, "directory": directory, "verbose": 0} | change
    precompute_features(arguments.pop("model", frozen), arguments.pop("dataset", labelled_images()), **arguments)
    return len(FeatureCache(directory).entries())


@pytest.mark.parametrize("change", [{"source": {"file": 2}}, {"dtype": "float16"}, {"views": 2}])
def test_each_change_of_an_argument_misses_the_cache(frozen, tmp_path, change):
    assert keys_after(frozen, tmp_path) == 1
    assert keys_after(frozen, tmp_path) == 1
    assert keys_after(frozen, tmp_path, **change) == 2


def test_each_change_of_the_model_misses_the_cache(frozen, tmp_path):
    assert keys_after(frozen, tmp_path) == 1
    other = small_model()
    freeze_to(other, -1)
    assert keys_after(frozen, tmp_path, model=other) == 1
    # The head is not part of what was computed.
    other.get_layer("dense").set_weights([value + 1 for value in other.get_layer("dense").get_weights()])
    assert keys_after(frozen, tmp_path, model=other) == 1
    freeze_to(other, "conv2")
    assert keys_after(frozen, tmp_path, model=other) == 2
    freeze_to(other, -1)
    other.get_layer("conv0").set_weights([value + 0.1 for value in other.get_layer("conv0").get_weights()])
    assert keys_after(frozen, tmp_path, model=other) == 3


@pytest.mark.parametrize("changed", [lambda image, label: (image + 1, label), lambda image, label: (image, label + 1)])
def test_without_a_source_the_batches_are_the_key(frozen, tmp_path, changed):
    assert keys_after(frozen, tmp_path, source=None) == 1
    assert keys_after(frozen, tmp_path, source=None) == 1
    assert keys_after(frozen, tmp_path, source=None, dataset=labelled_images().map(changed)) == 2


def test_a_source_comes_with_the_dataset(frozen, tmp_path):
    for number, count in ((1, 1), (1, 1), (2, 2)):
        dataset = labelled_images()
        dataset.source = number
        assert keys_after(frozen, tmp_path, source=None, dataset=dataset) == count


def test_an_interrupted_run_is_resumed_where_it_was(frozen, tmp_path):
    def interrupted():
        for number, batch in enumerate(zip(np.split(IMAGES, 5), np.split(LABELS, 5), strict=True)):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

    class Interrupted:
        """Gives three batches of two and stops as Ctrl-C does."""

        source = 1

        def cardinality(self):
            return tf.constant(5, tf.int64)

        def __iter__(self):
            return ((tf.constant(a), tf.constant(b)) for a, b in interrupted())

    with pytest.raises(KeyboardInterrupt):
        precompute_features(frozen, Interrupted(), directory=tmp_path, verbose=0)
    (entry,) = FeatureCache(tmp_path).entries()
    assert not entry.complete
    frozen_boundary._BODIES.clear()  # what has been traced would not be counted
    computed = counting_body(frozen)
    features, _ = precompute_features(
        frozen, labelled_images(2), source=1, directory=tmp_path, shuffle=False, verbose=0
    )
    # Two of five batches, and the first one twice more, to compare with the body and the whole model.
    assert len(computed) == 4
    live = keras.Model(frozen.input, frozen.get_layer("pool").output).predict(IMAGES, verbose=0)
    np.testing.assert_allclose(np.concatenate([rows for rows, _ in features]), live, atol=1e-6)


def test_an_entry_that_another_process_completed_meanwhile_is_used(frozen, tmp_path):
    class Late(FeatureCache):
        """Finds nothing at first, as if the other process were still writing."""

        looked = False

        def read(self, key):
            found, self.looked = super().read(key) if self.looked else None, True
            return found

    first, _ = precompute_features(frozen, labelled_images(), directory=tmp_path, shuffle=False, verbose=0)
    computed = counting_body(frozen)
    again, _ = precompute_features(frozen, labelled_images(), directory=Late(tmp_path), shuffle=False, verbose=0)
    assert len(computed) == 2  # for the comparison with the body and the whole model
    np.testing.assert_array_equal(next(iter(again))[0], next(iter(first))[0])
    assert [entry.complete for entry in FeatureCache(tmp_path).entries()] == [True]


def test_views_of_a_dataset_with_epochs_are_its_first_ones(frozen):
    dataset = tf.data.Dataset.range(1)
    counter = tf.Variable(7, dtype=tf.int64)
    dataset = dataset.flat_map(
        lambda _: labelled_images(10).map(lambda image, label: (image + 20 * tf.cast(counter, tf.float32), label))
    )
    dataset.epoch_counter = counter
    features, _ = precompute_features(frozen, dataset, views=3, shuffle=False, verbose=0)
    assert counter.numpy() == 7
    body = keras.Model(frozen.input, frozen.get_layer("pool").output)
    views = [body.predict(IMAGES + 20 * view, verbose=0) for view in range(3)]
    for epoch in range(5):
        ((rows, labels),) = list(features)
        np.testing.assert_allclose(rows, views[epoch % 3], atol=1e-5)
        np.testing.assert_array_equal(labels, LABELS)
    assert features.cardinality() == 1


def test_a_source_that_tells_too_little_stops_before_training(frozen, tmp_path):
    precompute_features(frozen, labelled_images(), source="the same", directory=tmp_path, verbose=0)
    darker = labelled_images().map(lambda image, label: (image / 3, label))
    with pytest.raises(RuntimeError, match=r"Received: a difference of .* on the first batch.*`source`"):
        precompute_features(frozen, darker, source="the same", directory=tmp_path, verbose=0)


def test_activations_too_large_for_half_precision_are_refused(frozen):
    frozen.get_layer("conv2").set_weights([value + 1e6 for value in frozen.get_layer("conv2").get_weights()])
    with pytest.raises(ValueError, match=r"Received: dtype='float16' and activations up to"):
        precompute_features(frozen, labelled_images(), dtype="float16", verbose=0)


@pytest.mark.parametrize(("argument", "received"), [({"views": 0}, "views=0"), ({"dtype": "int8"}, "dtype='int8'")])
def test_arguments_out_of_range_are_refused(frozen, argument, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        precompute_features(frozen, labelled_images(), verbose=0, **argument)


def test_views_of_a_folder_are_its_epochs_and_are_found_again(frozen, tmp_path):
    for number, image in enumerate(IMAGES.astype("uint8")):
        folder = tmp_path / "images" / "train" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(folder / f"{number}.png", image, scale=False)
    split = index_folder(tmp_path / "images", valid="train").train

    # In another order in each epoch, as it would be in other views with an augmentation, which takes long to compile.
    dataset = load_dataset(split, image_size=32, batch_size=4, shuffle=True, seed=5)
    for _ in range(2):
        features, _ = precompute_features(
            frozen, dataset, directory=tmp_path / "cache", views=2, shuffle=False, verbose=0
        )
        assert len(FeatureCache(tmp_path / "cache").entries()) == 1
    assert dataset.epoch_counter.numpy() == 0
    body = keras.Model(frozen.input, frozen.get_layer("pool").output)
    for _ in range(2):
        for (rows, labels), (images, live_labels) in zip(features, dataset, strict=True):
            np.testing.assert_allclose(rows, body.predict_on_batch(images), atol=1e-5)
            np.testing.assert_array_equal(labels, live_labels)
