import itertools

import numpy as np
import pytest

from keras_sgdr.lr_finder import suggestions


@pytest.mark.parametrize(
    ("losses", "index"), [([10, 8, 4, 1, 4, 16], 2), ([1, 0, 1, 2, 3, 4], 0), ([0, 1, 2, 3, 4, 3], 5)]
)
def test_inflection_agrees_with_torch_lr_finder(losses, index):
    assert suggestions.inflection_index(losses) == index


def test_steepest_divides_by_the_rates_logarithm():
    # The second fall is larger, but over two decades instead of one.
    assert suggestions.steepest_index([1e-4, 1e-3, 1e-1, 1.0], [9.0, 7.0, 4.0, 5.0]) == 0


def test_minimum_is_the_first_lowest_loss():
    assert suggestions.minimum_index([3, 1, 1, 2]) == 1


def longest_fall_by_trying_all(losses):
    best = []
    for mask in range(1, 2 ** len(losses)):
        chosen = [i for i in range(len(losses)) if mask >> i & 1]
        if all(losses[a] > losses[b] for a, b in itertools.pairwise(chosen)):
            best = max(best, chosen, key=lambda c: (len(c), -c[-1] if c else 0))
    return len(best), best[-1]


@pytest.mark.parametrize("seed", range(5))
def test_valley_lies_half_way_along_the_longest_fall(seed):
    losses = np.random.default_rng(seed).permutation(12).tolist()
    length, end = longest_fall_by_trying_all(losses)
    assert suggestions.valley_index(losses) == end - length + length // 3 + length // 6


def test_slide_stops_where_the_slopes_are_alike():
    losses = np.concatenate([np.full(30, 5.0), 5 - 0.5 * np.arange(20), -4.5 + np.arange(15) ** 2 / 2])
    index = suggestions.slide_index(losses)
    slopes = np.gradient(losses)
    assert abs(slopes[index] - slopes[index + 15]) > 0.005
    assert abs(slopes[index - 1] - slopes[index + 14]) <= 0.005


def test_slide_of_equal_slopes_is_the_window_at_the_end():
    assert suggestions.slide_index(np.full(40, 1.0)) == 24
    assert suggestions.slide_index(np.linspace(40, 1, 40)) == 24  # alike, and steep


def test_slide_of_unlike_slopes_goes_on_to_the_first_point():
    assert suggestions.slide_index(np.arange(40) ** 2.0) == 0


@pytest.mark.parametrize("start", [[3, 1], [1, 1, 2, 2]])
def test_a_loss_below_twice_that_of_the_first_tenth_is_none_that_diverges(start):
    """Of ten points the tenth is the first one alone, of forty the first four, whose median is 1.5."""
    losses = [3.0, 1.0, *[5.0] * 8] if len(start) == 2 else [*start, *[2.9] * 36]
    assert suggestions.divergence_index(losses, 1.0) is None
    assert suggestions.divergence_index([*losses, *[6.1] * 9], 1.0) == len(losses)


def test_a_curve_that_begins_with_no_number_has_diverged_at_once():
    assert suggestions.divergence_index(np.full(40, np.nan), 1.0) == 0
    assert suggestions.divergence_index(np.full(40, 0.5), 1.0) is None
