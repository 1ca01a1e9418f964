"""The figures of this room; they are drawn in keras_sgdr/plots.py."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from keras_sgdr.lr_finder.lr_curve import METHODS, LRCurve
from keras_sgdr.lr_finder.lr_find_groups import GroupCurves
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lr_curve.json").read_text())


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_curve_is_drawn_raw_and_smoothed_with_every_suggestion():
    losses = np.array(GOLDEN["losses"])
    losses[-1] = np.nan
    curve = LRCurve(GOLDEN["learning_rates"], losses, validation_losses=losses + 1, guessing_loss=1.5)
    (axes,) = curve.plot().axes
    assert axes.get_xscale() == "log"
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["loss of each batch"][:, 1], losses)
    np.testing.assert_array_equal(lines["smoothed"][:, 1], curve.smoothed_losses)
    np.testing.assert_array_equal(lines["validation batch"][:, 1], losses + 1)
    for method in METHODS:
        ((rate, height),) = lines[f"{method}: {curve.suggest(method):.2e}"]
        assert rate == curve.suggest(method)
        nearest = np.argmin(np.abs(np.log(curve.learning_rates / rate)))
        assert height == pytest.approx(curve.smoothed_losses[nearest], rel=0.05)
    np.testing.assert_array_equal(lines["a guess: 1.50"][:, 1], 1.5)


def test_curve_that_cannot_be_read_is_drawn_without_suggestions():
    (axes,) = LRCurve([1e-3, 1e-2], [np.nan, np.nan]).plot().axes
    assert len(axes.get_lines()) == 2


def test_exploding_batch_does_not_flatten_the_figure():
    losses = np.array(GOLDEN["losses"])
    losses[-1] = 1e9
    (axes,) = LRCurve(GOLDEN["learning_rates"], losses, smoothing=0.0).plot().axes
    assert axes.get_ylim()[1] < 10


def test_curves_of_all_groups_are_in_one_figure():
    curves = [LRCurve(GOLDEN["learning_rates"], np.array(GOLDEN["losses"]) + group) for group in range(2)]
    (axes,) = GroupCurves(tuple(curves)).plot().axes
    assert axes.get_xscale() == "log"
    for group, (line, curve) in enumerate(zip(axes.get_lines(), curves, strict=True)):
        assert line.get_label() == f"group {group}"
        np.testing.assert_array_equal(line.get_xydata().T, [curve.learning_rates, curve.smoothed_losses])


def test_preview_is_drawn_over_epochs_with_the_ends_of_cycles():
    preview = SGDRScheduler(0.1, cycle_mult=2, n_cycles=2).preview(steps_per_epoch=4)
    (axes,) = preview.plot().axes
    curve, *ends = axes.get_lines()
    np.testing.assert_allclose(curve.get_xdata(), np.arange(12) / 4)
    np.testing.assert_array_equal(curve.get_ydata(), preview.learning_rates[:, 0])
    assert [line.get_xdata()[0] for line in ends] == [1, 3]
