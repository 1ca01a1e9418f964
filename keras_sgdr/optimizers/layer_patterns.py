"""Layer groups chosen by patterns of layer names."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_sgdr.optimizers.variable_groups import member_weights
from keras_sgdr.validation import InvalidValueError


def match_layers(model: keras.Model, patterns: Sequence[Any]) -> list[list[Any]]:
    """Returns the layers of a model whose paths match, one group for each item of `patterns`.

    A layer's path is its name, after the names of the nested models around it but without that of the model
    itself: `"backbone/stem_conv"`. So it is the same before and after saving. A pattern must match the
    whole path, or that of a nested model, which stands for all its layers.

    Args:
        model: A Keras model; its layers need not be built yet.
        patterns: For each group a regular expression or a list of them; layers and variables may stand among them.

    Returns:
        For each group its layers, in the model's order, and the layers and variables that were given as such.

    Raises:
        ValueError: If a pattern matches nothing or is no regular expression, or if a layer that has
            weights is matched by no group or by two.

    Example:
        ```python
        match_layers(model, ["stem.*|block1.*", ["block2.*", "block3.*"], "head.*"])
        ```
    """
    paths = list(_paths(model))
    groups = [_chosen(_listed(group), paths) for group in patterns]
    _check_each_once(paths, groups)
    return groups


def has_patterns(groups: Sequence[Any]) -> bool:
    """Returns whether a string stands among the groups or their members."""
    return any(isinstance(member, str) for group in groups for member in _listed(group))


def _listed(group: Any) -> list[Any]:
    return [group] if isinstance(group, str | keras.Layer | keras.Variable) else list(group)


def _paths(model: Any, prefix: str = "") -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields each innermost layer with its path and the paths of the nested models around it."""
    for layer in model.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model):
            yield from ((((path, *around)), inner) for around, inner in _paths(layer, f"{path}/"))
        else:
            yield (path,), layer


def _chosen(group: Sequence[Any], paths: Sequence[tuple[tuple[str, ...], Any]]) -> list[Any]:
    members = [member for member in group if not isinstance(member, str)]
    patterns = [_compiled(member) for member in group if isinstance(member, str)]
    for pattern in patterns:
        if not any(_matches(pattern, path) for path, _ in paths):
            shown = ", ".join(path[-1] for path, _ in paths[:5])
            raise InvalidValueError(
                f"Every pattern must match a layer's whole path. Received: pattern '{pattern.pattern}', which matches "
                f"none of the {len(paths)} layers ({shown}, …). End it in '.*' to match what begins so."
            )
    return members + [layer for path, layer in paths if any(_matches(pattern, path) for pattern in patterns)]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidValueError(
            f"A layer pattern must be a regular expression. Received: pattern '{pattern}' ({error}). "
            "Escape special characters with a backslash."
        ) from error


def _matches(pattern: re.Pattern[str], paths: Sequence[str]) -> bool:
    return any(pattern.fullmatch(path) for path in paths)


def _check_each_once(paths: Sequence[tuple[tuple[str, ...], Any]], groups: Sequence[Sequence[Any]]) -> None:
    owners: dict[int, set[int]] = {}
    for group, members in enumerate(groups):
        for weight in (weight for member in members for weight in member_weights(member)):
            owners.setdefault(id(weight), set()).add(group)
    for path, layer in paths:
        for weight in member_weights(layer):
            found = sorted(owners.get(id(weight), ()))
            if len(found) != 1:
                where = f"groups {found}" if found else f"none of the {len(groups)} groups"
                raise InvalidValueError(
                    f"Every layer with weights must be in exactly one group. Received: layer '{path[-1]}' "
                    f"with variable '{weight.path}', in {where}. Change the patterns."
                )
