"""What happens in each of the eight steps; recipe.py puts them in order."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_sgdr import plots
from keras_sgdr.data import augmentation
from keras_sgdr.data.bad_pictures import check_pictures
from keras_sgdr.data.dataset import load_dataset
from keras_sgdr.data.folder import FolderIndex, Split
from keras_sgdr.evaluation.interpretation import interpret, plot_mistakes
from keras_sgdr.evaluation.tta import predict_tta
from keras_sgdr.models.classifier import build_classifier, save_classifier
from keras_sgdr.models.layer_groups import freeze_to, layer_groups, unfreeze
from keras_sgdr.run_directory import RunDirectory
from keras_sgdr.serving.savedmodel import export_savedmodel
from keras_sgdr.training.differential_lr import DifferentialLR
from keras_sgdr.training.feature_cache import FeatureCache, default_cache_directory
from keras_sgdr.training.features import precompute_features
from keras_sgdr.training.lr_curve import LRCurve
from keras_sgdr.training.lr_finder import lr_find
from keras_sgdr.training.progress import ProgressTable
from keras_sgdr.training.sgdr import SGDRScheduler
from keras_sgdr.training.snapshots import CycleSnapshots, StopWhenOverfitting
from keras_sgdr.whole_files import written_whole

if TYPE_CHECKING:
    from keras_sgdr.recipe import Recipe

PRESETS = {"basic": augmentation.basic, "side_on": augmentation.side_on, "top_down": augmentation.top_down}
# The rule of `LRCurve.suggest` that the recipe follows
SUGGESTION = "valley"
# The least recently used features are removed above this
FEATURE_CACHE_BYTES = 20 * 2**30
# The rule for a network whose head has learnt already: its loss is noise until it diverges
SUGGESTION_LEARNT = "divergence"
# Adam's own rate, where the finder has no answer
HEAD_RATE = 1e-3
# Training pictures whose loss the finder follows then
FINDER_PICTURES = 64


def make_model(recipe: Recipe, num_classes: int, weights: str | None) -> keras.Model:
    """Returns the untrained classifier of a recipe."""
    return build_classifier(
        num_classes,
        backbone=recipe.backbone,
        weights=weights,
        image_size=recipe.image_size,
        dropout=recipe.dropout,
    )


def make_augmentation(recipe: Recipe) -> keras.layers.Layer:
    """Returns the augmentation of a recipe."""
    return PRESETS[recipe.augmentation](max_zoom=recipe.max_zoom)


def make_dataset(recipe: Recipe, split: Split, *, augmented: bool = False, shuffle: bool = False) -> Any:
    """Returns the pictures of a split, batch by batch."""
    return load_dataset(
        split,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        resize=recipe.resize,
        augmentation=make_augmentation(recipe) if augmented else None,
        shuffle=shuffle,
        seed=recipe.seed,
    )


def make_features(
    recipe: Recipe, model: keras.Model, split: Split, *, views: int = 0, verbose: int = 1
) -> tuple[Any, keras.Model]:
    """Returns activations at the model's frozen boundary, kept for later runs, and the rest of the model.

    Args:
        recipe: The settings.
        model: The classifier, frozen up to where the activations are wanted.
        split: The pictures.
        views: How many augmented views of each, of which every epoch has one; with 0 the pictures as they are.
        verbose: 1 shows the progress.
    """
    source = {
        "pictures": [Path(path) for path in split.paths],
        "labels": split.labels,
        "image_size": recipe.image_size,
        "resize": recipe.resize,
        "batch_size": recipe.batch_size,
    }
    if views:
        source |= {"augmentation": make_augmentation(recipe), "seed": recipe.seed}
    cache = FeatureCache(default_cache_directory(), max_bytes=FEATURE_CACHE_BYTES)
    return precompute_features(
        model,
        make_dataset(recipe, split, augmented=views > 0),
        directory=cache,
        source=source,
        views=max(views, 1),
        seed=recipe.seed,
        verbose=verbose,
    )


def compile_head(head: keras.Model, rate: float = 1e-3) -> None:
    """Compiles the head, alone or with a frozen body."""
    _compile(head, keras.optimizers.Adam(rate))


def compile_all(model: keras.Model, recipe: Recipe, rate: float = 1e-3) -> None:
    """Unfreezes the whole network and compiles it with a rate per layer group, `rate` for the last (steps 5 and 6)."""
    unfreeze(model)
    groups = layer_groups(model, num_groups=recipe.num_groups)
    rates = [rate / recipe.group_factor**depth for depth in reversed(range(len(groups)))]
    _compile(model, DifferentialLR(keras.optimizers.Adam(rate), groups, rates))


def find_rate(model: keras.Model, recipe: Recipe, split: Split, *, num_steps: int = 100, verbose: int = 1) -> LRCurve:
    """Returns the finder's curve of the whole network, with the loss on fixed pictures without augmentation."""
    chosen = np.random.default_rng(recipe.seed).permutation(len(split))[:FINDER_PICTURES]
    batches = list(make_dataset(recipe, split.take(np.sort(chosen))).as_numpy_iterator())
    images, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
    data = make_dataset(recipe, split, augmented=True, shuffle=True)
    return lr_find(model, data, num_steps=num_steps, validation_batch=(images, labels), verbose=verbose)


def set_stage_seed(model: keras.Model, seed: int, stage: int) -> None:
    """Begins the random numbers of a stage: the global ones, and those of the model's dropout.

    Each dropout layer draws from a seed of its own, which its making chose, and counts; `save_weights` leaves both out,
    and so a resumed run would draw others.
    """
    keras.utils.set_random_seed(seed + stage)
    saved = {id(variable) for variable in model.weights}
    generators = [variable for variable in model.variables if id(variable) not in saved]
    for i, state in enumerate(generators):
        state.assign([np.random.SeedSequence([seed, stage, i]).generate_state(1)[0] >> 1, 0])


class Run:
    """One run in memory; whatever outlives the process is in its directory.

    Args:
        recipe: The settings.
        index: The pictures.
        directory: Where the run is written down; weights that it holds are loaded.
        verbose: Whether to print.
    """

    def __init__(self, recipe: Recipe, index: FolderIndex, directory: RunDirectory, verbose: int) -> None:
        self.recipe = recipe
        self.index = index
        self.directory = directory
        self.verbose = verbose
        weights = None if directory.has_weights else recipe.weights
        self.model = make_model(recipe, len(index.class_names), weights)
        directory.restore(self.model)

    def say(self, text: str) -> None:
        """Prints a line, if the run is to print at all."""
        if self.verbose:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    @cached_property
    def features(self) -> tuple[Any, Any, keras.Model]:
        """Activations of the training and the validation pictures, and the head that reads them."""
        freeze_to(self.model, -1)
        self.say("step 1: precompute the activations of the frozen backbone")
        train, head = make_features(self.recipe, self.model, self.index.train, verbose=self.verbose)
        valid, _ = make_features(self.recipe, self.model, self.index.valid, verbose=self.verbose)
        return train, valid, head

    @cached_property
    def features_of_views(self) -> tuple[Any, Any, keras.Model]:
        """The same of augmented views of the training pictures."""
        _, valid, _ = self.features
        views = self.recipe.head_views
        self.say(f"precompute the activations of {views} augmented views")
        train, head = make_features(self.recipe, self.model, self.index.train, views=views, verbose=self.verbose)
        return train, valid, head

    def prepare(self, stage: str) -> None:
        """Makes what a stage trains on, where an earlier one may have made it."""
        if stage in ("find_head_rate", "train_head"):
            _ = self.features
        if stage == "train_head_augmented" and self.recipe.head_views:
            _ = self.features_of_views

    def fit(self, model: keras.Model, data: Any, valid: Any, stage: str, epochs: int, *callbacks: Any) -> list[Any]:
        """Trains and returns one dictionary per epoch."""
        shown = [*callbacks, ProgressTable()] if self.verbose else list(callbacks)
        # `shuffle` is for arrays; left at its default, Keras warns that it has no effect on a dataset
        log = model.fit(data, validation_data=valid, epochs=epochs, shuffle=False, verbose=0, callbacks=shown).history
        return [
            {"stage": stage, "epoch": epoch + 1, **{name: float(values[epoch]) for name, values in log.items()}}
            for epoch in range(len(log["loss"]))
        ]

    def fit_pictures(self, stage: str, epochs: int, *callbacks: Any) -> list[Any]:
        """Trains the whole model on augmented pictures."""
        train = make_dataset(self.recipe, self.index.train, augmented=True, shuffle=True)
        return self.fit(self.model, train, make_dataset(self.recipe, self.index.valid), stage, epochs, *callbacks)

    def rate(self, stage: str) -> float:
        """Returns the learning rate that a stage settled on."""
        return float(self.directory.stages[stage]["learning_rate"])

    def suggested(self, curve: LRCurve, method: str, plot: str, *, otherwise: float) -> dict[str, Any]:
        """Plots the finder's curve and returns its suggestion, or a usual rate if it has none."""
        plots.save_figure(curve.plot(), self.directory.path / plot)
        try:
            rate = float(curve.suggest(method))
            self.say(f"suggested rate {rate:.2e} ({method}), see {self.directory.path / plot}")
        except ValueError as error:
            # A small folder or random weights can give a curve without an answer; that is no reason to lose the run.
            rate = otherwise
            self.say(
                f"the finder suggests no rate ({error}) Going on with {rate:.0e}; see {self.directory.path / plot}"
            )
        return {"learning_rate": rate}

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dictionary per epoch that has finished, in order."""
        return [row for values in self.directory.stages.values() for row in values.get("history", [])]


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
    return {"history": run.fit_pictures(stage, epochs, schedule)}


def _find_rate(run: Run) -> dict[str, Any]:
    if run.recipe.learning_rate is not None:
        return {"learning_rate": run.recipe.learning_rate}
    compile_all(run.model, run.recipe)
    run.say("step 7: find the whole network's learning rate")
    curve = find_rate(run.model, run.recipe, run.index.train, verbose=run.verbose)
    return run.suggested(curve, SUGGESTION_LEARNT, "lr_finder_all.png", otherwise=run.rate("find_head_rate") / 10)


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
    history = run.fit_pictures("all", recipe.epochs, schedule, best, stop)
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


def _compile(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])


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
    "head_learning_rate": "find_head_rate",
    "head_epochs": "train_head",
    "head_cycles": "train_head_augmented",
    "head_views": "train_head_augmented",
    "augmentation": "train_head_augmented",
    "max_zoom": "train_head_augmented",
    "learning_rate": "find_rate",
    "num_groups": "find_rate",
    "group_factor": "find_rate",
    "n_cycles": "train_all",
    "cycle_len": "train_all",
    "cycle_mult": "train_all",
    "tta_views": "evaluate",
}
