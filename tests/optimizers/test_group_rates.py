import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from keras_sgdr.optimizers.group_rates import (
    GroupSettings,
    discounted_rates,
    geometric_rates,
    one_per_group,
    rates_per_group,
)


def test_geometric_rates_of_three_groups_are_the_courses():
    assert geometric_rates(1e-5, 1e-3, num_groups=3) == pytest.approx([1e-5, 1e-4, 1e-3], rel=1e-12)


def test_geometric_rates_of_four_groups_are_fastais():
    assert geometric_rates(1e-5, 1e-3, num_groups=4) == pytest.approx([1e-5, 4.642e-5, 2.154e-4, 1e-3], rel=1e-3)


def test_geometric_rates_keep_their_ends_exact():
    rates = geometric_rates(3e-7, 0.7, num_groups=9)
    assert (rates[0], rates[-1]) == (3e-7, 0.7)


def test_geometric_rates_of_one_group_are_the_high_end():
    assert geometric_rates(1e-5, 1e-3, num_groups=1) == [1e-3]


def test_discounted_rates_are_ulmfits():
    rates = discounted_rates(1e-2, num_groups=4)
    assert rates[-1] == 1e-2
    assert [high / low for low, high in pairwise(rates)] == pytest.approx([2.6] * 3)


def test_layer_decay_is_timms_power_of_the_depth():
    assert discounted_rates(1.0, num_groups=4, factor=1 / 0.75) == pytest.approx([0.421875, 0.5625, 0.75, 1.0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.1, [0.1, 0.1, 0.1]),
        (slice(1e-3), [1e-4, 1e-4, 1e-3]),
        (slice(1e-5, 1e-3), [1e-5, 1e-4, 1e-3]),
        ([0, 1e-4, 1e-3], [0, 1e-4, 1e-3]),
        ((1e-2, 1e-4, 1e-3), [1e-2, 1e-4, 1e-3]),
    ],
)
def test_rates_per_group_reads_each_way_of_writing_them(given, expected):
    assert rates_per_group(given, num_groups=3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("given", "received"),
    [
        ([1e-3, 1e-2], r"Received: learning_rates=\[0.001, 0.01\], 2 values"),
        ([1e-3, 1e-2, -1.0], r"Received: learning_rates=\[0.001, 0.01, -1.0\]"),
        ([1e-3, float("nan"), 1e-2], r"Received: learning_rates=\[0.001, nan, 0.01\]"),
        ([1e-3, float("inf"), 1e-2], r"Received: learning_rates=\[0.001, inf, 0.01\]"),
        ([1e-3, 1e-2, 0], r"Received: learning_rates=\[0.001, 0.01, 0.0\]"),
        (0.0, "Received: learning_rates=0.0"),
        (slice(None), r"Received: learning_rates=slice\(None, None, None\)"),
        (slice(1e-5, 1e-3, 2), r"Received: learning_rates=slice\(1e-05, 0.001, 2\)"),
        (slice(0.0, 1e-3), "Received: low=0.0"),
        (slice(float("nan")), "Received: learning_rates=nan"),
    ],
)
def test_rates_per_group_refuses(given, received):
    with pytest.raises(ValueError, match=received):
        rates_per_group(given, num_groups=3)


def test_helpers_refuse_values_out_of_range():
    with pytest.raises(ValueError, match="Received: high=nan"):
        geometric_rates(1e-5, float("nan"), num_groups=2)
    with pytest.raises(ValueError, match="Received: num_groups=0"):
        geometric_rates(1e-5, 1e-3, num_groups=0)
    with pytest.raises(ValueError, match="Received: num_groups=True"):
        discounted_rates(1e-3, num_groups=True)
    with pytest.raises(ValueError, match="Received: factor=0"):
        discounted_rates(1e-3, num_groups=2, factor=0)
    with pytest.raises(ValueError, match="Received: top=0"):
        discounted_rates(0, num_groups=2, factor=3)
    with pytest.raises(ValueError, match="Received: num_groups=0"):
        rates_per_group(1e-3, num_groups=0)


def test_one_value_per_group_is_checked_under_the_arguments_name():
    with pytest.raises(ValueError, match=r"Received: multipliers=\[1\], 1 values"):
        one_per_group("multipliers", [1], num_groups=2)


@pytest.mark.parametrize("values", [0.1, "12", ["a", "b"], {0.1, 0.2}, {"a": 1}, [None, 0.1], [[0.1], [0.2]]])
def test_values_that_are_no_numbers_in_an_order_are_refused_under_the_arguments_name(values):
    with pytest.raises(TypeError, match=re.escape("`multipliers` must be numbers, one per layer group. Received: m")):
        one_per_group("multipliers", values, num_groups=2)


def test_numbers_of_numpy_are_numbers():
    assert rates_per_group(np.float32(0.5), num_groups=2) == [0.5, 0.5]
    assert rates_per_group(np.array([0.25, 0.5]), num_groups=2) == [0.25, 0.5]
    assert rates_per_group(slice(np.float32(0.5)), num_groups=2) == [0.05, 0.5]


def test_ends_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match=r"`low` must be a number. Received: low='a'"):
        rates_per_group(slice("a", 0.1), num_groups=2)


@pytest.mark.parametrize(
    ("shape", "path", "is_left"),
    [
        ((3,), "layer/of_another_name", True),
        ((1, 1, 3), "norm/gamma", True),
        ((3, 3), "dense/kernel", False),
        ((3, 3), "gamma/kernel", False),
    ],
)
def test_biases_and_norms_are_known_by_their_shape_or_their_name(shape, path, is_left):
    weight = SimpleNamespace(shape=shape, path=path)
    assert GroupSettings((1.0,), None, decay_biases_and_norms=False).leaves_undecayed(weight) is is_left
    assert not GroupSettings((1.0,), None, decay_biases_and_norms=True).leaves_undecayed(weight)
