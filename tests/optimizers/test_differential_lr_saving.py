"""`.keras` files with a DifferentialLR inside. `python -m` this module loads one in a process of its own."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.schedules.sgdr_schedule import SGDR
from tests.small_models import KINDS, fit, state

RATES = [1e-3, 1e-2, 1e-1]
STAGES = ("frozen", "unfrozen", "scheduled")


def sgdr():
    return SGDR(0.1, steps_per_epoch=4, cycle_mult=1.5, warmup="start", warmup_steps=2)


def compiled(kind, stage):
    keras.utils.set_random_seed(1)
    model, groups = KINDS[kind]()
    for group in groups[:-1]:
        for layer in group:
            layer.trainable = stage != "frozen"
    if stage == "scheduled":
        ratios = {"multipliers": [rate / RATES[-1] for rate in RATES], "movable_momentum": True}
        optimizer = DifferentialLR(keras.optimizers.AdamW(sgdr(), weight_decay=0.1), groups, **ratios)
    else:
        optimizer = DifferentialLR(keras.optimizers.AdamW(weight_decay=0.1), groups, RATES)
    model.compile(optimizer, "mse", run_eagerly=True)  # tracing 24 functions would take most of the time
    return model


# Kinds differ in how Keras finds the weights again, and so in frozen ones; not in the optimizer.
CASES = [(kind, stage) for kind in KINDS for stage in STAGES if stage != "scheduled" or kind == "functional"]
if keras.backend.backend() != "tensorflow":  # nor by backend, and JAX is slow to compile
    CASES = [(kind, stage) for kind, stage in CASES if kind == "functional"]


def unfreeze(model):
    # Each layer by itself: a loaded nested model says it is trainable while its layers are not, and then
    # `nested.trainable = True` changes nothing.
    for layer in model._flatten_layers():
        layer.trainable = True
    model.compile(model.optimizer, "mse", run_eagerly=True)


def continue_from(path):
    """Loads, unfreezes and trains on; what a new process does with a file."""
    model = keras.models.load_model(path)
    loaded = state(model)
    rates = {"rates": model.optimizer.learning_rates}
    rates |= model.optimizer.get_config()["inner_optimizer"]["config"]  # with the rate or schedule
    unfreeze(model)
    fit(model)
    return loaded, rates, state(model)


def test_settings_of_the_groups_are_saved(tmp_path):
    model, groups = KINDS["functional"]()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    optimizer = DifferentialLR(
        keras.optimizers.SGD(schedule, momentum=0.9),
        groups,
        multipliers=[0.0, 0.5, 1.0],
        weight_decays=[0.3, 0.2, 0.1],
        decay_biases_and_norms=False,
    )
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    model.save(tmp_path / "never_trained.keras")
    loaded = keras.models.load_model(tmp_path / "never_trained.keras").optimizer
    assert loaded.multipliers == (0.0, 0.5, 1.0)
    assert loaded.weight_decays == [0.3, 0.2, 0.1]
    texts = []
    for one in (optimizer, loaded):
        one.summary(print_fn=texts.append)
    assert texts[0] == texts[1]
    expected = keras.optimizers.SGD(schedule, momentum=0.9, name=optimizer.name).get_config()
    assert loaded.get_config()["inner_optimizer"]["config"] == keras.saving.serialize_keras_object(expected)


def test_optimizer_of_a_model_without_weights_cannot_be_saved():
    optimizer = DifferentialLR(keras.optimizers.SGD(), [[keras.layers.Dense(3, name="unbuilt")]], [0.1])
    with pytest.raises(ValueError, match=r"Received: groups\[0\]=\['unbuilt'\], which have none"):
        optimizer.get_config()


def test_weights_that_a_file_does_not_describe_are_named():
    _, groups = KINDS["functional"]()
    config = DifferentialLR(keras.optimizers.SGD(), groups, RATES).get_config()
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(7, name="body")])
    with pytest.raises(
        ValueError, match=r"Received: variable 'sequential.*/body/kernel' \(28 values\), in none of the 3"
    ):
        DifferentialLR.from_config(config).build(other.trainable_variables)


def by_size(arrays):
    """Paths and so the order of `model.variables` may change in a file, shapes do not."""
    return sorted((np.asarray(a, "float64").ravel() for a in arrays), key=lambda a: (a.size, a.tolist()))


@pytest.fixture(scope="module")
def in_a_new_process(tmp_path_factory):
    """Trains one model of each kind and stage, saves it, and has another process load all and train on."""
    folder = tmp_path_factory.mktemp("saved")
    expected = {}
    for kind, stage in CASES:
        model = compiled(kind, stage)
        fit(model)
        model.save(folder / f"{kind}-{stage}.keras")
        saved = state(model)
        unfreeze(model)
        fit(model)
        expected[kind, stage] = (saved, state(model))
    subprocess.run([sys.executable, "-m", __name__, str(folder)], check=True, timeout=240)
    return folder, expected


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_another_process_loads_the_same_state_and_trains_on_alike(in_a_new_process, kind, stage):
    folder, expected = in_a_new_process
    saved, trained_on = expected[kind, stage]
    with np.load(folder / f"{kind}-{stage}.npz") as file:
        loaded = [file[f"loaded{i}"] for i in range(len(saved))]
        trained = [file[f"trained{i}"] for i in range(len(trained_on))]
    for a, b in zip(by_size(loaded), by_size(saved), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(by_size(trained), by_size(trained_on), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    config = json.loads((folder / f"{kind}-{stage}.json").read_text())
    # After three steps of the schedule: two of warm-up, the peak, and half way down the cosine, which has two.
    top = 0.05 if stage == "scheduled" else RATES[-1]
    assert config["rates"] == pytest.approx([rate * top / RATES[-1] for rate in RATES])
    if stage == "scheduled":
        assert config["learning_rate"]["config"] == sgdr().get_config()


def main(folder):
    from pathlib import Path

    for path in sorted(Path(folder).glob("*.keras")):
        loaded, rates, trained = continue_from(path)
        arrays = {f"loaded{i}": a for i, a in enumerate(loaded)} | {f"trained{i}": a for i, a in enumerate(trained)}
        np.savez(path.with_suffix(".npz"), **arrays)
        path.with_suffix(".json").write_text(json.dumps(rates))


if __name__ == "__main__":
    main(sys.argv[1])
