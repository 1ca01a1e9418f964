import keras
import numpy as np
import pytest

from keras_sgdr.models.frozen_boundary import split_at_frozen_boundary
from keras_sgdr.models.layer_groups import freeze_to

IMAGES = np.random.default_rng(0).uniform(0, 1, (3, 8, 8, 2)).astype("float32")


def make_model():
    """Two convolutions of 6 and 3 channels, a dropout after each, a dense layer."""
    x = inputs = keras.Input((8, 8, 2))
    for number, filters in enumerate((6, 3)):
        x = keras.layers.Conv2D(filters, 3, name=f"conv{number}")(x)
        x = keras.layers.Dropout(0.5, name=f"drop{number}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="dense")(x))


def test_rest_of_the_body_is_the_model_and_shares_its_layers():
    model = make_model()
    freeze_to(model, "dense")
    body, rest = split_at_frozen_boundary(model)
    np.testing.assert_allclose(rest(body(IMAGES)), model(IMAGES), atol=1e-6)
    assert rest.get_layer("dense") is model.get_layer("dense")
    assert body.get_layer("conv1") is model.get_layer("conv1")


@pytest.mark.parametrize(("first_trainable", "shape"), [("conv1", (None, 6, 6, 6)), ("dense", (None, 4, 4, 3))])
def test_dropout_at_the_cut_goes_on_dropping(first_trainable, shape):
    model = make_model()
    freeze_to(model, first_trainable)
    body, rest = split_at_frozen_boundary(model)
    assert body.output_shape == shape
    dropout = model.get_layer("drop0" if first_trainable == "conv1" else "drop1")
    assert dropout in rest.layers
    assert dropout not in body.layers


def test_model_of_which_nothing_is_frozen_is_refused():
    with pytest.raises(ValueError, match=r"Received: a model whose first layer with weights, 'conv0', is trainable"):
        split_at_frozen_boundary(make_model())


def test_model_of_which_nothing_is_trainable_is_refused():
    model = make_model()
    model.trainable = False
    with pytest.raises(ValueError, match=r"must have trainable layers\. Received: a model with none"):
        split_at_frozen_boundary(model)
