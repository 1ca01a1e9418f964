"""Precomputed activations: the frozen body runs once over the images, the rest is trained on what it gave."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr._version import __version__
from keras_sgdr.array_store import ArrayWriter, StoredArray
from keras_sgdr.models.frozen_boundary import split_at_frozen_boundary
from keras_sgdr.precompute.cache_key import content_key, model_source
from keras_sgdr.precompute.feature_cache import FeatureCache
from keras_sgdr.precompute.verify import check_against_live
from keras_sgdr.validation import InvalidValueError, NotReadyError, require_integer

# How far outputs and loss from the kept activations may be from the whole model's, by the type of the activations.
_TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2}
_NUM_COMPARED = 8

_Column = np.ndarray | StoredArray


class _Features(NamedTuple):
    """Rows of activations and targets; those of the first view of every image, then those of the second."""

    activations: Sequence[_Column]
    targets: Sequence[_Column]
    views: int


def precompute_features(
    model: keras.Model,
    dataset: tf.data.Dataset,
    *,
    directory: str | os.PathLike[str] | FeatureCache | None = None,
    source: Any = None,
    views: int = 1,
    dtype: str | None = None,
    shuffle: bool = True,
    seed: int = 0,
    verbose: int = 1,
) -> tuple[tf.data.Dataset, keras.Model]:
    """Runs the frozen body of a model once over a dataset, so that the rest can be trained without it.

    The model is cut at its frozen boundary, whatever is frozen: after `freeze_to(model, -1)` everything but the head,
    after `freeze_to(model, -2)` part of the backbone. The rest shares its layers with the model: compile and fit it
    with any callbacks, and what it learns is in the model at once. Dropout and other randomness are inactive in the
    body.

    In a directory, the activations are kept for later runs under a key made from everything that they depend on: what
    the dataset is made from, the body's architecture and weights, `views`, `dtype`, and the versions of this
    package, Keras and TensorFlow. If anything changes, they are computed anew. The next run resumes an interrupted one.

    Args:
        model: A functional or sequential model with frozen layers. What is trainable must not change until the rest has
            been trained.
        dataset: Batches of images, of (images, labels) or of (images, labels, weights); finite.
        directory: Where to keep the activations, which may then be larger than the memory; a `FeatureCache` may limit
            the size. `None` keeps them in memory.
        source: What the dataset is made from: a nest of numbers, strings, arrays and Keras objects, where a `Path`
            stands for the name and content of its file. `None`: the dataset's own attribute `source` if it has one; if
            not, the batches themselves are read once more and hashed.
        views: How often to go through the dataset. If it augments, that many views of each image are kept, and each
            epoch is trained on one of them in turn.
        dtype: `"float32"` or `"float16"`, as which to keep the activations; `None` for the type that the body gives.
        shuffle: Whether the activations come in a new order in every epoch; `False` keeps the order of `dataset`.
        seed: What the order depends on, beside TensorFlow's global seed.
        verbose: Whether to show the progress (1) or nothing (0).

    Returns:
        The activations, as a dataset of batches structured and sized as those of `dataset`, and the rest of the model,
        not compiled.

    Raises:
        ValueError: If nothing is frozen or nothing is trainable, the dataset is empty or infinite, an argument is out
            of its range, or an activation is too large for float16.
        RuntimeError: If activations, targets, outputs or, where the model is compiled, the loss of the rest on the
            first batch differ from the whole model's by more than 1e-4 (kept as float16: 2e-2; computed in half
            precision: 1e-1).

    Example:
        ```python
        freeze_to(model, -1)
        features, head = precompute_features(model, load_dataset(index.train), directory="features")
        head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        head.fit(features, epochs=2)
        ```
    """
    _check_arguments(dataset, views, dtype)
    body, rest = split_at_frozen_boundary(model)
    stream = _Stream(dataset, views, verbose)
    columns: Sequence[_Column]
    if directory is None:
        columns, first = _in_memory(body, stream, dtype)
    else:
        cache = directory if isinstance(directory, FeatureCache) else FeatureCache(directory)
        columns, first = _on_disk(cache, body, stream, dtype, source)
    if len(columns[0]) % views:
        raise InvalidValueError(
            f"`dataset` must have as many images in every pass. Received: {len(columns[0])} in {views} passes."
        )
    num_outputs = len(body.outputs)
    features = _Features(columns[:num_outputs], columns[num_outputs:], views)
    _check(model, body, rest, first, features)
    return _as_dataset(features, rest, batch_size=len(first[0]), shuffle=shuffle, seed=seed), rest


def _check_arguments(dataset: tf.data.Dataset, views: int, dtype: str | None) -> None:
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InvalidValueError(
            "`dataset` must be finite. Received: a dataset that repeats for ever. Use `dataset.take(n)`."
        )
    is_ours = hasattr(dataset, "epoch_counter") and hasattr(dataset, "source")
    if is_ours and dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY:
        raise InvalidValueError(
            "`dataset` must begin with an epoch. Received: one of `load_dataset` with an `initial_step` in the midst "
            "of one. Leave `initial_step` out."
        )
    require_integer("views", views)
    if dtype not in (None, "float32", "float16"):
        raise InvalidValueError(f"`dtype` must be 'float32', 'float16' or None. Received: dtype={dtype!r}.")


class _Stream:
    """Passes over a dataset; over one of `load_dataset` always those of its first epochs, however often it is read."""

    def __init__(self, dataset: tf.data.Dataset, views: int, verbose: int) -> None:
        self.dataset = dataset
        self.views = views
        self.verbose = verbose

    def batches(self) -> Generator[tuple[Any, ...]]:
        """Yields the batches of all views, each as (images, *targets)."""
        counter = getattr(self.dataset, "epoch_counter", None)
        before = None if counter is None else counter.numpy()
        try:
            for view in range(self.views):
                if counter is not None:
                    counter.assign(view)
                yield from map(_as_tuple, self.dataset)
        finally:
            if counter is not None:
                counter.assign(before)

    def first_batch(self) -> tuple[Any, ...]:
        """Returns the first batch."""
        with contextlib.closing(self.batches()) as batches:
            return next(batches)

    def progress(self) -> keras.utils.Progbar:
        """Returns a bar for as many batches as there are, if that is known."""
        cardinality = int(self.dataset.cardinality())
        total = cardinality * self.views if cardinality >= 0 else None
        return keras.utils.Progbar(total, verbose=self.verbose, unit_name="batch")


class _MemoryWriter:
    """Keeps batches in memory, as `ArrayWriter` does on disk."""

    def __init__(self) -> None:
        self.batches: list[Sequence[np.ndarray]] = []

    @property
    def num_batches(self) -> int:
        return len(self.batches)

    def append(self, columns: Sequence[np.ndarray]) -> None:
        self.batches.append(columns)


def _in_memory(body: keras.Model, stream: _Stream, dtype: str | None) -> tuple[Sequence[np.ndarray], tuple[Any, ...]]:
    writer = _MemoryWriter()
    first = _compute(body, stream, writer, dtype)
    return [np.concatenate(column) for column in zip(*writer.batches, strict=True)], first


def _on_disk(
    cache: FeatureCache, body: keras.Model, stream: _Stream, dtype: str | None, source: Any
) -> tuple[Sequence[StoredArray], tuple[Any, ...]]:
    key = _key(body, stream, dtype, source)
    columns, first = cache.read(key), None
    if columns is None:
        with cache.writing(key) as writer:
            # Another process may have completed the entry while this one waited for its turn.
            columns = cache.read(key)
            if columns is None:
                first = _compute(body, stream, writer, dtype)
                writer.complete({"model": body.name.removesuffix("_body"), "views": stream.views})
                columns = cache.read(key)
    if columns is None:
        raise NotReadyError(
            f"An entry must be there when it has been written. Received: {key} missing in {cache.directory}."
        )
    return columns, first or stream.first_batch()


def _key(body: keras.Model, stream: _Stream, dtype: str | None, source: Any) -> str:
    if source is None:
        source = getattr(stream.dataset, "source", None)
    if source is None:
        source = [content_key([np.asarray(part) for part in batch]) for batch in stream.batches()]
    versions = (__version__, keras.__version__, keras.backend.backend(), tf.__version__)
    return content_key([source, model_source(body), stream.views, dtype, versions])


def _compute(
    body: keras.Model, stream: _Stream, writer: ArrayWriter | _MemoryWriter, dtype: str | None
) -> tuple[Any, ...]:
    """Writes what the writer does not have yet; returns the first batch."""
    progress, first = stream.progress(), None
    with contextlib.closing(stream.batches()) as batches:
        for number, batch in enumerate(batches):
            first = first or batch
            if number >= writer.num_batches:
                outputs = [_cast(output, dtype) for output in _as_list(body.predict_on_batch(batch[0]))]
                writer.append([*outputs, *map(np.asarray, batch[1:])])
            progress.add(1)
    if first is None:
        raise InvalidValueError("`dataset` must have at least one batch. Received: an empty dataset.")
    return first


def _cast(output: Any, dtype: str | None) -> np.ndarray:
    # NumPy cannot write bfloat16 to a file and read it again.
    given = "float32" if output.dtype.name == "bfloat16" else output.dtype
    with np.errstate(over="ignore"):  # refused below, with what to do
        kept: np.ndarray = output.astype(dtype or given)
    if not np.all(np.isfinite(kept)):
        raise InvalidValueError(
            f"`dtype` must hold the activations, which must be finite. Received: dtype={dtype!r} and activations up to "
            f"{np.max(np.abs(output))}. Keep them as float32."
        )
    return kept


def _as_tuple(element: Any) -> tuple[Any, ...]:
    return element if isinstance(element, tuple) else (element,)


def _as_list(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _check(
    model: keras.Model, body: keras.Model, rest: keras.Model, batch: tuple[Any, ...], features: _Features
) -> None:
    live = tuple(part[:_NUM_COMPARED] for part in batch)  # a few images tell
    activations = [np.asarray(column[: len(live[0])]) for column in features.activations]
    targets = [np.asarray(column[: len(live[0])]) for column in features.targets]
    kept = (activations[0] if len(activations) == 1 else activations, *targets)
    tolerance = _TOLERANCES[activations[0].dtype.name] if "16" not in model.compute_dtype else 1e-1
    check_against_live(model, body, rest, live=live, kept=kept, tolerance=tolerance)


def _as_dataset(
    features: _Features, rest: keras.Model, *, batch_size: int, shuffle: bool, seed: int
) -> tf.data.Dataset:
    """Batches of rows gathered by index, so that every epoch is shuffled through and through at the cost of indices."""
    columns, num_inputs = [*features.activations, *features.targets], len(features.activations)
    types = [tf.as_dtype(tensor.dtype) for tensor in rest.inputs]
    num_images = len(columns[0]) // features.views

    def rows_of(indices: tf.Tensor, view: tf.Tensor) -> Any:
        chosen = indices + view * num_images
        rows = tf.numpy_function(lambda at: [np.asarray(c[at]) for c in columns], [chosen], [c.dtype for c in columns])
        rows = [tf.ensure_shape(row, (None, *column.shape[1:])) for row, column in zip(rows, columns, strict=True)]
        inputs = tuple(tf.cast(row, dtype) for row, dtype in zip(rows[:num_inputs], types, strict=True))
        inputs = inputs if num_inputs > 1 else inputs[0]
        return (inputs, *rows[num_inputs:]) if features.targets else inputs

    indices = tf.data.Dataset.range(num_images)
    if shuffle:
        indices = indices.shuffle(num_images, seed=seed)
    indices = indices.batch(batch_size)
    batches = tf.data.Dataset.zip(indices, _view_in_turn(features.views)).map(rows_of)
    return batches.apply(tf.data.experimental.assert_cardinality(indices.cardinality())).prefetch(2)


def _view_in_turn(views: int) -> tf.data.Dataset:
    """Repeats, in every pass, the number of the view whose turn it is."""
    if views == 1:
        return tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat()
    passes = tf.Variable(-1, dtype=tf.int64, trainable=False)
    start = tf.data.Dataset.range(1)
    return start.flat_map(lambda _: tf.data.Dataset.from_tensors(passes.assign_add(1) % views).repeat())
