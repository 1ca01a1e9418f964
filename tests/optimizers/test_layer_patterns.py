import keras
import pytest

from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.optimizers.layer_patterns import match_layers
from tests.small_models import KINDS, fit


def names(groups):
    return [[layer.name for layer in group] for group in groups]


def test_patterns_match_whole_paths_in_the_models_order():
    model, _ = KINDS["functional"]()
    assert names(match_layers(model, ["norm|body", "he.*"])) == [["body", "norm"], ["head"]]


def test_nested_model_is_matched_whole_or_layer_by_layer():
    model, _ = KINDS["nested"]()
    assert names(match_layers(model, ["first", "inside", "head"])) == [["first"], ["body", "norm"], ["head"]]
    by_layer = match_layers(model, [["first", "inside/body"], "inside/norm|head"])
    assert names(by_layer) == [["first", "body"], ["norm", "head"]]


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_match_the_same_layers_before_building_and_after_loading(kind, tmp_path):
    patterns = [".*body|first|inside/.*", "norm", ".*head|zlast"] if kind != "nested" else ["first", "inside", "head"]
    model, _ = KINDS[kind]()
    expected = names(match_layers(model, patterns))
    model.compile("sgd", "mse")
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert names(match_layers(model, patterns)) == names(match_layers(loaded, patterns)) == expected


def test_layers_and_variables_may_stand_among_patterns():
    model, _ = KINDS["functional"]()
    dense = model.get_layer("body")
    groups = match_layers(model, [[dense.kernel, dense.bias], [model.get_layer("norm"), "head"]])
    assert groups == [[dense.kernel, dense.bias], [model.get_layer("norm"), model.get_layer("head")]]


def test_optimizer_takes_patterns_with_the_model():
    model, _ = KINDS["functional"]()
    optimizer = DifferentialLR(keras.optimizers.SGD(), ["body", "norm|head"], [0.1, 0.2], model=model)
    model.compile(optimizer, "mse")
    fit(model)
    assert [optimizer._group_of(v) for v in model.trainable_variables] == [0, 0, 1, 1, 1, 1]


def test_patterns_that_do_not_fit_are_refused():
    model, _ = KINDS["functional"]()
    with pytest.raises(ValueError, match="Received: pattern 'bod', which matches none of the 4 layers"):
        match_layers(model, ["bod", "norm|head"])
    with pytest.raises(ValueError, match=r"Received: pattern 'body\(' \(missing \)"):
        match_layers(model, ["body(", ".*"])
    with pytest.raises(ValueError, match="Received: layer 'body' with variable 'body/kernel', in none of the 2 groups"):
        match_layers(model, ["norm", "head"])
    with pytest.raises(ValueError, match=r"Received: layer 'norm' with variable 'norm/gamma', in groups \[0, 1\]"):
        match_layers(model, ["body|norm", "norm|head"])
    with pytest.raises(TypeError, match=r"Received: groups\[0\] with 'body'"):
        DifferentialLR(keras.optimizers.SGD(), ["body", "norm|head"], [0.1, 0.2])
