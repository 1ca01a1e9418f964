"""What is in each layer group, and what of it will be trained, at which rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import keras

from keras_sgdr.models.layer_groups import layer_groups


@dataclasses.dataclass(frozen=True)
class GroupSummary:
    """One layer group in numbers.

    Attributes:
        first: The name of its first layer that has weights.
        last: The name of its last layer that has weights.
        num_layers: How many layers have weights.
        parameters: How many numbers its weights are, statistics of norms included.
        trainable: How many of them are trained now.
        learning_rate: The rate they are trained at, if rates were given.
    """

    first: str
    last: str
    num_layers: int
    parameters: int
    trainable: int
    learning_rate: float | None


def group_summaries(
    model: keras.Model, *, num_groups: int = 3, learning_rates: Sequence[float] | None = None
) -> list[GroupSummary]:
    """Counts layers, parameters and trainable parameters of each layer group.

    Args:
        model: A functional or sequential model.
        num_groups: The number of groups, as in `layer_groups`.
        learning_rates: One rate per group, for instance `optimizer.learning_rates` of a `DifferentialLR`.

    Returns:
        One record per group, the head last.

    Raises:
        ValueError: If there are not as many rates as groups.
    """
    groups = layer_groups(model, num_groups=num_groups)
    rates = [None] * num_groups if learning_rates is None else [float(rate) for rate in learning_rates]
    if len(rates) != num_groups:
        raise ValueError(
            f"`learning_rates` must be one rate for each of {num_groups} groups. Received: learning_rates={rates}."
        )
    return [_summary(group, rate) for group, rate in zip(groups, rates, strict=True)]


def summary(model: keras.Model, *, num_groups: int = 3, learning_rates: Sequence[float] | None = None) -> str:
    """Describes the layer groups of a model as a table of text.

    Args:
        model: A functional or sequential model.
        num_groups: The number of groups, as in `layer_groups`.
        learning_rates: One rate per group.

    Returns:
        A headline and one line per group: its number, first and last layer, and what `GroupSummary` counts.

    Example:
        >>> print(summary(model, learning_rates=[1e-5, 1e-4, 1e-3]))
    """
    rows = [("group", "layers", "from", "to", "parameters", "trainable", "rate")]
    for number, group in enumerate(group_summaries(model, num_groups=num_groups, learning_rates=learning_rates)):
        rate = "-" if group.learning_rate is None or not group.trainable else f"{group.learning_rate:.2e}"
        counts = (f"{group.parameters:,}", f"{group.trainable:,}")
        rows.append((str(number), str(group.num_layers), group.first, group.last, *counts, rate))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _summary(group: Sequence[keras.layers.Layer], rate: float | None) -> GroupSummary:
    named = [layer.name for layer in group if layer.weights]
    return GroupSummary(
        first=named[0],
        last=named[-1],
        num_layers=len(named),
        parameters=sum(math.prod(weight.shape) for layer in group for weight in layer.weights),
        trainable=sum(math.prod(weight.shape) for layer in group for weight in layer.trainable_weights),
        learning_rate=rate,
    )
