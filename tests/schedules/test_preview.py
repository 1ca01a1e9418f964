import types

import numpy as np
import pytest

from keras_sgdr.schedules.cosine_cycles import CosineCycles
from keras_sgdr.schedules.preview import SchedulePreview
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler


def test_preview_tells_the_cycles_as_text():
    text = str(SGDRScheduler(0.1, cycle_mult=2, n_cycles=3).preview(steps_per_epoch=5))
    lines = text.splitlines()
    assert lines[0] == "7 epochs of 5 batches in 3 cycles"
    assert lines[2].split() == ["1", "1", "5", "1.00e-01", "to", "9.55e-03"]
    assert lines[3].split() == ["2", "2-3", "10", "1.00e-01", "to", "2.45e-03"]
    assert lines[4].split()[:3] == ["3", "4-7", "20"]
    alone = SGDRScheduler(0.1, n_cycles=1).preview(steps_per_epoch=1)
    assert str(alone).startswith("1 epoch of 1 batch in 1 cycle\n")


def test_preview_shows_the_peak_of_a_cycle_that_is_warmed_up():
    scheduler = SGDRScheduler(0.1, cycle_mult=2, n_cycles=2, warmup="restarts", warmup_steps=3)
    rows = str(scheduler.preview(steps_per_epoch=5)).splitlines()[2:]
    assert [row.split()[3] for row in rows] == ["1.00e-01", "1.00e-01"]


def test_preview_shows_each_groups_rate_and_a_cycle_cut_short():
    optimizer = types.SimpleNamespace(multipliers=(0.01, 0.1, 1.0))
    preview = SGDRScheduler(0.5, cycle_mult=2).preview(steps_per_epoch=5, epochs=2, optimizer=optimizer)
    assert preview.learning_rates.shape == (10, 3)
    np.testing.assert_allclose(preview.learning_rates[5], [0.005, 0.05, 0.5])
    assert preview.cycle_ends == [1]
    lines = str(preview).splitlines()
    assert lines[1].split() == ["cycle", "epochs", "batches", "group", "0", "group", "1", "group", "2"]
    assert lines[3].endswith("(cut short)")
    assert lines[2].count(" to ") == 3


def test_preview_ends_with_the_last_cycle():
    assert SGDRScheduler(0.1, n_cycles=3).preview(steps_per_epoch=2, epochs=9).epochs == 3


def test_preview_needs_an_end():
    with pytest.raises(ValueError, match="Received: epochs=None, n_cycles=None"):
        SGDRScheduler(0.1).preview(steps_per_epoch=5)


def test_preview_refuses_the_warmup_that_fit_refuses():
    scheduler = SGDRScheduler(0.1, n_cycles=2, warmup="start", warmup_steps=4)
    with pytest.raises(ValueError, match=r"below the 4 batches of the first cycle. Received: warmup_steps=4"):
        scheduler.preview(steps_per_epoch=4)


@pytest.mark.parametrize("arguments", [{"epochs": 0}, {"steps_per_epoch": 0}])
def test_preview_refuses_what_is_out_of_range(arguments):
    ((name, _),) = arguments.items()
    with pytest.raises(ValueError, match=f"Received: {name}=0"):
        SchedulePreview(CosineCycles(0.1), **{"epochs": 1, "steps_per_epoch": 1} | arguments)
