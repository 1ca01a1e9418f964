import keras
import numpy as np
import pytest

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


def test_statistics_become_the_averages_over_the_batches():
    model = small_model()
    freeze_to(model, -1)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    recalibrate_batch_norm(model, [IMAGES[:8], IMAGES[8:16], IMAGES[16:]], num_batches=2)
    batches = IMAGES[:8], IMAGES[8:16]
    _, _, mean, variance = model.get_layer("bn0").get_weights()
    np.testing.assert_allclose(mean, np.mean([batch.mean((0, 1, 2)) for batch in batches], 0), rtol=1e-5)
    np.testing.assert_allclose(variance, np.mean([batch.var((0, 1, 2)) for batch in batches], 0), rtol=1e-4)
    # bn1 sees what comes out of bn0 in training mode, without the dropout.
    convolved = [
        _array(model.get_layer("conv")((batch - batch.mean((0, 1, 2))) / np.sqrt(batch.var((0, 1, 2)) + 1e-3)))
        for batch in batches
    ]
    _, _, mean, variance = model.get_layer("bn1").get_weights()
    np.testing.assert_allclose(mean, np.mean([c.mean((0, 1, 2)) for c in convolved], 0), atol=1e-5)
    np.testing.assert_allclose(variance, np.mean([c.var((0, 1, 2)) for c in convolved], 0), rtol=1e-4)
    for layer in model.layers:
        kept = 2 if layer.name.startswith("bn") else None
        for ours, theirs in zip(layer.get_weights()[:kept], before[layer.name][:kept], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_nothing_but_the_statistics_is_changed():
    model = small_model()
    freeze_to(model, -1)
    recalibrate_batch_norm(model, [(IMAGES, np.zeros(24))])
    assert not model.get_layer("bn0").trainable
    assert model.get_layer("bn1").momentum == 0.9
    assert (
        model.get_layer("dropout" if "dropout" in [x.name for x in model.layers] else model.layers[2].name).rate == 0.5
    )


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


def accuracy_after_an_epoch_unfrozen(**policy):
    """Learns to tell colours; then sees them sorted by class for an epoch, at a rate at which weights hardly move."""
    keras.utils.set_random_seed(0)
    rng, labels = np.random.default_rng(1), np.repeat(np.arange(3), 40)
    images = (rng.normal(0, 0.4, (120, 6, 6, 3)) + np.eye(3)[labels][:, None, None]).astype("float32")
    x = inputs = keras.Input((6, 6, 3))
    for number in range(2):
        x = keras.layers.Conv2D(6, 3, padding="same", activation="relu")(x)
        x = keras.layers.BatchNormalization(name=f"bn{number}", momentum=0.2)(x)
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    order = rng.permutation(120)
    model.fit(images[order], labels[order], batch_size=40, epochs=15, verbose=0)
    before = model.evaluate(images, labels, verbose=0)[1]
    unfreeze(model, **policy)
    model.compile(keras.optimizers.SGD(1e-6), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=10, epochs=1, shuffle=False, verbose=0)
    return before, model.evaluate(images, labels, verbose=0)[1]


def test_the_first_epoch_after_unfreezing_does_not_collapse():
    before, after = accuracy_after_an_epoch_unfrozen()
    assert before >= 0.99
    assert after >= before - 0.01
    # What the policy prevents: statistics of the last batches take over from those of the whole.
    _, with_moving_statistics = accuracy_after_an_epoch_unfrozen(batch_norm="train")
    assert with_moving_statistics < before - 0.05
