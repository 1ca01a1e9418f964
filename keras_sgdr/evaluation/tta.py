"""Test-time augmentation: predictions averaged over several views of each image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_sgdr.validation import InvalidValueError, require, require_integer

Array = npt.NDArray[Any]

_MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "mean": lambda views, weights: np.einsum("v,vbc->bc", weights, views),
    "gmean": lambda views, weights: np.exp(np.einsum("v,vbc->bc", weights, np.log(np.maximum(views, 1e-30)))),
    "max": lambda views, _: views.max(axis=0),
    "min": lambda views, _: views.min(axis=0),
}


def predict_tta(
    model: keras.Model,
    dataset: Any,
    *,
    num_views: int = 4,
    augmentation: Any = None,
    whole: Any = None,
    seed: int = 0,
    merge: str = "mean",
    plain_weight: float | str | None = None,
    from_logits: bool = False,
    verbose: int = 1,
) -> Array:
    """Returns class probabilities, averaged over the plain image and `num_views` augmented views.

    Row i belongs to image i of `dataset`, so give a dataset that is neither shuffled nor augmented. All
    views of a batch are made and predicted before the next batch is read: the images are decoded once.

        probabilities = plain_weight * p(plain) + (1 - plain_weight) * mean(p(view) for each view)

    Args:
        model: A classifier whose output has the shape `(batch, num_classes)`.
        dataset: Batches of images in [0, 255], shape `(batch, height, width, 3)`, alone or as
            `(images, labels, ...)`: a `tf.data.Dataset`, a `keras.utils.PyDataset`, any iterable of
            batches, or one array of images.
        num_views: Augmented views per image, >= 0. With 0 the result is the plain prediction.
        augmentation: The layer that makes a view; normally the one used in training. The presets of
            this package draw from `(seed, view, image)` and so give the same views in each run; any other
            layer is called with `training=True` and draws from its own seed. With `None` the views are
            crops of the four corners at 1.1 times the size (the next four at 1.2 times, ...), without a flip, in
            the order top left, top right, bottom left, bottom right.
        whole: The same images in the same batches, each one as a whole: `load_dataset(..., resize="squish")` or
            `"pad"`, where `dataset` crops them. One view more, for what the crop cuts off. Measure before you take
            it: it helped flowers of 3:2 and hurt signs (docs/benchmarks.md).
        seed: Seed of the views, for augmentations of this package.
        merge: `"mean"`, `"gmean"` (geometric), `"max"` or `"min"`. The weights apply to the means; after
            any other than `"mean"` the rows are scaled to sum to 1 again.
        plain_weight: Weight of the plain prediction in [0, 1], or by name: `"fastai_0.7"`, the default, one plain
            copy for every four views begun: `ceil(n / 4) / (ceil(n / 4) + n)`, which is 1/5 for 4 views;
            `"fastai_1"`, 0.4; `"fastai_2"`, 0.25.
        from_logits: Whether the model ends in logits; they are turned into probabilities first.
        verbose: 1 shows a progress bar, 0 nothing.

    Returns:
        Probabilities, float32, shape `(num_images, num_classes)`; each row sums to 1.

    Raises:
        ValueError: If an argument is out of its range, the model returns no probabilities, or `whole` has other
            batches than `dataset`.

    Example:
        ```python
        probabilities = predict_tta(model, load_dataset(index.valid), augmentation=side_on(max_zoom=1.1))
        ```

    Reference:
        `Learner.TTA` of fast.ai 0.7.
    """
    weights = view_weights(num_views + (whole is not None), plain_weight)
    require(merge in _MERGES, f"`merge` must be one of {sorted(_MERGES)}", merge=merge)
    make_view = _view_maker(augmentation, seed)
    merged = []
    first = 0
    for images, *more in _alike(_image_batches(dataset, verbose), whole):
        indices = np.arange(first, first + len(images))
        views = [images] + [make_view(images, view, indices) for view in range(num_views)] + more
        merged.append(
            merge_views(np.stack([_probabilities(model, view, from_logits) for view in views]), weights, merge)
        )
        first += len(images)
    return np.concatenate(merged)


def _alike(batches: Iterator[Any], whole: Any) -> Iterator[tuple[Any, ...]]:
    """Yields the images of each batch, and those of `whole` if it is not None."""
    if whole is None:
        yield from ((images,) for images in batches)
        return
    for images, others in itertools.zip_longest(batches, _image_batches(whole, verbose=0)):
        sizes = [None if batch is None else len(batch) for batch in (images, others)]
        alike = "`whole` must have the same images as `dataset`, in the same batches"
        require(sizes[0] == sizes[1], alike, images_of_dataset=sizes[0], images_of_whole=sizes[1])
        yield images, others


def predict_each(models: Sequence[keras.Model], dataset: Any, *, verbose: int = 0) -> list[Array]:
    """Returns what each of several models predicts for the same images, which are read once.

    Args:
        models: They take the same images.
        dataset: As in `predict_tta`, as `verbose`.
        verbose: 1 shows a progress bar, 0 nothing.

    Returns:
        One array of shape `(num_images, num_classes)` for each model, as the model gives it.

    Raises:
        ValueError: If the dataset is empty.
    """
    batches = [[model.predict_on_batch(images) for model in models] for images in _image_batches(dataset, verbose)]
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def view_weights(num_views: int, plain_weight: float | str | None = None) -> Array:
    """Returns the weight of the plain prediction and of each view; they sum to 1.

    Args:
        num_views: Augmented views, >= 0.
        plain_weight: As in `predict_tta`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    require_integer("num_views", num_views, low=0)
    if num_views == 0:
        return np.ones(1)
    copies = -(-num_views // 4)
    named = {"fastai_0.7": copies / (copies + num_views), "fastai_1": 0.4, "fastai_2": 0.25}
    if plain_weight is None:
        plain_weight = "fastai_0.7"
    share = named.get(plain_weight, math.nan) if isinstance(plain_weight, str) else plain_weight
    must = "`plain_weight` must be in [0, 1], 'fastai_0.7', 'fastai_1' or 'fastai_2'"
    require(0 <= share <= 1, must, plain_weight=plain_weight)
    return np.array([share] + [(1 - share) / num_views] * num_views)


def merge_views(probabilities: Array, weights: Array, merge: str = "mean") -> Array:
    """Combines predictions of shape `(views, batch, classes)` into `(batch, classes)`, rows summing to 1.

    Args:
        probabilities: The plain prediction first.
        weights: One per view, summing to 1.
        merge: See `predict_tta`.
    """
    merged = np.maximum(_MERGES[merge](probabilities.astype("float64"), weights), 1e-30)
    return np.asarray(merged / merged.sum(axis=-1, keepdims=True), "float32")


def _probabilities(model: keras.Model, images: Any, from_logits: bool) -> Array:
    outputs = np.asarray(model.predict_on_batch(images), "float64")
    check_finite(outputs)
    if from_logits:
        exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
    if not np.allclose(outputs.sum(axis=-1), 1, atol=1e-2) or outputs.min() < 0:
        raise InvalidValueError(
            "`model` must return probabilities, rows that sum to 1. Received: a row "
            f"{np.array2string(outputs[0], precision=3, threshold=8)}. If these are logits, pass `from_logits=True`."
        )
    return outputs


def check_finite(outputs: Array) -> None:
    """Refuses what a model returns that has diverged.

    Args:
        outputs: Shape `(n, num_classes)`.

    Raises:
        ValueError: If a value is not finite.
    """
    broken = outputs[~np.isfinite(outputs).all(axis=-1)]
    if len(broken):
        raise InvalidValueError(
            "`model` must return finite values. Received: a row "
            f"{np.array2string(broken[0], precision=3, threshold=8)}. Its training has diverged: train again at a "
            "lower learning rate."
        )


def _view_maker(augmentation: Any, seed: int) -> Callable[[Any, int, Array], Any]:
    if augmentation is None:
        return lambda images, view, _: _corner_view(images, view)
    if not hasattr(augmentation, "augment"):
        return lambda images, *_: augmentation(keras.ops.cast(images, "float32"), training=True)

    def stateless_view(images: Any, view: int, indices: Array) -> Any:
        key = np.random.SeedSequence([seed, view]).generate_state(1)[0] >> 1
        seeds = np.stack([np.full(len(indices), key), indices], axis=1).astype("int32")
        return augmentation.augment(images, seeds)

    return stateless_view


def _corner_view(images: Any, view: int) -> Any:
    zoom = 1.1 + 0.1 * (view // 4)
    height, width = images.shape[1:3]
    rows, columns = max(1, round(height / zoom)), max(1, round(width / zoom))
    top = (height - rows) * (view % 4 // 2)
    left = (width - columns) * (view % 2)
    crop = keras.ops.cast(images, "float32")[:, top : top + rows, left : left + columns]
    return keras.ops.image.resize(crop, (height, width), data_format="channels_last")


def _image_batches(dataset: Any, verbose: int) -> Iterator[Any]:
    """Yields the images of each batch of a dataset as in `predict_tta`, with a progress bar if `verbose` is not 0.

    Raises:
        ValueError: If there is none.
    """
    bar = keras.utils.Progbar(_num_batches(dataset), unit_name="batch") if verbose else None
    batch = None
    for batch in _batches(dataset):
        yield batch[0] if isinstance(batch, (tuple, list)) else batch
        if bar is not None:
            bar.add(1)
    if batch is None:
        raise InvalidValueError(f"`dataset` must hold at least one batch. Received: dataset={dataset!r}.")


def _batches(dataset: Any) -> Iterable[Any]:
    if isinstance(dataset, keras.utils.PyDataset):
        return (dataset[i] for i in range(len(dataset)))
    if hasattr(dataset, "shape"):
        return (dataset[i : i + 32] for i in range(0, len(dataset), 32))
    return iter(dataset)


def _num_batches(dataset: Any) -> int | None:
    if hasattr(dataset, "shape"):
        return -(-len(dataset) // 32)
    try:
        return len(dataset)
    except TypeError:  # of unknown or infinite length
        return None
