"""What a run's parts cost on this machine, by a few images, batches and epochs."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sgdr.checkpoint.training_checkpoint import TrainingCheckpoint
from keras_sgdr.data.check.duplicates import fingerprint
from keras_sgdr.data.index.split import FolderIndex
from keras_sgdr.recipe.builders import compile_all, make_dataset, make_model, make_training_data, with_labels_for
from keras_sgdr.recipe.recipe import Recipe

# Timed for the estimate: so many batches, after as many that are slower
_TIMED_BATCHES, _WARM_BATCHES, _TIMED_EPOCHS = 6, 2, 4


@dataclass(frozen=True)
class Costs:
    """What this machine takes for a recipe, in seconds.

    Attributes:
        check: To look at a file.
        decode: To decode an image.
        predict: To predict on a batch.
        train: To train the whole network on a batch, augmentation included.
        epoch: An epoch of training beyond its batches: to begin its validation, and to write the checkpoint.
        prepare_predict: Before the first prediction.
        prepare_train: Before the first step of training.
        parameters: Numbers that are the network's weights.
        features: Numbers that it makes of an image, for the head.
    """

    check: float
    decode: float
    predict: float
    train: float
    epoch: float
    prepare_predict: float
    prepare_train: float
    parameters: int
    features: int


class _Times(keras.callbacks.Callback):
    """Notes when each batch of training ends, and each epoch with its validation."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[float] = []
        self.epochs: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        self.batches.append(time.monotonic())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        self.epochs.append(time.monotonic())


def measure(recipe: Recipe, index: FolderIndex) -> Costs:
    """Times a few images, batches and epochs, on a model of its own with random weights."""
    recipe = recipe.at_size(recipe.image_size)
    few = index.train.take(np.arange(min(len(index.train), _TIMED_BATCHES * recipe.batch_size)))
    model = make_model(recipe, len(index.class_names), None)
    batches, decode = _timed_passes(make_dataset(recipe, few))
    first, *rest = [_seconds(lambda: model.predict_on_batch(batches[0])) for _ in range(1 + _TIMED_BATCHES)]
    predict = float(np.median(rest))
    compile_all(model, recipe)
    # Of images in memory, as a run keeps them where they fit
    data = make_training_data(recipe, few, cache="memory", verbose=0).repeat()
    times, begun = _Times(), time.monotonic()
    model.fit(data, steps_per_epoch=_WARM_BATCHES + _TIMED_BATCHES, callbacks=[times], shuffle=False, verbose=0)
    train = float(np.median(np.diff(times.batches[_WARM_BATCHES - 1 :])))
    prepare_train = times.batches[0] - begun - train
    epoch, prepare_valid = _epoch_beyond_batches(model, recipe, data, index, train + predict)
    with ThreadPoolExecutor() as pool:
        fingerprint(few.paths[0])  # which makes the function ready
        check = _seconds(lambda: list(pool.map(fingerprint, few.paths))) / len(few)
    return Costs(
        check=check,
        decode=decode / len(few),
        predict=predict,
        train=train,
        epoch=epoch,
        prepare_predict=first,
        prepare_train=prepare_train + prepare_valid,
        parameters=model.count_params(),
        features=int(model.layers[-1].input.shape[-1]),
    )


def _epoch_beyond_batches(
    model: keras.Model, recipe: Recipe, data: Any, index: FolderIndex, batch: float
) -> tuple[float, float]:
    """Returns what an epoch of one batch, and one of validation, takes beyond them, and the first one beyond others."""
    valid = make_dataset(recipe, index.valid.take(np.arange(min(len(index.valid), recipe.batch_size))))
    valid = with_labels_for(recipe, valid, len(index.class_names)).cache().repeat()
    with tempfile.TemporaryDirectory() as directory:
        times, begun = _Times(), time.monotonic()
        checkpoint = TrainingCheckpoint(Path(directory) / "timed.checkpoint")
        steps = {"steps_per_epoch": 1, "validation_steps": 1, "epochs": 1 + _TIMED_EPOCHS}
        model.fit(data, validation_data=valid, callbacks=[checkpoint, times], shuffle=False, verbose=0, **steps)
    epoch = float(np.median(np.diff(times.epochs)))
    return max(0.0, epoch - batch), max(0.0, times.epochs[0] - begun - epoch)


def _timed_passes(dataset: Any) -> tuple[list[Any], float]:
    """Returns the images of a dataset, batch by batch, and how long a pass takes once it has begun."""
    list(dataset.take(1))  # which makes it ready
    begun = time.monotonic()
    batches = [batch[0].numpy() for batch in dataset]
    return batches, time.monotonic() - begun


def _seconds(call: Any) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun
