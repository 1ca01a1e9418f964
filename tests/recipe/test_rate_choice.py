import json
from pathlib import Path

import numpy as np
import pytest

from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.recipe.rate_choice import USUAL_RATE, choose_rate

GOLDEN = Path(__file__).parents[1] / "golden"
RATES = np.geomspace(1e-5, 1, 50)  # the seventh is 4.1e-5


@pytest.mark.parametrize("name", ["easy", "grey", "photographs"])
def test_recorded_folders_that_once_collapsed_get_the_usual_rate(name):
    recorded = json.loads((GOLDEN / f"learnt_head_{name}.json").read_text())
    curve = LRCurve(recorded["learning_rates"], recorded["losses"], guessing_loss=recorded["prior_loss"])
    rate, why = choose_rate(curve)
    assert rate == USUAL_RATE
    assert f"the curve diverges at {curve.diverges_at():.1e}" in why


def test_rate_stays_below_an_early_divergence():
    losses = np.where(RATES < 6e-4, 0.2, 5.0)
    rate, why = choose_rate(LRCurve(RATES, losses, guessing_loss=2.3))
    assert 3e-4 < rate < 6e-4
    assert "below the usual 1e-03, for the curve diverges at" in why


def test_a_curve_that_knows_no_guess_is_judged_by_its_start():
    rate, _ = choose_rate(LRCurve(RATES, np.where(RATES < 6e-4, 0.2, 0.9)))
    assert 3e-4 < rate < 6e-4


def test_curve_without_an_answer_says_so():
    rate, why = choose_rate(LRCurve(RATES, np.full(50, 0.2), guessing_loss=2.3))
    assert rate == USUAL_RATE
    assert why == "the usual one, for the curve has not diverged at 1.0e+00"


@pytest.mark.parametrize("losses", [[0.3] * 6 + [50.0] * 12, [0.3] * 6 + [np.nan]])
def test_curve_that_diverges_at_once_gives_a_rate_below_it(losses):
    rate, why = choose_rate(LRCurve(RATES[: len(losses)], losses, guessing_loss=2.3))
    assert rate == pytest.approx(RATES[6] / 1.5)
    assert "diverges at 4.1e-05 already" in why
