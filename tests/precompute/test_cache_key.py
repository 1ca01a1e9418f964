import keras
import numpy as np
import pytest

from keras_sgdr.precompute.cache_key import content_key, model_source


def test_the_same_content_has_the_same_key(tmp_path):
    (tmp_path / "a").write_bytes(b"image")

    def source(order):
        pairs = {"paths": [tmp_path / "a"], "size": (3, 4), "rate": 0.1, "none": None, "array": np.arange(3)}
        return {key: pairs[key] for key in sorted(pairs, reverse=order)}

    assert content_key(source(False)) == content_key(source(True))
    assert len(content_key(None)) == 64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        ([["a"], "b"], [["a", "b"]]),
        (1, 1.0),
        (1, True),
        ("1", 1),
        (b"a", "a"),
        (np.zeros(2, "float32"), np.zeros(2, "float64")),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        ({"a": 1}, {"b": 1}),
        ({"a": None}, {}),
        (keras.layers.Rescaling(0.5), keras.layers.Rescaling(0.25)),
    ],
)
def test_different_content_has_different_keys(one, other):
    assert content_key(one) != content_key(other)


def test_a_keras_object_s_own_name_does_not_count():
    assert content_key(keras.layers.Rescaling(0.5)) == content_key(keras.layers.Rescaling(0.5))


def test_a_path_stands_for_name_and_content(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1" * 3_000_000)
    other.write_bytes(b"1" * 3_000_000)
    key = content_key(one)
    assert content_key(other) != key
    one.write_bytes(b"1" * 2_999_999 + b"2")
    assert content_key(one) != key


def test_an_unknown_kind_is_refused():
    with pytest.raises(TypeError, match=r"Received: <object object.* of object"):
        content_key([object()])


def _model(*, units=3, activation="relu", seed=0):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(units, activation=activation, kernel_initializer=keras.initializers.HeNormal(seed))(inputs)
    return keras.Model(inputs, keras.ops.flip(keras.layers.Dense(2)(x), axis=-1))


def test_a_model_s_key_does_not_depend_on_its_names():
    model, again = _model(), _model()
    again.set_weights(model.get_weights())
    assert model.layers[1].name != again.layers[1].name
    assert content_key(model_source(model)) == content_key(model_source(again))


@pytest.mark.parametrize("change", [{"units": 4}, {"activation": "tanh"}, {"seed": 1}])
def test_a_model_s_key_depends_on_architecture_and_weights(change):
    model, other = _model(), _model(**change)
    if change != {"seed": 1}:
        other.set_weights([np.zeros_like(value) for value in other.get_weights()])
        model.set_weights([np.zeros_like(value) for value in model.get_weights()])
    assert content_key(model_source(model)) != content_key(model_source(other))


def test_an_activation_called_as_its_layer_is_still_counts():
    def model(activation):
        return keras.Sequential([keras.Input((4,)), keras.layers.Activation(activation, name=activation)])

    assert content_key(model_source(model("relu"))) != content_key(model_source(model("gelu")))
