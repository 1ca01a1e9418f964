"""An optimizer's slots for the weights of all layer groups, whichever of them are trained at present."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_sgdr.optimizers.grouped_optimizer import GroupedUpdates
from keras_sgdr.optimizers.variable_groups import is_saved, stand_in


class GroupedSlots(GroupedUpdates):
    """Overrides an optimizer's class so that layers may be frozen and unfrozen, with slots and averages kept.

    To be combined with that class, as `GroupedUpdates` is.
    """

    @property
    def built(self) -> bool:
        """Whether `build` has nothing to do. The trainers call it if not, also after layers were (un)frozen."""
        state = self.__dict__.get("_differential")
        slots = bool(self.__dict__.get("_has_slots", False))
        return slots and (state is None or state.in_step or state.is_up_to_date)

    @built.setter
    def built(self, value: bool) -> None:
        self.__dict__["_has_slots"] = value

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the slots for all weights of all groups, then makes `variables` those that are trained.

        Args:
            variables: The model's trainable variables, in the model's order.
        """
        state = self._differential
        state.groups.adopt(variables)
        if not self.__dict__.get("_has_slots", False):
            weights = state.groups.weights
            super().build([stand_in(weight) if is_saved(weight) else weight for weight in weights])
            state.averages = list(getattr(self, "_model_variables_moving_average", []))
        self._index_weights()
        self._train_only(variables)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Puts the moving averages into the model (EMA); see `keras.optimizers.Optimizer.finalize_variable_values`."""
        super().finalize_variable_values(var_list)
        if self.use_ema and keras.backend.backend() == "jax":
            # Keras 3.15 leaves model and average with one buffer, which the next `fit` would donate to XLA twice.
            for average in self._model_variables_moving_average:
                average.assign(keras.ops.copy(average))

    def _build_for(self, variables: Sequence[Any]) -> None:
        state = self._differential
        trained = {self._var_key(variable) for variable in self._trainable_variables}
        if state.flags != state.trainable_flags() or not trained.issuperset(map(self._var_key, variables)):
            with keras.name_scope(self.name):
                self.build(variables)

    def _index_weights(self) -> None:
        indices = self._trainable_variables_indices
        indices.clear()
        for index, weight in enumerate(self._differential.groups.weights):
            if not is_saved(weight):
                indices[self._var_key(weight)] = index

    def _train_only(self, variables: Sequence[Any]) -> None:
        # Everything in Keras that loops over `_trainable_variables` (EMA, `stateless_apply`, SwapEMAWeights)
        # pairs it with the model's trainable variables. Set past Keras's tracking of attributes.
        before = {id(variable) for variable in self._trainable_variables}
        self.__dict__["_trainable_variables"] = list(variables)
        state = self._differential
        if state.averages:
            averages = [state.averages[self._get_variable_index(variable)] for variable in variables]
            self.__dict__["_model_variables_moving_average"] = averages
            self._start_averages([pair for pair in zip(variables, averages, strict=True) if id(pair[0]) not in before])
        state.flags = state.trainable_flags()

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Any]) -> None:
        # The averages (EMA) of frozen weights are updated too, so that they are right when a layer is unfrozen.
        state = self._differential
        if keras.backend.backend() == "jax" or not state.averages:
            super()._update_model_variables_moving_average(trainable_variables)
            return
        seen = [pair for pair in zip(state.groups.weights, state.averages, strict=True) if not is_saved(pair[0])]
        trained_averages = self._model_variables_moving_average
        self.__dict__["_model_variables_moving_average"] = [average for _, average in seen]
        super()._update_model_variables_moving_average([weight for weight, _ in seen])
        self.__dict__["_model_variables_moving_average"] = trained_averages

    def _start_averages(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        # The JAX trainer keeps the values of frozen weights out of reach during a step. So their averages start here.
        if keras.backend.backend() == "jax":
            for weight, average in pairs:
                average.assign(keras.ops.copy(weight))
