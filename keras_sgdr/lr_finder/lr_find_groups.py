"""One learning-rate curve per layer group: `lr_find_groups`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.lr_finder.lr_find import lr_find
from keras_sgdr.optimizers.access import optimizer_chain
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.validation import InvalidTypeError, InvalidValueError


@dataclass(frozen=True)
class GroupCurves:
    """What the finder measured for each layer group.

    Attributes:
        curves: One `LRCurve` per group, in the groups' order, the head last.
    """

    curves: tuple[LRCurve, ...]

    def suggest(self, method: str = "valley") -> list[float]:
        """Returns each group's rate by one rule, for `DifferentialLR(optimizer, groups, rates)`.

        Args:
            method: See `LRCurve.suggest`.

        Raises:
            ValueError: If a group's curve cannot be read; the message names the group and says what to try.
        """
        rates = []
        for group, curve in enumerate(self.curves):
            try:
                rates.append(curve.suggest(method))
            except InvalidValueError as error:
                raise InvalidValueError(f"Every group's curve must have an answer; group {group}: {error}") from error
        return rates

    def plot(self) -> Any:
        """Returns a matplotlib figure: the smoothed losses of every group over its rate."""
        from keras_sgdr.plots import plot_group_curves

        return plot_group_curves([(curve.learning_rates, curve.smoothed_losses) for curve in self.curves])


def lr_find_groups(model: Any, dataset: Any, **options: Any) -> GroupCurves:
    """Runs the learning-rate finder once for each layer group, and leaves no trace of it.

    Each group alone is trained over the whole range while the others stay as they are, at rate 0: if they were
    trained too, at whatever rate, every curve would fall by what they learn. So it shows what one group can bear, and
    the rates together may be a little high: take them as bounds, or as ratios. All groups see the same batches.

    Args:
        model: A compiled and built model whose optimizer is a `DifferentialLR`, or holds one.
        dataset: See `lr_find`.
        options: What else `lr_find` takes, by name.

    Returns:
        The `GroupCurves`; that of a group whose layers are frozen is flat.

    Raises:
        TypeError: If the model's optimizer knows of no groups, or `dataset` is an iterator.
        ValueError: If an option is out of its range.

    Example:
        ```python
        curves = lr_find_groups(model, dataset)
        rates = curves.suggest("valley")
        ```
    """
    optimizer = next((each for each in optimizer_chain(model.optimizer) if isinstance(each, DifferentialLR)), None)
    if optimizer is None:
        raise InvalidTypeError(
            "`model` must be compiled with a DifferentialLR, whose groups are taken. Received: "
            f"{type(model.optimizer).__name__}. Compile with DifferentialLR(optimizer, groups, multipliers=[1, ...])."
        )
    curves = []
    for group in range(len(optimizer.multipliers)):
        with optimizer.only(group), _own_train_function(model):
            curves.append(lr_find(model, dataset, **options))
    return GroupCurves(tuple(curves))


@contextmanager
def _own_train_function(model: Any) -> Iterator[None]:
    """A step compiled for the block alone: the ratios of the groups are constants of it."""
    before, model.train_function = model.train_function, None
    try:
        yield
    finally:
        model.train_function = before
