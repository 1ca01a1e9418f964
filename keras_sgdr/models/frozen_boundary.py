"""Cuts a model at its frozen boundary, into a body that cannot learn and a rest that can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras

from keras_sgdr.models.graph import Step, steps_of
from keras_sgdr.validation import InvalidValueError

# The last body of each model: what predicts with it is traced, which takes seconds, once.
_BODIES: WeakKeyDictionary[keras.Model, tuple[tuple[int, ...], keras.Model]] = WeakKeyDictionary()


def split_at_frozen_boundary(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Cuts a model into its frozen body and its trainable rest, which share their layers with it.

    `rest(body(images))` is `model(images)`, and what the rest learns is in the model at once. The cut is at the
    smallest tensor between the last frozen and the first trainable layer; a dropout there belongs to the rest, so that
    it goes on dropping. Randomness further inside the body, such as EfficientNet-B0's stochastic depth, is inactive.

    Args:
        model: A functional or sequential model with frozen layers, for instance after `freeze_to(model, -1)`.

    Returns:
        The body, the same one as before if the model was cut there already, and the rest, not compiled. Where no single
        tensor carries everything (between NASNet's cells, or inside a residual block), the body returns, and the rest
        takes, a list of tensors.

    Raises:
        ValueError: If nothing is frozen before the first trainable layer, or nothing is trainable.
    """
    steps = steps_of(model)
    frontier = tuple(steps[_boundary(steps)].frontier)
    cut, body = _BODIES.get(model, (None, None))
    if cut != frontier or body is None:
        features = _alone([steps[position].operation.output for position in frontier])
        # Not `model.input`, which a sequential model does not have before it is called.
        body = keras.Model(_alone(model.inputs), features, name=f"{model.name}_body")
        _BODIES[model] = frontier, body
    return body, keras.Model(body.output, _alone(model.outputs), name=f"{model.name}_rest")


def _alone(tensors: Sequence[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else list(tensors)


def _boundary(steps: Sequence[Step]) -> int:
    """The position after which to cut."""
    learning = [position for position, step in enumerate(steps) if _learns(step)]
    if not learning:
        raise InvalidValueError(
            "`model` must have trainable layers. Received: a model with none. Call `freeze_to(model, -1)` first."
        )
    frozen = [position for position, step in enumerate(steps[: learning[0]]) if getattr(step.operation, "weights", ())]
    if not frozen:
        raise InvalidValueError(
            "`model` must have frozen layers before its first trainable one. Received: a model whose first layer with "
            f"weights, {steps[learning[0]].name!r}, is trainable. Call `freeze_to(model, -1)` first."
        )
    end = next(
        (position for position in range(frozen[-1] + 1, learning[0]) if _is_random(steps[position])), learning[0]
    )
    places = [position for position in range(frozen[-1], end) if steps[position].frontier]
    if not places:
        # A frozen layer is called again further on: cut before its first call, where nothing has been missed but time.
        places = [max(position for position in range(frozen[-1]) if steps[position].frontier)]
    return min(places, key=lambda position: (len(steps[position].frontier), _size(steps, position), -position))


def _learns(step: Step) -> bool:
    layer = step.operation
    if not isinstance(layer, keras.layers.Layer):
        return False
    # A norm without scale and offset has nothing to train, yet its statistics move.
    return bool(layer.trainable_variables) or (isinstance(layer, keras.layers.BatchNormalization) and layer.trainable)


def _is_random(step: Step) -> bool:
    """Whether the layer draws random numbers: the state of its generator is a variable, but not a weight."""
    layer = step.operation
    return isinstance(layer, keras.layers.Layer) and len(layer.variables) > len(layer.weights)


def _size(steps: Sequence[Step], position: int) -> int:
    """The number of values to keep for one image."""
    return sum(math.prod(side or 1 for side in steps[source].shape[1:]) for source in steps[position].frontier)
