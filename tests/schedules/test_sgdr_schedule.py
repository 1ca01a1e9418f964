import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_sgdr.schedules.cosine_cycles import CosineCycles
from keras_sgdr.schedules.sgdr_schedule import SGDR
from tests.schedules.test_sgdr_scheduler import make_model

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sgdr.json").read_text())


def rates(schedule, steps):
    return keras.ops.convert_to_numpy(schedule(keras.ops.arange(steps)))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['source'][:4]}-{case['cycle_mult']}-{case['max_lr']}")
def test_sgdr_agrees_with_torch_and_timm(case):
    names = ("max_lr", "min_lr", "cycle_mult", "peak_decay")
    schedule = SGDR(**{name: case[name] for name in names}, steps_per_epoch=case["first_cycle_steps"])
    expected = case["learning_rates"]
    np.testing.assert_allclose(rates(schedule, len(expected)), expected, rtol=1e-5, atol=1e-7 * case["max_lr"])
    assert float(schedule(3)) == pytest.approx(expected[3], rel=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"cycle_mult": 1.5, "cycle_len": 2, "n_cycles": 3},
        {"cycle_mult": 10, "n_cycles": 8},
        {"cycle_mult": 2, "warmup": "fastai07"},
        {"cycle_mult": 2, "warmup": "start", "warmup_steps": 3, "min_lr": 0.01},
        {"warmup": "restarts", "warmup_steps": 3},
        {"n_cycles": 4, "min_lr": 0.01},
    ],
    ids=str,
)
def test_sgdr_has_the_values_of_the_callback(arguments):
    cycles = CosineCycles(0.1, **arguments)
    expected = [cycles.learning_rate(step, steps_per_epoch=7) for step in range(80)]
    np.testing.assert_allclose(rates(SGDR(0.1, steps_per_epoch=7, **arguments), 80), expected, rtol=1e-5, atol=1e-8)


def test_restart_is_at_max_lr_however_late():
    schedule = SGDR(0.3, steps_per_epoch=121, cycle_mult=3)
    starts = [121 * (3**i - 1) // 2 for i in range(12)]
    assert set(keras.ops.convert_to_numpy(schedule(keras.ops.array(starts, "int32"))).tolist()) == {np.float32(0.3)}
    before = keras.ops.convert_to_numpy(schedule(keras.ops.array(starts[1:], "int32") - 1))
    assert before.max() < 1e-3


def test_accumulated_batches_have_one_rate():
    plain, held = (SGDR(0.1, steps_per_epoch=5, gradient_accumulation_steps=steps) for steps in (1, 2))
    assert rates(held, 10).tolist() == rates(plain, 10)[[0, 0, 2, 2, 4, 5, 6, 6, 8, 8]].tolist()


def test_training_under_steps_per_execution_is_exact():
    def trained(**arguments):
        keras.utils.set_random_seed(0)
        model = make_model(SGDR(0.1, steps_per_epoch=4, cycle_mult=2), **arguments)
        x = np.arange(8, dtype="float32").reshape(4, 2) / 8
        model.fit(x, x[:, :1], batch_size=1, epochs=3, shuffle=False, verbose=0)
        return model.get_weights()

    for one, four in zip(trained(), trained(steps_per_execution=4), strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_lr": 0.0},
        {"steps_per_epoch": 0},
        {"steps_per_epoch": None},
        {"gradient_accumulation_steps": 0},
        {"cycle_mult": 0.5},
    ],
)
def test_sgdr_refuses_what_is_out_of_range(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        SGDR(**{"max_lr": 0.1, "steps_per_epoch": 4} | arguments)


def test_sgdr_refuses_a_warmup_without_end():
    with pytest.raises(ValueError, match="Received: warmup_steps=4"):
        SGDR(0.1, steps_per_epoch=4, warmup="start", warmup_steps=4)
