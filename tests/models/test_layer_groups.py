import keras
import numpy as np
import pytest

from keras_sgdr.models.classifier import build_classifier
from keras_sgdr.models.layer_groups import freeze_to, layer_groups, unfreeze

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.uniform(0, 255, (4, 32, 32, 3)).astype("float32"), np.array([0, 1, 2, 0])


@pytest.fixture(scope="module")
def classifier():
    return build_classifier(3, weights=None, image_size=32)


def small_model():
    """Two residual blocks with batch norms, small enough to train in a test."""
    x = inputs = keras.Input((32, 32, 3))
    for block, filters in enumerate((4, 8)):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", name=f"down{block}")(x)
        y = keras.layers.BatchNormalization(name=f"bn{block}")(x)
        y = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{block}")(y)
        x = keras.layers.Add(name=f"add{block}")([x, y])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.BatchNormalization(name="head_bn")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="dense")(x))


def changed_by_training(model):
    """The names of the layers of which any variable moves in two batches of training."""
    before = {layer.name: layer.get_weights() for layer in model.layers}
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(IMAGES, LABELS, batch_size=2, verbose=0)
    return {
        layer.name
        for layer in model.layers
        if any(not np.array_equal(old, new) for old, new in zip(before[layer.name], layer.get_weights(), strict=True))
    }


@pytest.mark.parametrize("num_groups", [2, 3, 4, 6])
def test_groups_are_contiguous_and_hold_every_layer_once(classifier, num_groups):
    groups = layer_groups(classifier, num_groups=num_groups)
    assert len(groups) == num_groups
    assert [layer.name for group in groups for layer in group] == [layer.name for layer in classifier.layers]
    assert [layer.name for layer in groups[-1]] == ["head_pool", "head_dropout", "head_predictions"]
    depths = [sum(bool(layer.weights) for layer in group) for group in groups[:-1]]
    assert max(depths) <= 1.6 * sum(depths) / len(depths)


def test_groups_begin_where_a_block_of_another_resolution_does(classifier):
    first_names = [group[0].name for group in layer_groups(classifier, num_groups=4)]
    assert first_names == ["images", "block4a_expand_conv", "block6a_expand_conv", "head_pool"]


def test_freezing_by_group_stops_the_weights_of_what_comes_before():
    model = small_model()
    freeze_to(model, -1)
    assert changed_by_training(model) == {"head_bn", "dense"}
    freeze_to(model, 1)
    assert changed_by_training(model) == {"down1", "conv1", "head_bn", "dense"}
    freeze_to(model, -3)
    assert changed_by_training(model) == {"down0", "conv0", "down1", "conv1", "head_bn", "dense"}


def test_freezing_by_layer_leaves_it_trainable():
    model = small_model()
    freeze_to(model, "conv1")
    assert changed_by_training(model) == {"conv1", "head_bn", "dense"}


def test_batch_norms_train_after_unfreezing_only_if_asked():
    model = small_model()
    unfreeze(model)
    statistics = model.get_layer("bn0").get_weights()
    assert changed_by_training(model) == {"down0", "conv0", "down1", "conv1", "head_bn", "dense"}
    np.testing.assert_array_equal(model.get_layer("bn0").get_weights(), statistics)
    unfreeze(model, batch_norm="train")
    assert {"bn0", "bn1"} < changed_by_training(model)
    freeze_to(model, 1, batch_norm="train")
    assert {"bn0", "bn1"} & changed_by_training(model) == {"bn1"}


def test_frozen_batch_norms_run_in_inference_mode():
    model = small_model()
    unfreeze(model)
    model.get_layer("head_bn").trainable = False
    training, inference = (keras.ops.convert_to_numpy(model(IMAGES, training=flag)) for flag in (True, False))
    np.testing.assert_allclose(training, inference, rtol=1e-6)


def test_batch_norms_of_a_model_inside_the_model_are_found():
    inner = small_model()
    model = keras.Sequential([keras.Input((32, 32, 3)), inner, keras.layers.Dense(2)])
    unfreeze(model)
    assert not inner.get_layer("bn0").trainable
    assert inner.get_layer("conv0").trainable


def test_a_sequential_model_has_groups():
    layers = [keras.layers.Conv2D(2, 3, name=f"conv{i}") for i in range(4)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Flatten(), keras.layers.Dense(2)])
    groups = layer_groups(model)
    assert [layer.name for layer in groups[0]] == ["conv0", "conv1"]
    assert [layer.name for layer in groups[1]] == ["conv2", "conv3"]


def test_a_layer_called_twice_is_not_cut_in_between():
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", name="first")(inputs)
    x = shared(keras.layers.Conv2D(3, 3, padding="same", name="between")(shared(x)))
    x = keras.layers.Conv2D(3, 3, padding="same", name="last")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    groups = [[layer.name for layer in group] for group in layer_groups(model)]
    (with_shared,) = [group for group in groups if "shared" in group]
    assert "between" in with_shared


def test_a_head_without_a_feature_map_is_the_last_dense_layer():
    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4, name=f"dense{i}") for i in range(3))])
    assert [[layer.name for layer in group] for group in layer_groups(model)] == [["dense0"], ["dense1"], ["dense2"]]


@pytest.mark.parametrize("num_groups", [1, 2.5, None])
def test_num_groups_must_be_at_least_two(classifier, num_groups):
    with pytest.raises(ValueError, match=f"Received: num_groups={num_groups}"):
        layer_groups(classifier, num_groups=num_groups)


def test_more_groups_than_layers_are_refused():
    with pytest.raises(ValueError, match=r"6 layers with weights before the head\. Received: num_groups=9"):
        layer_groups(small_model(), num_groups=9)


@pytest.mark.parametrize("group", [3, -4, "conv", 1.5])
def test_an_unknown_group_or_layer_is_refused(group):
    with pytest.raises(ValueError, match=f"Received: group_or_layer={group!r}"):
        freeze_to(small_model(), group)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="Received: batch_norm='off'"):
        unfreeze(small_model(), batch_norm="off")


def test_a_subclassed_model_is_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="Received: model=<Subclassed"):
        layer_groups(Subclassed())


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"must have weights\. Received: .*'flatten"):
        layer_groups(keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()]))


def test_layers_that_were_unfrozen_are_not_left_out_in_silence():
    images, labels = np.random.default_rng(0).random((16, 8, 8, 3), np.float32), np.arange(16) % 2
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Dense(2, activation="softmax")])
    freeze_to(model, -1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(images, labels, verbose=0)
    unfreeze(model)
    with pytest.raises(ValueError, match="Unknown variable"):
        model.fit(images, labels, verbose=0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [np.array(weight) for weight in model.weights]
    model.fit(images, labels, verbose=0)
    assert all((old != np.array(new)).any() for old, new in zip(before, model.weights, strict=True))
