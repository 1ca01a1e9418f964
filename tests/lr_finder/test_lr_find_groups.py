import keras
import numpy as np
import pytest

from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.lr_finder.lr_find_groups import GroupCurves, lr_find_groups
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from tests.lr_finder.test_lr_finder import make_dataset, make_model, trained

RANGE = {"start_lr": 1e-3, "end_lr": 1.0, "num_steps": 8, "stop_factor": np.inf, "verbose": 0}


def differential(model, optimizer):
    """The optimizer, and everything of the model in three groups."""
    groups = [[model.layers[0]], [model.layers[1]], [model.layers[3]]]
    return DifferentialLR(optimizer, groups, [1e-4, 1e-3, 1e-2])


def compiled(model, optimizer=None):
    optimizer = differential(model, optimizer or keras.optimizers.AdamW())
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def by_hand(rates, x, y, *, trained_weight):
    """The losses of `(a * b * x - y) ** 2`, of which SGD trains one factor."""
    weights, losses = [0.5, 2.0], []
    for rate in rates:
        error = weights[0] * weights[1] * x - y
        losses.append(error**2)
        weights[trained_weight] -= rate * 2 * error * weights[1 - trained_weight] * x
    return losses


def test_each_curve_is_that_of_one_group_with_the_others_at_rest():
    inputs = keras.Input((1,))
    layers = [
        keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(start))
        for start in (0.5, 2)
    ]
    model = keras.Model(inputs, layers[1](layers[0](inputs)))
    model.compile(DifferentialLR(keras.optimizers.SGD(), [[layer] for layer in layers], [1e-3, 1e-1]), "mse")
    x, y = np.full((8, 1), 0.5, "float32"), np.full((8, 1), 3, "float32")
    curves = lr_find_groups(model, (x, y), **RANGE).curves
    for group, curve in enumerate(curves):
        np.testing.assert_allclose(
            curve.losses, by_hand(curve.learning_rates, 0.5, 3.0, trained_weight=group), rtol=1e-4
        )


def test_model_goes_on_as_if_nothing_had_been():
    def probe(model, dataset):
        rates = compiled(model).optimizer.learning_rates
        lr_find_groups(model, dataset, verify=True, **RANGE)
        assert model.optimizer.learning_rates == rates

    assert trained(probe) == trained(lambda model, _: compiled(model))


def test_step_that_was_compiled_before_is_kept():
    model = compiled(make_model())
    model.fit(make_dataset(), shuffle=False, verbose=0)
    step = model.train_function
    lr_find_groups(model, make_dataset(), **RANGE)
    assert model.train_function is step


def test_groups_are_found_inside_a_loss_scale_optimizer():
    model = make_model()
    optimizer = keras.optimizers.LossScaleOptimizer(differential(model, keras.optimizers.Adam()))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    assert len(lr_find_groups(model, make_dataset(), **RANGE).curves) == 3


def test_optimizer_without_groups_is_refused():
    with pytest.raises(TypeError, match=r"Received: Adam\. Compile with DifferentialLR"):
        lr_find_groups(make_model(), make_dataset())


def test_suggestions_are_one_rate_per_group_and_name_the_group_that_has_none():
    rates = np.geomspace(1e-4, 1, 40)
    curves = [LRCurve(rates, (np.log(rates) - np.log(best)) ** 2, smoothing=0.0) for best in (1e-2, 3e-2)]
    assert GroupCurves(tuple(curves)).suggest("minimum") == pytest.approx([1e-3, 3e-3], rel=0.2)
    flat = LRCurve(rates, np.ones(40))
    with pytest.raises(ValueError, match=r"group 1: .* it is flat"):
        GroupCurves((curves[0], flat)).suggest()
