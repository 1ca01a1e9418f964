"""Learning rates and weight decays of layer groups, from a few numbers."""

import math
import numbers
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from keras_sgdr.optimizers.access import has_settable_rate
from keras_sgdr.validation import InvalidTypeError, InvalidValueError, require, require_integer, require_numbers

LAST_GROUP_FACTOR = 10.0  # fastai 2: `slice(b)` trains every group but the last at b / 10
_BIASES_AND_NORMS = ("bias", "gamma", "beta", "scale")
ULMFIT_FACTOR = 2.6  # Howard and Ruder, 2018, section 3.2


def geometric_rates(low: float, high: float, *, num_groups: int) -> list[float]:
    """Returns rates that grow by one constant factor, from the first group's to the last group's.

    `rate[g] = low * (high / low) ** (g / (num_groups - 1))`

    Args:
        low: Rate of the first (earliest) group, above 0.
        high: Rate of the last group (the head), above 0. The only group's, if there is one.
        num_groups: Number of layer groups, 1 or more.

    Returns:
        `num_groups` floats, the ends exact.

    Raises:
        TypeError: If a rate is no number.
        ValueError: If a rate is not above 0, or `num_groups` not a positive integer.

    Example:
        ```pycon
        >>> geometric_rates(1e-5, 1e-3, num_groups=3)
        [1e-05, 0.0001, 0.001]
        ```

    Reference:
        fastai 2, `slice(low, high)`.
    """
    _check_positive("low", low)
    _check_positive("high", high)
    require_integer("num_groups", num_groups)
    if num_groups == 1:
        return [float(high)]
    inner = [low * (high / low) ** (group / (num_groups - 1)) for group in range(1, num_groups - 1)]
    return [float(low), *inner, float(high)]


def discounted_rates(top: float, *, num_groups: int, factor: float = ULMFIT_FACTOR) -> list[float]:
    """Returns rates of which each is `factor` times lower than the next group's.

    `rate[g] = top / factor ** (num_groups - 1 - g)`

    Args:
        top: Rate of the last group (the head), above 0.
        num_groups: Number of layer groups, 1 or more.
        factor: How many times lower than the next group's each group's rate is, above 0. The fast.ai course recommends
            3 to 10; `1 / 0.75` is what others call a layer decay of .75.

    Returns:
        `num_groups` floats, the last one exactly `top`.

    Raises:
        TypeError: If `top` or `factor` is no number.
        ValueError: If `top` or `factor` is not above 0, or `num_groups` not a positive integer.

    Example:
        ```pycon
        >>> discounted_rates(1e-2, num_groups=3, factor=10)
        [0.0001, 0.001, 0.01]
        ```

    Reference:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018.
    """
    _check_positive("top", top)
    _check_positive("factor", factor)
    require_integer("num_groups", num_groups)
    return [top / factor**depth for depth in reversed(range(num_groups))]


def rates_per_group(learning_rates: float | slice | Sequence[float], *, num_groups: int) -> list[float]:
    """Returns one rate per group from any of the ways to write them.

    Args:
        learning_rates: A float (the same rate for every group), a sequence with one rate per group,
            `slice(low, high)` (geometric from the first group to the last), or `slice(high)`
            (`high` for the last group, `high / 10` for all others).
        num_groups: Number of layer groups.

    Returns:
        `num_groups` floats >= 0, the last one above 0.

    Raises:
        TypeError: If they are no numbers in an order.
        ValueError: If there are more or fewer rates than groups, or a rate is out of range.

    Reference:
        fastai 2, whose `slice` has this meaning.
    """
    require_integer("num_groups", num_groups)
    if isinstance(learning_rates, slice):
        return _slice_rates(learning_rates, num_groups)
    if isinstance(learning_rates, numbers.Real):
        _check_positive("learning_rates", learning_rates)
        return [float(learning_rates)] * num_groups
    rates = one_per_group("learning_rates", learning_rates, num_groups=num_groups)
    if not rates[-1] > 0:
        raise InvalidValueError(
            "`learning_rates` must end with a rate above 0, to which all others are in proportion. "
            f"Received: learning_rates={rates}. Freeze the last group's layers instead."
        )
    return rates


def one_per_group(name: str, values: Any, *, num_groups: int) -> list[float]:
    """Returns the values as floats, checked.

    Raises:
        TypeError: If they are no numbers in an order.
        ValueError: If there is not one finite value >= 0 per group.
    """
    try:
        given = None if isinstance(values, str | Set | Mapping) else list(values)
        floats = None if given is None else [float(value) for value in given]
    except (TypeError, ValueError):
        floats = None
    if floats is None:
        raise InvalidTypeError(f"`{name}` must be numbers, one per layer group. Received: {name}={values!r}.")
    if len(floats) != num_groups:
        raise InvalidValueError(
            f"`{name}` must have one value per layer group, {num_groups} here. "
            f"Received: {name}={given}, {len(floats)} values. "
            "The first value is for the earliest layers, the last one for the head."
        )
    if not all(0 <= value < math.inf for value in floats):
        raise InvalidValueError(f"`{name}` must be finite and >= 0. Received: {name}={given}.")
    return floats


@dataclass(frozen=True)
class GroupSettings:
    """One value per layer group, and what holds for all.

    Attributes:
        multipliers: Each group's learning rate as a multiple of the optimizer's.
        weight_decays: Each group's own weight decay; None for the optimizer's.
        decay_biases_and_norms: Whether biases and the weights of normalization layers are decayed.
    """

    multipliers: tuple[float, ...]
    weight_decays: tuple[float, ...] | None
    decay_biases_and_norms: bool

    def leaves_undecayed(self, weight: Any) -> bool:
        """Returns whether `weight` is a bias or a norm's, and those are to be left out of the weight decay."""
        if self.decay_biases_and_norms:
            return False
        return len(weight.shape) <= 1 or weight.path.rpartition("/")[2] in _BIASES_AND_NORMS


def own_decays(weight_decays: Sequence[float] | None, *, num_groups: int) -> tuple[float, ...] | None:
    """Returns the decays as floats, checked.

    Raises:
        TypeError: If they are no numbers in an order.
        ValueError: If there is not one finite value >= 0 per group.
    """
    if weight_decays is None:
        return None
    return tuple(one_per_group("weight_decays", weight_decays, num_groups=num_groups))


def top_rate_and_multipliers(
    inner_optimizer: Any,
    learning_rates: float | slice | Sequence[float] | None,
    multipliers: Sequence[float] | None,
    *,
    num_groups: int,
) -> tuple[float | None, tuple[float, ...]]:
    """Returns the last group's rate (None for the inner optimizer's own) and each group's multiple of it.

    Raises:
        TypeError: If they are no numbers in an order.
        ValueError: If not exactly one of `learning_rates` and `multipliers` is given, if it has not one value per
            group, or if rates are given beside a schedule, which sets them.
    """
    if learning_rates is None and multipliers is not None:
        return None, tuple(one_per_group("multipliers", multipliers, num_groups=num_groups))
    if learning_rates is None or multipliers is not None:
        raise InvalidValueError(
            "Exactly one of `learning_rates` and `multipliers` must be given. "
            f"Received: learning_rates={learning_rates}, multipliers={multipliers}."
        )
    rates = rates_per_group(learning_rates, num_groups=num_groups)
    if not has_settable_rate(inner_optimizer):
        raise InvalidValueError(
            "`learning_rates` must be left out if a schedule inside sets the last group's. "
            f"Received: learning_rates={rates}, a schedule or function inside. "
            f"Give the ratios: multipliers={[rate / rates[-1] for rate in rates]}."
        )
    return rates[-1], tuple(rate / rates[-1] for rate in rates)


def _slice_rates(rates: slice, num_groups: int) -> list[float]:
    if rates.step is not None or rates.stop is None:
        raise InvalidValueError(
            "`learning_rates` must be slice(high) or slice(low, high), without a step. "
            f"Received: learning_rates={rates}. Write slice(1e-5, 1e-3)."
        )
    if rates.start is None:
        _check_positive("learning_rates", rates.stop)
        return [rates.stop / LAST_GROUP_FACTOR] * (num_groups - 1) + [float(rates.stop)]
    return geometric_rates(rates.start, rates.stop, num_groups=num_groups)


def _check_positive(name: str, value: Any) -> None:
    require_numbers(**{name: value})
    require(0 < value < math.inf, f"`{name}` must be finite and above 0", **{name: value})
