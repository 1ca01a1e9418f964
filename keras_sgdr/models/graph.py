"""The layers of a functional model in the order of the computation, and the places where it can be cut in two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from keras_sgdr.validation import InvalidValueError


class Step(NamedTuple):
    """One layer (or bare operation) of a model.

    Attributes:
        operation: The layer.
        sources: The positions of the steps it reads.
        frontier: The positions, up to and with its own, whose outputs are still to be read by later steps or from
            outside; one position if the model can be cut here with a single tensor. Empty if it cannot be cut here at
            all, because a layer on this side is called again on the other.
    """

    operation: Any
    sources: tuple[int, ...]
    frontier: tuple[int, ...]

    @property
    def name(self) -> str:
        """The layer's name, unique in the model."""
        return self.operation.name

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the output, of the first one if there are several."""
        output = self.operation.output
        return tuple((output[0] if isinstance(output, list) else output).shape)


def steps_of(model: keras.Model) -> list[Step]:
    """Lists the steps of a functional or sequential model, every step after those it reads.

    Only the model's own layers are listed: a model inside the model is one step.

    Args:
        model: The model, built.

    Returns:
        One step per layer or operation.

    Raises:
        ValueError: If the model is neither functional nor sequential, or not built.
    """
    operations, sources, outputs = _edges(model)
    positions = {operation.name: index for index, operation in enumerate(operations)}
    edges = [(positions[source], positions[name]) for name in positions for source in sources[name]]
    edges += [(positions[name], len(operations)) for name in outputs]
    frontiers = list(_frontiers(len(operations), edges))
    read = [tuple(positions[source] for source in sources[operation.name]) for operation in operations]
    return [Step(*fields) for fields in zip(operations, read, frontiers, strict=True)]


def leaves(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a model, those of models inside it too; a layer that is no model yields itself."""
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from leaves(inner)
    else:
        yield layer


def _edges(model: keras.Model) -> tuple[list[Any], dict[str, list[str]], list[str]]:
    """Reads the graph from the model's own config, the public description of it."""
    if isinstance(model, keras.Sequential) and model.built:
        names = [layer.name for layer in model.layers]
        return list(model.layers), {name: names[max(i - 1, 0) : i] for i, name in enumerate(names)}, names[-1:]
    try:
        config, operations = model.get_config(), list(model.operations)
        sources = {entry["name"]: list(_histories(entry["inbound_nodes"])) for entry in config["layers"]}
    except (AttributeError, KeyError, NotImplementedError, TypeError):
        raise InvalidValueError(
            f"`model` must be a built functional or sequential model. Received: model={model!r}. "
            "Build it with `keras.Model(inputs, outputs)` or `build_classifier`."
        ) from None
    return operations, sources, list(_output_names(config["output_layers"]))


def _histories(structure: Any) -> Iterator[str]:
    """Yields the names of the layers whose outputs occur in a part of the config."""
    if isinstance(structure, dict):
        if structure.get("class_name") == "__keras_tensor__":
            yield structure["config"]["keras_history"][0]
        else:
            for value in structure.values():
                yield from _histories(value)
    elif isinstance(structure, (list, tuple)):
        for value in structure:
            yield from _histories(value)


def _output_names(structure: Any) -> Iterator[str]:
    if isinstance(structure, dict):
        structure = list(structure.values())
    if structure and isinstance(structure[0], str):
        yield structure[0]
    else:
        for value in structure:
            yield from _output_names(value)


def _frontiers(length: int, edges: list[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    opening: list[list[tuple[int, int]]] = [[] for _ in range(length)]
    for source, reader in edges:
        opening[min(source, reader)].append((source, reader))
    crossing: set[tuple[int, int]] = set()
    for position in range(length):
        crossing = {edge for edge in crossing if max(edge) > position} | set(opening[position])
        # An edge that runs backwards leads to a layer which is called again: cutting here would call it on both sides.
        backwards = any(source > reader for source, reader in crossing)
        yield () if backwards else tuple(sorted({source for source, _ in crossing}))
