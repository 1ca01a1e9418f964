import keras
import numpy as np
import pytest

from keras_sgdr.models.layer_groups import freeze_to, layer_groups, unfreeze
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from tests.models.test_layer_groups import IMAGES, LABELS, small_model
from tests.small_models import KINDS, fit, state

RATES = [1e-3, 1e-2, 1e-1]


def arrays(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def moved(before, variables):
    return [bool(np.any(a != b)) for a, b in zip(before, arrays(variables), strict=True)]


def set_trainable(groups, *flags):
    for group, flag in zip(groups, flags, strict=True):
        for layer in group:
            layer.trainable = flag


@pytest.mark.parametrize("kind", KINDS)
def test_unfrozen_layers_go_on_with_the_same_optimizer(kind):
    keras.utils.set_random_seed(1)
    model, groups = KINDS[kind]()
    set_trainable(groups, False, False, True)
    optimizer = DifferentialLR(keras.optimizers.Adam(), groups, RATES)
    model.compile(optimizer, "mse")
    fit(model)
    head_slots = arrays(optimizer._momentums[-2:])
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 3
    assert all(np.any(slot) for slot in head_slots)
    count = len(optimizer.variables)

    set_trainable(groups, True, True, True)
    before = arrays(model.trainable_variables)
    model.compile(optimizer, "mse")
    assert [np.array_equal(a, b) for a, b in zip(head_slots, arrays(optimizer._momentums[-2:]), strict=True)] == [
        True
    ] * 2
    fit(model)
    assert all(moved(before, model.trainable_variables))
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 6
    assert len(optimizer.variables) == count


def test_freeze_to_and_unfreeze_go_on_with_the_same_optimizer():
    model = small_model()
    optimizer = DifferentialLR(keras.optimizers.SGD(momentum=0.9), layer_groups(model), RATES)
    moved_in = []
    for freeze in (lambda: freeze_to(model, -1), lambda: unfreeze(model)):
        freeze()
        before = {layer.name: layer.get_weights() for layer in model.layers}
        model.compile(optimizer, "sparse_categorical_crossentropy")
        model.fit(IMAGES, LABELS, batch_size=2, verbose=0)
        names = {layer.name for layer in model.layers if any(moved(before[layer.name], layer.weights))}
        moved_in.append(names)
    assert moved_in == [{"head_bn", "dense"}, {"down0", "conv0", "down1", "conv1", "head_bn", "dense"}]
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 4


def test_frozen_layers_do_not_move_and_their_slots_wait():
    keras.utils.set_random_seed(1)
    model, groups = KINDS["functional"]()
    optimizer = DifferentialLR(keras.optimizers.AdamW(weight_decay=0.1), groups, RATES)
    model.compile(optimizer, "mse")
    fit(model)
    body_slots = arrays(optimizer._momentums[:2])
    set_trainable(groups, False, False, True)
    model.compile(optimizer, "mse")
    frozen = [v for v in model.weights if "head" not in v.path]
    before = arrays(frozen)
    fit(model)
    assert not any(moved(before, frozen))
    assert not any(moved(body_slots, optimizer._momentums[:2]))


def test_head_alone_is_trained_as_if_there_were_no_other_groups():
    def trained(make_optimizer):
        keras.utils.set_random_seed(1)
        model, groups = KINDS["functional"]()
        set_trainable(groups, False, False, True)
        model.compile(make_optimizer(groups), "mse")
        fit(model)
        return arrays(model.weights)

    with_groups = trained(lambda groups: DifferentialLR(keras.optimizers.Nadam(), groups, RATES))
    alone = trained(lambda groups: keras.optimizers.Nadam(0.1))
    for a, b in zip(with_groups, alone, strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_fits_with_a_recompile_are_one_fit():
    def trained(recompile):
        keras.utils.set_random_seed(1)
        model, groups = KINDS["functional"]()
        optimizer = DifferentialLR(keras.optimizers.Adam(), groups, RATES)
        model.compile(optimizer, "mse")
        if recompile:
            fit(model)
            model.compile(optimizer, "mse")
            fit(model)
        else:
            fit(model, epochs=2)
        return state(model)

    for a, b in zip(trained(True), trained(False), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unfrozen_layer_outside_every_group_is_named_when_training_starts():
    model, groups = KINDS["functional"]()
    set_trainable(groups, False, True, True)
    optimizer = DifferentialLR(keras.optimizers.SGD(), groups[1:], RATES[1:])
    model.compile(optimizer, "mse")
    fit(model)
    set_trainable(groups, True, True, True)
    model.compile(optimizer, "mse")
    # The JAX trainer hands over values without names.
    on_jax = keras.backend.backend() == "jax"
    named = "6 trainable variables" if on_jax else r"variable 'body/kernel' \(24 values\), in none of the 2 groups"
    with pytest.raises(ValueError, match=f"Received: {named}"):
        fit(model)
