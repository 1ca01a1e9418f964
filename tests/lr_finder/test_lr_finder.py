import random
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.checkpoint.training_state import TrainingState, to_numpy, variables_of
from keras_sgdr.lr_finder.lr_find import LRFinder, lr_find
from keras_sgdr.optimizers.differential_lr import DifferentialLR


def make_data(count=64, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 4)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")


def make_model(optimizer=None, **compile_arguments):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2, activation="softmax", dtype="float32"),
        ]
    )
    arguments = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]} | compile_arguments
    model.compile(keras.optimizers.Adam(0.01) if optimizer is None else optimizer, **arguments)
    return model


def make_dataset(*, shuffle=True):
    dataset = tf.data.Dataset.from_tensor_slices(make_data())
    return without_tuner((dataset.shuffle(64, seed=3) if shuffle else dataset).batch(16))


def without_tuner(dataset):
    """TensorFlow's tuner has nothing to tune here, and a pass can wait for a minute at its end while it sleeps."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def bytes_of(model):
    return [to_numpy(variable).tobytes() for variable in variables_of(model)]


def trained(probe=None, *, optimizer=None, **compile_arguments):
    """Trains a model on a shuffled pipeline, with a probe of both before; its variables and the losses."""
    model = make_model(optimizer and optimizer(), **compile_arguments)
    dataset = make_dataset()
    if probe is not None:
        probe(model, dataset)
    history = model.fit(dataset, epochs=3, shuffle=False, verbose=0)
    return bytes_of(model), history.history


def test_lr_find_records_the_true_loss_of_each_batch():
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    x = np.arange(1, 7, dtype="float32")[:, None]
    dataset = tf.data.Dataset.from_tensor_slices((x, 3 * x)).batch(1)
    curve = lr_find(model, dataset, start_lr=1e-3, end_lr=1e-1, num_steps=6, stop_factor=np.inf)
    weight, bias, losses = 1.0, 0.0, []
    for rate, value in zip(curve.learning_rates, x[:, 0], strict=True):
        error = weight * value + bias - 3 * value
        losses.append(error**2)
        weight, bias = weight - rate * 2 * error * value, bias - rate * 2 * error
    np.testing.assert_allclose(curve.losses, losses, rtol=1e-4)


def test_lr_find_goes_over_the_range_without_its_end():
    curve = lr_find(make_model(), make_dataset(), start_lr=1e-5, end_lr=1e-1, num_steps=4, stop_factor=np.inf)
    np.testing.assert_allclose(curve.learning_rates, [1e-5, 1e-4, 1e-3, 1e-2])
    curve = lr_find(make_model(), make_dataset(), start_lr=1e-5, end_lr=5e-5, num_steps=4, mode="linear")
    np.testing.assert_allclose(curve.learning_rates, [1e-5, 2e-5, 3e-5, 4e-5])


def test_lr_find_begins_short_data_anew():
    assert len(lr_find(make_model(), make_dataset(), num_steps=23, stop_factor=np.inf).losses) == 23


def test_two_calls_give_the_same_curve():
    model = make_model()
    first, second = (lr_find(model, make_dataset, num_steps=30) for _ in range(2))
    assert first.losses.tolist() == second.losses.tolist()
    assert len(first.losses) > 10


def test_lr_find_stops_where_the_smoothed_loss_is_four_times_its_best():
    model = make_model(keras.optimizers.SGD(0.1), loss="mse")
    data = make_data()[0], np.tile([[5.0, -5.0]], (64, 1)).astype("float32")
    model.layers[-1].activation = keras.activations.linear
    curve = lr_find(model, data, start_lr=1e-3, end_lr=1e3, num_steps=100)
    smoothed = curve.smoothed_losses
    assert 10 < len(smoothed) < 100
    assert smoothed[-1] > 4 * smoothed.min()
    assert all(smoothed[i] <= 4 * smoothed[: i + 1].min() for i in range(len(smoothed) - 1))


def learnt_classifier():
    """Knows which of two numbers is the larger, but for a few labels that are wrong."""
    x = np.random.default_rng(0).normal(size=(256, 2)).astype("float32")
    y = (x[:, 0] > x[:, 1]).astype("int32")
    y[[16, 40]] = 1 - y[[16, 40]]
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    model.set_weights([np.array([[-40.0, 40.0], [40.0, -40.0]], "float32"), np.zeros(2, "float32")])
    model.compile(keras.optimizers.SGD(), "sparse_categorical_crossentropy")
    return model, (x, y)


def test_noise_near_a_loss_of_nothing_does_not_stop_the_finder():
    model, (x, y) = learnt_classifier()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    curve = lr_find(model, dataset, num_steps=60, start_lr=1e-9, end_lr=1e-6)
    # wrong labels come in the third and the sixth batch, at losses a million times that of the others
    assert curve.losses[2] > 1e3 * curve.losses[0]
    assert len(curve.losses) == 60
    assert curve.guessing_loss == pytest.approx(np.log(2))


def test_finder_of_a_regression_knows_no_guess():
    model, (x, _) = learnt_classifier()
    model.compile("sgd", "mse")
    curve = lr_find(model, (x, x), num_steps=12)
    assert curve.guessing_loss is None


class Explode(keras.callbacks.Callback):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise self.error


def interrupted(error):
    def probe(model, dataset):
        with pytest.raises(type(error)), LRFinder(num_steps=20) as finder:
            model.fit(make_dataset(), epochs=9, callbacks=[finder, Explode(error)], shuffle=False, verbose=0)

    return probe


def exploded_data(model, dataset):
    def batches():
        yield make_data(16)
        raise OSError("the disk is gone")

    spec = (tf.TensorSpec((16, 4)), tf.TensorSpec((16,), tf.int32))
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    with pytest.raises(tf.errors.OpError, match="the disk is gone"):
        lr_find(model, without_tuner(data), num_steps=20)


def nan_loss(model, dataset):
    weights = np.ones(64, "float32")
    weights[40:] = np.nan
    dataset = without_tuner(tf.data.Dataset.from_tensor_slices((*make_data(), weights)).batch(16))
    curve = lr_find(model, dataset, num_steps=20)
    assert np.isnan(curve.losses[-1])
    assert len(curve.losses) == 3


def as_callback(model, dataset):
    model.fit(make_dataset(), epochs=9, callbacks=[LRFinder(num_steps=20)], shuffle=False, verbose=0)
    assert model.stop_training is False


def beside_early_stopping(model, dataset):
    """At the end of the training it sets the weights of the finder's best epoch, just before all are restored."""
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=20, restore_best_weights=True)
    finder = LRFinder(start_lr=1.0, num_steps=20, stop_factor=np.inf)
    arguments = {"epochs": 9, "shuffle": False, "verbose": 0}
    before = model.get_weights()
    model.fit(make_dataset(), validation_data=make_data(16, seed=1), callbacks=[stopping, finder], **arguments)
    assert not np.array_equal(stopping.best_weights[0], before[0])
    assert len(finder.curve.losses) == 20


def out_of_memory(model, dataset):
    """In the third batch, as TensorFlow says it."""

    class Hungry(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 2:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return make_data(16, seed=index)

    with pytest.raises(tf.errors.ResourceExhaustedError, match="OOM when allocating"):
        lr_find(model, Hungry(), num_steps=20)


def endless(model, dataset):
    curve = lr_find(model, dataset.repeat(), num_steps=18, stop_factor=np.inf)
    assert len(curve.losses) == 18


PROBES = {
    "lr_find": lambda model, dataset: lr_find(model, dataset, num_steps=18),
    "diverging": lambda model, dataset: lr_find(model, dataset, start_lr=1.0, end_lr=1e6, num_steps=40),
    "arrays": lambda model, dataset: lr_find(model, make_data(), num_steps=20),
    "function": lambda model, dataset: lr_find(model, make_dataset, num_steps=20),
    "callback": as_callback,
    "early stopping": beside_early_stopping,
    "endless": endless,
    "error": interrupted(RuntimeError("another callback")),
    "ctrl-c": interrupted(KeyboardInterrupt()),
    "data error": exploded_data,
    "out of memory": out_of_memory,
    "nan": nan_loss,
}


@pytest.fixture(scope="module")
def untouched():
    return trained()


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_training_after_a_finder_is_bit_identical(probe, untouched):
    assert trained(probe) == untouched


@pytest.mark.parametrize("others", [[], [Explode(RuntimeError())]], ids=["at the end", "after an error"])
def test_ctrl_c_while_a_finder_restores_loses_nothing(others, untouched, monkeypatch):
    writes = []
    assign, restore = keras.Variable.assign, TrainingState.restore

    def interrupted_assign(variable, value):
        writes.append(variable)
        if len(writes) == 5:
            raise KeyboardInterrupt
        return assign(variable, value)

    def interrupted_restore(state):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keras.Variable, "assign", interrupted_assign)
            restore(state)

    def probe(model, dataset):
        with pytest.raises(KeyboardInterrupt), LRFinder(num_steps=20) as finder:
            model.fit(make_dataset(), epochs=9, callbacks=[finder, *others], shuffle=False, verbose=0)

    monkeypatch.setattr(TrainingState, "restore", interrupted_restore)
    assert trained(probe) == untouched
    assert len(writes) > 10


def test_callback_that_stops_the_training_ends_the_finder():
    model = make_model()
    stopping = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch))
    finder = LRFinder(num_steps=20, stop_factor=np.inf)
    weights = model.get_weights()
    model.fit(make_dataset(), epochs=9, callbacks=[stopping, finder], shuffle=False, verbose=0)
    assert not finder.is_over
    assert len(finder.curve.losses) == 8
    for now, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, before)


def test_validation_in_the_same_fit_changes_no_loss():
    curves = []
    for validation in (None, make_data(16, seed=1)):
        finder = LRFinder(num_steps=12, stop_factor=np.inf)
        arguments = {"epochs": 9, "shuffle": False, "verbose": 0}
        make_model().fit(make_dataset(), validation_data=validation, callbacks=[finder], **arguments)
        curves.append(finder.curve.losses.tolist())
    assert curves[0] == curves[1]


def test_lr_find_does_not_validate():
    model = make_model()
    lr_find(model, make_dataset(), num_steps=5)
    assert getattr(model, "test_function", None) is None


@pytest.mark.parametrize("make_endless", [False, True])
def test_length_of_the_data_changes_no_loss(make_endless):
    """Data of a known length, of an unknown one and endless data, all of the same batches."""

    def batches():
        x, y = make_data()
        for start in range(0, 64, 16):
            yield x[start : start + 16], y[start : start + 16]

    spec = (tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int32))
    dataset = without_tuner(tf.data.Dataset.from_generator(batches, output_signature=spec))
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    # Without dropout: Keras finds the end of data of unknown length by a step more, which takes a seed.
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    arguments = {"start_lr": 0.1, "num_steps": 11, "stop_factor": np.inf}
    expected = lr_find(model, make_dataset(shuffle=False), **arguments)
    curve = lr_find(model, dataset.repeat() if make_endless else dataset, **arguments)
    assert curve.losses.tolist() == expected.losses.tolist()


class UnseededNoise(keras.layers.Layer):
    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


@pytest.mark.parametrize("is_drawn_before", [False, True])
def test_draws_without_a_seed_go_on_as_if_no_finder_had_been(is_drawn_before):
    def losses(*, probes):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.layers.Input((4,)), UnseededNoise(), keras.layers.Dense(1, "sigmoid")])
        model.compile("sgd", "binary_crossentropy")
        if is_drawn_before:
            keras.random.normal((1,))
        if probes:
            lr_find(model, make_data(), num_steps=5)
        drawn = random.random()
        return drawn, model.fit(*make_data(), epochs=2, verbose=0).history["loss"]

    assert losses(probes=True) == losses(probes=False)


def scaled_adam():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**10)


def accumulating_adam():
    return keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)


def scheduled_adam():
    return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5))


def averaging_adam():
    return keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=2)


@pytest.mark.parametrize("optimizer", [scaled_adam, accumulating_adam, scheduled_adam, averaging_adam])
def test_training_after_a_finder_is_bit_identical_for_any_optimizer(optimizer):
    probe = PROBES["diverging"]
    assert trained(probe, optimizer=optimizer) == trained(optimizer=optimizer)


def test_training_after_a_finder_is_bit_identical_with_steps_per_execution():
    probe = PROBES["lr_find"]
    assert trained(probe, steps_per_execution=2) == trained(steps_per_execution=2)


def test_nothing_remains_on_the_model():
    model = make_model(scheduled_adam(), steps_per_execution=2)
    names = ("stop_training", "history", "train_function", "test_function", "steps_per_execution")
    before = {name: getattr(model, name, None) for name in names}
    lr_find(model, make_dataset(), num_steps=5, validation_batch=make_data(16))
    assert {name: getattr(model, name, None) for name in names} == before | {"stop_training": False}


def test_what_a_finder_compiles_is_used_by_the_training():
    model = make_model()
    lr_find(model, make_dataset(), num_steps=5)
    compiled = model.train_function
    model.fit(make_dataset(), shuffle=False, verbose=0)
    assert compiled is not None
    assert model.train_function is compiled


def test_schedule_is_put_aside_and_back():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)
    model = make_model(keras.optimizers.SGD(schedule))
    reference = lr_find(make_model(keras.optimizers.SGD(0.01)), make_dataset(), num_steps=20)
    assert lr_find(model, make_dataset(), num_steps=20).losses.tolist() == reference.losses.tolist()
    model.fit(make_dataset(), shuffle=False, verbose=0)
    # The four steps of the training are counted, and none of the finder's.
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01 * 0.5 ** (4 / 3))


def test_gradient_accumulation_makes_a_point_of_each_update():
    model = make_model(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    curve = lr_find(model, make_dataset(shuffle=False), num_steps=6, start_lr=1e-9, end_lr=1e-8)
    batches = lr_find(
        make_model(keras.optimizers.SGD(0.1)), make_dataset(shuffle=False), num_steps=12, start_lr=1e-9, end_lr=1e-8
    )
    # At such rates nothing moves but the batch-norm statistics, which training does not read.
    np.testing.assert_allclose(curve.losses, batches.losses.reshape(6, 2).mean(axis=1), rtol=1e-5)


def test_finder_keeps_the_ratios_of_layer_groups():
    model = make_model()
    optimizer = DifferentialLR(keras.optimizers.SGD(0.1), [model.layers[:2], model.layers[2:]], [0.01, 0.1])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    seen = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(optimizer.learning_rates))
    with LRFinder(num_steps=4, start_lr=1e-4, end_lr=1.0) as finder:
        model.fit(*make_data(), batch_size=16, callbacks=[finder, watch], verbose=0)
    np.testing.assert_allclose(seen, [[rate / 10, rate] for rate in (1e-4, 1e-3, 1e-2, 1e-1)], rtol=1e-5)
    assert optimizer.learning_rates == pytest.approx([0.01, 0.1])


def test_finder_works_under_mixed_float16_and_puts_the_scale_back():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        # Gradients times this scale are infinite in half precision, so that each step halves it.
        model = make_model(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**40))
    finally:
        keras.config.set_dtype_policy("float32")
    scales = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: scales.append(float(model.optimizer.dynamic_scale))
    )
    with LRFinder(num_steps=12) as finder:
        model.fit(make_dataset(), epochs=9, shuffle=False, callbacks=[finder, watch], verbose=0)
    assert scales[:3] == [2.0**39, 2.0**38, 2.0**37]
    assert np.isfinite(finder.curve.losses).all()
    assert float(model.optimizer.dynamic_scale) == 2.0**40
    assert int(model.optimizer.step_counter) == 0


def test_class_weight_counts():
    plain, weighted = (
        lr_find(make_model(), make_dataset(shuffle=False), num_steps=1, class_weight=weights)
        for weights in (None, {0: 2.0, 1: 2.0})
    )
    assert weighted.losses[0] == pytest.approx(2 * plain.losses[0], rel=1e-5)


def test_validation_batch_is_measured_after_each_update():
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.1), loss="mse", metrics=["mae"])
    x = np.full((4, 1), 2, "float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, 3 * x)).batch(1)
    range_ = {"start_lr": 1e-3, "end_lr": 1e-1, "num_steps": 6}
    curve = lr_find(model, dataset, **range_, validation_batch=(x, 3 * x))
    # The validation batch is the training batch here, one update later.
    np.testing.assert_allclose(curve.validation_losses[:-1], curve.losses[1:], rtol=1e-5)
    assert curve.losses.tolist() == lr_find(model, dataset, **range_).losses.tolist()


@pytest.mark.parametrize("data", [make_data, make_dataset], ids=["arrays", "pipeline"])
def test_repeats_give_a_band_over_other_orders(data):
    model = make_model()
    state = np.random.get_state()[1].tolist()
    curve = lr_find(model, data(), num_steps=12, repeats=3, stop_factor=np.inf)
    losses = np.stack([repeat.losses for repeat in curve.repeats])
    assert len({tuple(row) for row in losses.tolist()}) == 3
    np.testing.assert_allclose(curve.losses, losses.mean(axis=0))
    assert np.random.get_state()[1].tolist() == state


def test_verify_digests_every_variable():
    model = make_model()
    # The metrics' variables are made with the first batch.
    model.evaluate(*make_data(), verbose=0)
    first = lr_find(model, make_data(), num_steps=5, verify=True, repeats=2).state_digest
    assert len(first) == 64
    assert lr_find(model, make_data(), num_steps=5, verify=True).state_digest == first
    model.layers[0].kernel.assign_add(np.ones((4, 8)))
    assert lr_find(model, make_data(), num_steps=5, verify=True).state_digest != first


def test_verify_names_what_was_not_put_back(monkeypatch):
    model = make_model()
    monkeypatch.setattr(TrainingState, "restore", lambda self: None)
    with pytest.raises(RuntimeError, match=r"Received: other values in \[.*/kernel'"):
        lr_find(model, make_data(), num_steps=5, verify=True)


def test_loss_that_is_not_reported_is_refused():
    class Silent(keras.Sequential):
        def train_step(self, data):
            return {"mae": 0.0}

    model = Silent([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"Received: \['mae'\]"):
        lr_find(model, make_data())


def test_loss_of_another_dtype_is_noted():
    class Precise(keras.Sequential):
        def __init__(self, layers):
            super().__init__(layers)
            self.mean = keras.metrics.Mean("loss", dtype="float64")

        @property
        def metrics(self):
            return [self.mean]

        def train_step(self, data):
            self.mean.update_state(keras.ops.mean(data[0]))
            return {"loss": self.mean.result()}

    model = Precise([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    curve = lr_find(model, make_dataset(shuffle=False), num_steps=4, stop_factor=float("inf"))
    np.testing.assert_allclose(curve.losses, make_data()[0].reshape(4, -1).mean(axis=1), rtol=1e-5)


def test_metric_named_loss_that_is_no_mean_is_reset_its_own_way():
    class Largest(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="loss")
            self.largest = self.add_variable((), "zeros", name="largest")
            self.reset_state()

        def reset_state(self):
            self.largest.assign(-100.0)

        def update_state(self, values):
            self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(values)))

        def result(self):
            return self.largest

    class Watched(keras.Sequential):
        def __init__(self, layers):
            super().__init__(layers)
            self.largest = Largest()

        @property
        def metrics(self):
            return [self.largest]

        def train_step(self, data):
            self.largest.update_state(data[0] - 10.0)
            return {"loss": self.largest.result()}

    model = Watched([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    curve = lr_find(model, make_dataset(shuffle=False), num_steps=4, stop_factor=float("inf"))
    np.testing.assert_allclose(curve.losses, make_data()[0].reshape(4, -1).max(axis=1) - 10.0, rtol=1e-5)


def test_curve_before_training_is_refused():
    with pytest.raises(RuntimeError, match="Received: no batch so far"):
        _ = LRFinder().curve


def test_unbuilt_model_is_refused():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Received: a model without weights"):
        lr_find(model, make_data())


def test_steps_per_execution_is_refused_by_the_callback():
    model = make_model(steps_per_execution=2)
    with pytest.raises(ValueError, match="Received: steps_per_execution=2"):
        model.fit(*make_data(), callbacks=[LRFinder()], verbose=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"start_lr": 0.0},
        {"start_lr": 20.0},
        {"end_lr": np.nan},
        {"num_steps": 0},
        {"mode": "cubic"},
        {"smoothing": 1.0},
        {"stop_factor": 1.0},
        {"stop_factor": np.nan},
    ],
)
def test_lr_finder_refuses_what_is_out_of_range(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"Received: .*{name}={value!r}"):
        LRFinder(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"start_lr": "high"}, {"end_lr": None}, {"smoothing": True}, {"stop_factor": [4.0]}]
)
def test_lr_finder_refuses_what_is_no_number(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(TypeError, match=f"`{name}` must be a number. Received: {name}={re.escape(repr(value))}"):
        LRFinder(**arguments)


@pytest.mark.parametrize("repeats", [0, 1.5])
def test_number_of_repeats_is_an_integer(repeats):
    with pytest.raises(ValueError, match=f"Received: repeats={repeats}"):
        lr_find(make_model(), make_data(), repeats=repeats)


@pytest.mark.parametrize(("verbose", "shown"), [(1, True), (0, False)])
def test_lr_find_shows_its_progress(capsys, verbose, shown):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(), "mse")
    x = np.ones((8, 2), "float32")
    lr_find(model, (x, x[:, :1]), num_steps=12, end_lr=1e-3, verbose=verbose)
    assert ("12/12" in capsys.readouterr().out) == shown
