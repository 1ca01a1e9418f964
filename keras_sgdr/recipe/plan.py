"""What a run will do, how long that takes, and how it is made to fit a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from keras_sgdr.recipe.costs import Costs
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run_directory import (
    CHECK,
    EVALUATE,
    EXPORT,
    FIND_HEAD_RATE,
    FIND_RATE,
    TRAIN_ALL,
    TRAIN_HEAD,
    TRAIN_HEAD_AUGMENTED,
    TRAIN_SMALLER,
)
from keras_sgdr.schedules.cosine_cycles import total_epochs
from keras_sgdr.validation import InvalidValueError

# Step 8's first cycle, where the recipe does not give its epochs: by its batches, of which a folder of 200 images has 7
# in an epoch. One long cycle ends better than cycles of 1, 2 and 4 epochs, whose restarts undo part of the last one.
FIRST_CYCLE_STEPS = 196
LEAST_FIRST_EPOCHS, MOST_FIRST_EPOCHS = 7, 70
# Of a budget, what is kept for a machine that has other things to do
_SPARE = 0.07
_FINDER_STEPS = 50
# What a stage makes ready, as a multiple of what the first prediction takes: measured on three small folders, where it
# is half of the time. The start is importing TensorFlow, making the model, and the report.
_START = "start"
_READY = {_START: 17.0, CHECK: 1.5, FIND_HEAD_RATE: 5.0, TRAIN_HEAD: 0.5, TRAIN_HEAD_AUGMENTED: 5.0}
_READY |= {TRAIN_ALL: 3.0, EVALUATE: 7.0, EXPORT: 7.0}


@dataclass(frozen=True)
class Cycles:
    """The cycles of step 8.

    Attributes:
        cycle_len: Epochs of the first one, and of that of each smaller size of images.
        n_cycles: How many at most.
        cycle_mult: Each is this many times as long as the one before.
        num_sizes: Sizes of images; each but the last has one cycle.
    """

    cycle_len: int
    n_cycles: int
    cycle_mult: int
    num_sizes: int = 1

    @property
    def epochs(self) -> int:
        """All of them."""
        smaller = (self.num_sizes - 1) * self.cycle_len
        return smaller + total_epochs(self.n_cycles, self.cycle_len, self.cycle_mult)

    def at_most(self, max_epochs: float) -> Cycles:
        """Returns cycles that end within so many epochs: fewer of them, and at last a shorter one of an epoch."""
        for n_cycles in range(self.n_cycles, 0, -1):
            fewer = Cycles(self.cycle_len, n_cycles, self.cycle_mult, self.num_sizes)
            if fewer.epochs <= max_epochs:
                return fewer
        return Cycles(max(1, int(max_epochs) // self.num_sizes), 1, self.cycle_mult, self.num_sizes)


def planned_cycles(recipe: Recipe, num_images: int) -> Cycles:
    """Returns the cycles of a recipe for so many training images, within its `max_epochs`."""
    steps_per_epoch = -(-num_images // recipe.batch_size)
    by_images = min(max(LEAST_FIRST_EPOCHS, round(FIRST_CYCLE_STEPS / steps_per_epoch)), MOST_FIRST_EPOCHS)
    num_sizes = len(recipe.sizes or "1")
    cycles = Cycles(-(-(recipe.cycle_len or by_images) // num_sizes), recipe.n_cycles, recipe.cycle_mult, num_sizes)
    return cycles if recipe.max_epochs is None else cycles.at_most(recipe.max_epochs)


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a run to be.

    Attributes:
        name: As the journal names it.
        what: What it does, in words.
        seconds: How long it will take.
    """

    name: str
    what: str
    seconds: float


def plan(recipe: Recipe, num_images: dict[str, int], costs: Costs, cycles: Cycles) -> list[PlannedStage]:
    """Returns the stages of a run with their times, by what a few batches took.

    Args:
        recipe: The settings.
        num_images: How many images there are of "train", "valid" and "test".
        costs: What this machine takes.
        cycles: Those of step 8.
    """
    train, valid, test = (num_images.get(name, 0) for name in ("train", "valid", "test"))
    total = train + valid + test
    steps, valid_steps = -(-train // recipe.batch_size), -(-valid // recipe.batch_size)
    sizes = recipe.sizes or (recipe.image_size,)
    shares = [(size / recipe.image_size) ** 2 for size in sizes]  # of the pixels, and so of the time
    compiled, first = costs.prepare_train, shares[0]
    validation = valid_steps * costs.predict
    epoch = steps * costs.train + validation + costs.epoch
    activations = (train + valid) * costs.decode + (steps + valid_steps) * costs.predict * first
    views = recipe.head_views * (train * costs.decode + steps * costs.predict * first)
    live = recipe.head_cycles * first * (steps * costs.predict + validation)
    rate = recipe.top_learning_rate
    finder = compiled + first * _FINDER_STEPS * recipe.accumulate * costs.train
    last = cycles.epochs - cycles.cycle_len * (len(sizes) - 1)
    smaller = "; ".join(f"{cycles.cycle_len} epochs of everything at {size} pixels" for size in sizes[:-1])
    what = {
        _START: ("TensorFlow and the network; at the end the report", 0.0),
        CHECK: (f"check {total} images", total * costs.check),
        FIND_HEAD_RATE: (f"activations of {train + valid} images; the finder", activations),
        TRAIN_HEAD: ("the head at its optimum", 0.0),
        TRAIN_HEAD_AUGMENTED: (
            f"the same with {recipe.head_views} augmented views of each image"
            + (f"; {recipe.head_cycles} epochs live" if recipe.head_cycles else ""),
            views + live,
        ),
        FIND_RATE: (("the finder", finder) if rate is None else (f"the given rate, {rate:.1e}", 0.0)),
        TRAIN_SMALLER: (smaller, sum(share * cycles.cycle_len * epoch + compiled for share in shares[:-1])),
        TRAIN_ALL: (
            f"{last} epochs of everything, in {cycles.n_cycles} cycle{'' if cycles.n_cycles == 1 else 's at most'}",
            last * epoch + cycles.n_cycles * validation + (compiled if rate is not None or sizes[1:] else 0.0),
        ),
        EVALUATE: (
            f"{valid} images, plain{f' and with {recipe.num_views} views' if recipe.views else ''}"
            f"{f'; {test} test images' if test else ''}",
            (1 + recipe.num_views) * validation + max(1, recipe.num_views) * test * costs.predict / recipe.batch_size,
        ),
        EXPORT: ("model.keras and a SavedModel", 0.0),
    }
    ready = {**_READY, TRAIN_HEAD_AUGMENTED: _READY[TRAIN_HEAD_AUGMENTED] if views or live else 0.0}
    return [
        PlannedStage(name, words, seconds + ready.get(name, 0.0) * costs.prepare_predict)
        for name, (words, seconds) in what.items()
    ]


def table(stages: Sequence[PlannedStage], took: dict[str, float] | None = None) -> str:
    """Returns the stages as text, with what they took beside what was planned once they are done."""
    rows = [(stage.name, _clock(stage.seconds), _clock((took or {}).get(stage.name)), stage.what) for stage in stages]
    rows = [row for row in rows if row[3]]
    done = None if took is None else sum(took.get(stage.name, 0.0) for stage in stages)
    rows.append(("in all", _clock(sum(stage.seconds for stage in stages)), _clock(done), ""))
    lines = [f"{'stage':<20} {'planned':>8} {'took' if took is not None else '':>8}  what"]
    return "\n".join([*lines, *(f"{name:<20} {planned:>8} {taken:>8}  {what}" for name, planned, taken, what in rows)])


def run_bytes(parameters: int) -> int:
    """Returns the room on the disk that a run needs at most.

    A checkpoint has the weights and two slots of the optimizer for each, and is written beside the one before.
    """
    return 4 * parameters * (2 * 3 + 2)


def disk(recipe: Recipe, num_images: dict[str, int], costs: Costs) -> str:
    """Says what a run needs on the disk."""
    images = (1 + recipe.head_views) * num_images["train"] + num_images["valid"]
    kept = 4 * images * costs.features
    return (
        f"on the disk: {run_bytes(costs.parameters) / 1e6:.0f} MB at most in the run directory, and "
        f"{kept / 1e6:.0f} MB of activations in the cache"
    )


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else f"{int(seconds + 0.5) // 60}:{int(seconds + 0.5) % 60:02}"


def within(
    recipe: Recipe, num_images: dict[str, int], costs: Costs, seconds: float
) -> tuple[Recipe, Cycles, list[PlannedStage]]:
    """Fits a recipe to a time: shorter cycles, and if one epoch is too long, fewer views for the head.

    Returns:
        The recipe, its cycles and the stages.

    Raises:
        ValueError: If the least that a run does takes longer.
    """
    cycles = planned_cycles(recipe, num_images["train"])
    for views in range(recipe.head_views, -1, -1):
        fewer = replace(recipe, head_views=views)
        for epochs in range(cycles.epochs, 0, -1):
            shorter = cycles.at_most(epochs)
            stages = plan(fewer, num_images, costs, shorter)
            if sum(stage.seconds for stage in stages) <= (1 - _SPARE) * seconds:
                return fewer, shorter, stages
    spent = 60 * (recipe.max_minutes or 0) - seconds
    least = (spent + sum(stage.seconds for stage in stages) / (1 - _SPARE)) / 60
    raise InvalidValueError(
        f"`max_minutes` must leave time for one epoch of everything, about {least:.1f} minutes here. Received: "
        f"max_minutes={recipe.max_minutes}. Give more, or a smaller `image_size` or `backbone`."
    )


def replanned(
    recipe: Recipe,
    num_images: dict[str, int],
    costs: Costs,
    planned: Sequence[PlannedStage],
    took: dict[str, float],
    seconds: float,
) -> tuple[Cycles, list[PlannedStage]]:
    """Fits step 8 and what comes after it to the time that is left.

    Args:
        recipe: The settings.
        num_images: As in `plan`.
        costs: What this machine took before the first stage.
        planned: All stages, as they were planned then.
        took: What those that are done have taken.
        seconds: The time that is left.

    Returns:
        The cycles, an epoch at least, and the stages.
    """
    done = [stage for stage in planned if stage.name in took]
    # If they took longer than planned, others will too.
    slowness = max(1.0, sum(took[stage.name] for stage in done) / sum(stage.seconds for stage in done))
    longest = planned_cycles(recipe, num_images["train"])
    # TensorFlow was imported before the run's clock began, and the report is written after the last stage. The network,
    # which is made at the start too, is counted twice: something to spare.
    left = (1 - _SPARE) * seconds - sum(stage.seconds for stage in planned if stage.name == _START)
    for epochs in range(longest.epochs, 0, -1):
        cycles = longest.at_most(epochs)
        rest = [stage for stage in plan(recipe, num_images, costs, cycles) if stage.name not in (_START, *took)]
        rest = [replace(stage, seconds=slowness * stage.seconds) for stage in rest]
        if sum(stage.seconds for stage in rest) <= left:
            break
    return cycles, [*done, *rest]
