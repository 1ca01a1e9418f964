"""What happens in each of the eight steps; recipe.py puts them in order."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_sgdr import plots
from keras_sgdr.data.bad_pictures import check_pictures
from keras_sgdr.evaluation.interpretation import interpret, plot_mistakes
from keras_sgdr.evaluation.tta import predict_tta
from keras_sgdr.from_recipe import compile_all, compile_head, find_rate, make_augmentation, make_dataset, recompile_from
from keras_sgdr.models.classifier import save_classifier
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.run import Run
from keras_sgdr.serving.savedmodel import export_savedmodel
from keras_sgdr.settings import Recipe
from keras_sgdr.training.lr_finder import lr_find
from keras_sgdr.training.schedules import total_epochs
from keras_sgdr.training.sgdr import SGDRScheduler
from keras_sgdr.training.snapshots import CycleSnapshots, StopWhenOverfitting
from keras_sgdr.whole_files import written_whole

# The rule of `LRCurve.suggest` that the recipe follows
SUGGESTION = "valley"
# The rule for a network whose head has learnt already: its loss is noise until it diverges
SUGGESTION_LEARNT = "divergence"
# Adam's own rate, where the finder has no answer
HEAD_RATE = 1e-3


def _check(run: Run) -> dict[str, Any]:
    paths = [*run.index.train.paths, *run.index.valid.paths]
    run.say(f"check that {len(paths)} files are pictures")
    bar = keras.utils.Progbar(len(paths), verbose=run.verbose, unit_name="picture")
    check_pictures(paths, on_progress=bar.update)
    return {"pictures": len(paths)}


def _find_head_rate(run: Run) -> dict[str, Any]:
    if run.recipe.head_learning_rate is not None:
        return {"learning_rate": run.recipe.head_learning_rate}
    train, _, head = run.features
    compile_head(head)
    run.say("step 2: find the head's learning rate")
    return run.suggested(
        lr_find(head, train, verbose=run.verbose), SUGGESTION, "lr_finder_head.png", otherwise=HEAD_RATE
    )


def _train_head(run: Run) -> dict[str, Any]:
    train, valid, head = run.features
    compile_head(head, run.rate("find_head_rate"))
    run.say("step 3: train the head on precomputed activations")
    return {"history": run.fit(head, train, valid, "head", run.recipe.head_epochs)}


def _train_head_augmented(run: Run) -> dict[str, Any]:
    stage, epochs = "head, augmented", run.recipe.head_cycles
    schedule = SGDRScheduler(run.rate("find_head_rate"), cycle_len=1, n_cycles=epochs)
    if run.recipe.head_views:
        train, valid, head = run.features_of_views
        compile_head(head)
        run.say("step 4: train the head on the activations of augmented views")
        return {"history": run.fit(head, train, valid, stage, epochs, schedule)}
    freeze_to(run.model, -1)
    compile_head(run.model)
    run.say("step 4: train the head with augmentation")
    return {"history": run.fit_pictures("train_head_augmented", stage, epochs, schedule)}


def _find_rate(run: Run) -> dict[str, Any]:
    if run.recipe.learning_rate is not None:
        return {"learning_rate": run.recipe.learning_rate}
    compile_all(run.model, run.recipe)
    run.say("step 7: find the whole network's learning rate")
    curve = find_rate(run.model, run.recipe, run.index.train, verbose=run.verbose)
    return run.suggested(curve, SUGGESTION_LEARNT, "lr_finder_all.png", otherwise=run.rate("find_head_rate") / 10)


def _phases(recipe: Recipe) -> list[tuple[int, int]]:
    """Returns from which layer group on to train up to which epoch: all at once, or a group more in each cycle."""
    if not recipe.gradual_unfreezing:
        return [(0, recipe.epochs)]
    return [
        (max(0, recipe.num_groups - 1 - cycles), total_epochs(cycles, recipe.cycle_len, recipe.cycle_mult))
        for cycles in range(1, recipe.n_cycles + 1)
    ]


def _train_all(run: Run) -> dict[str, Any]:
    recipe, rate = run.recipe, run.rate("find_rate")
    compile_all(run.model, recipe, rate)
    run.say("step 8: train the whole network until it overfits")
    schedule = SGDRScheduler(rate, cycle_len=recipe.cycle_len, cycle_mult=recipe.cycle_mult, n_cycles=recipe.n_cycles)
    steps_per_epoch = len(make_dataset(recipe, run.index.train))
    preview = schedule.preview(steps_per_epoch=steps_per_epoch, optimizer=run.model.optimizer)
    run.say(str(preview))
    plots.save_figure(preview.plot(), run.directory.path / "schedule.png")
    best, stop = CycleSnapshots(schedule, restore_best_cycle=True), StopWhenOverfitting(schedule)
    for first_group, epochs in _phases(recipe):
        recompile_from(run.model, recipe, first_group)
        history = run.fit_pictures("train_all", "all", epochs, schedule, best, stop, of=recipe.epochs)
    save_classifier(run.model, run.directory.path, class_names=run.index.class_names, resize=recipe.resize)
    return {"history": history, "checkpoint": "model.keras"}


def _evaluate(run: Run) -> dict[str, Any]:
    recipe, names, labels = run.recipe, run.index.class_names, run.index.valid.labels
    valid = make_dataset(recipe, run.index.valid)
    run.say("evaluate with test-time augmentation")
    plain = predict_tta(run.model, valid, num_views=0, verbose=0)
    tta = predict_tta(
        run.model,
        valid,
        num_views=recipe.tta_views,
        augmentation=make_augmentation(recipe),
        seed=recipe.seed,
        verbose=run.verbose,
    )
    with written_whole(run.directory.path / "predictions.npz") as aside:
        np.savez_compressed(aside, plain=plain, tta=tta)
    _write_history(run)
    results = [interpret(probabilities, labels, names) for probabilities in (plain, tta)]
    plots.save_figure(plots.plot_history(run.history), run.directory.path / "history.png")
    worst = make_dataset(recipe, run.index.valid.take(results[1].top_losses(9)))
    plot_mistakes(results[1], np.concatenate([images for images, _ in worst.as_numpy_iterator()]), run.directory.path)
    run.say(f"accuracy {results[0].accuracy:.4f}, with test-time augmentation {results[1].accuracy:.4f}")
    return {"accuracy": results[0].accuracy, "tta_accuracy": results[1].accuracy}


def _export(run: Run) -> dict[str, Any]:
    directory = run.directory.path
    names, resize = run.index.class_names, run.recipe.resize
    path = export_savedmodel(run.model, directory / "export", class_names=names, resize=resize)
    run.say(f"saved {directory / 'model.keras'}, exported {path}")
    return {"path": str(path.relative_to(directory))}


def _write_history(run: Run) -> None:
    path = run.directory.path / "history.csv"
    with written_whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        # The head's epochs have a constant rate, the others one per batch: not every row has every column.
        writer = csv.DictWriter(file, list({name: None for row in run.history for name in row}), lineterminator="\n")
        writer.writeheader()
        writer.writerows(run.history)


# name, what it does, whether its weights are still to be written
STAGES: tuple[tuple[str, Callable[[Run], dict[str, Any]], bool], ...] = (
    ("check", _check, False),
    ("find_head_rate", _find_head_rate, False),
    ("train_head", _train_head, True),
    ("train_head_augmented", _train_head_augmented, True),
    ("find_rate", _find_rate, False),
    ("train_all", _train_all, False),
    ("evaluate", _evaluate, False),
    ("export", _export, False),
)
# The first stage that reads a setting; the others shape the pictures and the model from the start.
READ_BY = {
    "head_learning_rate": "train_head",
    "head_epochs": "train_head",
    "head_cycles": "train_head_augmented",
    "head_views": "train_head_augmented",
    "augmentation": "train_head_augmented",
    "max_zoom": "train_head_augmented",
    "learning_rate": "train_all",
    "num_groups": "find_rate",
    "group_factor": "find_rate",
    "n_cycles": "train_all",
    "cycle_len": "train_all",
    "cycle_mult": "train_all",
    "gradual_unfreezing": "train_all",
    "tta_views": "evaluate",
}
