"""`VariableGroups`: which layer group each weight of a model belongs to, frozen ones included.

A group is given as layers (or single variables). What a saved optimizer knows of a weight, a `SavedWeight`, stands
in for a layer after loading, when there is no layer to be had.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import keras

from keras_sgdr.validation import InvalidTypeError, InvalidValueError


@dataclass(frozen=True)
class SavedWeight:
    """The description of one weight in a file.

    Attributes:
        path: The weight's path when it was saved.
        shape: Its shape.
        dtype: Its dtype's name.
        position: Its place among the weights that were trained when the file was written, in the
            model's order; None if it was frozen.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    position: int | None

    def is_like(self, variable: Any) -> bool:
        """Returns whether `variable` has this shape and this name, wherever in the model it lies."""
        return self.shape == tuple(variable.shape) and self.path.split("/")[-1] == variable.path.split("/")[-1]

    def kinship(self, variable: Any) -> int:
        """Returns how many names at the ends of the two paths agree; 0 if they cannot be the same weight's.

        Loading changes the beginning of a path: `sequential/a/kernel` becomes `a/kernel`.
        """
        if not self.is_like(variable):
            return 0
        before, now = self.path.split("/")[::-1], variable.path.split("/")[::-1]
        agreeing = len(list(takewhile(lambda names: names[0] == names[1], zip(before, now, strict=False))))
        return agreeing if agreeing >= min(len(before), len(now)) - 1 else 0


class VariableGroups:
    """The weights of several layer groups in one fixed order: group by group, as the layers were given.

    Args:
        groups: For each group its members: `keras.Layer`s (a nested model counts with everything in it),
            `keras.Variable`s, or `SavedWeight`s.

    Raises:
        TypeError: If a member is of another kind.
        ValueError: If there is no group, or one without members.
    """

    def __init__(self, groups: Sequence[Sequence[Any]]) -> None:
        self._members = [_members(group, index) for index, group in enumerate(groups)]
        if not self._members:
            raise InvalidValueError(f"`groups` must hold at least one layer group. Received: groups={groups}.")
        self._weights: list[tuple[int, Any]] = []

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yields (group index, weight) in the order of `weights`."""
        return iter(self._weights or self._flattened())

    @property
    def weights(self) -> list[Any]:
        """All weights, frozen ones included; a `SavedWeight` where the model's has not been seen yet."""
        return [weight for _, weight in self]

    @property
    def has_unseen(self) -> bool:
        """Whether there are weights of which only a saved description is known yet."""
        return any(is_saved(weight) for weight in self.weights)

    def group_of(self, index: int) -> int:
        """Returns the group of the weight at `index` in `weights`."""
        return self._weights[index][0]

    def adopt(self, variables: Sequence[Any]) -> None:
        """Fixes the order of the weights and puts the model's variables in the place of saved descriptions.

        Args:
            variables: The variables trained at present, in the model's order.

        Raises:
            ValueError: If one of them is in no group, or a weight is in two, or a group has none.
        """
        if not self._weights:
            weights = list(self._flattened())
            _check_disjoint(weights)
            self.check_none_empty()
            self._weights = weights
        known = {id(weight) for weight in self.weights}
        strangers = [variable for variable in variables if id(variable) not in known]
        if strangers:
            self._recognise(variables, strangers)

    def saved(self, trained: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """Returns a description of each group's weights that a file can hold.

        Args:
            trained: The variables trained at present, in the model's order.
        """
        self.check_none_empty()
        positions = {id(variable): position for position, variable in enumerate(trained)}
        groups: list[list[dict[str, Any]]] = [[] for _ in self._members]
        for group, weight in self:
            groups[group].append(asdict(_described(weight, positions.get(id(weight)))))
        return groups

    def _flattened(self) -> Iterable[tuple[int, Any]]:
        for group, members in enumerate(self._members):
            seen: set[int] = set()
            for weight in (weight for member in members for weight in member_weights(member)):
                if id(weight) not in seen:
                    seen.add(id(weight))
                    yield group, weight

    def check_none_empty(self) -> None:
        """Refuses a group without weights.

        Raises:
            ValueError: If there is one; the message names it and tells layers that are not built.
        """
        for group in set(range(len(self))).difference(group for group, _ in self):
            members = self._members[group]
            is_built = all(getattr(member, "built", True) for member in members)
            advice = "Leave the group out, with its rate." if is_built else "Build the model first."
            raise InvalidValueError(
                "Every layer group must have weights. Received: "
                f"groups[{group}]={[getattr(member, 'name', member) for member in members]}, which have none. {advice}"
            )

    def _recognise(self, variables: Sequence[Any], strangers: Sequence[Any]) -> None:
        by_position = self._in_saved_order(variables)
        weights = list(self._weights)
        for stranger in strangers:
            index = by_position.get(id(stranger), self._by_path(stranger, weights))
            if index is None:
                raise InvalidValueError(_stranger_message(stranger, len(self)))
            weights[index] = (weights[index][0], stranger)
        self._weights = weights

    def _in_saved_order(self, variables: Sequence[Any]) -> dict[int, int]:
        """Returns id(variable) -> index if `variables` are, one for one, those trained when the file was written."""
        trained = [(w.position, i) for i, w in enumerate(self.weights) if is_saved(w) and w.position is not None]
        indices = [index for _, index in sorted(trained)]
        weights = self.weights
        if len(indices) != len(variables):
            return {}
        if not all(weights[index].is_like(variable) for index, variable in zip(indices, variables, strict=True)):
            return {}
        return {id(variable): index for index, variable in zip(indices, variables, strict=True)}

    @staticmethod
    def _by_path(variable: Any, weights: Sequence[tuple[int, Any]]) -> int | None:
        kinships = {i: weight.kinship(variable) for i, (_, weight) in enumerate(weights) if is_saved(weight)}
        nearest = max(kinships, key=kinships.__getitem__, default=None)
        return nearest if nearest is not None and kinships[nearest] else None


def member_weights(member: Any) -> list[Any]:
    """Returns the weights of a layer that training moves when nothing is frozen, in the layer's own order.

    Keras lists a frozen layer's weights together with its statistics. Only the private `_trainable_variables`
    still tells a kernel from a moving mean.
    """
    if not isinstance(member, keras.Layer):
        return [member]
    owned = {id(v) for part in member._flatten_layers() for v in part._trainable_variables}
    return [weight for weight in member.weights if id(weight) in owned]


def stand_in(weight: SavedWeight) -> Any:
    """Returns a variable of the saved weight's shape, dtype and path, for building optimizer slots."""
    *scopes, name = weight.path.split("/")
    with ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        return keras.Variable("zeros", shape=weight.shape, dtype=weight.dtype, trainable=False, name=name)


def _members(group: Any, index: int) -> list[Any]:
    is_one = isinstance(group, keras.Layer | keras.Variable | str) or not isinstance(group, Iterable)
    members = [group] if is_one else list(group)
    if not members:
        raise InvalidValueError(f"Every layer group must hold a layer. Received: groups[{index}]={group}.")
    for member in members:
        if not isinstance(member, keras.Layer | keras.Variable | SavedWeight):
            raise InvalidTypeError(
                f"A layer group must hold Keras layers or variables. Received: groups[{index}] with {member!r}. "
                "Take the groups from `layer_groups(model)`, or give `model` to choose layers by patterns."
            )
    return members


def _check_disjoint(weights: Sequence[tuple[int, Any]]) -> None:
    groups: dict[int, int] = {}
    for group, weight in weights:
        other = groups.setdefault(id(weight), group)
        if other != group:
            raise InvalidValueError(
                f"A variable must be in one layer group only. Received: variable '{weight.path}' in groups {other} "
                f"and {group}. Take its layer out of one of them."
            )


def _described(weight: Any, position: int | None) -> SavedWeight:
    if is_saved(weight):
        return SavedWeight(weight.path, weight.shape, weight.dtype, position)
    shape = tuple(int(size) for size in weight.shape)
    return SavedWeight(weight.path, shape, keras.backend.standardize_dtype(weight.dtype), position)


def is_saved(weight: Any) -> bool:
    """Returns whether only a file's description of the weight is known."""
    return isinstance(weight, SavedWeight)


def _stranger_message(variable: Any, num_groups: int) -> str:
    size = math.prod(variable.shape)
    return (
        f"Every trainable variable must be in a layer group. Received: variable '{variable.path}' ({size} values), "
        f"in none of the {num_groups} groups. Add its layer to a group, or freeze it."
    )
