"""Step 8: the whole network in cycles until it overfits, and never to a model worse than the head's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sgdr import plots
from keras_sgdr.checkpoint.training_state import to_numpy
from keras_sgdr.models.classifier import save_classifier
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.recipe.builders import compile_all, recompile_from
from keras_sgdr.recipe.candidates import Candidate, best_of, guessing_loss
from keras_sgdr.recipe.plan import Cycles
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.run_directory import FIND_RATE, TRAIN_ALL, TRAIN_SMALLER
from keras_sgdr.schedules.cosine_cycles import total_epochs
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from keras_sgdr.schedules.snapshots import CycleSnapshots

# How often step 8 may begin, each time with a tenth of the rate before.
MAX_ATTEMPTS = 2
# Batches over which each cycle's rate rises to its peak. Adam's first steps are as large as any, whatever the gradient;
# at a head that is at its optimum already, a full one throws the network off.
WARMUP_STEPS = 12
# A training loss below this share of the validation loss is that of a network which knows its images by heart.
_OVERFITTING_SHARE = 0.5
# No first cycle does harm that ends below this share of what guessing costs: next to nothing, everything is more.
_LEAST_HARM = 0.05


class CycleCandidates(keras.callbacks.Callback):
    """Looks at the validation images at the end of each cycle, and ends the training when that is of use no more.

    That is when a cycle is no better than those before it, or the first did harm.
    A first cycle may well end a little worse than the head alone, where the images are far from ImageNet's, and the
    later ones far better. Harm is what it has done if the loss is half-way back to guessing, in the logarithm.

    Args:
        scheduler: The `SGDRScheduler` of the same `fit`.
        before: The model before the training.
        guessing_loss: The loss of answering with the shares of the classes.
        look: Returns what the model, as it is, says of the validation images, under a name.

    Attributes:
        candidates: One for each cycle that has ended.
    """

    def __init__(
        self, scheduler: SGDRScheduler, before: Candidate, guessing_loss: float, look: Callable[[str], Candidate]
    ) -> None:
        super().__init__()
        self.candidates: list[Candidate] = []
        self._scheduler, self._before, self._look = scheduler, before, look
        self._limit = max(before.loss, math.sqrt(before.loss * guessing_loss), _LEAST_HARM * guessing_loss)

    @property
    def does_harm(self) -> bool:
        """Whether the first cycle did harm."""
        return bool(self.candidates) and self.candidates[0].loss > self._limit

    @property
    def best(self) -> int:
        """The position of the best among the model before the training, 0, and the cycles."""
        return best_of([self._before, *self.candidates])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks, at the end of a cycle."""
        super().on_epoch_end(epoch, logs)
        if self._scheduler.ends_cycle(epoch):
            self.candidates.append(self._look(f"cycle {len(self.candidates) + 1}"))
            losses = [each.loss for each in self.candidates]
            if self.does_harm or losses[-1] > min(losses):
                self.model.stop_training = True

    def get_state(self) -> dict[str, Any]:
        """Returns the candidates, for a `TrainingCheckpoint`."""
        return {"candidates": [vars(each) for each in self.candidates]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Sets the candidates again."""
        self.candidates = [Candidate(**each) for each in state["candidates"]]


def train_smaller(run: Run) -> dict[str, Any]:
    """Trains everything on images of each smaller size in turn, a cycle each, and leaves a model of the last size."""
    rate, rows, undone = _rate(run), [], []
    for number, size in enumerate(run.sizes[:-1], start=1):
        before, weights = run.candidate("before"), run.model.get_weights()
        _compile_unless_ready(run, rate)
        run.say(f"step 8: train the whole network on images of {size} pixels")
        rows += run.fit(TRAIN_SMALLER, f"all, {size} px", run.cycles.cycle_len, _schedule(run, rate, 1), attempt=number)
        after = run.candidate(f"at {size} pixels")
        run.say(f"on the validation images: {after}")
        if best_of([before, after]) == 0:
            run.say(f"undone: {after} is no better than {before}")
            run.model.set_weights(weights)
            undone.append(size)
        run.resize(run.sizes[number])
    return {"history": rows, "undone": undone}


def train_all(run: Run) -> dict[str, Any]:
    """Trains everything, and leaves the model the weights of the best cycle, or of the head if none is better."""
    rate = _rate(run)
    has_limit = run.recipe.max_minutes is not None or run.recipe.max_epochs is not None
    history: list[Any] = []
    undone: list[Any] = []
    before = f"the network at {run.sizes[-2]} pixels" if len(run.sizes) > 1 else "the head"
    head, weights = run.candidate(before), run.model.get_weights()
    _compile_unless_ready(run, rate)
    untrained = [to_numpy(variable) for variable in run.model.optimizer.variables]
    for attempt in range(1, 1 + (1 if has_limit else MAX_ATTEMPTS)):
        rows, cycles, snapshots = _attempt(run, head, rate, attempt)
        if not cycles.candidates:  # a callback of the user's stopped it before its first cycle ended
            candidates = [head, run.candidate("the training up to where a callback stopped it")]
            best = best_of(candidates)
            if not best:
                run.model.set_weights(weights)
            break
        candidates, best = [head, *cycles.candidates], cycles.best
        if best and not cycles.does_harm:
            snapshots.snapshots[best - 1].load(run.model)
            break
        run.say(f"undone: {cycles.candidates[-1]} is no better than {head} before it")
        run.model.set_weights(weights)
        for variable, value in zip(run.model.optimizer.variables, untrained, strict=True):
            variable.assign(value)
        history += [{**row, "stage": "all, undone"} for row in rows]
        undone.append({"learning_rate": rate, "candidates": [_described(each) for each in cycles.candidates]})
        rows, rate, candidates, best = [], rate / 10, [head], 0
    soften(run.model, candidates[best].temperature)
    run.say(
        f"best on the validation images, chosen on them: {candidates[best]}, "
        f"its logits divided by {candidates[best].temperature:.2f}"
    )
    words = _verdict(rows, candidates, run.cycles.n_cycles)
    run.say(words)
    save_classifier(run.model, run.directory.path, class_names=run.index.class_names, resize=run.recipe.resize)
    return {
        "history": history + rows,
        "checkpoint": "model.keras",
        "learning_rate": rate if rows else None,
        "best": candidates[best].name,
        "temperature": candidates[best].temperature,
        "candidates": [_described(each) for each in candidates],
        "undone": undone,
        "verdict": words,
    }


def _rate(run: Run) -> float:
    """The rate of the last layer group: the one that was given, or what step 7 chose."""
    rate: float = run.recipe.top_learning_rate or run.directory.stages[FIND_RATE]["learning_rate"]
    return rate


def _compile_unless_ready(run: Run, rate: float) -> None:
    # What step 7 compiled need not be compiled again; the schedule sets the rate.
    if not isinstance(getattr(run.model, "optimizer", None), DifferentialLR):
        compile_all(run.model, run.recipe, rate)


def _schedule(run: Run, rate: float, n_cycles: int) -> SGDRScheduler:
    cycles = run.cycles
    warmup = min(WARMUP_STEPS, cycles.cycle_len * run.steps_per_epoch // 2)
    return SGDRScheduler(
        rate,
        cycle_len=cycles.cycle_len,
        cycle_mult=cycles.cycle_mult,
        n_cycles=n_cycles,
        warmup="restarts" if warmup else None,
        warmup_steps=warmup or None,
    )


def soften(model: keras.Model, temperature: float) -> None:
    """Divides the logits of a classifier that ends with a dense layer and its softmax."""
    head = model.layers[-1]
    head.set_weights([weights / temperature for weights in head.get_weights()])


def _described(candidate: Candidate) -> dict[str, Any]:
    return {"name": candidate.name, "loss": candidate.loss, "accuracy": candidate.accuracy}


def _attempt(run: Run, head: Candidate, rate: float, attempt: int) -> tuple[list[Any], CycleCandidates, CycleSnapshots]:
    """Trains at a rate from the weights that the model has, or goes on with that."""
    recipe = run.recipe
    n_cycles = run.cycles.n_cycles
    run.say(f"step 8: train the whole network, {f'at most {n_cycles} cycles' if n_cycles > 1 else 'in one cycle'}")
    schedule = _schedule(run, rate, n_cycles)
    guess = guessing_loss(run.index.train.labels)
    preview = schedule.preview(steps_per_epoch=run.steps_per_epoch, optimizer=run.model.optimizer)
    run.say(str(preview))
    plots.save_figure(preview.plot(), run.directory.path / "schedule.png")
    candidates, snapshots = CycleCandidates(schedule, head, guess, run.candidate), CycleSnapshots(schedule)
    callbacks = (schedule, snapshots, candidates)
    rows: list[Any] = []
    for first_group, epochs in _phases(recipe, run.cycles):
        if recipe.gradual_unfreezing:
            recompile_from(run.model, recipe, first_group)
        rows = run.fit(TRAIN_ALL, "all", epochs, *callbacks, of=schedule.epochs, attempt=attempt) or rows
        if candidates.does_harm:
            break
    return rows, candidates, snapshots


def _phases(recipe: Recipe, cycles: Cycles) -> list[tuple[int, int]]:
    """Returns from which layer group on to train up to which epoch: all at once, or a group more in each cycle."""
    lengths = range(1, cycles.n_cycles + 1)
    ends = [total_epochs(n_cycles, cycles.cycle_len, cycles.cycle_mult) for n_cycles in lengths]
    if not recipe.gradual_unfreezing:
        return [(0, ends[-1])]
    return [(max(0, recipe.num_groups - 2 - cycle), end) for cycle, end in enumerate(ends)]


def _verdict(rows: Sequence[dict[str, Any]], candidates: Sequence[Candidate], max_cycles: int) -> str:
    """Says whether the network overfits, and what to do about it."""
    if candidates[0].accuracy == 1:
        return f"Every validation image is right with {candidates[0].name} alone: nothing is left to learn from these."
    if not rows:
        return "Training the whole network made it no better: check labels and images, or give a lower --learning-rate."
    remedy = "more images help, or stronger augmentation (--max-zoom), more --dropout"
    last, cycles = rows[-1], candidates[1:]
    lowest = min(cycles, key=lambda each: each.loss)
    if lowest.accuracy == 1:
        return f"Every validation image is right after {lowest.name}: there is nothing left to learn from these."
    if cycles[-1].loss > lowest.loss:
        rise = f"from {lowest.loss:.4f} after {lowest.name} to {cycles[-1].loss:.4f}"
        return f"It overfits: the validation loss rose {rise}; {remedy}."
    if last["loss"] < _OVERFITTING_SHARE * last["val_loss"]:
        gap = f"the training loss {last['loss']:.4f} is far below the validation loss {last['val_loss']:.4f}"
        return f"It overfits: {gap}; {remedy}."
    return f"It does not overfit yet: more cycles may help (--n-cycles {max_cycles + 1})."
