import itertools
import json
import math
from pathlib import Path

import pytest

from keras_sgdr.schedules.cosine_cycles import CosineCycles, Cycle, cycle_at, nearest_plans, total_epochs

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sgdr.json").read_text())


def rates(cycles, *, steps_per_epoch, steps):
    return [cycles.learning_rate(step, steps_per_epoch=steps_per_epoch) for step in range(steps)]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['source'][:4]}-{case['cycle_mult']}-{case['max_lr']}")
def test_cosine_cycles_agree_with_torch_and_timm(case):
    names = ("max_lr", "min_lr", "cycle_mult", "peak_decay")
    cycles = CosineCycles(**{name: case[name] for name in names})
    steps = len(case["learning_rates"])
    ours = rates(cycles, steps_per_epoch=case["first_cycle_steps"], steps=steps)
    assert ours == pytest.approx(case["learning_rates"], abs=1e-9, rel=1e-9)


def restarts_by_counting(n_cycles, cycle_len, cycle_mult):
    starts, epoch, length = [], 0, cycle_len
    for _ in range(n_cycles):
        starts.append(epoch)
        epoch, length = epoch + length, length * cycle_mult
    return starts


@pytest.mark.parametrize("cycle_mult", [1, 2, 3, 4, 10])
def test_every_restart_is_exactly_at_max_lr_after_a_low_rate(cycle_mult):
    for n_cycles, cycle_len, steps_per_epoch in itertools.product(range(1, 9), range(1, 11), range(1, 8)):
        cycles = CosineCycles(0.3, cycle_len=cycle_len, cycle_mult=cycle_mult, n_cycles=n_cycles)
        starts = restarts_by_counting(n_cycles, cycle_len, cycle_mult)
        for start in starts:
            step = start * steps_per_epoch
            assert cycles.learning_rate(step, steps_per_epoch=steps_per_epoch) == 0.3
            if start > 0 and cycle_len * steps_per_epoch > 1:
                assert cycles.learning_rate(step - 1, steps_per_epoch=steps_per_epoch) <= 0.15


@pytest.mark.parametrize(
    ("arguments", "epochs"), [((3, 1, 2), 7), ((3, 2, 2), 14), ((3, 1, 1), 3), ((4, 1, 3), 40), ((5, 1, 1.5), 13)]
)
def test_total_epochs_is_the_geometric_sum(arguments, epochs):
    assert total_epochs(*arguments) == epochs


def test_cycles_are_of_one_epoch_each_by_default():
    assert total_epochs(4) == 4


def test_float_multiplier_gives_whole_epochs():
    cycles = CosineCycles(1.0, cycle_mult=1.5, n_cycles=5).cycles(100)
    assert [cycle.num_epochs for cycle in cycles] == [1, 2, 2, 3, 5]
    assert [cycle.first_epoch for cycle in cycles] == [0, 1, 3, 5, 8]


def test_float_one_is_the_integer_one():
    assert cycle_at(7, cycle_len=3, cycle_mult=1.0) == cycle_at(7, cycle_len=3, cycle_mult=1) == Cycle(2, 6, 3)


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1001])
def test_rates_of_a_cycle_sum_to_half_of_its_length_plus_one(n):
    assert math.fsum(rates(CosineCycles(0.2), steps_per_epoch=n, steps=n)) == pytest.approx(0.2 * (n + 1) / 2)


def test_cycle_falls_strictly_and_stays_above_min_lr():
    one_cycle = rates(CosineCycles(0.1, min_lr=0.01, cycle_len=3), steps_per_epoch=7, steps=21)
    assert one_cycle == sorted(one_cycle, reverse=True)
    assert len(set(one_cycle)) == 21
    assert min(one_cycle) > 0.01


def test_peak_decay_multiplies_each_peak_but_not_below_min_lr():
    cycles = CosineCycles(1.0, peak_decay=0.5, min_lr=0.2)
    assert [cycles.learning_rate(step, steps_per_epoch=3) for step in (0, 3, 6, 9)] == [1.0, 0.5, 0.25, 0.2]


def test_rate_after_the_last_cycle_is_min_lr():
    cycles = CosineCycles(1.0, n_cycles=2, cycle_mult=2, min_lr=0.25)
    assert cycles.epochs == 3
    assert cycles.learning_rate(12, steps_per_epoch=4) == cycles.learning_rate(99, steps_per_epoch=4) == 0.25


def test_ends_cycle_names_the_last_epoch_of_each_cycle():
    cycles = CosineCycles(1.0, cycle_mult=2)
    assert [epoch for epoch in range(20) if cycles.ends_cycle(epoch)] == [0, 2, 6, 14]


def test_fastai07_warmup_agrees_with_the_course():
    cycles = CosineCycles(0.1, warmup="fastai07")
    one_epoch = rates(cycles, steps_per_epoch=360, steps=361)
    assert one_epoch[:18] == [0.001] * 18
    assert one_epoch[18] == pytest.approx(0.0993844, abs=1e-7)
    assert one_epoch[359] == pytest.approx(1.9038e-6, rel=1e-4)
    assert one_epoch[360] == 0.1


def test_fastai07_warmup_over_five_batches_moves_only_the_first():
    plain, warmed = (
        rates(CosineCycles(0.1, cycle_mult=2, warmup=warmup), steps_per_epoch=5, steps=35)
        for warmup in (None, "fastai07")
    )
    assert warmed == [0.001, *plain[1:]]


def test_fastai07_warmup_is_a_twentieth_of_the_cycle():
    cycles = CosineCycles(0.1, warmup="fastai07")
    assert [cycles.warmup_steps_of(0, steps) for steps in (1, 20, 21, 420)] == [1, 1, 2, 21]


def test_warmup_rises_from_the_lowest_rate():
    cycles = CosineCycles(0.5, min_lr=0.1, cycle_len=2, warmup="start", warmup_steps=3)
    assert rates(cycles, steps_per_epoch=5, steps=4) == pytest.approx([0.2, 0.3, 0.4, 0.5])


def test_warmup_rises_in_a_line_and_reaches_the_peak():
    first = rates(CosineCycles(0.5, cycle_len=2, warmup="start", warmup_steps=4), steps_per_epoch=5, steps=10)
    assert first[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert first[4] == 0.5
    assert first[4:] == pytest.approx(rates(CosineCycles(0.5), steps_per_epoch=6, steps=6))


def test_warmup_at_restarts_comes_in_every_cycle_and_at_start_in_the_first():
    at_start, at_restarts = (
        rates(CosineCycles(0.3, warmup=warmup, warmup_steps=2), steps_per_epoch=5, steps=10)
        for warmup in ("start", "restarts")
    )
    assert at_start[5] == 0.3
    assert at_restarts[:5] == at_restarts[5:] == at_start[:5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_lr": 0.0}, r"`max_lr` must be a finite number > 0. Received: max_lr=0.0"),
        ({"max_lr": math.nan}, r"Received: max_lr=nan"),
        ({"max_lr": math.inf}, r"Received: max_lr=inf"),
        ({"min_lr": 2.0}, r"Received: min_lr=2.0, max_lr=1.0"),
        ({"min_lr": -1.0}, r"Received: min_lr=-1.0"),
        ({"min_lr": math.nan}, r"Received: min_lr=nan"),
        ({"peak_decay": 0}, r"Received: peak_decay=0"),
        ({"peak_decay": 1.5}, r"Received: peak_decay=1.5"),
        ({"cycle_len": 0}, r"Received: cycle_len=0"),
        ({"cycle_len": 1.5}, r"Received: cycle_len=1.5"),
        ({"cycle_len": True}, r"Received: cycle_len=True"),
        ({"cycle_mult": 0.5}, r"Received: cycle_mult=0.5"),
        ({"cycle_mult": math.nan}, r"Received: cycle_mult=nan"),
        ({"n_cycles": 0}, r"Received: n_cycles=0"),
        ({"warmup": "slow"}, r"Received: warmup='slow'"),
        ({"warmup": "start"}, r"Received: warmup_steps=None"),
        ({"warmup": "fastai07", "warmup_steps": 3}, r"Received: warmup='fastai07', warmup_steps=3"),
        ({"warmup_steps": 3}, r"Received: warmup=None, warmup_steps=3"),
    ],
)
def test_cosine_cycles_refuse_what_is_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        CosineCycles(**{"max_lr": 1.0} | arguments)


@pytest.mark.parametrize("arguments", [{"n_cycles": 0}, {"cycle_len": 0}, {"cycle_mult": 0}])
def test_total_epochs_refuses_what_is_out_of_range(arguments):
    ((name, _),) = arguments.items()
    with pytest.raises(ValueError, match=f"Received: {name}=0"):
        total_epochs(**{"n_cycles": 1} | arguments)


def test_held_batches_run_at_the_rate_of_the_first_of_them_and_restarts_at_the_peak():
    cycles = CosineCycles(0.1)
    plain = rates(cycles, steps_per_epoch=5, steps=10)
    held = [cycles.learning_rate(step, steps_per_epoch=5, held=step % 2) for step in range(10)]
    assert held == [plain[step] for step in (0, 0, 2, 2, 4, 5, 6, 6, 8, 8)]


def test_warmup_must_leave_the_first_cycle_its_peak():
    cycles = CosineCycles(0.1, warmup="start", warmup_steps=5)
    cycles.check_warmup(6)
    with pytest.raises(ValueError, match=r"below the 5 batches of the first cycle. Received: warmup_steps=5"):
        cycles.check_warmup(5)


@pytest.mark.parametrize(
    ("epochs", "plans"),
    [
        (5, [(2, 1, 2), (3, 1, 2), (5, 1, 1)]),
        (9, [(3, 1, 2), (4, 1, 2), (2, 3, 2)]),
        (2, [(1, 1, 2), (2, 1, 2), (2, 1, 1)]),
        (12, [(3, 1, 2), (4, 1, 2), (2, 4, 2)]),
    ],
)
def test_nearest_plans_end_below_above_and_at_the_epochs(epochs, plans):
    found = nearest_plans(epochs, cycle_len=1, cycle_mult=2)
    assert [(plan.n_cycles, plan.cycle_len, plan.cycle_mult) for plan in found] == plans
    assert found[0].epochs < epochs < found[1].epochs
    assert found[2].epochs == epochs


@pytest.mark.parametrize(
    ("epochs", "cycle_len", "cycle_mult", "plan"),
    [
        (21, 6, 2, (2, 7, 2)),  # 7 + 14, nearer to 6 than 3 + 6 + 12
        (7, 1, 3, (3, 1, 2)),  # no two cycles of 1:3 take 7 epochs; 1 + 2 + 4 do
    ],
)
def test_the_plan_of_just_these_epochs_is_as_near_as_can_be(epochs, cycle_len, cycle_mult, plan):
    found = nearest_plans(epochs, cycle_len=cycle_len, cycle_mult=cycle_mult)[-1]
    assert (found.n_cycles, found.cycle_len, found.cycle_mult) == plan


def test_nearest_plan_names_its_epochs():
    assert str(nearest_plans(8, cycle_len=1, cycle_mult=2)[0]) == "7 epochs (n_cycles=3, cycle_len=1, cycle_mult=2)"
