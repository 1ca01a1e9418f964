"""`LRCurve`: the losses that a learning-rate finder measured, and the rates that they suggest."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.lr_finder import suggestions
from keras_sgdr.validation import InvalidValueError, require

Floats = NDArray[np.float64]

METHODS = ("valley", "slide", "steep", "minimum", "inflection", "divergence")
SKIPPED_AT_END = 5
FEWEST_POINTS = 8
LEAST_FALL = 0.01
# In the finder a rate lasts for one batch: what holds that long may diverge in a training.
DIVERGENCE_MARGIN = 1.5


def debiased_average(losses: Iterable[float], *, smoothing: float) -> Floats:
    """Exponentially weighted average of what came so far, without the pull toward zero at the start.

    `average[i] = smoothing * average[i - 1] + (1 - smoothing) * losses[i]`, divided by `1 - smoothing**(i + 1)`.
    """
    average, smoothed = 0.0, []
    for i, loss in enumerate(losses):
        average = smoothing * average + (1 - smoothing) * float(loss)
        smoothed.append(average / (1 - smoothing ** (i + 1)))
    return np.array(smoothed, dtype=float)


@dataclass(frozen=True, eq=False)
class LRCurve:
    """The loss of each batch over the rate with which the finder trained it.

    Args:
        learning_rates: The rates, rising, > 0. Shape `(n,)`.
        losses: The loss of each batch alone, before its update. Shape `(n,)`. The last may be NaN or infinite.
        smoothing: Weight of the past in the smoothed losses, in [0, 1); 0 smooths nothing.
        validation_losses: The loss on one fixed validation batch after each update, shape `(n,)`, or None.
        guessing_loss: The loss of answering without a look at the input, or None. The finder sets it to `log(classes)`
            for a cross-entropy; that of the classes' shares is more exact.
        repeats: The curves whose mean this is, or none.
        state_digest: SHA-256 of all variables, before and after, where `lr_find` has verified that they are the same.

    Attributes:
        smoothed_losses: Debiased exponential average of `losses`, shape `(n,)`.

    Raises:
        ValueError: If the rates do not rise, the shapes differ, or `smoothing` is out of range.

    Reference:
        Smith, https://arxiv.org/abs/1506.01186; fastai 2.8 for the smoothing and the rules of `suggest`.
    """

    learning_rates: Floats
    losses: Floats
    smoothing: float = 0.98
    validation_losses: Floats | None = None
    guessing_loss: float | None = None
    repeats: tuple[LRCurve, ...] = ()
    state_digest: str | None = None
    smoothed_losses: Floats = field(init=False)

    def __post_init__(self) -> None:
        require(0 <= self.smoothing < 1, "`smoothing` must be in [0, 1)", smoothing=self.smoothing)
        for name in ("learning_rates", "losses", "validation_losses"):
            if getattr(self, name) is not None:
                self._set(name, np.asarray(getattr(self, name), dtype=float))
        self._check_shapes()
        self._set("smoothed_losses", debiased_average(self.losses, smoothing=self.smoothing))

    def __repr__(self) -> str:
        rates, losses = self.learning_rates, self.smoothed_losses
        ends = f"{rates[0]:.3g} to {rates[-1]:.3g}"
        return f"<LRCurve: {len(rates)} batches, rates {ends}, smoothed losses {losses[0]:.4g} to {losses[-1]:.4g}>"

    def suggest(self, method: str = "valley") -> float:
        """Returns the rate that one rule reads off the smoothed losses.

        The first tenth of the points and the last five are not looked at, nor losses that are not finite.

        Args:
            method: One of

                - `"valley"`: half way along the longest fall of the loss. Robust; the default of fastai.
                - `"minimum"`: a tenth of the rate with the lowest loss, the course's own rule.
                - `"steep"`: where the loss falls fastest over the rate's logarithm.
                - `"slide"`: where, from the right, the slope first stops changing over 15 points. Cautious.
                - `"divergence"`: two thirds of the rate from which on the batches' losses stay over `guessing_loss`,
                  and over the noise that the curve begins with. For a network that has learnt already: its losses are
                  noise around a level until it forgets everything, and the other rules read the noise. Needs
                  `guessing_loss`.
                - `"inflection"`: the lowest central difference of the losses, as torch-lr-finder has it.

        Returns:
            A learning rate, a float; of a curve with `repeats` the median of theirs.

        Raises:
            ValueError: If `method` is unknown, or if the curve holds no answer: it is too short, flat, rises from the
                start, or falls by less than it scatters; the message says what to try.
        """
        require(method in METHODS, f"`method` must be one of {METHODS}", method=method)
        if self.repeats:
            return self._consensus(method)
        if method == "divergence":
            return self.diverges_at() / DIVERGENCE_MARGIN
        rates, losses = self._looked_at()
        self._check_readable(losses, fewest=suggestions.SLIDE_WINDOW + 1 if method == "slide" else FEWEST_POINTS)
        if method == "steep":
            return float(rates[suggestions.steepest_index(rates, losses)])
        if method == "minimum":
            return float(rates[suggestions.minimum_index(losses)]) / 10
        return float(rates[getattr(suggestions, f"{method}_index")(losses)])

    def diverges_at(self) -> float:
        """Returns the rate from which on the batches' losses stay over what guessing costs.

        Compared are medians of five losses, with `guessing_loss` or, where that is higher, with twice the median of the
        curve's first tenth.

        Raises:
            ValueError: If the curve has no `guessing_loss`, is too short, or its losses are not over it for good; the
                message says what to try.
        """
        if self.guessing_loss is None:
            raise InvalidValueError(
                "`guessing_loss` must be known for 'divergence'. Received: guessing_loss=None. Give the curve that of "
                "your data, `dataclasses.replace(curve, guessing_loss=…)`: for classes, the entropy of their shares."
            )
        self._check_length(self.losses, fewest=FEWEST_POINTS)
        first = suggestions.divergence_index(self.losses, self.guessing_loss)
        if first is None:
            raise InvalidValueError(
                f"The loss must stay over its start and over a guess's {self.guessing_loss:.4g} at the end; it has not "
                f"diverged. Received: {self.losses[-1]:.4g} at {self.learning_rates[-1]:.1e}. Use a larger `end_lr`."
            )
        if first < FEWEST_POINTS:
            raise InvalidValueError(
                f"The loss must be calm before it rises; it diverged at once. Received: {self.losses[0]:.4g} at "
                f"{self.learning_rates[0]:.1e}, {self.losses[first]:.4g} at {self.learning_rates[first]:.1e}. Use a "
                "lower `start_lr`."
            )
        return float(self.learning_rates[first])

    def suggestions(self) -> dict[str, float]:
        """Returns what every rule suggests, in the order of `METHODS`; empty if the curve cannot be read."""
        found = {}
        for method in METHODS:
            try:
                found[method] = self.suggest(method)
            except InvalidValueError:
                continue
        return found

    def plot(self) -> Any:
        """Returns a matplotlib figure: the losses, raw and smoothed, over the rates, with every suggestion marked."""
        from keras_sgdr.plots import plot_lr_curve

        return plot_lr_curve(
            self.learning_rates,
            self.losses,
            self.smoothed_losses,
            suggestions=self.suggestions(),
            validation_losses=self.validation_losses,
            guessing_loss=self.guessing_loss,
            band=self._band(),
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the columns learning_rate, loss, smoothed_loss (and validation_loss), one row for each batch."""
        columns: dict[str, ArrayLike] = {
            "learning_rate": self.learning_rates,
            "loss": self.losses,
            "smoothed_loss": self.smoothed_losses,
        }
        if self.validation_losses is not None:
            columns["validation_loss"] = self.validation_losses
        with atomic_write(path) as aside, aside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(np.stack([np.asarray(column) for column in columns.values()], axis=1).tolist())

    def _consensus(self, method: str) -> float:
        """The median, over the rate's logarithm, of what more than half of the repeats suggest."""
        rates, error = [], None
        for curve in self.repeats:
            try:
                rates.append(dataclasses.replace(curve, guessing_loss=self.guessing_loss).suggest(method))
            except ValueError as unreadable:
                error = unreadable
        if error is not None and 2 * len(rates) <= len(self.repeats):
            raise error
        return float(np.exp(np.median(np.log(rates))))

    def _band(self) -> tuple[Floats, Floats] | None:
        if not self.repeats:
            return None
        smoothed = np.stack([curve.smoothed_losses[: len(self.losses)] for curve in self.repeats])
        return smoothed.min(axis=0), smoothed.max(axis=0)

    def _set(self, name: str, value: Floats) -> None:
        object.__setattr__(self, name, value)

    def _check_shapes(self) -> None:
        shape = self.learning_rates.shape
        if len(shape) != 1 or self.losses.shape != shape or not np.all(np.diff(self.learning_rates, prepend=0) > 0):
            raise InvalidValueError(
                "`learning_rates` and `losses` must be of one shape `(n,)`, the rates > 0 and rising. Received: "
                f"learning_rates of shape {shape}, losses of shape {self.losses.shape}."
            )
        if self.validation_losses is not None and self.validation_losses.shape != shape:
            raise InvalidValueError(
                f"`validation_losses` must have the shape of `losses`, {shape}. Received: validation_losses of shape "
                f"{self.validation_losses.shape}."
            )

    @property
    def _window(self) -> slice:
        count = len(self.losses)
        return slice(count // 10, max(0, count - SKIPPED_AT_END))

    def _looked_at(self) -> tuple[Floats, Floats]:
        rates, losses = self.learning_rates[self._window], self.smoothed_losses[self._window]
        finite = np.isfinite(losses)
        return rates[finite], losses[finite]

    def _scatter(self) -> float:
        """The usual difference of two consecutive losses; 0 for a curve that is taken as it is, without smoothing."""
        losses = self.losses[self._window]
        losses = losses[np.isfinite(losses)]
        return float(np.median(np.abs(np.diff(losses)))) if self.smoothing else 0.0

    def _check_length(self, losses: Floats, *, fewest: int) -> None:
        if len(losses) < fewest:
            raise InvalidValueError(
                f"The curve must have at least {fewest} points to look at; it is too short. Received: "
                f"{len(self.losses)} points, of which {len(losses)} can be looked at. Use a larger "
                "`num_steps`, or a lower `start_lr` if the loss diverged early."
            )

    def _check_readable(self, losses: Floats, *, fewest: int) -> None:
        self._check_length(losses, fewest=fewest)
        received = f"Received: {len(self.losses)} points, of which {len(losses)} can be looked at."
        first, lowest, last = losses[0], losses.min(), losses[-1]
        least, scatter = LEAST_FALL * abs(first), self._scatter()
        if first - lowest >= max(least, scatter):
            return
        if first - lowest >= least:
            raise InvalidValueError(
                "The loss must fall by more than it scatters from batch to batch; it falls by "
                f"{first - lowest:.4g} and scatters by {scatter:.4g}. {received} A network that has learnt already "
                "shows no fall: 'divergence' tells how high its rate may be."
            )
        if last - first >= least:
            raise InvalidValueError(
                f"The loss must fall before it rises; it diverged at once, from {first:.4g} to {last:.4g}. {received} "
                f"Use a `start_lr` well below {self.learning_rates[0]:.1e}."
            )
        raise InvalidValueError(
            f"The loss must change with the rate; it is flat, {lowest:.4g} to {losses.max():.4g}. {received} Use an "
            f"`end_lr` above {self.learning_rates[-1]:.1e}, and check that layers are trainable and the labels right."
        )


def mean_curve(curves: Sequence[LRCurve]) -> LRCurve:
    """The mean of curves over the same rates, as far as the shortest goes."""
    count = min(len(curve.losses) for curve in curves)

    def mean(arrays: Sequence[Floats]) -> Floats:
        return np.asarray(np.mean([array[:count] for array in arrays], axis=0))

    validation = [curve.validation_losses for curve in curves if curve.validation_losses is not None]
    return LRCurve(
        curves[0].learning_rates[:count],
        mean([curve.losses for curve in curves]),
        smoothing=curves[0].smoothing,
        validation_losses=mean(validation) if validation else None,
        guessing_loss=curves[0].guessing_loss,
        repeats=tuple(curves),
    )
