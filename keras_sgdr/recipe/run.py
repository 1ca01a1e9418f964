"""`Run`: what the eight steps share while they run."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_sgdr import plots
from keras_sgdr.checkpoint.training_checkpoint import TrainingCheckpoint
from keras_sgdr.data.index.split import FolderIndex
from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.recipe.builders import make_dataset, make_features, make_model
from keras_sgdr.recipe.candidates import Candidate
from keras_sgdr.recipe.progress_table import ProgressTable
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run_directory import RunDirectory

# Step 8's first cycle, where the recipe does not give its epochs: by its batches, of which a folder of 200 images has 7
# in an epoch. One long cycle ends better than cycles of 1, 2 and 4 epochs, whose restarts undo part of the last one.
FIRST_CYCLE_STEPS = 196
LEAST_FIRST_EPOCHS, MOST_FIRST_EPOCHS = 7, 70


class Run:
    """One run in memory; whatever outlives the process is in its directory.

    Args:
        recipe: The settings.
        index: The images.
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
        """Activations of the training and the validation images, and the head that reads them."""
        freeze_to(self.model, -1)
        self.say("step 1: precompute the activations of the frozen backbone")
        train, head = make_features(self.recipe, self.model, self.index.train, verbose=self.verbose)
        valid, _ = make_features(self.recipe, self.model, self.index.valid, verbose=self.verbose)
        return train, valid, head

    @cached_property
    def features_of_views(self) -> Any:
        """Activations of augmented views of the training images, one after the other."""
        views = self.recipe.head_views
        self.say(f"precompute the activations of {views} augmented views")
        freeze_to(self.model, -1)
        features, _ = make_features(self.recipe, self.model, self.index.train, views=views, verbose=self.verbose)
        return features.repeat(views)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the training images."""
        return -(-len(self.index.train) // self.recipe.batch_size)

    @property
    def cycle_len(self) -> int:
        """Epochs of the first cycle of step 8."""
        by_images = round(FIRST_CYCLE_STEPS / self.steps_per_epoch)
        return self.recipe.cycle_len or min(max(LEAST_FIRST_EPOCHS, by_images), MOST_FIRST_EPOCHS)

    def candidate(self, name: str) -> Candidate:
        """Returns what the model, as it is, says of the validation images."""
        valid = make_dataset(self.recipe, self.index.valid, cache=self.recipe.image_cache, verbose=0)
        # Not `predict_tta`: a model that has diverged is one more candidate, and the worst.
        probabilities = [self.model.predict_on_batch(images) for images, _ in valid.as_numpy_iterator()]
        return Candidate.of(name, np.concatenate(probabilities), self.index.valid.labels)

    def prepare(self, stage: str) -> None:
        """Makes what a stage trains on, where an earlier one may have made it."""
        if stage in ("find_head_rate", "train_head"):
            _ = self.features
        if stage == "train_head_augmented" and self.recipe.head_views:
            _ = self.features, self.features_of_views

    def fit(
        self, model: keras.Model, data: Any, valid: Any, stage: str, epochs: int, *callbacks: Any, first: int = 0
    ) -> list[Any]:
        """Trains from the epoch `first` on and returns one dictionary per epoch."""
        # The table goes before a checkpoint, which must come last.
        shown = [ProgressTable(), *callbacks] if self.verbose else list(callbacks)
        # `shuffle` is for arrays; left at its default, Keras warns that it has no effect on a dataset
        arguments = {"epochs": epochs, "initial_epoch": first, "shuffle": False, "verbose": 0}
        # Without end, they begin once; before each pass TensorFlow prepares their graph, which takes a second.
        arguments |= {"steps_per_epoch": len(data), "validation_steps": len(valid)}
        log = model.fit(data.repeat(), validation_data=valid.repeat(), callbacks=shown, **arguments).history
        return [
            {"stage": stage, "epoch": epoch + 1, **{name: float(values[epoch]) for name, values in log.items()}}
            for epoch in range(len(log["loss"]))
        ]

    def fit_images(
        self, stage: str, name: str, epochs: int, *callbacks: Any, of: int | None = None, attempt: int = 1
    ) -> list[Any]:
        """Trains the whole model on augmented images, from the last epoch on that an unfinished `stage` has left.

        Args:
            stage: The stage.
            name: What the history calls it.
            epochs: Where to end.
            *callbacks: The schedule and others.
            of: Where the stage ends, if this is but a part of it; one that is done already is left out.
            attempt: Which attempt at the stage it is.
        """
        remembering = [callback for callback in callbacks if hasattr(callback, "get_state")]
        checkpoint = TrainingCheckpoint(self.directory.unfinished(stage, attempt), callbacks=remembering)
        start = checkpoint.restore(self.model)
        if start.epoch:
            self.say(f"go on after epoch {start.epoch}")
        if epochs <= start.epoch and epochs < (of or epochs) and not start.stopped:
            return []
        kept: dict[str, Any] = {"cache": self.recipe.image_cache, "verbose": self.verbose}
        order: dict[str, Any] = {"augmented": True, "shuffle": True, "initial_step": start.step}
        train = make_dataset(self.recipe, self.index.train, **order, **kept)
        valid = make_dataset(self.recipe, self.index.valid, **kept)
        last = start.epoch if start.stopped else max(start.epoch, epochs)
        return self.fit(self.model, train, valid, name, last, *callbacks, checkpoint, first=start.epoch)

    def rate(self, stage: str) -> float:
        """Returns the learning rate that a stage settled on, or the one that is given instead."""
        given = {"find_head_rate": self.recipe.head_learning_rate, "find_rate": self.recipe.learning_rate}[stage]
        return float(given or self.directory.stages[stage]["learning_rate"])

    def keep_curve(self, curve: LRCurve, name: str) -> None:
        """Leaves a finder's curve in the run directory, for people and for programs."""
        plots.save_figure(curve.plot(), self.directory.path / f"{name}.png")
        curve.to_csv(self.directory.path / f"{name}.csv")

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dictionary per epoch that has finished, in order."""
        return [row for values in self.directory.stages.values() for row in values.get("history", [])]


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
