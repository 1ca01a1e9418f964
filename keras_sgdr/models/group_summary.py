"""The table of layer groups: their layers, which of them are trained, and at which rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras

from keras_sgdr.models.layer_groups import layer_groups
from keras_sgdr.validation import InvalidValueError

_HEADINGS = ("group", "layer", "weights", "values", "learning rate", "weight decay", "trained")


@dataclass(frozen=True)
class WeightRow:
    """One weight in the table.

    Attributes:
        group: Index of its layer group.
        path: Its path; the part before the last name is taken for the layer's.
        size: Number of values.
        learning_rate: The rate at which it is trained now; None if it is not known.
        weight_decay: Its decay, relative to the rate; None if it is not decayed.
        trained: Whether it is trained at present.
    """

    group: int
    path: str
    size: int
    learning_rate: float | None
    weight_decay: float | None
    trained: bool

    @property
    def layer(self) -> str:
        """The layer's path; of a single variable its own."""
        return self.path.rpartition("/")[0] or self.path


def group_summary(
    model: keras.Model,
    *,
    num_groups: int = 3,
    learning_rates: Sequence[float] | None = None,
    per_layer: bool = False,
) -> str:
    """Returns a table of the layer groups of a model, the one that `DifferentialLR.summary` prints.

    Args:
        model: A functional or sequential model.
        num_groups: The number of groups, as in `layer_groups`.
        learning_rates: One rate per group, for instance `optimizer.learning_rates` of a `DifferentialLR`.
        per_layer: True for a line for each layer too.

    Returns:
        A line for each group, the head last: its layers, weights and values (statistics of norms included), its rate,
        and whether it is trained: yes, no or in part.

    Raises:
        ValueError: If there are not as many rates as groups.

    Example:
        ```python
        print(group_summary(model, learning_rates=[1e-5, 1e-4, 1e-3]))
        ```
    """
    rates = [None] * num_groups if learning_rates is None else [float(rate) for rate in learning_rates]
    if len(rates) != num_groups:
        raise InvalidValueError(
            f"`learning_rates` must be one rate for each of {num_groups} groups. Received: learning_rates={rates}."
        )
    groups = layer_groups(model, num_groups=num_groups)
    return rate_table(
        [
            WeightRow(number, f"{layer.name}/{weight.name}", math.prod(weight.shape), rate, None, weight.trainable)
            for number, (group, rate) in enumerate(zip(groups, rates, strict=True))
            for layer in group
            for weight in layer.weights
        ],
        per_layer=per_layer,
    )


def rate_table(rows: Sequence[WeightRow], *, per_layer: bool = True) -> str:
    """Returns a line for each group, as text, and for each of its layers.

    Args:
        rows: The weights, group by group.
        per_layer: False for the groups alone.
    """
    lines: list[tuple[str, ...]] = [_HEADINGS]
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        layers = list(dict.fromkeys(row.layer for row in members))
        lines.append((str(group), _range_of(layers), *_cells(members)))
        if per_layer:
            lines += [("", layer, *_cells(row for row in members if row.layer == layer)) for layer in layers]
    lines.append(("all", "", *_cells(rows)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    rule = "-" * len(text[0])
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])


def _range_of(layers: Sequence[str]) -> str:
    """Returns the first and the last of a group's layers, and how many there are."""
    return layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]} ({len(layers)} layers)"


def _cells(rows: Iterable[WeightRow]) -> tuple[str, ...]:
    rows = list(rows)
    return (
        str(len(rows)),
        f"{sum(row.size for row in rows):,}",
        _values([row.learning_rate for row in rows], "-"),
        _values([row.weight_decay for row in rows], "none"),
        {1.0: "yes", 0.0: "no"}.get(sum(row.trained for row in rows) / len(rows), "in part"),
    )


def _values(values: Sequence[float | None], nothing: str) -> str:
    """Returns the lowest and the highest of the values that are there."""
    distinct = sorted({value for value in values if value is not None})
    if not distinct:
        return nothing
    text = f"{distinct[0]:.4g}" if len(distinct) == 1 else f"{distinct[0]:.4g} to {distinct[-1]:.4g}"
    return text + (", in part" if None in values else "")
