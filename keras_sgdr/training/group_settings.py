"""What each layer group is trained with: the ratio of its learning rate, its weight decay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_sgdr.training.layer_rates import one_per_group, rates_per_group

_BIASES_AND_NORMS = ("bias", "gamma", "beta", "scale")


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
        """Tells whether `weight` is a bias or a norm's, and those are to be left out of the weight decay."""
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
        raise ValueError(
            "Exactly one of `learning_rates` and `multipliers` must be given. "
            f"Received: learning_rates={learning_rates}, multipliers={multipliers}."
        )
    rates = rates_per_group(learning_rates, num_groups=num_groups)
    if not isinstance(inner_optimizer._learning_rate, keras.Variable):
        raise ValueError(
            "`learning_rates` must be left out if a schedule inside sets the last group's. "
            f"Received: learning_rates={rates}, a {type(inner_optimizer._learning_rate).__name__} inside. "
            f"Give the ratios: multipliers={[rate / rates[-1] for rate in rates]}."
        )
    return rates[-1], tuple(rate / rates[-1] for rate in rates)
