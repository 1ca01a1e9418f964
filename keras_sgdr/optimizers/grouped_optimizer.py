"""An optimizer's arithmetic with a learning rate and a weight decay for each layer group."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import keras

from keras_sgdr.optimizers.group_rates import GroupSettings
from keras_sgdr.optimizers.tensorflow_replicas import sum_over_replicas
from keras_sgdr.optimizers.variable_groups import VariableGroups, is_saved
from keras_sgdr.validation import InvalidTypeError, InvalidValueError


@dataclass(eq=False)
class GroupState:
    """What an optimizer with groups has beside the inner optimizer's attributes.

    One object and not so many attributes, since Keras would track lists of variables as the optimizer's own, and
    save layers with it.

    Attributes:
        inner_view: The inner optimizer, which shares all state and writes the config.
        averages: The moving averages (EMA) of all weights.
        flags: Which weights were trainable when the optimizer was last built; None before.
        decay_rate: The learning rate of the group whose weights decay; None but while they do.
        plain_decays: What the optimizer's decays are apart from that.
        in_step: Whether an update is being computed.
    """

    inner_view: Any
    groups: VariableGroups
    settings: GroupSettings
    averages: list[Any] = field(default_factory=list)
    flags: tuple[bool, ...] | None = None
    decay_rate: Any = None
    plain_decays: dict[str, Any] = field(default_factory=dict)
    in_step: bool = False

    @property
    def is_up_to_date(self) -> bool:
        """False after layers were frozen or unfrozen, and while weights of a loaded model have not been seen."""
        return self.flags == self.trainable_flags() and not self.groups.has_unseen

    def trainable_flags(self) -> tuple[bool, ...]:
        """Returns whether each weight is trainable now."""
        return tuple(is_trainable(weight) for weight in self.groups.weights)


class GroupedUpdates(keras.optimizers.Optimizer):
    """Overrides an optimizer's class by updates of which each is computed at its layer group's rate.

    To be combined with that class, before it in the order of resolution. `_differential` holds the groups.
    """

    _differential: GroupState

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable at its group's rate; see `keras.optimizers.Optimizer.update_step`."""
        multiplier = self._differential.settings.multipliers[self._group_of(variable)]
        super().update_step(gradient, variable, times(learning_rate, multiplier))

    def _group_of(self, variable: Any) -> int:
        return self._differential.groups.group_of(self._get_variable_index(variable))

    def _by_group(self, variables: Sequence[Any]) -> dict[int, list[int]]:
        places: dict[int, list[int]] = {}
        for place, variable in enumerate(variables):
            places.setdefault(self._group_of(variable), []).append(place)
        return places

    def _is_decayed(self, weight: Any, group: int) -> bool:
        settings = self._differential.settings
        has_no_decay = settings.weight_decays is not None and not settings.weight_decays[group]
        if has_no_decay or settings.leaves_undecayed(weight):
            return False
        return is_saved(weight) or self._use_weight_decay(weight)

    def _decay_of(self, weight: Any, group: int) -> float | None:
        if not self._is_decayed(weight, group):
            return None
        if self._differential.settings.weight_decays is not None:
            return self._differential.settings.weight_decays[group]
        trained_by_adam = getattr(self, "_should_use_adamw", None)  # Muon has two decays
        return self.adam_weight_decay if trained_by_adam and trained_by_adam(weight) else self.weight_decay

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        # Keras decays at `self.learning_rate`, whatever rate `update_step` is given, and each backend (and Muon) has
        # a loop of its own for it. So the loop runs once for each group.
        decayed = [variable for variable in variables if self._is_decayed(variable, self._group_of(variable))]
        for group, places in self._by_group(decayed).items():
            with self._decaying(group):
                super()._apply_weight_decay([decayed[place] for place in places])

    def _clip_gradients(self, grads: Sequence[Any]) -> Any:
        # Under a `tf.distribute` strategy Keras clips what each replica has, and adds it up afterwards.
        is_clipped = any((self.clipnorm, self.global_clipnorm, self.clipvalue))
        if keras.backend.backend() != "tensorflow" or not is_clipped:
            return super()._clip_gradients(grads)
        sums, count = sum_over_replicas(grads)
        clipped = super()._clip_gradients(sums)
        return clipped if count == 1 else [None if each is None else each / count for each in clipped]

    def _parallel_update_step(self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        # The torch backend updates all variables in one call and never calls `update_step`.
        product = getattr(self, "_u_product", None)  # Nadam's, one for all variables, advanced by each call
        before = None if product is None else keras.ops.copy(product)
        for group, places in self._by_group(variables).items():
            if product is not None:
                product.assign(before)
            rate = times(learning_rate, self._differential.settings.multipliers[group])
            super()._parallel_update_step([grads[p] for p in places], [variables[p] for p in places], rate)

    def _get_current_learning_rate(self) -> Any:
        rate = self._differential.decay_rate
        return super()._get_current_learning_rate() if rate is None else rate

    @contextmanager
    def _decaying(self, group: int) -> Iterator[None]:
        """Makes `learning_rate` and, if the group has its own, `weight_decay` those of the group."""
        state = self._differential
        own: dict[str, Any] = {}
        if state.settings.weight_decays is not None:
            names = [name for name in ("weight_decay", "adam_weight_decay") if name in self.__dict__]
            own = dict.fromkeys(names, state.settings.weight_decays[group])
        if state.decay_rate is None:  # else another replica of a tf.distribute strategy is within
            state.plain_decays = {name: self.__dict__[name] for name in own}
        # Once for the group: Keras asks for the rate at each variable.
        state.decay_rate = times(super()._get_current_learning_rate(), state.settings.multipliers[group])
        self.__dict__.update(own)
        try:
            yield
        finally:
            state.decay_rate = None
            self.__dict__.update(state.plain_decays)


def is_trainable(weight: Any) -> bool:
    """Returns whether a weight is trainable now; one that has not been seen since loading is frozen."""
    return bool(getattr(weight, "trainable", False))


def times(rate: Any, multiplier: float) -> Any:
    """Returns `rate * multiplier`."""
    # Not even a multiplication by 1, so that a DifferentialLR of equal rates is the bare optimizer to the bit.
    return rate if multiplier == 1 else keras.ops.multiply(rate, multiplier)


@cache
def combined_class(outer_class: Any, inner_class: Any) -> Any:
    """Returns the class that overrides `inner_class` by `outer_class`, and is saved under `outer_class`'s name."""
    namespace = {"__module__": outer_class.__module__, "__doc__": outer_class.__doc__, "outer_class": outer_class}
    combined = type(outer_class.__name__, (outer_class, inner_class), namespace)
    package, _, name = keras.saving.get_registered_name(outer_class).rpartition(">")
    # Keras finds a class by its name and a name by its class: many classes may have one name, the last one is found.
    for each in (combined, outer_class):
        keras.saving.register_keras_serializable(package=package, name=name)(each)
    return combined


def portable_config(optimizer: Any) -> dict[str, Any]:
    """Returns what Keras saves of an optimizer, fit to be loaded on every backend.

    On torch Keras 3.15 makes `keras.optimizers.Adam()` an instance of a private class, and saves that class's name.
    """
    config: dict[str, Any] = keras.saving.serialize_keras_object(optimizer)
    if config["module"].startswith("keras.src.backend.") and hasattr(keras.optimizers, config["class_name"]):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config


def check_inner_optimizer(optimizer: Any) -> None:
    """Checks that an optimizer can be made a DifferentialLR.

    Raises:
        TypeError: If it is no Keras optimizer, or one that holds others.
        ValueError: If it has slots already, or is in another DifferentialLR.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InvalidTypeError(
            f"`inner_optimizer` must be a Keras optimizer. Received: inner_optimizer={optimizer!r}. "
            "Write keras.optimizers.Adam()."
        )
    holds_others = hasattr(optimizer, "inner_optimizer") or hasattr(optimizer, "optimizers")
    if holds_others or isinstance(optimizer, GroupedUpdates):
        raise InvalidTypeError(
            "`inner_optimizer` must be a plain optimizer, not one that holds others. "
            f"Received: inner_optimizer={type(optimizer).__name__}. Put that one around the DifferentialLR."
        )
    if "_differential" in vars(optimizer):
        raise InvalidValueError(
            "`inner_optimizer` must not be in a DifferentialLR already, which shares its state. "
            f"Received: inner_optimizer={optimizer.name}. Make a new one."
        )
    if optimizer.built:
        raise InvalidValueError(
            "`inner_optimizer` must not have been used yet: its slots would not cover all groups. "
            f"Received: inner_optimizer={optimizer.name}, already built. Make a new one."
        )
