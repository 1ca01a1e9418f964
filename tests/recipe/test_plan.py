"""The plan of a run: its epochs, its times, and how it is fitted to a budget."""

import dataclasses
import json
import re

import pytest

from keras_sgdr import Recipe
from keras_sgdr.data.dataset import free_space
from keras_sgdr.recipe import run as recipe_run
from keras_sgdr.recipe import stages
from keras_sgdr.recipe.plan import Cycles, PlannedStage, disk, plan, planned_cycles, replanned, table, within
from keras_sgdr.recipe.train import train_image_classifier
from tests.recipe.one_stage import COSTS

IMAGES = {"train": 320, "valid": 64}


def seconds_of(stages, *names):
    return sum(stage.seconds for stage in stages if not names or stage.name in names)


@pytest.mark.parametrize(
    ("cycles", "max_epochs", "expected"),
    [
        (Cycles(7, 3, 2), 49, (7, 3)),
        (Cycles(7, 3, 2), 48, (7, 2)),
        (Cycles(7, 3, 2), 20, (7, 1)),
        (Cycles(7, 3, 2), 5, (5, 1)),
        (Cycles(7, 3, 2), 0.5, (1, 1)),
        (Cycles(6, 1, 2, num_sizes=3), 17, (5, 1)),
    ],
)
def test_cycles_end_within_so_many_epochs(cycles, max_epochs, expected):
    fewer = cycles.at_most(max_epochs)
    assert (fewer.cycle_len, fewer.n_cycles) == expected
    assert fewer.epochs <= max(max_epochs, 1)


def test_the_most_epochs_of_a_recipe_are_the_plans():
    assert planned_cycles(Recipe(max_epochs=5), 320).epochs == 5
    assert planned_cycles(Recipe(max_epochs=500), 320).epochs == planned_cycles(Recipe(), 320).epochs == 20


def test_the_first_cycle_is_of_196_batches_within_7_and_70_epochs():
    assert [planned_cycles(Recipe(), images).cycle_len for images in (24, 90, 200, 800, 10**6)] == [70, 65, 28, 8, 7]


def test_sizes_share_the_epochs_and_small_ones_take_less_time():
    recipe = Recipe(sizes=(64, 128))
    cycles = planned_cycles(recipe, 320)
    assert (cycles.cycle_len, cycles.epochs) == (10, 20)
    planned = plan(recipe, IMAGES, COSTS, cycles)
    small, large = (seconds_of(planned, name) for name in ("train_smaller", "train_all"))
    # a quarter of the pixels
    assert small - COSTS.prepare_train == pytest.approx(10 * (10 * 0.4 + 2 * 0.1) / 4)
    assert large - COSTS.prepare_train > 3 * (small - COSTS.prepare_train)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        # 320 + 64 images decoded, 10 + 2 batches predicted; for the head 2 views of 10 batches, 3 epochs live
        (
            None,
            {"find_head_rate": 0.768 + 1.2, "train_head_augmented": 2 * (0.64 + 1.0) + 3 * 1.2, "find_rate": 8 + 20},
        ),
        # a quarter of the pixels, decoded from the same files
        (
            (64, 128),
            {"find_head_rate": 0.768 + 0.3, "train_head_augmented": 2 * (0.64 + 0.25) + 0.9, "find_rate": 8 + 5},
        ),
    ],
)
def test_stages_take_what_their_batches_take(sizes, expected):
    recipe = Recipe(image_size=128, sizes=sizes, head_cycles=3)
    costs = dataclasses.replace(COSTS, epoch=0.3, prepare_predict=0.0)
    planned = plan(recipe, {**IMAGES, "test": 32}, costs, Cycles(10, 2, 2))
    assert {name: seconds_of(planned, name) for name in expected} == pytest.approx(expected)
    assert seconds_of(planned, "start", "train_head", "export") == 0  # but for making ready
    assert seconds_of(planned, "check") == pytest.approx(416 * 0.001)
    (evaluation,) = (stage.what for stage in planned if stage.name == "evaluate")
    assert evaluation == "64 images, plain and with 4 views; 32 test images"
    # plain and with four views: two batches, and of the test images one
    assert seconds_of(planned, "evaluate") == pytest.approx(5 * 0.2 + 4 * 0.1)
    if sizes is None:  # 30 epochs of 10 batches and the validation, and a look at it after each cycle
        assert seconds_of(planned, "train_all") == pytest.approx(30 * (4.0 + 0.2 + 0.3) + 2 * 0.2)


@pytest.mark.parametrize(
    ("recipe", "cycles", "changed"),
    [
        (Recipe(), Cycles(20, 1, 2), {}),
        (
            Recipe(image_size=128, sizes=(32, 64, 128), head_cycles=3),
            Cycles(8, 2, 2, num_sizes=3),
            {"train_head_augmented": ["2", "3"], "train_smaller": ["8", "32", "8", "64"], "train_all": ["24", "2"]},
        ),
        (Recipe(learning_rate=3e-4, tta="off"), Cycles(20, 1, 2), {"find_rate": ["3.0e-04"], "evaluate": ["64"]}),
    ],
    ids=["defaults", "sizes", "given"],
)
def test_the_plan_names_images_epochs_sizes_and_rates(recipe, cycles, changed):
    expected = {
        "check": ["384"],
        "find_head_rate": ["384"],
        "train_head_augmented": ["2"],
        "train_all": ["20", "1"],
        "evaluate": ["64", "4"],
    }
    words = {stage.name: stage.what for stage in plan(recipe, IMAGES, COSTS, cycles)}
    numbers = {name: re.findall(r"\b\d[\d.]*(?:e-\d+)?", what) for name, what in words.items()}
    assert {name: found for name, found in numbers.items() if found} == expected | changed
    assert ("cycles at most" in words["train_all"]) == (cycles.n_cycles > 1)
    # A stage that does nothing has no line, and all others have one.
    lines = [line.split()[0] for line in table(plan(recipe, IMAGES, COSTS, cycles)).splitlines()[1:-1]]
    assert ("train_smaller" in lines) == (recipe.sizes is not None)
    assert len(lines) == len(words) - (recipe.sizes is None)


def test_what_is_given_or_left_out_takes_no_time():
    costs = dataclasses.replace(COSTS, prepare_predict=0.0)
    epochs = Cycles(20, 1, 2)
    given = plan(Recipe(learning_rate=3e-4, tta="off", head_views=0), {**IMAGES, "test": 32}, COSTS, epochs)
    assert seconds_of(given, "find_rate", "train_head_augmented") == 0
    given = plan(Recipe(learning_rate=3e-4, tta="off"), {**IMAGES, "test": 32}, costs, epochs)
    found = plan(Recipe(accumulate=2), IMAGES, costs, epochs)
    # What trains first is made ready: the finder, with two batches for each step, or step 8
    assert seconds_of(found, "find_rate") == pytest.approx(8 + 50 * 2 * 0.4)
    assert seconds_of(given, "train_all") - seconds_of(found, "train_all") == pytest.approx(8)
    assert seconds_of(given, "evaluate") == pytest.approx(0.2 + 0.1)


def test_the_disk_has_room_for_two_checkpoints_two_models_and_the_activations():
    # 4 bytes for each of a million parameters, eight times; 2 views of 32,000 images and 38,400 plain, of 1,280 numbers
    text = disk(Recipe(), {"train": 32_000, "valid": 6_400}, COSTS)
    assert text == "on the disk: 32 MB at most in the run directory, and 524 MB of activations in the cache"


def test_times_are_rounded_to_the_second():
    planned = [PlannedStage("check", "look", seconds) for seconds in (0.4, 0.6, 59.4, 59.6)]
    times = [line.split()[1] for line in table(planned).splitlines()[1:-1]]
    assert times == ["0:00", "0:01", "0:59", "1:00"]


def test_a_short_time_shortens_the_cycle_and_at_last_leaves_views_out():
    whole = seconds_of(plan(Recipe(), IMAGES, COSTS, planned_cycles(Recipe(), 320)))
    for share in (1.2, 0.8, 0.7):
        recipe, cycles, planned = within(Recipe(), IMAGES, COSTS, share * whole)
        assert seconds_of(planned) < share * whole
        assert (cycles.epochs == 20) == (share > 1)
        assert recipe.head_views == 2
    # what one epoch more would take does not fit any more
    longer = plan(recipe, IMAGES, COSTS, Cycles(cycles.epochs + 1, 1, 2))
    assert seconds_of(longer) > 0.9 * 0.7 * whole
    least = seconds_of(plan(Recipe(head_views=0), IMAGES, COSTS, Cycles(1, 1, 2)))
    recipe, cycles, _ = within(Recipe(), IMAGES, COSTS, 1.1 * least)
    assert (recipe.head_views, cycles.epochs) == (0, 1)
    with pytest.raises(ValueError, match=r"`max_minutes` must leave time for one epoch of everything, about") as told:
        within(Recipe(max_minutes=0.1), IMAGES, COSTS, 6)
    with pytest.raises(ValueError, match="must leave time"):
        within(Recipe(), IMAGES, COSTS, least)  # with nothing to spare
    minutes = float(re.search(r"about (\S+) minutes", str(told.value))[1])
    # with something to spare, and no more than a third of it
    assert least < 60 * minutes < 4 / 3 * least
    assert within(Recipe(), IMAGES, COSTS, 60 * (minutes + 0.05))[1].epochs == 1
    with pytest.raises(ValueError, match=rf"about {minutes + 1:.1f} minutes"):  # after one of two has passed
        within(Recipe(max_minutes=2), IMAGES, COSTS, 60)


def test_step_8_is_planned_anew_by_the_time_that_is_left():
    recipe = Recipe()
    planned = plan(recipe, IMAGES, COSTS, planned_cycles(recipe, 320))
    took = {stage.name: stage.seconds for stage in planned[1:6]}
    # what is outside the run's clock, the import before it and the report at the end, takes its part
    left = seconds_of(planned[6:]) + seconds_of(planned, "start")
    assert replanned(recipe, IMAGES, COSTS, planned, took, 1.1 * left)[0].epochs == 20
    assert replanned(recipe, IMAGES, COSTS, planned, took, 1.1 * seconds_of(planned[6:]))[0].epochs < 20
    # stages that took twice as long as planned let others be expected to
    slow = {name: 2 * seconds for name, seconds in took.items()}
    cycles, anew = replanned(recipe, IMAGES, COSTS, planned, slow, 1.1 * left)
    assert 5 < cycles.epochs < 11
    assert seconds_of(anew[5:]) + seconds_of(planned, "start") < 1.1 * left
    assert replanned(recipe, IMAGES, COSTS, planned, took, 0.0)[0].epochs == 1


@pytest.mark.slow
def test_a_run_without_a_limit_times_nothing(digits_folder, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_sgdr.recipe.stages.measure", None)
    result = train_image_classifier(digits_folder, output=tmp_path / "run", recipe=tiny_recipe, verbose=0)
    journal = json.loads((result.output / "run.json").read_text())["stages"]
    assert journal["fit_plan"]["cycles"] == {"cycle_len": 1, "n_cycles": 1, "cycle_mult": 2, "num_sizes": 1}
    assert all(values["seconds"] >= 0 for values in journal.values())


def test_a_run_fits_its_minutes_and_says_what_it_planned(digits_folder, tiny_recipe, tmp_path, capsys, monkeypatch):
    """On a machine that is said to take 10 seconds for a batch; how well times are measured, no test can tell."""
    slow = dataclasses.replace(COSTS, train=10.0, prepare_train=20.0, prepare_predict=5.0)
    monkeypatch.setattr(stages, "measure", lambda *_: slow)
    recipe = dataclasses.replace(tiny_recipe, max_minutes=10, cycle_len=500)
    result = train_image_classifier(digits_folder, output=tmp_path / "run", recipe=recipe)
    journal = json.loads((result.output / "run.json").read_text())["stages"]
    rows = [row for row in result.history if row["stage"].startswith("all")]
    # 5 batches: 50 seconds an epoch, of ten minutes less a fourteenth, and less one or two for all else
    assert len(rows) == journal["fit_plan"]["cycles"]["cycle_len"]
    assert 5 <= len(rows) <= 9
    # The last epoch ends the cycle: its last batch has the lowest rate of the cosine.
    assert rows[-1]["learning_rate"] < 0.01 * recipe.learning_rate
    assert result.export.is_dir()
    lines = capsys.readouterr().out.splitlines()
    planned = [line.split() for line in lines if line.startswith("in all")]
    assert [len(words) for words in planned] == [3, 4]  # before it begins, and at the end beside what it took


def test_a_time_that_is_too_short_is_refused_with_what_is_needed(digits_folder, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "measure", lambda *_: dataclasses.replace(COSTS, train=60.0))
    recipe = dataclasses.replace(tiny_recipe, max_minutes=1)
    with pytest.raises(ValueError, match=r"one epoch of everything, about \d\.\d minutes"):
        train_image_classifier(digits_folder, output=tmp_path / "run", recipe=recipe, verbose=0)


def test_a_run_that_does_not_fit_on_the_disk_is_refused_before_it_trains(
    digits_folder, tiny_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(recipe_run, "available_disk", lambda _: 1000)
    with pytest.raises(ValueError, match="a disk with room for the run, about 0 MB"):
        train_image_classifier(digits_folder, output=tmp_path / "run", recipe=tiny_recipe, verbose=0)
    assert free_space.available_disk(tmp_path) > 1000


def test_planned_and_taken_stand_side_by_side():
    text = table([PlannedStage("check", "look", 61.0), PlannedStage("train_all", "learn", 3.4)], {"check": 70.2})
    assert "check                    1:01     1:10  look" in text
    assert "train_all                0:03           learn" in text
    assert text.splitlines()[0] == "stage                 planned     took  what"
    assert text.splitlines()[-1].split() == ["in", "all", "1:04", "1:10"]
    before = table([PlannedStage("check", "look", 61.0)])
    assert before.splitlines()[0] == "stage                 planned           what"
