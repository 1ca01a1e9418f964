"""Names that are Keras's own and private, and that `optimizers/`, `schedules/` and `checkpoint/` use nevertheless."""

import ast
from pathlib import Path

import keras
import pytest

LIBRARY = Path(__file__).parents[2] / "keras_sgdr"


def built(optimizer):
    optimizer.build([keras.Variable([[1.0]])])
    return optimizer


def muon():
    return built(keras.optimizers.Muon(use_ema=True, ema_overwrite_frequency=1))


def layer():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 3))
    layer.trainable = False
    return layer


def seeds():
    keras.random.normal((1,))  # which makes the generator
    from keras_sgdr.checkpoint.training_state import unseeded_generator

    return unseeded_generator()


# The name; what must have it; what of it must hold, beyond that it is there.
NAMES = {
    # Read, and in one place replaced, for a schedule is to be put back (access.py)
    "_learning_rate": (muon, lambda rate: isinstance(rate, keras.Variable)),
    # Overridden (grouped_optimizer.py)
    "_apply_weight_decay": (muon, callable),
    "_clip_gradients": (muon, callable),
    "_get_current_learning_rate": (muon, lambda current: isinstance(current(), keras.Variable)),
    "_update_model_variables_moving_average": (muon, callable),
    # Called on a DifferentialLR by itself
    "_use_weight_decay": (muon, callable),
    "_should_use_adamw": (muon, callable),
    "_var_key": (muon, callable),
    "_get_variable_index": (muon, callable),
    "_unpickle_model": (muon, callable),
    # Replaced (differential_lr.py), so that Keras's loops see the weights that are trained now
    "_trainable_variables": (muon, lambda variables: len(variables) == 1),
    "_trainable_variables_indices": (muon, lambda indices: list(indices.values()) == [0]),
    "_model_variables_moving_average": (muon, lambda averages: len(averages) == 1),
    "_u_product": (lambda: built(keras.optimizers.Nadam()), lambda product: product.shape == ()),
    # Walked through by `member_weights` (variable_groups.py): what is trainable in a layer that is frozen
    "_flatten_layers": (layer, lambda parts: [v.name for p in parts() for v in p._trainable_variables] == WEIGHTS),
    # Remembered by a TrainingCheckpoint (callback_state.py)
    "_batches_seen_since_last_saving": (lambda: keras.callbacks.ModelCheckpoint("a.keras"), lambda count: count == 0),
    "_ema_weights_in_model": (keras.callbacks.SwapEMAWeights, lambda are_in: are_in is False),
}
WEIGHTS = ["gamma", "beta"]
if keras.backend.backend() == "torch":
    NAMES["_parallel_update_step"] = (lambda: built(keras.optimizers.Adam()), callable)


@pytest.mark.parametrize("name", NAMES)
def test_keras_still_has_the_private_name(name):
    make, holds = NAMES[name]
    assert holds(getattr(make(), name)), name


def test_keras_still_has_the_generator_of_what_is_given_no_seed():
    assert isinstance(seeds(), keras.random.SeedGenerator)


def test_no_other_private_name_of_keras_is_used():
    owners = [muon(), built(keras.optimizers.Nadam()), layer(), keras.Model(), *map(called, NAMES.values())]
    of_keras = {name for owner in owners for name in dir(owner) if is_private(name)}
    used = {
        name
        for package in ("optimizers", "schedules", "checkpoint")
        for path in (LIBRARY / package).glob("*.py")
        for name in names_in(path)
    }
    # Torch's own step is none of what the other backends' optimizers have.
    assert used & of_keras | used & {"_parallel_update_step"} == {*NAMES, "_parallel_update_step"}


def called(entry):
    return entry[0]()


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def names_in(path):
    """Private names that a module reads, defines as methods, or has as strings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(node, "attr", None) or getattr(node, "name", None) or getattr(node, "value", None)
        if isinstance(name, str) and is_private(name):
            yield name
