import keras
import numpy as np
import pytest

from keras_sgdr.optimizers.access import read_learning_rate
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.schedules.one_cycle import OneCycleScheduler, flat_cosine, one_cycle
from tests.schedules.test_sgdr_scheduler import RateRecorder, batches, make_generator_dataset, make_model

# fastai 2.8, two epochs of five batches at .1
FASTAI = [0.004, 0.037167, 0.090833, 0.098907, 0.090451, 0.075, 0.055227, 0.034550, 0.016544, 0.004324]


def run(scheduler, model, *, epochs=2, **arguments):
    recorder = RateRecorder()
    x, y = batches(5)
    callbacks = [scheduler, recorder]
    model.fit(x, y, batch_size=1, epochs=epochs, verbose=0, callbacks=callbacks, shuffle=False, **arguments)
    return recorder.rates


def test_one_cycle_agrees_with_fastai():
    rates = run(OneCycleScheduler(0.1), make_model())
    np.testing.assert_allclose(rates, FASTAI, atol=1e-6)


def test_initial_epoch_goes_on_where_the_cycle_would_be():
    rates = run(OneCycleScheduler(0.1), make_model(), initial_epoch=1)
    np.testing.assert_allclose(rates, FASTAI[5:], atol=1e-6)


def test_gradient_accumulation_holds_the_rate_over_an_update():
    model = make_model()
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), loss="mse")
    held = [FASTAI[batch - batch % 2] for batch in range(10)]
    np.testing.assert_allclose(run(OneCycleScheduler(0.1), model), held, atol=1e-6)


def test_flat_cosine_is_flat_and_then_falls():
    rates = run(OneCycleScheduler(0.1, shape="flat_cosine", flat_share=0.6), make_model())
    assert rates[:7] == [np.float32(0.1)] * 7
    fall = 1e-6 + (0.1 - 1e-6) / 2 * (1 + np.cos(np.pi * np.arange(1, 4) / 4))
    np.testing.assert_allclose(rates[7:], fall, rtol=1e-5)


def test_shapes_meet_their_ends():
    ends = {"start": 1.0, "peak": 3.0, "end": 0.5, "warmup_share": 0.4}
    assert [one_cycle(p, **ends) for p in (0.0, 0.2, 0.4, 0.7, 1.0)] == pytest.approx([1.0, 2.0, 3.0, 1.75, 0.5])
    assert [flat_cosine(p, peak=2.0, end=1.0, flat_share=0.0) for p in (0.0, 0.5, 1.0)] == [2.0, 1.5, 1.0]


def replay(rates, momenta):
    """The weight of a model w * 1 with the loss w, by hand."""
    weight, velocity = 1.0, 0.0
    for rate, momentum in zip(rates, momenta, strict=True):
        velocity = momentum * velocity - rate
        weight += velocity
    return weight


def test_momentum_moves_against_the_rate():
    dense = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
    model = keras.Sequential([keras.layers.Input((2,)), dense])
    optimizer = DifferentialLR(keras.optimizers.SGD(momentum=0.5), [[dense]], 0.1, movable_momentum=True)
    model.compile(optimizer, loss=lambda true, predicted: predicted / 2)
    rates = run(OneCycleScheduler(0.1, momentum=(0.95, 0.85)), model)
    shares = (np.array(FASTAI) - 0.004) / 0.096
    momenta = 0.95 - 0.1 * shares
    momenta[3:] = 0.85 + 0.1 * (1 - (np.array(FASTAI[3:]) - 1e-6) / (0.1 - 1e-6))
    # Both inputs are 1, and the gradient of each of the two weights is a half.
    assert dense.kernel.numpy()[0, 0] == pytest.approx(replay(np.array(rates) / 2, momenta), rel=1e-4)
    assert optimizer.momentum == 0.5


def test_beta_1_is_moved_where_there_is_no_momentum_also_inside_loss_scaling(tmp_path):
    """Adam's first moment of a gradient that is always 1 is 1 - the product of all beta_1."""
    model = make_model()
    optimizer = DifferentialLR(keras.optimizers.Adam(), [model.layers], 0.1, movable_momentum=True)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer), loss=lambda true, predicted: predicted)
    seen = []
    scheduler = OneCycleScheduler(0.1, momentum=(0.95, 0.85))
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(scheduler.present_momentum)
    )
    x, y = batches(5)
    model.fit(x, y, batch_size=1, epochs=2, verbose=0, callbacks=[scheduler, watch])
    assert seen[0] == pytest.approx(0.95)
    assert min(seen) == pytest.approx(0.851, abs=1e-3)
    for moment in optimizer._momentums:
        np.testing.assert_allclose(moment.numpy(), 1 - np.prod(seen), rtol=1e-5)
    assert optimizer.beta_1 == 0.9
    model.compile(model.optimizer, "mse")  # a lambda is not saved
    model.save(tmp_path / "model.keras")
    assert read_learning_rate(keras.models.load_model(tmp_path / "model.keras").optimizer) == pytest.approx(
        0.004324, rel=1e-3
    )


def test_data_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="Received: steps_per_epoch=None"):
        make_model().fit(make_generator_dataset(3), callbacks=[OneCycleScheduler(0.1)], shuffle=False, verbose=0)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_batches_beyond_those_that_were_expected_stay_at_the_last_rate():
    recorder = RateRecorder()
    callbacks = [OneCycleScheduler(0.1, steps_per_epoch=3), recorder]
    with pytest.warns(UserWarning, match="Epoch 1 had 5 batches where 3 were expected"):
        make_model().fit(make_generator_dataset(5), epochs=1, callbacks=callbacks, shuffle=False, verbose=0)
    assert recorder.rates[1] > recorder.rates[2]
    assert recorder.rates[2:] == [recorder.rates[2]] * 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_lr": 0.0},
        {"shape": "round"},
        {"warmup_share": 0.0},
        {"warmup_share": 1.0},
        {"flat_share": 1.0},
        {"div": 0.5},
        {"final_div": float("nan")},
        {"momentum": (0.85, 0.95)},
    ],
)
def test_one_cycle_refuses_what_is_out_of_range(arguments):
    ((name, _),) = arguments.items()
    with pytest.raises(ValueError, match=f"Received: {name}="):
        OneCycleScheduler(**{"max_lr": 0.1} | arguments)


def test_one_cycle_moves_no_momentum_along_a_flat_cosine():
    with pytest.raises(ValueError, match=r"`momentum` must be None unless `shape` is 'one_cycle'"):
        OneCycleScheduler(0.1, shape="flat_cosine", momentum=(0.95, 0.85))


def test_a_batch_stands_at_its_share_of_the_training():
    scheduler = OneCycleScheduler(0.1)
    run(scheduler, make_model())  # two epochs of five batches
    assert [scheduler.position(1, 3), scheduler.position(1, 3, held=2)] == [0.8, 0.6]


def test_divisors_are_fastais_and_may_be_one():
    usual, level = OneCycleScheduler(0.1), OneCycleScheduler(0.1, div=1, final_div=1)
    assert (usual.first_rate, usual.last_rate) == pytest.approx((0.004, 1e-6), rel=1e-9)
    assert (level.first_rate, level.last_rate) == (0.1, 0.1)


@pytest.mark.parametrize("name", ["max_lr", "warmup_share", "flat_share", "div", "final_div"])
def test_one_cycle_refuses_what_is_no_number(name):
    with pytest.raises(TypeError, match=f"`{name}` must be a number. Received: {name}='1'"):
        OneCycleScheduler(**{"max_lr": 0.1, name: "1"})
