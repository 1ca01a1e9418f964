"""`DifferentialLR`: one optimizer with a learning rate for each layer group.

A `DifferentialLR` is an optimizer of the inner optimizer's own class with one thing changed: the learning rate at
which a variable is updated and decayed. It is not a wrapper that forwards to another object, because Keras reaches
into an optimizer's private parts from many places (loss scaling, EMA callbacks, the JAX trainer, the parallel
optimizers of the torch backend), and each of them has to find what it looks for.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras

from keras_sgdr.models.group_summary import WeightRow, rate_table
from keras_sgdr.optimizers.access import read_learning_rate
from keras_sgdr.optimizers.group_rates import GroupSettings, own_decays, top_rate_and_multipliers
from keras_sgdr.optimizers.grouped_optimizer import (
    GroupState,
    check_inner_optimizer,
    combined_class,
    is_trainable,
    portable_config,
)
from keras_sgdr.optimizers.grouped_slots import GroupedSlots
from keras_sgdr.optimizers.layer_patterns import has_patterns, match_layers
from keras_sgdr.optimizers.movable_momentum import MovableMomentum, moved_momentum
from keras_sgdr.optimizers.variable_groups import SavedWeight, VariableGroups
from keras_sgdr.validation import InvalidTypeError, InvalidValueError


@keras.saving.register_keras_serializable(package="keras_sgdr")
class DifferentialLR(GroupedSlots):
    """Turns any Keras optimizer into one that trains each layer group at its own learning rate.

    A variable of group g is updated, and its weight decayed, at

    `learning_rate * learning_rates[g] / learning_rates[-1]`

    So there is one knob, `learning_rate`, the rate of the last group: schedulers and finders that write it move
    all groups at fixed ratios. The result is that of one independent optimizer per group, but for
    `global_clipnorm`, which here is the norm over all groups, and under a `tf.distribute` strategy of the whole batch.

    The object is also an instance of the inner optimizer's class and takes over its state: do not use the inner
    optimizer afterwards. Slots are made for all weights of all groups, frozen or not. So layers may be frozen and
    unfrozen: compile the model again with the same optimizer, and training goes on with iterations and slots kept.
    The ratios are constants of the compiled training step.

    Args:
        inner_optimizer: A Keras optimizer, not yet used. Its learning rate may be a float (which is replaced by
            the last of `learning_rates`) or a `LearningRateSchedule` (then give `multipliers`).
        groups: The layer groups, the head last, such as `layer_groups(model)` returns: for each group a list
            of layers (a nested model stands for all its layers), of variables, or, with `model`, of patterns of
            layer paths (see `match_layers`).
        learning_rates: The rates: one per group; or `slice(low, high)`, geometric from the first group to the
            last; or `slice(high)`, the last group at `high` and the others at `high / 10`; or one float for all
            groups. A rate of 0 keeps a group as it is.
        multipliers: In place of `learning_rates`, each group's rate as a multiple of the inner optimizer's own.
        weight_decays: Each group's own weight decay, >= 0, in place of the inner optimizer's. As there, it is
            multiplied by the rate, here the group's.
        decay_biases_and_norms: False to leave out of the weight decay what has one axis or none, and what is
            called bias, gamma, beta or scale.
        model: The model in which to look for layers by patterns.
        movable_momentum: True to let `SGDRScheduler(momentum=…)` or `OneCycleScheduler(momentum=…)` move the inner
            optimizer's `momentum`, or else its `beta_1`, which Keras makes a constant of the compiled step. The
            attribute, the config and saved files keep the inner optimizer's own.

    Attributes:
        momentum_variable: The momentum of the next step, which a scheduler writes; None unless `movable_momentum`.

    Raises:
        TypeError: If `inner_optimizer` is no optimizer that can be used here, a group holds something else than
            layers, or a rate is no number.
        ValueError: If there are not as many rates as groups, a pattern matches nothing, or there is no momentum to be
            moved. At the latest when training starts: if a trainable variable is in no group or in two.

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

    # In the class that is made of this one and the inner optimizer's: this one.
    outer_class: Any = None

    def __new__(cls, inner_optimizer: Any = None, *_args: Any, **_kwargs: Any) -> Any:
        """Returns an instance of a class that is both a DifferentialLR and the inner optimizer's."""
        check_inner_optimizer(inner_optimizer)
        outer_class: Any = cls.outer_class or cls
        inner_class: Any = type(inner_optimizer)
        return object.__new__(combined_class(outer_class, inner_class))

    def __init__(
        self,
        inner_optimizer: Any,
        groups: Sequence[Any],
        learning_rates: float | slice | Sequence[float] | None = None,
        *,
        multipliers: Sequence[float] | None = None,
        weight_decays: Sequence[float] | None = None,
        decay_biases_and_norms: bool = True,
        model: keras.Model | None = None,
        movable_momentum: bool = False,
    ) -> None:
        variable_groups = VariableGroups(_with_layers(groups, model))
        num_groups = len(variable_groups)
        top, ratios = top_rate_and_multipliers(inner_optimizer, learning_rates, multipliers, num_groups=num_groups)
        settings = GroupSettings(ratios, own_decays(weight_decays, num_groups=num_groups), decay_biases_and_norms)
        momentum_variable = MovableMomentum(inner_optimizer) if movable_momentum else None
        # One state, two views: what is done to this optimizer shows in the inner one, whose class writes the config.
        object.__setattr__(self, "__dict__", inner_optimizer.__dict__)
        self._differential = GroupState(inner_optimizer, variable_groups, settings)
        # Keras tracks it: JAX's trainer passes it from step to step, and it is saved beside the rate.
        self.momentum_variable = momentum_variable
        if top is not None:
            self.learning_rate = top

    @property
    def learning_rates(self) -> list[float]:
        """The present learning rate of each group, as floats."""
        rate = read_learning_rate(self)
        return [rate * multiplier for multiplier in self._differential.settings.multipliers]

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Each group's rate as a multiple of `learning_rate`."""
        return self._differential.settings.multipliers

    @property
    def weight_decays(self) -> list[float]:
        """The weight decay of each group; the update is `weight -= learning_rates[g] * weight_decays[g] * weight`."""
        own = self._differential.settings.weight_decays
        return list(own) if own else [self.weight_decay or 0.0] * len(self._differential.groups)

    @property
    def weights_of_groups(self) -> list[list[Any]]:
        """The weights of each group, frozen ones included, in the order of the slots."""
        state = self._differential
        return [[w for each, w in state.groups if each == group] for group in range(len(state.groups))]

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Updates the trainable variables, each at its group's rate; see `keras.optimizers.Optimizer.apply`."""
        if trainable_variables is None:
            trainable_variables = self._trainable_variables or None
        else:
            trainable_variables = list(trainable_variables)
            self._build_for(trainable_variables)
        with self._stepping(), moved_momentum(self):
            super().apply(grads, trainable_variables)

    def stateless_apply(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> Any:
        """Returns updated values; see `keras.optimizers.Optimizer.stateless_apply`. For JAX.

        Raises:
            ValueError: If there are not as many values as trainable variables.
        """
        expected = len(self._trainable_variables)
        if expected and len(trainable_variables) != expected:
            raise InvalidValueError(
                f"The model must train the {expected} variables for which this optimizer was built last. Received: "
                f"{len(trainable_variables)} trainable variables. Put every layer into a group, and compile the model "
                "with the DifferentialLR itself, not with the LossScaleOptimizer around it, after (un)freezing."
            )
        with self._stepping():
            return super().stateless_apply(optimizer_variables, grads, trainable_variables)

    @contextmanager
    def only(self, group: int) -> Iterator[None]:
        """Within the block `learning_rate` is that of one group, and the others stay as they are.

        Only a training step that is compiled within the block knows of it.

        Args:
            group: The group's index.
        """
        state = self._differential
        settings = state.settings
        alone = tuple(float(other == group) for other in range(len(settings.multipliers)))
        state.settings = replace(settings, multipliers=alone)
        try:
            yield
        finally:
            state.settings = settings

    def summary(self, *, per_layer: bool = True, print_fn: Callable[[str], Any] | None = None) -> None:
        """Prints each group with its layers: weights, values, learning rate, weight decay, and whether it is trained.

        Args:
            per_layer: False for the groups alone.
            print_fn: What to give the text to; by default it is written to the standard output.

        Raises:
            ValueError: If a group has no weights, for instance because the model is not built yet.
        """
        state, rates = self._differential, self.learning_rates
        state.groups.check_none_empty()
        rows = [
            WeightRow(
                group, w.path, math.prod(w.shape), rates[group], self._decay_of(w, group) or None, is_trainable(w)
            )
            for group, w in state.groups
        ]
        text = rate_table(rows, per_layer=per_layer)
        (print_fn or _write_line)(text)

    def get_config(self) -> dict[str, Any]:
        """Returns the inner optimizer, the ratios, and which weights are in which group."""
        state = self._differential
        return {
            "inner_optimizer": portable_config(state.inner_view),
            "groups": state.groups.saved(self._trainable_variables),
            "multipliers": list(state.settings.multipliers),
            "weight_decays": None if state.settings.weight_decays is None else list(state.settings.weight_decays),
            "decay_biases_and_norms": state.settings.decay_biases_and_norms,
            "movable_momentum": self.momentum_variable is not None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "DifferentialLR":
        """Returns an optimizer that will recognise the model's weights when it is built on them."""
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(config.pop("inner_optimizer"), custom_objects=custom_objects)
        groups = [[_saved_weight(weight) for weight in group] for group in config.pop("groups")]
        return (cls.outer_class or cls)(inner, groups, **config)

    def __reduce__(self) -> Any:
        """Pickles as every Keras optimizer does, under this class's name."""
        _, arguments = super().__reduce__()
        return self.outer_class._unpickle_model, arguments

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        self._differential.in_step = True
        try:
            yield
        finally:
            self._differential.in_step = False


def _saved_weight(config: dict[str, Any]) -> SavedWeight:
    return SavedWeight(config["path"], tuple(config["shape"]), config["dtype"], config["position"])


def _with_layers(groups: Sequence[Any], model: keras.Model | None) -> Sequence[Any]:
    if isinstance(groups, str | keras.Layer) or not isinstance(groups, Iterable):
        raise InvalidTypeError(
            f"`groups` must be a list of layer groups. Received: groups={groups!r}. Take `layer_groups(model)`."
        )
    return match_layers(model, groups) if model is not None and has_patterns(groups) else groups


def _write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
