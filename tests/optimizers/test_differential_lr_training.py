"""DifferentialLR in `model.fit`, with everything that Keras puts around an optimizer."""

import keras
import numpy as np
import pytest

from keras_sgdr.optimizers.differential_lr import DifferentialLR
from tests.small_models import KINDS, data, fit

RATES = [1e-3, 1e-2, 1e-1]


def arrays(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def trained(make_optimizer, *, epochs=2, callbacks=(), **compile_args):
    keras.utils.set_random_seed(1)
    model, groups = KINDS["functional"]()
    model.compile(make_optimizer(groups), "mse", **compile_args)
    fit(model, epochs=epochs, callbacks=list(callbacks))
    return model


def with_adam(groups, **kwargs):
    return DifferentialLR(keras.optimizers.Adam(**kwargs), groups, RATES)


def assert_same_weights(one, other, **tolerance):
    for a, b in zip(arrays(one.weights), arrays(other.weights), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.fixture
def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(params=["float32", "mixed_float16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    "inner",
    [
        lambda lr: keras.optimizers.AdamW(lr, weight_decay=0.1),
        lambda lr: keras.optimizers.SGD(lr, momentum=0.9, global_clipnorm=0.1),
        pytest.param(lambda lr: keras.optimizers.Adam(lr, gradient_accumulation_steps=2), marks=pytest.mark.slow),
        lambda lr: keras.optimizers.Adam(lr, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2),
        lambda lr: keras.optimizers.SGD(lr, loss_scale_factor=8.0, clipvalue=0.1),
    ],
    ids=["decay", "clip", "accumulation", "ema", "scale"],
)
def test_equal_rates_train_a_model_as_the_bare_optimizer_to_the_bit(inner):
    grouped = trained(lambda groups: DifferentialLR(inner(1.0), groups, 0.05))
    assert_same_weights(grouped, trained(lambda _: inner(0.05)), rtol=0, atol=0)


def test_accumulated_gradients_make_one_step_of_their_mean():
    keras.utils.set_random_seed(1)
    model, groups = KINDS["functional"]()
    model.layers[2].trainable = False  # a batch norm's statistics would tell the batches apart
    initial = model.get_weights()
    model.compile(DifferentialLR(keras.optimizers.SGD(gradient_accumulation_steps=3), groups, RATES), "mse")
    fit(model)
    accumulated = model.get_weights()
    model.set_weights(initial)
    model.compile(DifferentialLR(keras.optimizers.SGD(), groups, RATES), "mse")
    model.train_on_batch(*data())
    for a, b in zip(accumulated, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_jit_compiled_training_is_the_same():
    if keras.backend.backend() == "torch":
        pytest.skip("Keras compiles with torch.compile there, which needs a C++ compiler")
    assert_same_weights(
        trained(with_adam, jit_compile=True), trained(with_adam, jit_compile=False), rtol=1e-4, atol=1e-5
    )


def test_several_steps_per_execution_are_the_same():
    if keras.backend.backend() == "torch":
        pytest.skip("Keras has no steps_per_execution on torch")
    assert_same_weights(trained(with_adam, steps_per_execution=3), trained(with_adam), rtol=1e-5, atol=1e-6)


def test_schedule_inside_is_followed():
    rates = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01])

    def by_schedule(groups):
        return DifferentialLR(keras.optimizers.Adam(schedule), groups, multipliers=[0.01, 0.1, 1])

    set_rate = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(by_hand_optimizers[0], "learning_rate", rates[3 * epoch])
    )
    by_hand_optimizers = []

    def by_hand(groups):
        by_hand_optimizers.append(with_adam(groups))
        return by_hand_optimizers[0]

    assert_same_weights(trained(by_schedule), trained(by_hand, callbacks=[set_rate]), rtol=1e-5, atol=1e-6)


def test_loss_scaling_is_put_around_it_and_its_state_survives_unfreezing(mixed_float16):
    keras.utils.set_random_seed(1)
    model, groups = KINDS["functional"]()
    body = groups[0][0]
    body.trainable = False
    optimizer = with_adam(groups)
    model.compile(optimizer, "mse")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    fit(model)
    frozen = arrays(body.weights)
    body.trainable = True
    model.compile(optimizer, "mse")
    fit(model)
    assert all(np.any(a != b) for a, b in zip(frozen, arrays(body.weights), strict=True))
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 6


def way_of_each_group(callback, *, epochs):
    """How far the weight of each of three groups goes in epochs of one batch, whose gradients are all 1."""
    inputs = keras.Input((1,))
    layers = [keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False) for _ in RATES]
    model = keras.Model(inputs, keras.layers.add([layer(inputs) for layer in layers]))
    optimizer = DifferentialLR(keras.optimizers.SGD(), [[layer] for layer in layers], RATES)
    model.compile(optimizer, loss=lambda _, predicted: predicted)
    ones = np.ones((4, 1), "float32")
    model.fit(ones, ones, epochs=epochs, verbose=0, callbacks=[callback])
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (keras.config.dtype_policy().name == "mixed_float16")
    return [-weight.item() for weight in model.get_weights()]


def test_scheduler_callback_moves_all_groups(policy):
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1))
    assert way_of_each_group(schedule, epochs=2) == pytest.approx([0.0075, 0.075, 0.75], rel=1e-5)


def test_reduce_on_plateau_moves_all_groups(policy):
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=1e6)
    # The first epoch sets the best; each one after it halves the rate for the next.
    assert way_of_each_group(plateau, epochs=4) == pytest.approx([r * (1 + 1 + 1 / 2 + 1 / 4) for r in RATES], rel=1e-5)


def test_logged_learning_rate_is_the_last_groups(policy):
    seen = []
    log = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["learning_rate"]))
    trained(with_adam, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.5), log], epochs=1)
    assert seen == [pytest.approx(0.5)]


def test_tensorboard_logs_the_last_groups_rate(policy):
    model = trained(with_adam, epochs=1)
    callback = keras.callbacks.TensorBoard()
    callback._model = model  # `set_model` opens log files, for which the package tensorboard is needed
    assert callback._collect_learning_rate({}) == {"learning_rate": pytest.approx(0.1)}


def moving_average(weights_after_each_step, momentum):
    average = weights_after_each_step[0]
    for weights in weights_after_each_step[1:]:
        average = [momentum * a + (1 - momentum) * w for a, w in zip(average, weights, strict=True)]
    return average


class Recorder(keras.callbacks.Callback):
    """The weights after every batch, and those with which the validation ran."""

    def __init__(self):
        super().__init__()
        self.steps, self.validated = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(arrays(self.model.trainable_weights))

    def on_test_batch_begin(self, batch, logs=None):
        self.validated = arrays(self.model.trainable_weights)


def test_moving_averages_of_the_weights_are_swapped_in_for_validation(policy):
    if keras.backend.backend() == "jax":
        pytest.skip("the JAX trainer does not show a callback the weights after each batch")
    recorder = Recorder()
    keras.utils.set_random_seed(1)
    model, groups = KINDS["functional"]()
    groups[0][0].trainable = False
    frozen = arrays(groups[0][0].weights)
    model.compile(with_adam(groups, use_ema=True, ema_momentum=0.7), "mse")
    x, y = data()
    callbacks = [keras.callbacks.SwapEMAWeights(), recorder]
    model.fit(x, y, validation_data=(x, y), batch_size=16, verbose=0, callbacks=callbacks)
    expected = moving_average(recorder.steps, 0.7)
    for validated, final, average in zip(recorder.validated, arrays(model.trainable_weights), expected, strict=True):
        np.testing.assert_allclose(validated, average, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(final, average, rtol=1e-4, atol=1e-6)
    for a, b in zip(frozen, arrays(groups[0][0].weights), strict=True):
        np.testing.assert_array_equal(a, b)


def test_moving_average_of_a_layer_unfrozen_later_starts_from_its_weights():
    keras.utils.set_random_seed(1)
    model, groups = KINDS["functional"]()
    body = groups[0][0]
    body.trainable = False
    optimizer = with_adam(groups, use_ema=True, ema_momentum=0.99)
    model.compile(optimizer, "mse")
    fit(model)
    before = arrays(body.weights)
    body.trainable = True
    model.compile(optimizer, "mse")
    fit(model)
    # `fit` ends by putting the average into the model: after 3 steps of 0.001 or less, still next to the old weights.
    for a, b in zip(before, arrays(body.weights), strict=True):
        np.testing.assert_allclose(a, b, atol=4e-3)


def test_custom_loop_may_train_some_groups_only():
    keras.utils.set_random_seed(1)
    model, groups = KINDS["functional"]()
    optimizer = DifferentialLR(keras.optimizers.SGD(), groups, [1.0, 1.0, 1.0])
    head = model.layers[-1].trainable_variables
    body = model.layers[1].trainable_variables
    optimizer.build(model.trainable_variables)
    before = arrays([*head, *body])
    for variables in (head, body):
        optimizer.apply([keras.ops.ones(v.shape) for v in variables], variables)
    for a, b in zip(arrays([*head, *body]), before, strict=True):
        np.testing.assert_allclose(b - a, 1.0, rtol=1e-5)
