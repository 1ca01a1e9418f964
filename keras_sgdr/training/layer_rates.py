"""One learning rate per layer group, from a few numbers."""

import math
import numbers
from collections.abc import Mapping, Sequence, Set
from typing import Any

from keras_sgdr.training.schedules import require_numbers

LAST_GROUP_FACTOR = 10.0  # fastai 2: `slice(b)` trains every group but the last at b / 10
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
        >>> geometric_rates(1e-5, 1e-3, num_groups=3)
        [1e-05, 0.0001, 0.001]

    Reference:
        fastai 2, `slice(low, high)`.
    """
    _check_positive("low", low)
    _check_positive("high", high)
    _check_num_groups(num_groups)
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
        factor: How many times lower than the next group's each group's rate is, above 0. The
            fast.ai course recommends 3 to 10.

    Returns:
        `num_groups` floats, the last one exactly `top`.

    Raises:
        TypeError: If `top` or `factor` is no number.
        ValueError: If `top` or `factor` is not above 0, or `num_groups` not a positive integer.

    Example:
        >>> discounted_rates(1e-2, num_groups=3, factor=10)
        [0.0001, 0.001, 0.01]

    Reference:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018.
    """
    _check_positive("top", top)
    _check_positive("factor", factor)
    _check_num_groups(num_groups)
    return [top / factor**depth for depth in reversed(range(num_groups))]


def layer_decay_rates(top: float, *, num_groups: int, decay: float = 0.75) -> list[float]:
    """Returns layer-wise decayed rates: each group's is `decay` times the next group's.

    `rate[g] = top * decay ** (num_groups - 1 - g)`

    Meant for one group per layer or block.

    Args:
        top: Rate of the last group (the head), above 0.
        num_groups: Number of layer groups, 1 or more.
        decay: In (0, 1].

    Returns:
        `num_groups` floats, the last one exactly `top`.

    Raises:
        TypeError: If `top` is no number.
        ValueError: If `top` is not above 0, `decay` not in (0, 1], or `num_groups` not a positive integer.

    Reference:
        timm, `layer_decay`; Clark et al., "ELECTRA", 2020.
    """
    _check_positive("top", top)
    _check_num_groups(num_groups)
    if not 0 < decay <= 1:
        raise ValueError(
            f"`decay` must be in (0, 1]. Received: decay={decay}. Use `discounted_rates` for a factor above 1."
        )
    return [top * decay**depth for depth in reversed(range(num_groups))]


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
    _check_num_groups(num_groups)
    if isinstance(learning_rates, slice):
        return _slice_rates(learning_rates, num_groups)
    if isinstance(learning_rates, numbers.Real):
        _check_positive("learning_rates", learning_rates)
        return [float(learning_rates)] * num_groups
    rates = one_per_group("learning_rates", learning_rates, num_groups=num_groups)
    if not rates[-1] > 0:
        raise ValueError(
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
        raise TypeError(f"`{name}` must be numbers, one per layer group. Received: {name}={values!r}.")
    if len(floats) != num_groups:
        raise ValueError(
            f"`{name}` must have one value per layer group, {num_groups} here. "
            f"Received: {name}={given}, {len(floats)} values. "
            "The first value is for the earliest layers, the last one for the head."
        )
    if not all(0 <= value < math.inf for value in floats):
        raise ValueError(f"`{name}` must be finite and >= 0. Received: {name}={given}.")
    return floats


def _slice_rates(rates: slice, num_groups: int) -> list[float]:
    if rates.step is not None or rates.stop is None:
        raise ValueError(
            "`learning_rates` must be slice(high) or slice(low, high), without a step. "
            f"Received: learning_rates={rates}. Write slice(1e-5, 1e-3)."
        )
    if rates.start is None:
        _check_positive("learning_rates", rates.stop)
        return [rates.stop / LAST_GROUP_FACTOR] * (num_groups - 1) + [float(rates.stop)]
    return geometric_rates(rates.start, rates.stop, num_groups=num_groups)


def _check_positive(name: str, value: Any) -> None:
    require_numbers(**{name: value})
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be finite and above 0. Received: {name}={value}.")


def _check_num_groups(num_groups: int) -> None:
    if isinstance(num_groups, bool) or not isinstance(num_groups, int) or num_groups < 1:
        raise ValueError(f"`num_groups` must be an integer >= 1. Received: num_groups={num_groups}.")
