import pickle

import keras
import numpy as np
import pytest

from keras_sgdr.optimizers.differential_lr import DifferentialLR
from tests.small_models import KINDS

RATES = [0.001, 0.01, 0.1]

INNER = {
    "sgd": lambda lr, **kw: keras.optimizers.SGD(lr, **kw),
    "momentum": lambda lr, **kw: keras.optimizers.SGD(lr, momentum=0.9, **kw),
    "nesterov": lambda lr, **kw: keras.optimizers.SGD(lr, momentum=0.9, nesterov=True, **kw),
    "adam": lambda lr, **kw: keras.optimizers.Adam(lr, **kw),
    "amsgrad": lambda lr, **kw: keras.optimizers.Adam(lr, amsgrad=True, **kw),
    "adamw": lambda lr, **kw: keras.optimizers.AdamW(lr, weight_decay=kw.pop("weight_decay", 0.1), **kw),
    "rmsprop": lambda lr, **kw: keras.optimizers.RMSprop(lr, momentum=0.9, centered=True, **kw),
    "adagrad": lambda lr, **kw: keras.optimizers.Adagrad(lr, **kw),
    "adadelta": lambda lr, **kw: keras.optimizers.Adadelta(lr, **kw),
    "adamax": lambda lr, **kw: keras.optimizers.Adamax(lr, **kw),
    "lion": lambda lr, **kw: keras.optimizers.Lion(lr, **kw),
    "adafactor": lambda lr, **kw: keras.optimizers.Adafactor(lr, **kw),
    "nadam": lambda lr, **kw: keras.optimizers.Nadam(lr, **kw),
    "ftrl": lambda lr, **kw: keras.optimizers.Ftrl(lr, **kw),
    "lamb": lambda lr, **kw: keras.optimizers.Lamb(lr, **kw),
    "muon": lambda lr, **kw: keras.optimizers.Muon(lr, adam_weight_decay=kw.pop("adam_weight_decay", 0.05), **kw),
    "schedule_free_adamw": lambda lr, **kw: keras.optimizers.ScheduleFreeAdamW(lr, **kw),
}


def weights(seed=0):
    """Three groups of a kernel and a bias."""
    random = np.random.default_rng(seed)
    shapes = [(4, 5), (5,), (5, 5), (5,), (5, 3), (3,)]
    return [keras.Variable(random.normal(size=shape), dtype="float32", name=f"w{i}") for i, shape in enumerate(shapes)]


def gradients(steps=5, seed=1):
    random = np.random.default_rng(seed)
    shapes = [tuple(v.shape) for v in weights()]
    return [[random.normal(size=shape).astype("float32") for shape in shapes] for _ in range(steps)]


def train(optimizer, variables, steps):
    for grads in steps:
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in grads], variables)
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def in_groups(variables):
    return [variables[0:2], variables[2:4], variables[4:6]]


def assert_all_close(actual, expected, **tolerance):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize("name", INNER)
def test_each_group_is_trained_as_by_an_optimizer_of_its_own(name):
    variables = weights()
    optimizer = DifferentialLR(INNER[name](0.5, weight_decay=0.3), in_groups(variables), RATES)
    together = train(optimizer, variables, gradients())

    separate = []
    for group, rate in enumerate(RATES):
        chosen = slice(2 * group, 2 * group + 2)
        separate += train(
            INNER[name](rate, weight_decay=0.3), weights()[chosen], [grads[chosen] for grads in gradients()]
        )
    assert_all_close(together, separate, rtol=1e-6, atol=1e-6)


WITHOUT_MOMENTUM = ("sgd", "adagrad", "adadelta", "adafactor", "ftrl")


@pytest.mark.parametrize("name", [name for name in INNER if name not in WITHOUT_MOMENTUM])
def test_moved_momentum_is_that_of_a_bare_optimizer_whose_own_is_set_before_each_step(name):
    """Set by hand and not compiled, so that Keras reads the attribute anew in each step."""
    variables, others = weights(), weights()
    optimizer = DifferentialLR(INNER[name](0.5), in_groups(variables), 0.02, movable_momentum=True)
    bare = INNER[name](0.02)
    attribute = "momentum" if getattr(bare, "momentum", 0) else "beta_1"
    own = getattr(bare, attribute)
    for momentum, grads in zip([0.8, 0.85, None, 0.5, 0.95], gradients(), strict=True):
        if momentum is not None:
            optimizer.momentum_variable.assign(momentum)
        actual = train(optimizer, variables, [grads])
        setattr(bare, attribute, momentum or own)
        expected = train(bare, others, [grads])
        assert getattr(optimizer, attribute) == own
        assert float(optimizer.momentum_variable.numpy()) == pytest.approx(own)
    assert_all_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", INNER)
def test_equal_rates_are_the_bare_optimizer_to_the_bit(name):
    variables, others = weights(), weights()
    actual = train(
        DifferentialLR(INNER[name](0.5, weight_decay=0.1), in_groups(variables), 0.02), variables, gradients()
    )
    expected = train(INNER[name](0.02, weight_decay=0.1), others, gradients())
    assert_all_close(actual, expected, rtol=0, atol=0)


def test_update_of_plain_sgd_is_the_groups_rate_times_the_gradient():
    variables = weights()
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    after = train(DifferentialLR(keras.optimizers.SGD(1.0), in_groups(variables), RATES), variables, gradients(1))
    steps = [(b - a) / g for b, a, g in zip(before, after, gradients(1)[0], strict=True)]
    for step, rate in zip(steps, [r for r in RATES for _ in range(2)], strict=True):
        np.testing.assert_allclose(step, rate, rtol=2e-3)


def test_group_with_rate_zero_does_not_move():
    variables = weights()
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    optimizer = DifferentialLR(keras.optimizers.AdamW(weight_decay=0.1), in_groups(variables), [0, 1e-2, 1e-1])
    after = train(optimizer, variables, gradients())
    assert [bool(np.any(a != b)) for a, b in zip(after, before, strict=True)] == [False, False, True, True, True, True]


def test_learning_rate_is_the_last_groups_and_moves_all_at_fixed_ratios():
    optimizer = DifferentialLR(keras.optimizers.SGD(), in_groups(weights()), RATES)
    assert optimizer.learning_rates == pytest.approx(RATES)
    optimizer.learning_rate = 1.0
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == 1.0
    assert optimizer.learning_rates == pytest.approx([0.01, 0.1, 1.0])


def test_global_clipnorm_is_the_norm_over_all_groups():
    variables = weights()
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    optimizer = DifferentialLR(keras.optimizers.SGD(global_clipnorm=0.5), in_groups(variables), 1.0)
    after = train(optimizer, variables, gradients(1))
    norm = np.sqrt(sum(np.sum(np.square(a - b, dtype="float64")) for a, b in zip(after, before, strict=True)))
    assert norm == pytest.approx(0.5, rel=1e-5)


def test_multipliers_are_relative_to_the_inner_rate():
    optimizer = DifferentialLR(keras.optimizers.SGD(0.5), in_groups(weights()), multipliers=[0.1, 2, 1])
    assert optimizer.learning_rates == pytest.approx([0.05, 1.0, 0.5])


def test_schedule_inside_sets_all_groups_at_every_step():
    variables = weights()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 2], [1.0, 10.0, 100.0])
    optimizer = DifferentialLR(keras.optimizers.SGD(schedule), in_groups(variables), multipliers=[0.0, 0.5, 1.0])
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    ones = [np.ones(v.shape, "float32") for v in variables]
    after = train(optimizer, variables, [ones] * 4)
    # Steps 0 and 1 at 1, step 2 at 10, step 3 at 100.
    moved = [float(np.mean(b - a)) for a, b in zip(after, before, strict=True)]
    assert moved == pytest.approx([0, 0, 56, 56, 112, 112], rel=1e-5)


def test_it_is_an_optimizer_of_the_inner_class():
    optimizer = DifferentialLR(keras.optimizers.Adam(beta_1=0.8), in_groups(weights()), RATES)
    assert isinstance(optimizer, DifferentialLR)
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert optimizer.beta_1 == 0.8
    # LearningRateScheduler and ReduceLROnPlateau take an optimizer with this attribute for a MultiOptimizer.
    assert not hasattr(optimizer, "optimizers")


def test_subclass_keeps_its_class_and_its_name():
    @keras.saving.register_keras_serializable(package="keras_sgdr_tests")
    class Louder(DifferentialLR):
        def volume(self):
            return 11

    _, groups = KINDS["functional"]()
    optimizer = Louder(keras.optimizers.Adam(beta_1=0.8), groups, RATES)
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    again = type(loaded).from_config(loaded.get_config())
    for each in (optimizer, loaded, again):
        assert isinstance(each, Louder)
        assert isinstance(each, keras.optimizers.Adam)
        assert (each.volume(), each.beta_1) == (11, 0.8)


def test_config_is_the_same_on_every_backend():
    _, groups = KINDS["functional"]()
    config = DifferentialLR(keras.optimizers.Adam(), groups, RATES).get_config()["inner_optimizer"]
    assert (config["module"], config["class_name"]) == ("keras.optimizers", "Adam")


def test_wrong_number_of_rates_leaves_the_inner_optimizer_as_it_was():
    variables = weights()
    inner = keras.optimizers.Adam(0.25)
    state = dict(vars(inner))
    with pytest.raises(ValueError, match=r"Received: learning_rates=\[0.1, 0.2\], 2 values"):
        DifferentialLR(inner, in_groups(variables), [0.1, 0.2])
    assert vars(inner) == state
    assert float(inner.learning_rate.numpy()) == 0.25
    assert type(inner) is type(keras.optimizers.Adam())


def test_arguments_that_cannot_be_used_are_refused():
    groups = in_groups(weights())
    with pytest.raises(TypeError, match="Received: inner_optimizer='adam'"):
        DifferentialLR("adam", groups, RATES)
    with pytest.raises(TypeError, match="Received: inner_optimizer=LossScaleOptimizer"):
        DifferentialLR(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), groups, RATES)
    with pytest.raises(TypeError, match="Received: inner_optimizer=DifferentialLR"):
        DifferentialLR(DifferentialLR(keras.optimizers.SGD(), groups, RATES), groups, RATES)
    with pytest.raises(ValueError, match="Received: learning_rates=None, multipliers=None"):
        DifferentialLR(keras.optimizers.SGD(), groups)
    with pytest.raises(ValueError, match=r"Received: multipliers=\[1\], 1 values"):
        DifferentialLR(keras.optimizers.SGD(), groups, multipliers=[1])
    with pytest.raises(TypeError, match=r"Received: groups\[0\] with 'kernel'"):
        DifferentialLR(keras.optimizers.SGD(), [["kernel"]], [0.1])
    with pytest.raises(ValueError, match=r"Received: groups=\[\]"):
        DifferentialLR(keras.optimizers.SGD(), [], [])
    with pytest.raises(ValueError, match=r"Received: groups\[1\]=\[\]"):
        DifferentialLR(keras.optimizers.SGD(), [groups[0], []], [0.1, 0.1])


def test_rates_beside_a_schedule_are_refused_with_the_ratios_to_give():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    with pytest.raises(ValueError, match=r"a schedule or function inside. Give the ratios: multipliers=\[0.01"):
        DifferentialLR(keras.optimizers.SGD(schedule), in_groups(weights()), RATES)


def test_used_inner_optimizer_is_refused():
    inner, variables = keras.optimizers.SGD(name="used"), weights()
    inner.build(variables)
    with pytest.raises(ValueError, match="Received: inner_optimizer=used, already built"):
        DifferentialLR(inner, in_groups(variables), RATES)


def test_inner_optimizer_of_another_differential_lr_is_refused():
    inner, groups = keras.optimizers.SGD(name="shared"), in_groups(weights())
    first = DifferentialLR(inner, groups, RATES)
    with pytest.raises(ValueError, match=r"in a DifferentialLR already.* Received: inner_optimizer=shared"):
        DifferentialLR(inner, in_groups(weights()), RATES)
    assert first.learning_rates == pytest.approx(RATES)


@pytest.mark.parametrize("groups", [None, 3, keras.layers.Dense(1, name="one"), "head"])
def test_groups_that_are_no_list_are_refused(groups):
    with pytest.raises(TypeError, match=r"`groups` must be a list of layer groups. Received: groups="):
        DifferentialLR(keras.optimizers.SGD(), groups, [0.1])
    with pytest.raises(TypeError, match=r"Received: groups\[0\] with None"):
        DifferentialLR(keras.optimizers.SGD(), [None], [0.1])


def test_groups_of_a_model_that_is_not_built_have_no_summary():
    optimizer = DifferentialLR(keras.optimizers.SGD(), [[keras.layers.Dense(2, name="later")], weights()], [0.1, 0.1])
    with pytest.raises(ValueError, match=r"Received: groups\[0\]=\['later'\], which have none. Build the model first"):
        optimizer.summary()


def test_pickled_optimizer_is_one_of_the_same_groups():
    optimizer = DifferentialLR(keras.optimizers.SGD(momentum=0.9), in_groups(weights()), RATES)
    copied = pickle.loads(pickle.dumps(optimizer))
    assert isinstance(copied, keras.optimizers.SGD)
    assert copied.learning_rates == pytest.approx(RATES)
    assert copied.get_config() == optimizer.get_config()


def test_variable_in_no_group_is_named():
    variables = weights()
    optimizer = DifferentialLR(keras.optimizers.SGD(), in_groups(variables)[:2], [0.1, 0.1])
    with pytest.raises(ValueError, match=r"Received: variable 'w4' \(15 values\), in none of the 2 groups"):
        optimizer.build(variables)


def test_variable_in_two_groups_is_named():
    variables = weights()
    optimizer = DifferentialLR(keras.optimizers.SGD(), [variables[:3], variables[2:]], [0.1, 0.1])
    with pytest.raises(ValueError, match="Received: variable 'w2' in groups 0 and 1"):
        optimizer.build(variables)


def test_group_without_weights_is_named():
    optimizer = DifferentialLR(keras.optimizers.SGD(), [[keras.layers.Flatten(name="flat")], weights()], [0.1, 0.1])
    with pytest.raises(ValueError, match=r"Received: groups\[0\]=\['flat'\], which have none"):
        optimizer.build(weights())


SUMMARY = """\
group  layer                    weights  values  learning rate  weight decay  trained
-------------------------------------------------------------------------------------
0      body                     2        30      0.001          0.1           no
       body                     2        30      0.001          0.1           no
1      norm to head (2 layers)  4        33      0.1            0.1, in part  yes
       norm                     2        12      0.1            none          yes
       head                     2        21      0.1            0.1, in part  yes
-------------------------------------------------------------------------------------
all                             6        63      0.001 to 0.1   0.1, in part  in part
"""


def test_summary_shows_groups_layers_rates_decay_and_what_is_trained(capsys):
    model, _ = KINDS["functional"]()
    body, norm, head = model.layers[1:]
    body.trainable = False
    inner = keras.optimizers.AdamW(weight_decay=0.1)
    inner.exclude_from_weight_decay(var_list=[*norm.trainable_variables, head.bias])
    optimizer = DifferentialLR(inner, [[body], [norm, head]], [0.001, 0.1])
    optimizer.summary()
    assert capsys.readouterr().out == SUMMARY
    printed = []
    optimizer.summary(per_layer=False, print_fn=printed.append)
    assert printed == ["\n".join(line for line in SUMMARY.splitlines() if line[0] != " ")]
