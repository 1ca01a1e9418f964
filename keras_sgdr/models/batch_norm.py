"""Recomputes the statistics of batch norms on the pictures that the model is to see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import keras

from keras_sgdr.data.epoch_counter import epoch_kept
from keras_sgdr.models.graph import leaves


def recalibrate_batch_norm(model: keras.Model, dataset: Iterable[Any], *, num_batches: int = 50) -> None:
    """Sets the statistics of all batch norms to the averages over some batches; nothing else changes.

    It is the middle way between keeping the statistics of ImageNet, which may not fit pictures of another kind, and
    letting them move while the weights are trained. Each statistic becomes the mean over the batches of the batch's own
    mean or variance, so batches should be shuffled and not small. Dropout is inactive. `freeze_to` and `unfreeze` do it
    for the groups that they make trainable, with `batch_norm="recalibrate"`.

    Args:
        model: A built model.
        dataset: Batches of images, or of tuples that begin with images.
        num_batches: How many batches to use at most.

    Raises:
        ValueError: If the model has no batch norms, the dataset has no batches, or `num_batches` is not positive.

    Reference: "precise BN" of Wu & Johnson, https://arxiv.org/abs/2105.07576, section 3.
    """
    norms = batch_norms(model)
    if not norms:
        raise ValueError(f"`model` must have batch norms. Received: model={model.name!r}, which has none.")
    check_num_batches(num_batches)
    recalibrate(model, norms, dataset, num_batches)


def batch_norms(layer: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Returns a layer, or those in it if it is a model, as far as they are batch norms."""
    return [leaf for leaf in leaves(layer) if isinstance(leaf, keras.layers.BatchNormalization)]


def check_num_batches(num_batches: int) -> None:
    """Refuses a number of batches with a ValueError unless it is a positive integer."""
    if not isinstance(num_batches, int) or num_batches < 1:
        raise ValueError(f"`num_batches` must be an integer >= 1. Received: num_batches={num_batches!r}.")


def recalibrate(
    model: keras.Model, norms: Sequence[keras.layers.BatchNormalization], dataset: Iterable[Any], num_batches: int
) -> None:
    """Does what `recalibrate_batch_norm` does, for some of a model's batch norms; the others keep their statistics.

    Raises:
        ValueError: If the dataset has no batches.
    """
    number = 0
    with _only_norms_in_training_mode(model, norms), epoch_kept(dataset):
        for number, batch in enumerate(islice(dataset, num_batches), start=1):
            for norm in norms:
                # A moving average with this momentum is the mean over the batches so far.
                norm.momentum = (number - 1) / number
            model(batch[0] if isinstance(batch, tuple) else batch, training=True)
    if not number:
        raise ValueError("`dataset` must have at least one batch. Received: an empty dataset.")


@contextlib.contextmanager
def _only_norms_in_training_mode(model: keras.Model, norms: Sequence[Any]) -> Iterator[None]:
    every_norm: list[Any] = batch_norms(model)
    rates = {layer: layer.rate for layer in leaves(model) if hasattr(layer, "rate") and layer not in every_norm}
    before = [(norm, norm.trainable, norm.momentum) for norm in every_norm]
    for layer in rates:
        layer.rate = 0.0
    for norm in every_norm:
        norm.trainable = norm in norms
    try:
        yield
    finally:
        for layer, rate in rates.items():
            layer.rate = rate
        for norm, trainable, momentum in before:
            norm.trainable, norm.momentum = trainable, momentum
