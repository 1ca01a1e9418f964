"""One optimizer, another learning rate for each layer group.

A `DifferentialLR` is an optimizer of the inner optimizer's own class with one thing changed: the learning rate at
which a variable is updated and decayed. It is not a wrapper that forwards to another object, because Keras reaches
into an optimizer's private parts from many places (loss scaling, EMA callbacks, the JAX trainer, the parallel
optimizers of the torch backend), and each of them has to find what it looks for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import keras

from .layer_rates import check_one_per_group, rates_per_group
from .variable_groups import SavedWeight, VariableGroups, stand_in

_register = keras.saving.register_keras_serializable(package="keras_sgdr")


@_register
class DifferentialLR(keras.optimizers.Optimizer):
    """Turns any Keras optimizer into one that trains each layer group at its own learning rate.

    A variable of group g is updated, and its weight decayed, at

    `learning_rate * learning_rates[g] / learning_rates[-1]`

    So there is one knob, `learning_rate`, the rate of the last group: schedulers and finders that write it move
    all groups at fixed ratios. The result is that of one independent optimizer per group, but for
    `global_clipnorm`, which here is the norm over all groups.

    The object is also an instance of the inner optimizer's class and takes over its state: do not use the inner
    optimizer afterwards. Slots are made for all weights of all groups, frozen or not. So layers may be frozen and
    unfrozen: compile the model again with the same optimizer, and training goes on with iterations and slots kept.
    The ratios are constants of the compiled training step.

    Args:
        inner_optimizer: A Keras optimizer, not yet used. Its learning rate may be a float (which is replaced by
            the last of `learning_rates`) or a `LearningRateSchedule` (then give `multipliers`).
        groups: The layer groups, the head last, such as `layer_groups(model)` returns: for each group a list
            of layers (a nested model stands for all its layers) or of variables.
        learning_rates: The rates: one per group; or `slice(low, high)`, geometric from the first group to the
            last; or `slice(high)`, the last group at `high` and the others at `high / 10`; or one float for all
            groups. A rate of 0 keeps a group as it is.
        multipliers: In place of `learning_rates`, each group's rate as a multiple of the inner optimizer's own.

    Raises:
        TypeError: If `inner_optimizer` is no optimizer that can be used here, or a group holds something else
            than layers.
        ValueError: If there are not as many rates as groups. When the model is first trained: if a
            trainable variable is in no group or in two.

    Example:
        ```python
        groups = layer_groups(model)
        optimizer = DifferentialLR(keras.optimizers.AdamW(weight_decay=1e-2), groups, [1e-5, 1e-4, 1e-3])
        model.compile(optimizer, "sparse_categorical_crossentropy")
        optimizer.learning_rate = 2e-3  # the head's; the other groups follow: 2e-5 and 2e-4
        ```

    Reference:
        fast.ai course, lesson 2 ("differential learning rates"); Howard and Ruder, 2018, section 3.2.
    """

    def __new__(cls, inner_optimizer: Any = None, *_args: Any, **_kwargs: Any) -> Any:
        """Returns an instance of a class that is both a DifferentialLR and the inner optimizer's."""
        _check_inner(inner_optimizer)
        return object.__new__(_specialised(type(inner_optimizer)))  # type: ignore[arg-type]

    def __init__(
        self,
        inner_optimizer: Any,
        groups: Sequence[Any],
        learning_rates: float | slice | Sequence[float] | None = None,
        *,
        multipliers: Sequence[float] | None = None,
    ) -> None:
        variable_groups = VariableGroups(groups)
        top, ratios = _top_and_ratios(inner_optimizer, learning_rates, multipliers, len(variable_groups))
        # One state, two views: what is done to this optimizer shows in the inner one, whose class writes the config.
        object.__setattr__(self, "__dict__", inner_optimizer.__dict__)
        # In a namespace, since Keras would track lists of variables as this optimizer's own, and save layers with it.
        self._differential = SimpleNamespace(
            inner_view=inner_optimizer, groups=variable_groups, multipliers=ratios, factor=1.0, averages=[], flags=None
        )
        if top is not None:
            self.learning_rate = top

    @property
    def learning_rates(self) -> list[float]:
        """The present learning rate of each group, as floats."""
        rate = float(keras.ops.convert_to_numpy(self.learning_rate))
        return [rate * multiplier for multiplier in self._differential.multipliers]

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Each group's rate as a multiple of `learning_rate`."""
        return self._differential.multipliers

    @property
    def built(self) -> bool:
        """False before the first build, and after layers were frozen or unfrozen: the trainer then calls `build`."""
        # Set by the base class before `_differential` exists.
        differential = self.__dict__.get("_differential")
        slots = bool(self.__dict__.get("_has_slots", False))
        return slots and (differential is None or differential.flags in (None, _trainable_flags(differential.groups)))

    @built.setter
    def built(self, value: bool) -> None:
        self.__dict__["_has_slots"] = value

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the slots for all weights of all groups, then makes `variables` those that are trained.

        Args:
            variables: The model's trainable variables, in the model's order.
        """
        groups = self._differential.groups
        groups.adopt(variables)
        if not self.__dict__.get("_has_slots", False):
            stand_ins = [stand_in(weight) if isinstance(weight, SavedWeight) else weight for weight in groups.weights]
            super().build(stand_ins)
            self._differential.averages = list(getattr(self, "_model_variables_moving_average", []))
        self._index_weights()
        self._train_only(variables)

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Updates the trainable variables, each at its group's rate; see `keras.optimizers.Optimizer.apply`."""
        if trainable_variables is None:
            trainable_variables = self._trainable_variables or None
        else:
            trainable_variables = list(trainable_variables)
            self._build_for(trainable_variables)
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable at its group's rate; see `keras.optimizers.Optimizer.update_step`."""
        multiplier = self._multiplier(variable)
        super().update_step(gradient, variable, _times(learning_rate, multiplier))

    def add_optimizer_variables(self, trainable_variables: Sequence[Any], name: Any, initializer: Any = "zeros") -> Any:
        """Makes slots; the moving averages of the weights (EMA) start from the weights.

        Keras starts them at 0 and copies the weights in the first step. A layer that is unfrozen later has no
        first step.
        """
        if name != "average":
            return super().add_optimizer_variables(trainable_variables, name, initializer)
        add_one = super().add_optimizer_variables
        return [add_one([v], name, _value_of(v))[0] for v in trainable_variables]

    def get_config(self) -> dict[str, Any]:
        """Returns the inner optimizer, the ratios, and which weights are in which group."""
        differential = self._differential
        return {
            "inner_optimizer": keras.saving.serialize_keras_object(differential.inner_view),
            "groups": differential.groups.saved(self._trainable_variables),
            "multipliers": list(differential.multipliers),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "DifferentialLR":
        """Returns an optimizer that will recognise the model's weights when it is built on them."""
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(config.pop("inner_optimizer"), custom_objects=custom_objects)
        groups = [[_saved_weight(weight) for weight in group] for group in config.pop("groups")]
        return DifferentialLR(inner, groups, **config)

    def _build_for(self, variables: Sequence[Any]) -> None:
        trained = {self._var_key(variable) for variable in self._trainable_variables}
        if not self.built or not trained.issuperset(self._var_key(variable) for variable in variables):
            with keras.name_scope(self.name):
                self.build(variables)

    def _index_weights(self) -> None:
        indices = self._trainable_variables_indices
        indices.clear()
        for index, weight in enumerate(self._differential.groups.weights):
            if not isinstance(weight, SavedWeight):
                indices[self._var_key(weight)] = index

    def _train_only(self, variables: Sequence[Any]) -> None:
        # Everything in Keras that loops over `_trainable_variables` (EMA, `stateless_apply`, SwapEMAWeights)
        # pairs it with the model's trainable variables. Set past Keras's tracking of attributes.
        self.__dict__["_trainable_variables"] = list(variables)
        averages = self._differential.averages
        if averages:
            active = [averages[self._get_variable_index(variable)] for variable in variables]
            self.__dict__["_model_variables_moving_average"] = active
        self._differential.flags = _trainable_flags(self._differential.groups)

    def _multiplier(self, variable: Any) -> float:
        differential = self._differential
        return differential.multipliers[differential.groups.group_of(self._get_variable_index(variable))]

    def _by_multiplier(self, variables: Sequence[Any]) -> dict[float, list[int]]:
        places: dict[float, list[int]] = {}
        for place, variable in enumerate(variables):
            places.setdefault(self._multiplier(variable), []).append(place)
        return places

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        # Keras decays at `self.learning_rate`, whatever rate `update_step` is given, and each backend (and Muon) has
        # a loop of its own for it. So the loop runs once for each rate.
        decayed = [variable for variable in variables if self._use_weight_decay(variable)]
        for multiplier, places in self._by_multiplier(decayed).items():
            with self._rate_times(multiplier):
                super()._apply_weight_decay([decayed[place] for place in places])

    def _parallel_update_step(self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        # The torch backend updates all variables in one call and never calls `update_step`.
        product = getattr(self, "_u_product", None)  # Nadam's, one for all variables, advanced by each call
        before = None if product is None else keras.ops.copy(product)
        for multiplier, places in self._by_multiplier(variables).items():
            if product is not None:
                product.assign(before)
            rate = _times(learning_rate, multiplier)
            super()._parallel_update_step([grads[p] for p in places], [variables[p] for p in places], rate)

    def _get_current_learning_rate(self) -> Any:
        return _times(super()._get_current_learning_rate(), self._differential.factor)

    @contextmanager
    def _rate_times(self, factor: float) -> Iterator[None]:
        self._differential.factor = factor
        try:
            yield
        finally:
            self._differential.factor = 1.0


@cache
def _specialised(inner_class: type) -> type:
    """Returns the class that is a DifferentialLR and an `inner_class`, loadable under DifferentialLR's name."""
    namespace = {"__module__": __name__, "__qualname__": "DifferentialLR", "__doc__": DifferentialLR.__doc__}
    specialised = _register(type("DifferentialLR", (DifferentialLR, inner_class), namespace))
    _register(DifferentialLR)
    return specialised


def _check_inner(optimizer: Any) -> None:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`inner_optimizer` must be a Keras optimizer. Received: inner_optimizer={optimizer!r}. "
            "Write keras.optimizers.Adam()."
        )
    if (
        hasattr(optimizer, "inner_optimizer")
        or hasattr(optimizer, "optimizers")
        or isinstance(optimizer, DifferentialLR)
    ):
        raise TypeError(
            "`inner_optimizer` must be a plain optimizer, not one that holds others. "
            f"Received: inner_optimizer={type(optimizer).__name__}. Put that one around the DifferentialLR."
        )
    if optimizer.built:
        raise ValueError(
            "`inner_optimizer` must not have been used yet: its slots would not cover all groups. "
            f"Received: inner_optimizer={optimizer.name}, already built. Make a new one."
        )


def _top_and_ratios(
    inner: Any, learning_rates: Any, multipliers: Sequence[float] | None, num_groups: int
) -> tuple[float | None, tuple[float, ...]]:
    if (learning_rates is None) == (multipliers is None):
        raise ValueError(
            "Exactly one of `learning_rates` and `multipliers` must be given. "
            f"Received: learning_rates={learning_rates}, multipliers={multipliers}."
        )
    if multipliers is not None:
        check_one_per_group("multipliers", multipliers, num_groups=num_groups)
        return None, tuple(float(multiplier) for multiplier in multipliers)
    rates = rates_per_group(learning_rates, num_groups=num_groups)
    if not isinstance(inner._learning_rate, keras.Variable):
        raise ValueError(
            "`learning_rates` must be left out if a schedule inside sets the last group's. "
            f"Received: learning_rates={rates}, a {type(inner._learning_rate).__name__} inside. "
            f"Give the ratios: multipliers={[rate / rates[-1] for rate in rates]}."
        )
    return rates[-1], tuple(rate / rates[-1] for rate in rates)


def _saved_weight(config: dict[str, Any]) -> SavedWeight:
    return SavedWeight(config["path"], tuple(config["shape"]), config["dtype"], config["position"])


def _trainable_flags(groups: VariableGroups) -> tuple[bool, ...]:
    return tuple(bool(getattr(weight, "trainable", False)) for weight in groups.weights)


def _times(rate: Any, multiplier: float) -> Any:
    # Not even a multiplication by 1, so that a DifferentialLR of equal rates is the bare optimizer to the bit.
    return rate if multiplier == 1 else keras.ops.multiply(rate, multiplier)


def _value_of(variable: Any) -> Any:
    return lambda *_args, **_kwargs: keras.ops.convert_to_tensor(variable)
