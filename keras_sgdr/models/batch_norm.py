"""Recomputes the statistics of batch norms on the images that the model is to see."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import keras
import numpy as np

from keras_sgdr.data.dataset.epoch_counter import epoch_kept
from keras_sgdr.models.graph import leaves
from keras_sgdr.validation import InvalidValueError, require_integer

# One layer more is exact after each sweep, and the deeper ones nearly.
_MAX_SWEEPS, _SMALL_CHANGE = 10, 0.01


def recalibrate_batch_norm(model: keras.Model, dataset: Iterable[Any], *, num_batches: int = 50) -> None:
    """Sets the statistics of all batch norms to those of some batches, taken together; nothing else changes.

    It is the middle way between keeping the statistics of ImageNet, which may not fit images of another kind, and
    letting them move while the weights are trained. Each mean and variance is that of all images, whatever the size of
    a batch. The batches are gone through several times: first with each normalised by itself, so that it does not
    matter what the statistics were, then normalised by what was found so far, until that moves by less than a hundredth
    of a deviation (twice or three times where batches are alike). Dropout is inactive. `freeze_to` and `unfreeze` do it
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
        raise InvalidValueError(f"`model` must have batch norms. Received: model={model.name!r}, which has none.")
    require_integer("num_batches", num_batches)
    recalibrate(model, norms, dataset, num_batches)


def batch_norms(layer: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Returns a layer, or those in it if it is a model, as far as they are batch norms."""
    return [leaf for leaf in leaves(layer) if isinstance(leaf, keras.layers.BatchNormalization)]


def recalibrate(
    model: keras.Model, norms: Sequence[keras.layers.BatchNormalization], dataset: Iterable[Any], num_batches: int
) -> None:
    """Does what `recalibrate_batch_norm` does, for some of a model's batch norms; the others keep their statistics.

    Raises:
        ValueError: If the dataset has no batches.
    """
    batches = list(islice(dataset, num_batches)) if isinstance(dataset, Iterator) else dataset  # iterated again
    for sweep in range(_MAX_SWEEPS):
        moments = {norm: _Moments(norm) for norm in norms}
        with _recorded(model, moments, is_normalised_by_batch=sweep == 0), epoch_kept(batches):
            for batch in islice(batches, num_batches):
                model(batch[0] if isinstance(batch, tuple) else batch, training=True)
        if not all(found.count for found in moments.values()):
            raise InvalidValueError("`dataset` must have at least one batch. Received: an empty dataset.")
        changes = [found.assign_to(norm) for norm, found in moments.items()]
        if sweep and max(changes) < _SMALL_CHANGE:
            return


class _Moments:
    """The mean and the variance, for each channel, of all that a batch norm is given."""

    def __init__(self, norm: keras.layers.BatchNormalization) -> None:
        self._axis = norm.axis
        self.count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, inputs: Any) -> None:
        """Adds the values of a batch."""
        axes = [axis for axis in range(len(inputs.shape)) if axis != self._axis % len(inputs.shape)]
        mean, variance = keras.ops.moments(keras.ops.cast(inputs, "float32"), axes)
        mean, variance = (keras.ops.convert_to_numpy(value).astype("float64") for value in (mean, variance))
        count = int(np.prod([inputs.shape[axis] for axis in axes]))
        self.count += count
        self._sum = self._sum + count * mean
        self._squares = self._squares + count * (variance + mean**2)

    def assign_to(self, norm: keras.layers.BatchNormalization) -> float:
        """Assigns them to the norm; returns the largest change, in parts of a deviation."""
        mean = self._sum / self.count
        variance = np.maximum(self._squares / self.count - mean**2, 0)
        before = [keras.ops.convert_to_numpy(value) for value in (norm.moving_mean, norm.moving_variance)]
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
        deviation = np.sqrt(variance + norm.epsilon)
        changes = np.abs([mean - before[0], deviation - np.sqrt(before[1] + norm.epsilon)]) / deviation
        return float(changes.max())


@contextlib.contextmanager
def _recorded(model: keras.Model, moments: Mapping[Any, _Moments], *, is_normalised_by_batch: bool) -> Iterator[None]:
    """Records the inputs of batch norms; every other layer is in inference mode, and no statistic moves."""
    every_norm: list[Any] = batch_norms(model)
    rates = {layer: layer.rate for layer in leaves(model) if hasattr(layer, "rate") and layer not in every_norm}
    before = [(norm, norm.trainable, norm.momentum) for norm in every_norm]
    for layer in rates:
        layer.rate = 0.0
    for norm in every_norm:
        norm.trainable = is_normalised_by_batch and norm in moments
        norm.momentum = 1.0
    for norm, found in moments.items():
        norm.call = _recording(norm.call, found)
    try:
        yield
    finally:
        for norm in moments:
            del norm.call  # the class has its own
        for layer, rate in rates.items():
            layer.rate = rate
        for norm, trainable, momentum in before:
            norm.trainable, norm.momentum = trainable, momentum


def _recording(call: Callable[..., Any], found: _Moments) -> Callable[..., Any]:
    @functools.wraps(call)
    def recording(inputs: Any, *arguments: Any, **options: Any) -> Any:
        found.add(inputs)
        return call(inputs, *arguments, **options)

    return recording
