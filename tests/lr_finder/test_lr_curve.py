import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from keras_sgdr.lr_finder.lr_curve import METHODS, LRCurve, debiased_average, mean_curve

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((GOLDEN_FOLDER / "lr_curve.json").read_text())
RATES = np.geomspace(1e-6, 1, 60)


@pytest.mark.parametrize("method", GOLDEN["suggestions"])
def test_suggest_agrees_with_fastai_and_torch_lr_finder(method):
    curve = LRCurve(GOLDEN["learning_rates"], GOLDEN["losses"], smoothing=0.0)
    assert curve.suggest(method) == pytest.approx(GOLDEN["suggestions"][method], rel=1e-4)


def test_debiased_average_agrees_with_the_weighted_mean():
    losses = [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.5, 1, 3, 10]
    for count in range(1, len(losses) + 1):
        weights = 0.98 ** np.arange(count)[::-1]
        mean = np.average(losses[:count], weights=weights)
        assert debiased_average(losses, smoothing=0.98)[count - 1] == pytest.approx(mean, rel=1e-12)


def test_suggest_looks_at_the_smoothed_losses_by_default():
    spiky = np.array(GOLDEN["losses"])
    spiky[40] = 0.0
    raw, smooth = (LRCurve(GOLDEN["learning_rates"], spiky, smoothing=smoothing) for smoothing in (0.0, 0.98))
    assert raw.suggest("minimum") == pytest.approx(GOLDEN["learning_rates"][40] / 10)
    assert smooth.suggest("minimum") > 5 * raw.suggest("minimum")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_suggest_passes_over_losses_that_are_not_finite(bad):
    losses = np.array(GOLDEN["losses"])
    losses[-7:] = bad
    curve = LRCurve(GOLDEN["learning_rates"], losses, smoothing=0.0)
    assert curve.suggest("minimum") == pytest.approx(GOLDEN["suggestions"]["minimum"], rel=1e-4)


def test_a_curve_is_shown_by_its_ends():
    curve = LRCurve(RATES, np.linspace(2, 1, 60), smoothing=0.0)
    assert repr(curve) == "<LRCurve: 60 batches, rates 1e-06 to 1, smoothed losses 2 to 1>"


def test_suggestions_holds_every_rule():
    curve = LRCurve(GOLDEN["learning_rates"], GOLDEN["losses"])
    assert curve.suggestions() == {method: curve.suggest(method) for method in METHODS if method != "divergence"}


def test_suggestions_leaves_out_the_rules_that_need_more_points():
    curve = LRCurve(RATES[:20], np.linspace(2, 1, 20))
    assert list(curve.suggestions()) == ["valley", "steep", "minimum", "inflection"]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (np.linspace(2, 1, 10), r"too short. Received: 10 points, of which 4 .*larger `num_steps`"),
        (np.full(60, 2.0), r"it is flat, 2 to 2. Received: 60 points.*`end_lr` above 1.0e\+00"),
        (np.linspace(1, 9, 60), r"it diverged at once, from .* Received: 60 points.*`start_lr` well below 1.0e-06"),
        (np.full(60, np.nan), r"too short. Received: 60 points, of which 0 .*`start_lr` if the loss diverged"),
    ],
    ids=["short", "flat", "diverged", "nan"],
)
def test_curve_that_cannot_be_read_says_why(losses, message):
    curve = LRCurve(RATES[: len(losses)], losses)
    with pytest.raises(ValueError, match=message):
        curve.suggest()
    assert curve.suggestions() == {}


def test_error_of_a_loss_that_only_rises_names_its_first_and_its_last():
    losses = np.linspace(1, 9, 60)
    with pytest.raises(ValueError, match=rf"from {losses[6]:.4g} to {losses[54]:.4g}\. Received"):
        LRCurve(RATES, losses, smoothing=0.0).suggest()


def test_eight_points_are_the_fewest_that_are_looked_at():
    assert LRCurve(RATES[:14], np.linspace(2, 1, 14), smoothing=0.0).suggest("minimum") == RATES[8] / 10
    with pytest.raises(ValueError, match=r"Received: 13 points, of which 7"):
        LRCurve(RATES[:13], np.linspace(2, 1, 13)).suggest("steep")
    with pytest.raises(ValueError, match=r"Received: 4 points, of which 0"):
        LRCurve(RATES[:4], np.linspace(2, 1, 4)).suggest("steep")


def test_curves_cannot_be_changed_and_are_compared_by_identity():
    one, other = LRCurve(RATES, np.linspace(2, 1, 60)), LRCurve(RATES, np.linspace(2, 1, 60))
    assert len({one, other, one}) == 2
    with pytest.raises(AttributeError, match="losses"):
        one.losses = other.losses


def test_slide_needs_its_window():
    with pytest.raises(ValueError, match=r"at least 16 points .* Received: 20 points, of which 13"):
        LRCurve(RATES[:20], np.linspace(2, 1, 20)).suggest("slide")


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"Received: method='lowest'"):
        LRCurve(RATES, np.linspace(2, 1, 60)).suggest("lowest")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": [1.0]}, r"Received: learning_rates of shape \(2,\), losses of shape \(1,\)"),
        ({"learning_rates": [1.0, 1.0]}, r"rising. Received"),
        ({"learning_rates": [0.0, 1.0]}, r"> 0 and rising. Received"),
        ({"smoothing": 1.0}, r"Received: smoothing=1.0"),
        ({"smoothing": np.nan}, r"Received: smoothing=nan"),
        ({"validation_losses": [1.0]}, r"Received: validation_losses of shape \(1,\)"),
    ],
)
def test_lr_curve_refuses_what_is_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        LRCurve(**{"learning_rates": [0.1, 1.0], "losses": [1.0, 2.0]} | arguments)


def test_to_csv_writes_every_point(tmp_path):
    curve = LRCurve([0.1, 0.2], [3.0, 2.0], validation_losses=[5.0, 4.0])
    curve.to_csv(tmp_path / "curve.csv")
    with (tmp_path / "curve.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["learning_rate"] for row in rows] == [0.1, 0.2]
    assert [row["loss"] for row in rows] == [3.0, 2.0]
    assert [row["smoothed_loss"] for row in rows] == curve.smoothed_losses.tolist()
    assert [row["validation_loss"] for row in rows] == [5.0, 4.0]
    assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]


def learnt_head(name):
    recorded = json.loads((GOLDEN_FOLDER / f"learnt_head_{name}.json").read_text())
    return LRCurve(recorded["learning_rates"], recorded["losses"], guessing_loss=recorded["prior_loss"])


# Recorded curves of networks whose head has learnt. Where each leaves its noise for good was read off the printed
# numbers by eye: the batches before the first rate are calm, those after the second one are all far above a guess.
@pytest.mark.parametrize(
    ("name", "calm", "lost"), [("easy", 6e-3, 3e-2), ("grey", 2e-2, 6e-2), ("photographs", 4e-3, 3e-2)]
)
def test_divergence_of_a_learnt_head_lies_where_its_noise_ends(name, calm, lost):
    curve = learnt_head(name)
    assert calm < curve.diverges_at() < lost
    assert curve.suggest("divergence") == pytest.approx(curve.diverges_at() / 1.5)


@pytest.mark.parametrize("method", ["valley", "slide", "steep", "minimum", "inflection"])
@pytest.mark.parametrize("name", ["easy", "photographs"])
def test_rules_that_look_for_a_fall_do_not_read_a_learnt_heads_noise(name, method):
    curve = learnt_head(name)
    with pytest.raises(ValueError, match=r"'divergence' tells how high its rate may") as told:
        curve.suggest(method)
    fall, scatter = map(float, re.search(r"falls by (\S+) and scatters by (\S+)\.", str(told.value)).groups())
    assert 0 < fall < scatter
    assert fall <= 1.001 * np.ptp(curve.smoothed_losses)


@pytest.mark.parametrize("end", [np.nan, np.inf, 9.0])
def test_divergence_reads_neither_single_batches_nor_what_the_end_is(end):
    losses = np.full(60, 0.1)
    losses[[5, 20, 30, 31]] = 40.0
    losses[50:] = end
    curve = LRCurve(RATES, losses, guessing_loss=0.7)
    # the median of five is over 0.7 from the point on that has three such in reach
    assert curve.diverges_at() == RATES[50]


def test_noise_over_the_guess_at_the_start_is_no_divergence():
    losses = np.concatenate([np.tile([1.9, 1.2, 2.0, 1.5], 3), np.full(32, 1.1), np.full(16, 4.0)])
    assert LRCurve(RATES, losses, guessing_loss=0.7).diverges_at() == RATES[44]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (np.linspace(2, 1, 60), r"has not diverged. Received: 1 at 1.0e\+00. Use a larger `end_lr`"),
        (
            np.concatenate([np.linspace(0.4, 0.5, 6), np.full(54, 9)]),
            r"diverged at once. Received: 0.4 at 1.0e-06, 9 at 4.1e-06. Use a lower `start_lr`",
        ),
        (np.linspace(1, 9, 6), r"too short. Received: 6 points"),
    ],
)
def test_divergence_that_cannot_be_read_says_why(losses, message):
    with pytest.raises(ValueError, match=message):
        LRCurve(RATES[: len(losses)], losses, guessing_loss=0.7).suggest("divergence")


def test_divergence_needs_the_loss_of_guessing():
    curve = LRCurve(GOLDEN["learning_rates"], GOLDEN["losses"])
    with pytest.raises(ValueError, match=r"Received: guessing_loss=None. Give the curve that of your data"):
        curve.suggest("divergence")
    assert "divergence" not in curve.suggestions()


def test_mean_curve_suggests_the_median_of_its_repeats():
    rates, losses = GOLDEN["learning_rates"], np.array(GOLDEN["losses"])
    shifted = [np.interp(np.arange(100) - by, np.arange(100), losses) for by in (0, 5, 20)]
    curve = mean_curve([LRCurve(rates, values, smoothing=0.0) for values in shifted])
    assert curve.suggest("minimum") == pytest.approx(10 ** (0.08 * 5) * GOLDEN["suggestions"]["minimum"], rel=1e-4)
    np.testing.assert_allclose(curve.losses, np.mean(shifted, axis=0))


def test_mean_curve_goes_as_far_as_its_shortest():
    long, short = LRCurve(RATES, np.linspace(2, 1, 60)), LRCurve(RATES[:40], np.linspace(4, 1, 40))
    curve = mean_curve([long, short])
    assert len(curve.losses) == 40
    low, high = curve._band()
    np.testing.assert_allclose((low[0], high[0]), (2.0, 4.0))


def test_mean_curve_of_mostly_unreadable_ones_says_why():
    flat, good = LRCurve(RATES, np.full(60, 2.0)), LRCurve(RATES, np.linspace(2, 1, 60))
    assert mean_curve([flat, good, good]).suggest() == pytest.approx(good.suggest())
    with pytest.raises(ValueError, match="it is flat"):
        mean_curve([flat, good]).suggest()


def test_a_curve_without_smoothing_is_taken_as_it_is():
    """However little it falls: what it scatters from batch to batch is the caller's to know."""
    losses = np.concatenate([np.linspace(0.9, 0.5, 50), np.linspace(0.5, 0.9, 10)])
    assert LRCurve(RATES, losses, smoothing=0.0).suggest("minimum") == pytest.approx(RATES[49] / 10)
