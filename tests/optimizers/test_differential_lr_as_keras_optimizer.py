"""Keras's own tests of its optimizers and learning-rate callbacks, with a DifferentialLR in each optimizer's place."""

import importlib.util
import unittest
import warnings
from collections import Counter

import keras
import pytest

from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.optimizers.variable_groups import VariableGroups

OPTIMIZERS = [
    "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "Muon", "Nadam",
    "RMSprop", "SGD", "ScheduleFreeAdamW",
]  # fmt: skip

MODULES = [
    *(f"optimizers.{name}_test" for name in (
        "adadelta", "adafactor", "adagrad", "adam", "adamw", "adamax", "ftrl", "lamb", "lion", "muon", "nadam",
        "rmsprop", "sgd", "schedule_free_adamw", "optimizer", "optimizer_sparse", "loss_scale_optimizer",
    )),
    # What these do to a DifferentialLR, test_differential_lr_training.py tests by the weights' way.
    *(pytest.param(f"callbacks.{name}_test", marks=pytest.mark.slow) for name in (
        "learning_rate_scheduler", "reduce_lr_on_plateau", "swap_ema_weights",
    )),
]  # fmt: skip

# What makes no sense for an optimizer that must know its groups, by the test's name.
SENSELESS = {
    "test_config": "builds an optimizer from the config of one that has seen no variable",
    "test_serialization": "the same",
    "test_get_method": "makes optimizers from strings",
    "test_pickleable_optimizers": "makes optimizers from strings",
    "test_optimizer_auto_naming": "names of optimizers made from nothing",
    "test_build_with_empty_var_list": "builds an optimizer on no variable",
    "test_adamw_weight_decay": "calls the private decay of an optimizer that has seen no variable",
    "test_muon_weight_decay": "the same",
    # After it every function that was traced before fails in a graph, with "out of scope": dozens of tests later.
    "test_swap_ema_weights_with_tf_distribute": "throws TensorFlow's context away, which no process survives",
    "test_deserialization_backwards_compatibility": "configs of old LossScaleOptimizers",
}


class GroupsByTurns(VariableGroups):
    """Groups into which the variables go by turns when the optimizer is built."""

    def adopt(self, variables):
        if not self._weights:
            self._weights = [(index % len(self), variable) for index, variable in enumerate(variables)]
        super().adopt(variables)


def stand_in_for(cls, num_groups, made):
    """A class whose instances are DifferentialLRs of `cls` in groups at the same rate."""

    class Meta(type(cls)):
        def __call__(_, *args, **kwargs):
            groups = [[keras.Variable(0.0)]] * num_groups
            optimizer = DifferentialLR(cls(*args, **kwargs), groups, multipliers=[1.0] * num_groups)
            optimizer._differential.groups = GroupsByTurns(groups)
            made[cls.__name__] += 1
            return optimizer

        def __instancecheck__(_, instance):
            return isinstance(instance, cls)

    return Meta(cls.__name__, (cls,), {})


@pytest.fixture
def kept_logging():
    """Some of Keras's tests turn its progress bars off, for all tests after them."""
    yield
    keras.config.enable_interactive_logging()


@pytest.mark.usefixtures("kept_logging")
@pytest.mark.parametrize("name", MODULES)
def test_keras_tests_pass(name, monkeypatch, request):
    request.config.addinivalue_line("markers", "requires_trainable_backend: in Keras's own tests")
    if importlib.util.find_spec(f"keras.src.{name}") is None:
        pytest.skip(f"keras {keras.__version__} is shipped without its own tests")
    module = importlib.import_module(f"keras.src.{name}")
    package = importlib.import_module("keras.src.optimizers")
    made = Counter()
    for optimizer in OPTIMIZERS:
        # The models in the callbacks' tests have a single weight.
        num_groups = 1 if name.startswith("callbacks") else 2
        stand_in = stand_in_for(getattr(keras.optimizers, optimizer), num_groups, made)
        for place in (module, package):
            if hasattr(place, optimizer):
                monkeypatch.setattr(place, optimizer, stand_in)
    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unittest.TestSuite(sensible_tests(module)).run(result)
    failed = [f"{test.id()}\n{trace}" for test, trace in result.errors + result.failures]
    assert not failed, "\n".join(failed)
    assert result.testsRun > len(result.skipped)
    assert made


def sensible_tests(module):
    for case in unittest.defaultTestLoader.loadTestsFromModule(module):
        for test in case:
            if not test.id().rpartition(".")[2].startswith(tuple(SENSELESS)):
                yield test
