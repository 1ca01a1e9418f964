"""An optimizer's momentum, moved before each batch as its rate is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import keras

from keras_sgdr.optimizers.access import optimizer_chain, sync_variables, write_value
from keras_sgdr.validation import require

MOMENTA = ("momentum", "beta_1")


class MomentumVariable(keras.Variable):
    """A variable that is known to be above 0 while a step is compiled: SGD and RMSprop ask, with a Python `if`."""

    __hash__ = object.__hash__

    def __ne__(self, other: object) -> bool:
        return True

    def __gt__(self, other: object) -> bool:
        return True


class MovableMomentum:
    """An optimizer's momentum as a variable, for Keras makes it a constant of the compiled step.

    It is one only while a step is compiled (or run, where nothing is compiled). To all others, who may read it or save
    the model, the optimizer has its own momentum, and the variables that it always has. After a training that failed
    the model's next one begins by putting it back. So does one inside a callback, after which it is moved on.

    Attributes:
        present: The momentum written last; None where it is not moved.

    Args:
        model: A compiled model whose optimizer has a `momentum` or a `beta_1` above 0.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        *_, self.optimizer = optimizer_chain(model.optimizer)
        left = self._in_place  # of a training that failed, or an earlier callback
        if left is not None:
            left.put_back()
        self.name = next((name for name in MOMENTA if getattr(self.optimizer, name, 0)), "")
        must = f"The optimizer must have one of {MOMENTA} above 0 for `momentum` to be moved"
        require(bool(self.name), must, optimizer=type(self.optimizer).__name__)
        self._own_value = float(getattr(self.optimizer, self.name))
        self._variable = MomentumVariable(self._own_value, trainable=False, name=self.name)
        self._num_inside, self._lock = 0, Lock()
        self._replaced: list[tuple[Any, str]] = []
        self.present: float | None = None
        self._put_in_place()

    @property
    def _in_place(self) -> MovableMomentum | None:
        return self.optimizer.__dict__.get("_moved_momentum")

    def _put_in_place(self) -> None:
        model = self.model
        self.optimizer.__dict__["_moved_momentum"] = self
        # What each training begins with, before its callbacks.
        self._replace(model, "make_train_function", self._after_putting_back(model.make_train_function))
        if keras.backend.backend() == "jax":
            # As an attribute of the optimizer it becomes part of its state, which the trainer passes from step to step.
            self.optimizer.momentum_variable = self._variable
            for optimizer in optimizer_chain(model.optimizer):
                self._replace(optimizer, "save_own_variables", self._saving(optimizer))
                self._replace(optimizer, "load_own_variables", self._loading(optimizer))
        for name in ("apply", "stateless_apply"):
            self._replace(model.optimizer, name, self._stepping(getattr(model.optimizer, name)))
        model.make_train_function(force=True)

    def write(self, value: float) -> None:
        """Sets the momentum of the next batch."""
        sync_variables(self.model)
        if self._in_place is None:  # a training inside a callback has put it back
            self._put_in_place()
        write_value(self._variable, value)
        self.present = value

    def put_back(self) -> None:
        """Makes it the number again that it was."""
        sync_variables(self.model)
        self.present = None
        if self._in_place is not self:  # another scheduler of the same training took over
            return
        for owner, name in self._replaced:
            owner.__dict__.pop(name, None)
        self._replaced = []
        del self.optimizer.__dict__["_moved_momentum"]
        if hasattr(self.optimizer, "momentum_variable"):
            # Private: Keras untracks by itself only the variable of a rate.
            self.optimizer._untrack_variable(self._variable)
            del self.optimizer.momentum_variable
        self.model.make_train_function(force=True)

    def _replace(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        # Past Keras's tracking of attributes. A method of the object comes before that of its class.
        owner.__dict__[name] = method
        self._replaced.append((owner, name))

    def _after_putting_back(self, make_train_function: Callable[..., Any]) -> Callable[..., Any]:
        def make(force: bool = False) -> Any:
            if not force:
                self.put_back()
            return make_train_function(force=force)

        return make

    def _stepping(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            with self._as_variable():
                return method(*args, **kwargs)

        return step

    def _saving(self, optimizer: Any) -> Callable[[Any], None]:
        def save(store: Any) -> None:
            for position, variable in enumerate(self._others(optimizer)):
                store[str(position)] = variable.numpy()

        return save

    def _loading(self, optimizer: Any) -> Callable[[Any], None]:
        refuse = optimizer.load_own_variables

        def load(store: Any) -> None:
            others = self._others(optimizer)
            if len(store.keys()) != len(others):
                refuse(store)
            else:
                for position, variable in enumerate(others):
                    variable.assign(store[str(position)])

        return load

    def _others(self, optimizer: Any) -> list[Any]:
        return [variable for variable in optimizer.variables if variable is not self._variable]

    @contextmanager
    def _as_variable(self) -> Iterator[None]:
        state = self.optimizer.__dict__
        # Counted, for steps nest, and those of the replicas of a strategy are compiled in threads by turns.
        with self._lock:
            self._num_inside += 1
            state[self.name] = self._variable
        try:
            yield
        finally:
            with self._lock:
                self._num_inside -= 1
                if not self._num_inside:
                    state[self.name] = self._own_value
