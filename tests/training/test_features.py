import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.models.classifier import build_classifier
from keras_sgdr.models.layer_groups import freeze_to, unfreeze
from keras_sgdr.training.features import precompute_features

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (10, 32, 32, 3)).astype("float32")
LABELS = (np.arange(10) % 3).astype("int32")


def pictures(batch_size=4):
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


def test_activations_are_those_of_the_live_body_in_the_same_order():
    model = build_classifier(3, weights=None, image_size=32)
    freeze_to(model, -1)
    features, rest = precompute_features(model, pictures(), shuffle=False, verbose=0)
    live = keras.Model(model.input, model.get_layer("head_pool").output).predict(IMAGES, verbose=0)
    assert [len(labels) for _, labels in features] == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate([rows for rows, _ in features]), live, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in features]), LABELS)
    np.testing.assert_allclose(rest.predict(features, verbose=0), model.predict(IMAGES, verbose=0), atol=1e-6)


@pytest.mark.parametrize("boundary", [-1, "conv2", "conv1"])
def test_training_on_activations_equals_training_through_the_frozen_body(boundary):
    live, model = small_model(), small_model()
    for each in (live, model):
        freeze_to(each, boundary)
    features, rest = precompute_features(model, pictures(), shuffle=False, verbose=0)
    compiled(live).fit(pictures(), epochs=3, verbose=0, shuffle=False)
    compiled(rest).fit(features, epochs=3, verbose=0, shuffle=False)
    assert len(rest.trainable_variables) == len(model.trainable_variables)
    for ours, theirs in zip(model.get_weights(), live.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_cut_is_at_the_smallest_tensor_and_before_the_dropout():
    model = small_model(dropout=0.5)
    freeze_to(model, -1)
    features, rest = precompute_features(model, pictures(), verbose=0)
    assert features.element_spec[0].shape == (None, 4)
    assert "dropout" in [layer.name for layer in rest.layers]
    ones = np.ones((16, 4))
    assert not np.allclose(rest(ones, training=True), rest(ones, training=True))


def test_a_boundary_inside_a_residual_block_carries_two_tensors():
    model = small_model()
    freeze_to(model, "add")
    model.get_layer("conv1").trainable = True
    features, rest = precompute_features(model, pictures(), shuffle=False, verbose=0)
    np.testing.assert_allclose(rest.predict(features, verbose=0), model.predict(IMAGES, verbose=0), atol=1e-6)


def test_shuffling_is_new_in_every_epoch_and_keeps_labels_with_their_activations():
    model = small_model()
    freeze_to(model, -1)
    features, _ = precompute_features(model, pictures(), shuffle=True, seed=3, verbose=0)
    ordered, _ = precompute_features(model, pictures(), shuffle=False, verbose=0)
    label_of = {rows.tobytes(): label for batch in ordered for rows, label in zip(*map(np.asarray, batch), strict=True)}
    orders = []
    for _ in range(2):
        rows = [pair for batch in features for pair in zip(*map(np.asarray, batch), strict=True)]
        assert all(label_of[row.tobytes()] == label for row, label in rows)
        orders.append([row.tobytes() for row, _ in rows])
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(label_of)
    assert orders[0] != orders[1] != list(label_of)
    again, _ = precompute_features(model, pictures(), shuffle=True, seed=3, verbose=0)
    assert [row.tobytes() for batch in again for row in np.asarray(batch[0])] == orders[0]


def test_sample_weights_and_bare_images_keep_their_structure():
    model = small_model()
    freeze_to(model, -1)
    weighted = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, np.arange(10.0))).batch(4)
    features, _ = precompute_features(model, weighted, shuffle=False, verbose=0)
    np.testing.assert_array_equal(np.concatenate([weights for _, _, weights in features]), np.arange(10.0))
    features, rest = precompute_features(model, pictures().map(lambda image, _: image), shuffle=False, verbose=0)
    assert rest.predict(features, verbose=0).shape == (10, 3)
    assert features.cardinality() == 3


def test_activations_are_half_precision_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    freeze_to(model, -1)
    features, _ = precompute_features(model, pictures(), verbose=0)
    assert features.element_spec[0].dtype == tf.float16


def test_a_model_with_nothing_frozen_is_refused():
    model = small_model()
    unfreeze(model)
    with pytest.raises(ValueError, match=r"Received: a model whose first layer with weights, 'conv0', is trainable"):
        precompute_features(model, pictures(), verbose=0)


def test_a_model_with_nothing_trainable_is_refused():
    model = small_model()
    model.trainable = False
    with pytest.raises(ValueError, match="Received: a model with none"):
        precompute_features(model, pictures(), verbose=0)


def test_a_moving_batch_norm_is_not_frozen():
    model = small_model()
    freeze_to(model, -1)
    model.get_layer("bn0").trainable = True
    features, _ = precompute_features(model, pictures(), verbose=0)
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
        precompute_features(model, pictures(), verbose=0)


def test_an_endless_or_empty_dataset_is_refused():
    model = small_model()
    freeze_to(model, -1)
    with pytest.raises(ValueError, match="Received: a dataset that repeats for ever"):
        precompute_features(model, pictures().repeat(), verbose=0)
    with pytest.raises(ValueError, match="Received: an empty dataset"):
        precompute_features(model, pictures().take(0), verbose=0)
