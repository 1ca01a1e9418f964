"""Steps 2 to 4: the head's learning rate, and the head at its optimum on precomputed activations."""

from __future__ import annotations

from typing import Any

import keras

from keras_sgdr.lr_finder.lr_find import lr_find
from keras_sgdr.recipe.builders import compile_head, fit_head, predict_head
from keras_sgdr.recipe.candidates import Candidate, best_of
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.run_directory import FIND_HEAD_RATE, TRAIN_HEAD_AUGMENTED
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from keras_sgdr.validation import InvalidValueError

# The rule of `LRCurve.suggest` for a new head
SUGGESTION = "valley"
# The head's rate where the finder has no answer: Adam's own
HEAD_RATE = 1e-3


def find_head_rate(run: Run) -> dict[str, Any]:
    """Step 2: takes the rate that is given, else the finder's, on precomputed activations."""
    if run.recipe.live_head_rate is not None:
        return {"learning_rate": run.recipe.live_head_rate, "why": "given"}
    train, _, head = run.precompute()
    compile_head(head)
    run.say("step 2: find the head's learning rate")
    curve = lr_find(head, train.repeat(), verbose=run.verbose)
    run.keep_curve(curve, "lr_finder_head")
    try:
        rate, why = curve.suggest(SUGGESTION), f"the {SUGGESTION} of the curve"
    except InvalidValueError as error:
        # A small folder or random weights can give a curve without an answer; that is no reason to lose the run.
        rate, why = HEAD_RATE, f"the usual one, for the curve holds no answer ({error})"
    run.say(f"the head's rate: {rate:.1e}, {why}; see {run.directory.path / 'lr_finder_head.png'}")
    return {"learning_rate": rate, "why": why}


def train_head(run: Run) -> dict[str, Any]:
    """Step 3: fits the head to the activations of the plain images."""
    train, valid, head = run.precompute()
    run.say("step 3: train the head to its optimum on precomputed activations")
    if run.recipe.start_from is None:
        return _at_optimum(run, "head", [train], valid, head)
    before, weights = _candidate(run, f"the head of {run.recipe.start_from}"), run.model.layers[-1].get_weights()
    values = _at_optimum(run, "head", [train], valid, head)
    if best_of([before, _candidate(run, "the new head")]) == 0:
        run.say(f"best on the validation images: {before}")
        run.model.layers[-1].set_weights(weights)
    return values


def train_head_augmented(run: Run) -> dict[str, Any]:
    """Step 4: fits the head to augmented views too, or trains it on live ones, and keeps the better head."""
    recipe = run.recipe
    if not run.head_views and not recipe.head_cycles:
        return {"history": []}
    # Made of activations, for which all but the head is frozen, also in the live epochs below
    before, weights = _candidate(run, "the head of step 3"), run.model.layers[-1].get_weights()
    values: dict[str, Any] = {"history": []}
    if run.head_views:
        train, valid, head = run.precompute()
        run.say("step 4: train the head to its optimum on the activations of augmented views too")
        values = _at_optimum(run, "head, augmented", [train, run.precompute_views()], valid, head)
    if recipe.head_cycles:
        compile_head(run.model, mixes_labels=recipe.mixes_labels)
        run.say("step 4: train the head with augmentation")
        rate = recipe.live_head_rate or run.directory.stages[FIND_HEAD_RATE]["learning_rate"]
        schedule = SGDRScheduler(rate, cycle_len=1, n_cycles=recipe.head_cycles)
        rows = run.fit(TRAIN_HEAD_AUGMENTED, "head, live", recipe.head_cycles, schedule)
        values["history"] += rows
    candidates = [before, _candidate(run, "the head of step 4")]
    best = best_of(candidates)
    if best == 0:
        run.model.layers[-1].set_weights(weights)
    run.say(f"best on the validation images: {candidates[best]}")
    return {**values, "best": candidates[best].name}


def _candidate(run: Run, name: str) -> Candidate:
    """Returns what the network, as it is, says of the validation images: its head, of their activations."""
    _, valid, head = run.precompute()
    # The chief's, as in `Run.candidate`
    return run.workers.from_chief(Candidate.of(name, *predict_head(valid, head, run.workers)))


def _at_optimum(run: Run, stage: str, train: list[Any], valid: Any, head: keras.Model) -> dict[str, Any]:
    found = fit_head(train, valid, head, run.workers)
    run.say(
        f"validation loss {found.loss:.4f}, accuracy {found.accuracy:.4f}, with weight decay {found.weight_decay:g}, "
        "chosen on the validation images"
    )
    row = {"stage": stage, "epoch": 1, "loss": found.train_loss, "accuracy": found.train_accuracy}
    row |= {"val_loss": found.loss, "val_accuracy": found.accuracy}
    return {"history": [row], "weight_decay": found.weight_decay}


def precompute_all(run: Run) -> None:
    """Makes the activations that step 4 reads, those of the views included."""
    if run.head_views or run.recipe.head_cycles:
        run.precompute()
    if run.head_views:
        run.precompute_views()
