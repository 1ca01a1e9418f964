"""`TrainingState`: all that training changes in a model and its optimizer, copied so that it can be put back."""

from __future__ import annotations

import contextlib
import hashlib
import random
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_sgdr.checkpoint.tensorflow_workers import trains_with_others
from keras_sgdr.checkpoint.torch_generators import TorchGenerators
from keras_sgdr.optimizers.access import sync_variables
from keras_sgdr.validation import InvalidValueError

ATTRIBUTES = ("stop_training", "train_function", "test_function", "steps_per_execution")


class TrainingState:
    """A copy of everything that a training step changes, taken on construction.

    That is every variable of the model (weights, batch-norm statistics, the seed generators of dropout, which
    `get_weights` leaves out), of the optimizer (slots, iterations, rate, accumulated gradients, loss scale) and of the
    compiled metrics; the compiled functions and `stop_training`; and the global random generators of Python, NumPy,
    Keras and PyTorch. TensorFlow's own (`tf.random.normal` in a layer) cannot be put back.

    Args:
        model: A compiled model that is built, its optimizer too.
    """

    def __init__(self, model: Any) -> None:
        sync_variables(model)
        self.model = model
        self.variables = variables_of(model)
        self.values = [to_numpy(variable) for variable in self.variables]
        self.attributes = {name: getattr(model, name) for name in ATTRIBUTES if hasattr(model, name)}
        self.generators = RandomGenerators()

    def restore(self) -> None:
        """Puts everything back, bit by bit."""
        # On JAX first, or the values of the interrupted epoch would come back over those restored here.
        sync_variables(self.model)
        self._reset_new_metrics()
        for variable, value in zip(self.variables, self.values, strict=True):
            variable.assign(value)
        for name, attribute in self.attributes.items():
            setattr(self.model, name, attribute)
        if self.generators.forget_new():  # which what was compiled meanwhile holds
            self.model.train_function = self.model.test_function = None
        self.generators.restore()

    def _reset_new_metrics(self) -> None:
        if trains_with_others(self.model):
            return
        known = {id(variable) for variable in self.variables}
        for metric in self.model.metrics:
            if any(id(variable) not in known for variable in metric.variables):
                metric.reset_state()

    def digest(self) -> str:
        """Returns the SHA-256 of the copied values."""
        return digest(self.values)

    def differing(self) -> list[str]:
        """Returns the paths of the variables whose present value is not, bit by bit, the copied one."""
        pairs = zip(self.variables, self.values, strict=True)
        return [variable.path for variable, value in pairs if to_numpy(variable).tobytes() != value.tobytes()]


class RandomGenerators:
    """The states of the global generators of Python, NumPy, Keras and, where it is loaded, PyTorch."""

    def __init__(self) -> None:
        self.python, self.numpy = random.getstate(), np.random.get_state()
        self.torch = TorchGenerators()
        self._seeds = unseeded_generator()
        self.keras = None if self._seeds is None else to_numpy(self._seeds.state)

    def restore(self) -> None:
        """Puts the states back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        self.torch.restore()
        if self._seeds is not None:
            self._seeds.state.assign(self.keras)

    def forget_new(self) -> bool:
        """Drops Keras's generator if it was made meanwhile, so that it is made anew; returns whether it was."""
        is_new = self._seeds is None and unseeded_generator() is not None
        if is_new:
            unseeded_generator(forget=True)
        return is_new


def unseeded_generator(*, forget: bool = False) -> Any:
    """Returns what `keras.random` draws from where it is given no seed, once there is one.

    Args:
        forget: True to have it made anew when it is needed next.
    """
    # Private: `keras.random` has no public way to it (Keras 3.15).
    from keras.src.backend.common import global_state

    if forget:
        global_state.set_global_attribute("global_seed_generator", None)
    return global_state.get_global_attribute("global_seed_generator")


def variables_of(model: Any) -> list[Any]:
    """Returns every variable of the model, its optimizer and its metrics, each once.

    Where other processes train with this one, metrics are left out: after an error the others would be waited for
    without an end, and `fit` empties them anyway.
    """
    metrics = [] if trains_with_others(model) else model.metrics_variables
    every = [*model.variables, *model.optimizer.variables, *metrics]
    return list({id(variable): variable for variable in every}.values())


def require_built(model: Any) -> None:
    """Builds the optimizer if that has not been done, and refuses a model that has no variables, or no optimizer."""
    if not model.built:
        raise InvalidValueError(
            "`model` must be built: what its first batch creates can be neither kept nor restored. Received: a model "
            "without weights. Call it on a batch, or give it an `Input`."
        )
    if getattr(model, "optimizer", None) is None:
        raise InvalidValueError("`model` must be compiled. Received: a model without optimizer. Call `compile` first.")
    if not model.optimizer.built:
        # On TensorFlow slots are made where the model is, on all of its replicas.
        strategy = getattr(model, "distribute_strategy", None)
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            model.optimizer.build(model.trainable_variables)


def to_numpy(variable: Any) -> NDArray[Any]:
    """Returns a copy of a variable's value; Keras's own conversion may share its memory."""
    return np.array(keras.ops.convert_to_numpy(variable), copy=True)


def digest(values: list[NDArray[Any]]) -> str:
    """Returns the SHA-256 over the bytes of arrays, in order."""
    sha = hashlib.sha256()
    for value in values:
        sha.update(value.tobytes())
    return sha.hexdigest()
