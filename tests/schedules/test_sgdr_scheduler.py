import contextlib
import functools
import itertools
import json
import math
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_sgdr.optimizers.access import read_learning_rate
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sgdr.json").read_text())


class RateRecorder(keras.callbacks.Callback):
    """Notes the rate with which each batch was trained."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(read_learning_rate(self.model.optimizer))


def make_model(learning_rate=0.5, **compile_arguments):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate), loss="mse", **compile_arguments)
    return model


@functools.cache
def shared_model():
    """One whose step is compiled once, for tests that look at rates or take the weights as they come."""
    return make_model()


def batches(count):
    return np.ones((count, 2), "float32"), np.ones((count, 1), "float32")


def run(scheduler, *, steps_per_epoch, epochs, model=None, **fit_arguments):
    model = model or shared_model()
    recorder = RateRecorder()
    x, y = batches(steps_per_epoch)
    arguments = {"batch_size": 1, "verbose": 0} | fit_arguments
    history = model.fit(x, y, epochs=epochs, callbacks=[scheduler, recorder], **arguments)
    return recorder.rates, history, model


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['source'][:4]}-{case['cycle_mult']}-{case['max_lr']}")
def test_sgdr_scheduler_agrees_with_torch_and_timm_in_a_fit(case):
    names = ("max_lr", "min_lr", "cycle_mult", "peak_decay")
    scheduler = SGDRScheduler(**{name: case[name] for name in names})
    epochs, rest = divmod(len(case["learning_rates"]), case["first_cycle_steps"])
    assert rest == 0
    rates, _, _ = run(scheduler, steps_per_epoch=case["first_cycle_steps"], epochs=epochs)
    np.testing.assert_allclose(rates, np.float32(case["learning_rates"]), rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize(("cycle_mult", "steps_per_epoch"), list(itertools.product([1, 2, 3], [1, 2, 5])))
def test_restart_returns_to_max_lr_in_a_fit(cycle_mult, steps_per_epoch):
    scheduler = SGDRScheduler(0.3, cycle_mult=cycle_mult, n_cycles=3)
    rates, history, _ = run(scheduler, steps_per_epoch=steps_per_epoch, epochs=99)
    starts = [0, steps_per_epoch, (1 + cycle_mult) * steps_per_epoch]
    at_peak = [step for step, rate in enumerate(rates) if rate == np.float32(0.3)]
    assert at_peak == (starts if steps_per_epoch > 1 or cycle_mult > 1 else [0, 1, 2])
    assert len(history.epoch) == 1 + cycle_mult + cycle_mult**2


def test_every_batch_of_a_long_epoch_has_its_rate():
    num_batches = 130
    rates, _, _ = run(SGDRScheduler(0.3), steps_per_epoch=num_batches, epochs=2)
    cosine = [0.15 * (1 + math.cos(math.pi * i / num_batches)) for i in range(num_batches)]
    np.testing.assert_allclose(rates, np.float32(cosine + cosine), rtol=2e-6)


def test_epoch_logs_show_the_rate_of_the_last_batch():
    rates, history, _ = run(SGDRScheduler(0.3, cycle_mult=2), steps_per_epoch=4, epochs=3)
    assert history.history["learning_rate"] == rates[3::4]


def test_initial_epoch_goes_on_where_the_schedule_would_be():
    whole, _, _ = run(SGDRScheduler(0.3, cycle_mult=2), steps_per_epoch=4, epochs=7)
    rest, _, _ = run(SGDRScheduler(0.3, cycle_mult=2), steps_per_epoch=4, epochs=7, initial_epoch=2)
    assert rest == whole[8:]


def test_second_fit_starts_the_schedule_anew():
    scheduler, model = SGDRScheduler(0.3), make_model()
    first, _, _ = run(scheduler, steps_per_epoch=3, epochs=2, model=model)
    second, _, _ = run(scheduler, steps_per_epoch=3, epochs=2, model=model)
    assert first == second


def test_backup_and_restore_goes_on_with_the_same_rates(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(*more):
        recorder, model = RateRecorder(), make_model()  # in which BackupAndRestore leaves its `_initial_epoch`
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        x, y = batches(4)
        callbacks = [SGDRScheduler(0.3, cycle_mult=2), backup, recorder, *more]
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(x, y, batch_size=1, epochs=7, verbose=0, callbacks=callbacks)
        return recorder.rates

    whole, _, _ = run(SGDRScheduler(0.3, cycle_mult=2), steps_per_epoch=4, epochs=7)
    assert train(Stop()) + train() == whole


ANOTHERS = {
    "LearningRateScheduler": lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.01),
    "ReduceLROnPlateau": lambda: keras.callbacks.ReduceLROnPlateau("loss", min_delta=1e9, patience=1),
    "SGDRScheduler": lambda: SGDRScheduler(0.1),
}


@pytest.mark.parametrize("name", ANOTHERS)
@pytest.mark.parametrize("is_first", [True, False])
def test_another_callback_that_sets_the_rate_too_is_told_once(name, is_first):
    model, (x, y) = shared_model(), batches(2)
    callbacks = [SGDRScheduler(0.3), ANOTHERS[name]()]
    with pytest.warns(UserWarning, match="Another callback sets the learning rate too") as told:
        model.fit(x, y, batch_size=1, epochs=4, verbose=0, callbacks=callbacks[:: 1 if is_first else -1])
    messages = [str(each.message) for each in told if str(each.message).startswith("Another callback")]
    assert len(messages) == (2 if name == "SGDRScheduler" else 1)  # each of the two schedulers tells it


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("max_lr", [0.3, 1e-7])
def test_no_other_writer_is_told_where_the_rate_is_rounded(dtype, max_lr):
    model, (x, y) = make_model(), batches(3)
    model.optimizer._learning_rate = keras.Variable(0.1, dtype=dtype, trainable=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(x, y, batch_size=1, epochs=3, verbose=0, callbacks=[SGDRScheduler(max_lr)])
    assert not [each for each in told if "Another callback" in str(each.message)]


def make_generator_dataset(steps):
    tf = pytest.importorskip("tensorflow")

    def generate():
        for _ in range(steps):
            yield np.ones((1, 2), "float32"), np.ones((1, 1), "float32")

    spec = (tf.TensorSpec((1, 2)), tf.TensorSpec((1, 1)))
    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def run_unknown_length(scheduler, *, epochs):
    model, recorder = shared_model(), RateRecorder()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        model.fit(make_generator_dataset(4), epochs=epochs, shuffle=False, verbose=0, callbacks=[scheduler, recorder])
    return recorder.rates


def test_unknown_length_is_learned_in_the_first_epoch():
    scheduler = SGDRScheduler(0.3, cycle_mult=2, n_cycles=3)
    with pytest.warns(UserWarning, match="first epoch runs at the rate of its first batch"):
        rates = run_unknown_length(scheduler, epochs=7)
    known, _, _ = run(SGDRScheduler(0.3, cycle_mult=2, n_cycles=3), steps_per_epoch=4, epochs=7)
    assert rates[:4] == [np.float32(0.3)] * 4
    assert rates[4:] == known[4:]


def test_steps_per_epoch_stands_in_for_an_unknown_length():
    rates = run_unknown_length(SGDRScheduler(0.3, steps_per_epoch=4), epochs=2)
    known, _, _ = run(SGDRScheduler(0.3), steps_per_epoch=4, epochs=2)
    assert rates == known


def test_wrong_steps_per_epoch_for_data_of_unknown_length_warns():
    with pytest.warns(UserWarning, match=r"Epoch 1 had 4 batches where 3 were expected"):
        rates = run_unknown_length(SGDRScheduler(0.3, steps_per_epoch=3), epochs=2)
    assert rates[2] == rates[3]
    assert rates[4] == np.float32(0.3)


def test_warmup_needs_a_known_length():
    with pytest.raises(ValueError, match=r"Received: warmup='fastai07', steps_per_epoch=None"):
        run_unknown_length(SGDRScheduler(0.3, warmup="fastai07"), epochs=1)


def test_gradient_accumulation_holds_the_rate_over_an_update_and_keeps_the_cycles():
    model = make_model()
    model.compile(keras.optimizers.SGD(0.5, gradient_accumulation_steps=2), loss="mse")
    plain, _, _ = run(SGDRScheduler(0.3), steps_per_epoch=5, epochs=2)
    held, _, _ = run(SGDRScheduler(0.3), steps_per_epoch=5, epochs=2, model=model)
    assert held == [plain[step] for step in (0, 0, 2, 2, 4, 5, 6, 6, 8, 8)]


def test_mixed_float16_optimizer_gets_the_same_rates():
    model = make_model()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)), loss="mse")
    plain, _, _ = run(SGDRScheduler(0.3), steps_per_epoch=5, epochs=2)
    scaled, _, _ = run(SGDRScheduler(0.3), steps_per_epoch=5, epochs=2, model=model)
    assert scaled == plain


def test_cycle_cut_short_warns_with_plans_before_training():
    with pytest.warns(UserWarning, match=r"epochs=5. Plans .*: 3 epochs \(n_cycles=2.*; 7 epochs .*; 5 epochs"):
        run(SGDRScheduler(0.3, cycle_mult=2), steps_per_epoch=2, epochs=5)


def test_initial_epoch_after_the_last_cycle_is_refused():
    with pytest.raises(ValueError, match=r"below the 3 epochs of the 2 cycles. Received: initial_epoch=3"):
        run(SGDRScheduler(0.3, cycle_mult=2, n_cycles=2), steps_per_epoch=2, epochs=7, initial_epoch=3)


def test_steps_per_execution_is_refused_with_the_remedy():
    model = make_model(steps_per_execution=2)
    with pytest.raises(ValueError, match=r"Received: steps_per_execution=2. Compile with .*SGDR\("):
        run(SGDRScheduler(0.3), steps_per_epoch=4, epochs=1, model=model)


@pytest.mark.parametrize(
    "rate", [keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5), lambda: 0.1], ids=["schedule", "function"]
)
def test_rate_that_cannot_be_set_is_refused(rate):
    with pytest.raises(ValueError, match="Received: a schedule or function"):
        run(SGDRScheduler(0.3), steps_per_epoch=4, epochs=1, model=make_model(rate))


def test_contradicting_steps_per_epoch_is_refused():
    with pytest.raises(ValueError, match=r"an epoch, 4. Received: steps_per_epoch=3"):
        run(SGDRScheduler(0.3, steps_per_epoch=3), steps_per_epoch=4, epochs=1)


@pytest.mark.parametrize(
    "arguments",
    [{"steps_per_epoch": 0}, {"steps_per_epoch": 2.5}, {"max_lr": -1.0}, {"cycle_len": 0}, {"min_lr": -2.0}],
)
def test_sgdr_scheduler_refuses_what_is_out_of_range(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        SGDRScheduler(**{"max_lr": 0.1} | arguments)


@pytest.mark.parametrize("arguments", [{"max_lr": "0.1"}, {"max_lr": None}, {"min_lr": True}, {"cycle_mult": [2]}])
def test_sgdr_scheduler_refuses_what_is_no_number(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(TypeError, match=re.escape(f"`{name}` must be a number. Received: {name}={value!r}")):
        SGDRScheduler(**{"max_lr": 0.1} | arguments)


@pytest.mark.parametrize("momentum", [0.9, "ab", (0.9,), (0.85, 0.95), (1.0, 0.5)])
def test_momentum_is_a_highest_and_a_lowest(momentum):
    with pytest.raises((TypeError, ValueError), match=r"must be (\(highest, lowest\) in \(0, 1\)|a number)"):
        SGDRScheduler(0.1, momentum=momentum)


def test_numbers_of_numpy_are_numbers():
    rates, _, _ = run(SGDRScheduler(np.float32(0.25), cycle_len=np.int64(2)), steps_per_epoch=2, epochs=2)
    assert rates[0] == 0.25
