import keras
import numpy as np
import pytest

from keras_sgdr.optimizers.variable_groups import SavedWeight, VariableGroups, member_weights, stand_in


def saved(path, shape=(4, 6), position=None):
    return SavedWeight(path, shape, "float32", position)


def named(path, shape=(4, 6)):
    return stand_in(saved(path, shape))


@pytest.mark.parametrize(
    ("before", "now", "agreeing"),
    [
        ("sequential/a/kernel", "a/kernel", 2),
        ("a/kernel", "sequential_1/a/kernel", 2),
        ("sequential/a/kernel", "sequential_7/a/kernel", 2),
        ("outer/inside/a/kernel", "a/kernel", 2),
        ("a/kernel", "b/kernel", 1),
        ("outer/a/kernel", "outer/b/kernel", 0),
        ("a/kernel", "a/bias", 0),
    ],
)
def test_weight_is_known_again_by_the_end_of_its_path(before, now, agreeing):
    assert saved(before).kinship(named(now)) == agreeing


def test_weight_of_another_shape_is_another():
    assert saved("a/kernel").kinship(named("a/kernel", (6, 4))) == 0


def test_stand_in_has_the_path_shape_and_dtype():
    variable = stand_in(SavedWeight("outer/a/kernel", (2, 3), "float16", None))
    assert (variable.path, tuple(variable.shape), variable.dtype) == ("outer/a/kernel", (2, 3), "float16")


def test_weights_of_a_frozen_layer_are_all_that_can_be_trained():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 3))
    layer.trainable = False
    assert [weight.name for weight in member_weights(layer)] == ["gamma", "beta"]


def test_weights_inside_a_composite_layer_are_found_in_its_own_order():
    layer = keras.layers.MultiHeadAttention(2, 3)
    layer.build((None, 5, 4), (None, 5, 4))
    expected = [id(v) for v in layer.trainable_variables]
    layer.trainable = False
    assert [id(v) for v in member_weights(layer)] == expected
    assert len(expected) == 8


def test_layer_shared_within_a_group_counts_once():
    layer = keras.layers.Dense(3)
    layer.build((None, 4))
    groups = VariableGroups([[layer, layer]])
    groups.adopt(layer.trainable_variables)
    assert len(groups.weights) == 2


def test_variables_trained_at_saving_are_recognised_by_their_order_alone():
    groups = VariableGroups([[saved("x/kernel", position=1), saved("y/kernel")], [saved("z/kernel", position=0)]])
    first, second = named("renamed/one/kernel"), named("renamed/two/kernel")
    groups.adopt([first, second])
    assert groups.weights[0] is second
    assert groups.weights[2] is first
    assert groups.has_unseen
    groups.adopt([first, second, named("y/kernel")])
    assert not groups.has_unseen


def test_weights_of_one_name_are_recognised_in_their_order():
    groups = VariableGroups([[saved("encoder/a/kernel"), saved("decoder/a/kernel")]])
    variables = [named("a/kernel"), named("a/kernel")]
    groups.adopt(variables)
    assert [a is b for a, b in zip(groups.weights, variables, strict=True)] == [True, True]


def test_strange_variable_is_named_and_changes_nothing():
    groups = VariableGroups([[saved("a/kernel")], [saved("b/kernel")]])
    with pytest.raises(ValueError, match=r"Received: variable 'c/bias' \(7 values\), in none of the 2 groups"):
        groups.adopt([named("a/kernel"), named("c/bias", (7,))])
    assert [weight.path for weight in groups.weights] == ["a/kernel", "b/kernel"]
    assert groups.has_unseen


def test_description_goes_to_a_file_and_back():
    variables = [keras.Variable(np.zeros(s), dtype="float32", name=n) for s, n in (((2, 3), "one"), ((), "two"))]
    groups = VariableGroups([[variables[0]], [variables[1]]])
    assert groups.saved([variables[1]]) == [
        [{"path": "one", "shape": (2, 3), "dtype": "float32", "position": None}],
        [{"path": "two", "shape": (), "dtype": "float32", "position": 0}],
    ]
