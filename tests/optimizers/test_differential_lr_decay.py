import keras
import numpy as np
import pytest

from keras_sgdr.optimizers.differential_lr import DifferentialLR

from .test_differential_lr import gradients, in_groups, train, weights

RATES = [0.01, 0.1, 1.0]
ZEROS = [[np.zeros_like(g) for g in grads] for grads in gradients(1)]


def shrunk_by(optimizer, variables):
    """What one step without gradient takes from each variable, as a part of it."""
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    after = train(optimizer, variables, ZEROS)
    return [float(np.mean(1 - a / b)) for a, b in zip(after, before, strict=True)]


def test_inner_decay_acts_at_each_groups_rate():
    variables = weights()
    optimizer = DifferentialLR(keras.optimizers.SGD(weight_decay=0.1), in_groups(variables), RATES)
    assert shrunk_by(optimizer, variables) == pytest.approx([0.001, 0.001, 0.01, 0.01, 0.1, 0.1], rel=1e-3)


def test_each_group_can_have_its_own_decay():
    variables = weights()
    optimizer = DifferentialLR(
        keras.optimizers.SGD(weight_decay=0.9), in_groups(variables), RATES, weight_decays=[0.5, 0, 0.1]
    )
    assert shrunk_by(optimizer, variables) == pytest.approx([0.005, 0.005, 0, 0, 0.1, 0.1], rel=1e-3)
    assert optimizer.weight_decays == [0.5, 0, 0.1]
    assert optimizer.weight_decay == 0.9


def test_own_decays_need_none_inside():
    variables = weights()
    optimizer = DifferentialLR(keras.optimizers.Adam(), in_groups(variables), RATES, weight_decays=[0.5, 0.2, 0.1])
    assert shrunk_by(optimizer, variables) == pytest.approx([0.005, 0.005, 0.02, 0.02, 0.1, 0.1], rel=1e-3)


def test_own_decays_of_muon_are_for_what_it_trains_by_adam_too():
    variables = weights()
    optimizer = DifferentialLR(keras.optimizers.Muon(), in_groups(variables), RATES, weight_decays=[0.5, 0.2, 0.1])
    assert shrunk_by(optimizer, variables) == pytest.approx([0.005, 0.005, 0.02, 0.02, 0.1, 0.1], rel=1e-3)


def test_optimizer_with_a_decay_of_its_own_making_is_followed_at_each_groups_rate():
    class Shrinking(keras.optimizers.SGD):
        def _apply_weight_decay(self, variables):
            for variable in variables:
                variable.assign(variable * (1 - 0.1 * self.learning_rate))

    variables = weights()
    optimizer = DifferentialLR(Shrinking(), in_groups(variables), RATES)
    assert shrunk_by(optimizer, variables) == pytest.approx([0.001, 0.001, 0.01, 0.01, 0.1, 0.1], rel=1e-3)


def test_a_schedule_is_evaluated_once_for_each_group_that_decays_and_once_for_the_updates():
    class Counting(keras.optimizers.schedules.LearningRateSchedule):
        calls = 0

        def __call__(self, step):
            self.calls += 1
            return keras.ops.cast(1.0, "float32")

    variables, schedule = weights(), Counting()
    inner = keras.optimizers.SGD(schedule, weight_decay=0.1)
    optimizer = DifferentialLR(inner, in_groups(variables), multipliers=RATES)
    assert shrunk_by(optimizer, variables) == pytest.approx([0.001, 0.001, 0.01, 0.01, 0.1, 0.1], rel=1e-3)
    assert schedule.calls == len(RATES) + 1 < len(variables)


def test_biases_and_norms_can_be_left_out():
    model = keras.Sequential(
        [
            keras.Input((6, 4)),
            keras.layers.Dense(4, name="dense"),
            keras.layers.LayerNormalization(axis=(1, 2), name="norm"),
        ]
    )
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(keras.ops.ones(variable.shape))
    optimizer = DifferentialLR(
        keras.optimizers.SGD(weight_decay=0.1), [model.layers], [1.0], decay_biases_and_norms=False
    )
    optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    kernel, *others = [float(np.mean(keras.ops.convert_to_numpy(v))) for v in variables]
    assert kernel == pytest.approx(0.9)
    assert others == [1.0, 1.0, 1.0]
    assert [len(v.shape) for v in variables] == [2, 1, 2, 2]


def test_exclusion_by_the_inner_optimizers_own_means_is_kept():
    variables = weights()
    inner = keras.optimizers.SGD(weight_decay=0.1)
    inner.exclude_from_weight_decay(var_names=["w0"], var_list=variables[1:4])
    optimizer = DifferentialLR(inner, in_groups(variables), RATES)
    assert shrunk_by(optimizer, variables) == pytest.approx([0, 0, 0, 0, 0.1, 0.1], abs=1e-6)


def test_wrong_decays_are_refused():
    with pytest.raises(ValueError, match=r"Received: weight_decays=\[0.1\], 1 values"):
        DifferentialLR(keras.optimizers.SGD(), in_groups(weights()), RATES, weight_decays=[0.1])
    with pytest.raises(ValueError, match=r"Received: weight_decays=\[0.1, -1, 0\]"):
        DifferentialLR(keras.optimizers.SGD(), in_groups(weights()), RATES, weight_decays=[0.1, -1, 0])
