import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_sgdr.models.batch_norm import recalibrate_batch_norm
from keras_sgdr.models.layer_groups import freeze_to, unfreeze

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(3, 2, (24, 6, 6, 2)).astype("float32")


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def small_model():
    x = inputs = keras.Input((6, 6, 2))
    x = keras.layers.BatchNormalization(name="bn0")(x)
    x = keras.layers.Dropout(0.5, name="drop")(x)
    x = keras.layers.Conv2D(3, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(name="bn1", momentum=0.9)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="dense")(x))


def deep_model():
    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((6, 6, 2))
    for number in range(4):
        x = keras.layers.BatchNormalization(name=f"bn{number}")(x)
        x = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))


def all_statistics(model):
    return [layer.get_weights()[2:] for layer in model.layers if layer.name.startswith("bn")]


# One white image, in a batch of its own where they are of 8
UNEVEN = np.concatenate([IMAGES, np.full((1, 6, 6, 2), 40, "float32")])


@pytest.mark.parametrize("size", [25, 24, 8, 5])
def test_statistics_are_those_of_all_images_whatever_the_batch_size(size):
    model = deep_model()
    recalibrate_batch_norm(model, [UNEVEN[start : start + size] for start in range(0, 25, size)])
    found = all_statistics(model)
    np.testing.assert_allclose(found[0][0], UNEVEN.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found[0][1], UNEVEN.var((0, 1, 2)), rtol=1e-4)
    # Keras's own statistics of one batch of everything: the moving ones with a momentum of nothing
    other = deep_model()
    for layer in other.layers:
        if layer.name.startswith("bn"):
            layer.momentum = 0.0
    other(UNEVEN, training=True)
    for (mean, variance), (true_mean, true_variance) in zip(found, all_statistics(other), strict=True):
        assert np.all(np.abs(mean - true_mean) < 0.01 * np.sqrt(true_variance))
        np.testing.assert_allclose(variance, true_variance, rtol=0.02)


def test_statistics_of_batches_that_come_once_are_the_same():
    models = small_model(), small_model()
    batches = [IMAGES[:8], IMAGES[8:]]
    models[1].set_weights(models[0].get_weights())
    recalibrate_batch_norm(models[0], batches)
    recalibrate_batch_norm(models[1], iter(batches))
    for ours, theirs in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_interrupted_recalibration_changes_nothing():
    def broken():
        yield IMAGES[:8]
        raise RuntimeError("disk gone")

    class Broken:
        def __iter__(self):
            return broken()

    model = small_model()
    before = model.get_weights()
    with pytest.raises(RuntimeError, match="disk gone"):
        recalibrate_batch_norm(model, Broken())
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model.get_layer("bn1").momentum == 0.9
    assert "call" not in vars(model.get_layer("bn1"))


def test_nothing_but_the_statistics_is_changed():
    model = small_model()
    freeze_to(model, -1)
    before = {weight.path: _array(weight) for weight in model.weights}
    recalibrate_batch_norm(model, [(IMAGES, np.zeros(24))])
    changed = {weight.path for weight in model.weights if not np.array_equal(_array(weight), before[weight.path])}
    assert changed == {f"{norm}/moving_{kind}" for norm in ("bn0", "bn1") for kind in ("mean", "variance")}
    assert not model.get_layer("bn0").trainable
    assert model.get_layer("bn1").momentum == 0.9
    assert model.get_layer("drop").rate == 0.5


def statistics(model):
    return {name: model.get_layer(name).get_weights()[2:] for name in ("bn0", "bn1")}


def test_the_policy_recalibrates_what_becomes_trainable_and_then_freezes_it():
    model, whole = small_model(), small_model()
    before = statistics(model)
    freeze_to(model, "conv", batch_norm="recalibrate", dataset=[IMAGES[:8], IMAGES[8:]], num_batches=1)
    np.testing.assert_array_equal(statistics(model)["bn0"], before["bn0"])
    convolved = _array(model.get_layer("conv")(model.get_layer("bn0")(IMAGES[:8])))
    np.testing.assert_allclose(statistics(model)["bn1"][0], convolved.mean((0, 1, 2)), atol=1e-5)
    assert model.get_layer("conv").trainable
    assert not model.get_layer("bn1").trainable
    # All of it: what the function does.
    whole.set_weights(model.get_weights())
    unfreeze(model, batch_norm="recalibrate", dataset=[IMAGES])
    recalibrate_batch_norm(whole, [IMAGES])
    for name, values in statistics(whole).items():
        np.testing.assert_array_equal(statistics(model)[name], values)


def test_a_batch_norm_of_the_head_keeps_its_statistics_while_others_are_recalibrated():
    x = inputs = keras.Input((6, 6, 2))
    x = keras.layers.BatchNormalization(name="bn0")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.BatchNormalization(name="bn1")(x)))
    before = statistics(model)
    unfreeze(model, batch_norm="recalibrate", dataset=[IMAGES])
    np.testing.assert_array_equal(statistics(model)["bn1"], before["bn1"])
    assert not np.allclose(statistics(model)["bn0"], before["bn0"])
    assert model.get_layer("bn1").trainable


def test_without_batch_norms_the_policy_changes_nothing():
    model = small_model()
    before = statistics(model)
    freeze_to(model, -1, num_groups=2, batch_norm="recalibrate", dataset=[IMAGES])
    np.testing.assert_array_equal(statistics(model)["bn0"], before["bn0"])


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"batch_norm": "recalibrate"}, "batch_norm='recalibrate', dataset=None"),
        ({"dataset": [0]}, r"batch_norm='frozen', dataset=\[0\]"),
        ({"batch_norm": "recalibrate", "dataset": []}, "an empty dataset"),
        ({"batch_norm": "recalibrate", "dataset": [IMAGES], "num_batches": 0}, "num_batches=0"),
        ({"batch_norm": "moving"}, "batch_norm='moving'"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(arguments, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        unfreeze(small_model(), **arguments)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="Received: an empty dataset"):
        recalibrate_batch_norm(small_model(), [])
    with pytest.raises(ValueError, match="Received: num_batches=0"):
        recalibrate_batch_norm(small_model(), [IMAGES], num_batches=0)
    with pytest.raises(ValueError, match=r"Received: model='plain', which has none"):
        recalibrate_batch_norm(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="plain"), [IMAGES])


@pytest.fixture(scope="module")
def digits():
    """Images of handwritten digits, 600 to train on and 300 for validation."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images[:900].reshape(-1, 8, 8, 1).astype("float32"), labels[:900]
    return (images[:600], labels[:600]), (images[600:], labels[600:])


@pytest.fixture(scope="module")
def learnt(digits):
    """A network with batch norms that has learnt the digits."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 16)(x)
    for number, size in enumerate((8, 1)):  # the whole image, so that what a channel holds depends on the digit
        x = keras.layers.Conv2D(32, size, activation="relu")(x)
        x = keras.layers.BatchNormalization(name=f"bn{number}", momentum=0.5)(x)
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy")
    model.fit(*digits[0], epochs=8, verbose=0)
    return model


def accuracies_around_an_epoch_unfrozen(learnt, digits, **policy):
    """Validation accuracy around an epoch, sorted by class, at a rate at which weights hardly move."""
    model = keras.models.clone_model(learnt)
    model.set_weights(learnt.get_weights())
    unfreeze(model, **policy)
    model.compile(keras.optimizers.SGD(1e-6), "sparse_categorical_crossentropy", metrics=["accuracy"])
    before = model.evaluate(*digits[1], verbose=0)[1]
    (images, labels), order = digits[0], np.argsort(digits[0][1], kind="stable")
    model.fit(images[order], labels[order], batch_size=10, shuffle=False, verbose=0)
    return before, model.evaluate(*digits[1], verbose=0)[1]


def test_the_first_epoch_after_unfreezing_does_not_collapse(learnt, digits):
    before, after = accuracies_around_an_epoch_unfrozen(learnt, digits)
    assert before > 0.85
    assert after >= before - 0.01
    # What the policy prevents: statistics of the last batches take over from those of the whole.
    _, with_moving_statistics = accuracies_around_an_epoch_unfrozen(learnt, digits, batch_norm="train")
    assert with_moving_statistics < before - 0.05
