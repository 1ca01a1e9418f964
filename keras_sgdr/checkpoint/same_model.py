"""What tells the model of a checkpoint from another, and refuses another."""

from __future__ import annotations

import itertools
from typing import Any

import keras

from keras_sgdr.optimizers.access import optimizer_chain
from keras_sgdr.validation import InvalidValueError


def description_of(model: Any) -> dict[str, Any]:
    """Returns what a checkpoint says of its model: optimizers with their groups, and the kinds of all variables."""
    variables = [_description(variable) for variable in lasting_variables(model)]
    return {"optimizers": _optimizers_of(model), "variables": variables}


def require_same_model(saved: Any, model: Any) -> None:
    """Refuses a model of which `description_of` says other than the checkpoint.

    Raises:
        ValueError: If that is so.
    """
    here = description_of(model)
    if not _agree(saved["optimizers"], here["optimizers"]):
        names, received = ([name for name, _ in each] for each in (saved["optimizers"], here["optimizers"]))
        others = " with other groups" if names == received else ""
        raise InvalidValueError(
            f"The optimizer must be the checkpoint's, {names}. Received: {received}{others}. "
            "Compile the model as it was."
        )
    before, now = saved["variables"], here["variables"]
    if before != now:
        pairs = itertools.zip_longest(before, now)
        differing = next(pair for pair in pairs if pair[0] != pair[1])
        raise InvalidValueError(
            f"The model and its optimizer must have the {len(before)} variables of the checkpoint. Received: "
            f"{len(now)} variables; the first that differs is {differing[1]}, in the checkpoint {differing[0]}. "
            "Make and compile the model as it was, with the same layers frozen."
        )


def lasting_variables(model: Any) -> list[Any]:
    """Returns the variables of the model and its optimizer, each once; not its metrics, which TensorFlow makes late."""
    every = [*model.variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in every}.values())


def _optimizers_of(model: Any) -> list[Any]:
    """Returns what tells slots from others of equal shapes: the optimizers' names, and their groups' places."""
    places = {id(variable): place for place, variable in enumerate(model.variables)}
    optimizers = []
    for optimizer in optimizer_chain(model.optimizer):
        # Keras's own name: a DifferentialLR's class is its own, and on PyTorch Adam's a private one.
        name = next(kind.__name__ for kind in type(optimizer).__mro__ if hasattr(keras.optimizers, kind.__name__))
        groups = getattr(optimizer, "weights_of_groups", [])
        optimizers.append([name, [[places.get(id(weight)) for weight in group] for group in groups]])
    return optimizers


def _agree(before: Any, now: Any) -> bool:
    """Returns whether two descriptions are one, as far as they go: a loaded optimizer has not seen all weights."""
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_agree, before, now))
    return before == now or before is None or now is None


def _description(variable: Any) -> str:
    # Not the path: layers are numbered through within a process, and optimizers put those names into their own.
    return f"{keras.backend.standardize_dtype(variable.dtype)}{tuple(variable.shape)}"
