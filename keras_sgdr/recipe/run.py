"""`Run`: the model, the images and the directory that the stages of a recipe share."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sgdr import plots
from keras_sgdr.checkpoint.training_checkpoint import TrainingCheckpoint
from keras_sgdr.data.dataset.free_space import available_disk
from keras_sgdr.data.index.split import FolderIndex
from keras_sgdr.distribution.workers import Workers
from keras_sgdr.evaluation.tta import predict_each
from keras_sgdr.evaluation.tta_layer import with_views
from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.recipe.builders import (
    image_cache,
    make_dataset,
    make_features,
    make_model,
    make_training_data,
    take_over,
    training_split,
    with_labels_for,
)
from keras_sgdr.recipe.candidates import Candidate
from keras_sgdr.recipe.interruption import Interruption
from keras_sgdr.recipe.plan import Cycles, planned_cycles, run_bytes
from keras_sgdr.recipe.progress_table import ProgressTable
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run_directory import FIT_PLAN, PLAN, TRAIN_HEAD_AUGMENTED, TRAIN_SMALLER, RunDirectory
from keras_sgdr.validation import InvalidValueError


class Run:
    """One run in memory; what outlives the process is in its directory.

    Args:
        recipe: The settings.
        index: The images.
        directory: The journal and the weights so far, which are loaded.
        verbose: Whether to print.
        callbacks: Keras callbacks for each training by gradients.
        on_event: Is called with what happens, as `train_image_classifier` says.
        workers: The processes that train in step; None for one alone.
    """

    def __init__(
        self,
        recipe: Recipe,
        index: FolderIndex,
        directory: RunDirectory,
        verbose: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        on_event: Callable[[dict[str, Any]], None] | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._begun, self._before = time.monotonic(), sum(directory.seconds.values())
        self.asked = recipe
        self.index = index
        self.sizes = recipe.sizes or (recipe.image_size,)
        self.train = training_split(recipe, index)
        self.directory = directory
        self.workers = workers or Workers(None)
        self._trains_in_step = False
        self.interruption = Interruption(at_once=self.workers.count > 1)
        self.verbose = verbose
        self._callbacks, self._on_event = tuple(callbacks), on_event
        # How `load_dataset` keeps decoded images
        self.kept: dict[str, Any] = {"cache": image_cache(recipe.image_cache), "verbose": verbose}
        weights = None if directory.has_weights or recipe.start_from else recipe.weights
        is_small = directory.finished(TRAIN_SMALLER) is None
        self._build(recipe.at_size(self.sizes[0 if is_small else -1]), weights)
        if self.workers.is_chief:
            self._check_disk()
        if recipe.start_from and not directory.has_weights:
            take_over(self.model, recipe.start_from, index.class_names)
        directory.restore(self.model)

    def _check_disk(self) -> None:
        needed, free = run_bytes(self.model.count_params()), available_disk(self.directory.path)
        if free < needed:
            raise InvalidValueError(
                f"`output` must be on a disk with room for the run, about {needed / 1e6:.0f} MB. Received: "
                f"{self.directory.path}, with {free / 1e6:.0f} MB free. Free some room, or choose another directory."
            )

    def _build(self, recipe: Recipe, weights: str | None) -> None:
        """Makes the model of a recipe, and forgets what was made for another size of images."""
        self.recipe = recipe
        with self.strategy.scope() if self.strategy else contextlib.nullcontext():
            self.model = make_model(recipe, len(self.index.class_names), weights)
        # The same layers, never compiled: what predicts is made ready once, and not after each `compile` of the model.
        self.predictor = keras.Model(self.model.inputs, self.model.outputs)
        self._valid: Any = None
        self._divided_valid: Any = None
        self._features: tuple[Any, Any, keras.Model] | None = None
        self._features_of_views: Any = None

    def _rebuild(self, recipe: Recipe) -> None:
        weights = self.model.get_weights()
        self._build(recipe, None)
        self.model.set_weights(weights)

    def resize(self, image_size: int) -> None:
        """Goes on with the same weights in a model for images of another size."""
        self._rebuild(self.recipe.at_size(image_size))

    @property
    def strategy(self) -> Any:
        """The strategy of the model, if it is one that several replicas train in step."""
        return self.workers.strategy if self._trains_in_step else None

    def train_in_step(self) -> None:
        """Goes on with the same weights in a model that all replicas train in step, where there are several."""
        if self.workers.strategy is not None and not self._trains_in_step:
            self._trains_in_step = True
            self._rebuild(self.recipe)

    def end_in_step(self) -> None:
        """Goes on with the same weights in a model of this process alone, as it is saved and served."""
        if self._trains_in_step:
            self._trains_in_step = False
            self._rebuild(self.recipe)

    def tell(self, event: str, **values: Any) -> None:
        """Passes on what happened, if somebody listens."""
        if self._on_event is not None:
            self._on_event({"event": event, **values})

    def say(self, text: str) -> None:
        """Passes a line on, and prints it, if the run is to print at all."""
        self.tell("message", text=text)
        if self.verbose:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def precompute(self) -> tuple[Any, Any, keras.Model]:
        """Returns activations of the training and of the validation images, and the head that reads them.

        Freezes all but the head. A second call returns what the first one has computed.
        """
        if self._features is None:
            freeze_to(self.model, -1)
            self.say("step 1: precompute the activations of the frozen backbone")
            # Of the training images as they are, one pass is all: they are not worth their room.
            options: dict[str, Any] = {"class_weight": self.recipe.class_weight, "verbose": self.verbose}
            train, head = make_features(self.recipe, self.model, self.train, **options, **self._shared)
            valid, _ = make_features(self.recipe, self.model, self.index.valid, **self.kept, **self._shared)
            self._features = train, valid, head
        return self._features

    def precompute_views(self) -> Any:
        """Returns activations of augmented views of the training images, one view of all after the other."""
        views = self.head_views
        if self._features_of_views is None:
            freeze_to(self.model, -1)
            self.say(f"precompute the activations of {views} augmented views")
            options: dict[str, Any] = {"views": views, "class_weight": self.recipe.class_weight, **self.kept}
            options |= self._shared
            features, _ = make_features(self.recipe, self.model, self.train, **options)
            self._features_of_views = features.repeat(views)
        return self._features_of_views

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the training images."""
        return -(-len(self.train) // self.recipe.batch_size)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, those of interrupted processes before only as far as they finished a stage."""
        return self._before + time.monotonic() - self._begun

    @property
    def head_views(self) -> int:
        """The recipe's, or fewer where the time is short."""
        planned = self.directory.finished(PLAN) or {}
        return int(min(self.recipe.head_views, planned.get("head_views", math.inf)))

    @property
    def cycles(self) -> Cycles:
        """The cycles of step 8: those that its stage has planned, or will if nothing is in the way."""
        planned = self.directory.finished(FIT_PLAN)
        return planned_cycles(self.asked, len(self.train)) if planned is None else Cycles(**planned["cycles"])

    @property
    def _shared(self) -> dict[str, Any]:
        """Lets each worker read its own part of the images, where there are several."""
        return {"strategy": self.workers.strategy if self.workers.count > 1 else None}

    def valid_images(self) -> Any:
        """Returns the batches of the validation images, made once: each making costs a second."""
        if self._trains_in_step:
            return self._divided_valid_images()
        if self._valid is None:
            self._valid = make_dataset(self.recipe, self.index.valid, **self.kept)
        return self._valid

    def _divided_valid_images(self) -> Any:
        """Returns this worker's part of the batches of the validation images, made once too."""
        if self._divided_valid is None:
            options = {"strategy": self.workers.strategy, **self.kept}
            self._divided_valid = make_dataset(self.recipe, self.index.valid, **options)
        return self._divided_valid

    def valid_images_at(self, indices: Any) -> Any:
        """Returns some of the validation images, as the model sees them: shape `(n, height, width, 3)`."""
        chosen = make_dataset(self.recipe, self.index.valid.take(indices))
        return np.concatenate([images for images, _ in chosen.as_numpy_iterator()])

    def predict(self, *views: Sequence[str]) -> list[Any]:
        """Returns what the model, as it is, predicts for the validation images, in one pass for all kinds of views."""
        # Not `predict_tta`: a model that has diverged is one more candidate, and the worst.
        models = [with_views(self.predictor, kinds) for kinds in views]
        if self.workers.strategy is None:
            return predict_each(models, self.valid_images())
        images = self._divided_valid_images()
        parts = self.workers.all_of([images.positions, *predict_each(models, images.local)])
        positions, *predictions = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(positions)
        return [each[order] for each in predictions]

    def candidate(self, name: str) -> Candidate:
        """Returns what the model, as it is, predicts for the validation images."""
        (probabilities,) = self.predict(())
        # The chief's: another processor may round otherwise, and all must decide alike.
        return self.workers.from_chief(Candidate.of(name, probabilities, self.index.valid.labels))

    def fit(
        self,
        stage: str,
        name: str,
        epochs: int,
        *callbacks: Any,
        of: int | None = None,
        attempt: int = 1,
    ) -> list[dict[str, Any]]:
        """Trains the whole model on augmented images, from the last epoch on that an unfinished `stage` has left.

        Args:
            stage: The stage.
            name: What the history calls it.
            epochs: Where to end.
            *callbacks: The schedule and others.
            of: Where the stage ends, if this is but a part of it; one that is done already is left out.
            attempt: Which attempt at the stage it is.

        Returns:
            One dictionary per epoch, those before a resumption included: `stage`, `epoch` from 1, and Keras's logs.
        """
        # First, so that the others look at the averaged weights; the head has an optimizer of its own
        averages = stage != TRAIN_HEAD_AUGMENTED and self.recipe.ema > 0
        averaging = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if averages else []
        callbacks = (*averaging, *callbacks, *self._callbacks)
        with_state = [*averaging, *(callback for callback in callbacks if hasattr(callback, "get_state"))]
        checkpoint = TrainingCheckpoint(self.directory.unfinished(stage, attempt), callbacks=with_state)
        start = checkpoint.restore(self.model)
        if start.step:
            within = f", batch {start.batch}" if start.batch else ""
            self.say(f"go on after epoch {start.epoch}{within}")
        if epochs <= start.epoch and epochs < (of or epochs) and not start.stopped:
            return []
        options = {"initial_step": start.step, "strategy": self.strategy, **self.kept}
        train = make_training_data(self.recipe, self.train, **options)
        valid = with_labels_for(self.recipe, self.valid_images(), len(self.index.class_names))
        table = [ProgressTable()] if self.verbose else []
        events = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self.tell(
                "epoch", stage=name, epoch=epoch + 1, **{key: _as_json(value) for key, value in (logs or {}).items()}
            )
        )
        log = self.model.fit(
            # Without end, they begin once; before each pass TensorFlow prepares their graph, which takes a second.
            train.repeat(),
            validation_data=valid.repeat(),
            steps_per_epoch=self.steps_per_epoch,
            validation_steps=valid.num_steps,
            initial_epoch=start.epoch,
            epochs=start.epoch if start.stopped else max(start.epoch, epochs),
            callbacks=[
                *table,
                *callbacks,
                events,
                checkpoint,
                self.interruption.callback(checkpoint, self.say),
            ],
            shuffle=False,  # is for arrays; left at its default, Keras warns that it has no effect on a dataset
            verbose=0,
        ).history
        return [
            {"stage": name, "epoch": epoch + 1, **{key: float(values[epoch]) for key, values in log.items()}}
            for epoch in range(len(log["loss"]))
        ]

    def keep_curve(self, curve: LRCurve, name: str) -> None:
        """Leaves a finder's curve in the run directory, as a plot and as a table."""
        plots.save_figure(curve.plot(), self.directory.path / f"{name}.png")
        curve.to_csv(self.directory.path / f"{name}.csv")

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dictionary per epoch that has finished, in order."""
        return [row for values in self.directory.stages.values() for row in values.get("history", [])]


def _as_json(number: Any) -> float | None:
    """A number as JSON has it, which knows no NaN."""
    return float(number) if math.isfinite(number) else None
