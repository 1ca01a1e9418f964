"""The table that `DifferentialLR.summary` prints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_HEADINGS = ("group", "layer", "weights", "values", "learning rate", "weight decay", "trained")


@dataclass(frozen=True)
class WeightRow:
    """One weight in the table.

    Attributes:
        group: Index of its layer group.
        path: Its path; what comes before the last name is taken for its layer's.
        size: Number of values.
        learning_rate: The rate at which it is trained now.
        weight_decay: Its decay, relative to the rate; None if it is not decayed.
        trained: Whether it is trained at present.
    """

    group: int
    path: str
    size: int
    learning_rate: float
    weight_decay: float | None
    trained: bool

    @property
    def layer(self) -> str:
        """The layer's path; of a single variable its own."""
        return self.path.rpartition("/")[0] or self.path


def rate_table(rows: Sequence[WeightRow], *, per_layer: bool = True) -> str:
    """Returns the table as text: a line for each group and, if wished, for each of its layers.

    Args:
        rows: The weights, group by group.
        per_layer: False for the groups alone.
    """
    lines: list[tuple[str, ...]] = [_HEADINGS]
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        layers = list(dict.fromkeys(row.layer for row in members))
        lines.append((str(group), f"{len(layers)} layer" + "s" * (len(layers) != 1), *_cells(members)))
        if per_layer:
            lines += [("", layer, *_cells(row for row in members if row.layer == layer)) for layer in layers]
    lines.append(("all", "", *_cells(rows)))
    return _aligned(lines)


def _cells(rows: Iterable[WeightRow]) -> tuple[str, ...]:
    rows = list(rows)
    return (
        str(len(rows)),
        f"{sum(row.size for row in rows):,}",
        _range(row.learning_rate for row in rows),
        _decays([row.weight_decay for row in rows]),
        {1.0: "yes", 0.0: "no"}.get(sum(row.trained for row in rows) / len(rows), "in part"),
    )


def _range(values: Iterable[float]) -> str:
    distinct = sorted(set(values))
    return f"{distinct[0]:.4g}" if len(distinct) == 1 else f"{distinct[0]:.4g} to {distinct[-1]:.4g}"


def _decays(decays: Sequence[float | None]) -> str:
    used = [decay for decay in decays if decay is not None]
    if not used:
        return "none"
    return _range(used) + ("" if len(used) == len(decays) else ", in part")


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rows[0], "-" * len(rows[0]), *rows[1:-1], "-" * len(rows[0]), rows[-1]])
