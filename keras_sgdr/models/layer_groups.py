"""Layer groups found in the graph; freezing and unfreezing, with a policy for batch norms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import keras

from keras_sgdr.models.batch_norm import batch_norms, recalibrate
from keras_sgdr.models.graph import Step, steps_of
from keras_sgdr.validation import InvalidValueError, require, require_integer

# A split is even enough if no group is deeper than this many times the mean.
_TOLERANCE = 1.6
_POLICIES = ("frozen", "train", "recalibrate")


def layer_groups(model: keras.Model, *, num_groups: int = 3) -> list[list[keras.layers.Layer]]:
    """Splits the layers of a model into groups of similar depth, from the input to the output, the head last.

    The head is what follows the last feature map (pooling, dropout, the dense layers). The rest is cut at tensors
    through which everything flows, where the resolution changes if that gives groups of similar depth, elsewhere if
    not. Depth counts layers that have weights.

    Args:
        model: A functional or sequential model, for instance from `build_classifier`.
        num_groups: The number of groups with the head, at least 2.

    Returns:
        `num_groups` lists of layers. Each layer of the model is in exactly one of them.

    Raises:
        ValueError: If the model has no such groups.

    Example:
        ```pycon
        >>> body, head = layer_groups(build_classifier(10), num_groups=2)
        >>> [layer.name for layer in head]
        ['head_pool', 'head_dropout', 'head_predictions']
        ```
    """
    require_integer("num_groups", num_groups, low=2)
    steps = steps_of(model)
    bounds = [0, *_inner_bounds(steps, num_groups), len(steps)]
    return [_layers(steps[start:end]) for start, end in pairwise(bounds)]


def freeze_to(
    model: keras.Model,
    group_or_layer: int | str,
    *,
    num_groups: int = 3,
    batch_norm: str = "frozen",
    dataset: Iterable[Any] | None = None,
    num_batches: int = 50,
) -> None:
    """Makes a model trainable from a group or layer onward, and freezes what comes before.

    Compile the model afterwards: a `fit` that comes first ends in an error about an unknown variable, unless the
    optimizer was built for all, as a `DifferentialLR` is. To unfreeze gradually,
    a group per cycle c = 1, 2, …, call `freeze_to(model, -min(c, num_groups))`.

    Args:
        model: A functional or sequential model.
        group_or_layer: The index of the first trainable group, as in `layer_groups(model, num_groups=num_groups)`
            (`-1` leaves only the head trainable), or the name of the first trainable layer.
        num_groups: The number of groups that the index refers to.
        batch_norm: What batch norms outside the head do in trainable groups. `"frozen"`: they keep their statistics,
            scale and offset and run in inference mode, so that small batches cannot spoil what was learnt on millions
            of images. `"recalibrate"`: the same, after their statistics have been replaced, now and once, by those
            of some batches; for images unlike ImageNet's. `"train"`: they train as any layer. In frozen groups they
            are always frozen and keep their statistics, so that precomputed activations stay right.
        dataset: For `"recalibrate"` only: batches of images, or of tuples that begin with images, shuffled and not
            small; see `recalibrate_batch_norm`, which does the same for all batch norms of a model.
        num_batches: For `"recalibrate"`: how many batches to use at most.

    Raises:
        ValueError: If there is no such group, layer or policy, or the dataset is missing, empty or not wanted.

    Reference: fast.ai 0.7, `freeze_to` and `bn_freeze`.
    """
    _check_policy(batch_norm, dataset, num_batches)
    steps = steps_of(model)
    start = _first_trainable(steps, group_or_layer, num_groups)
    head = _head_start(steps)
    # Setting the model's own flag sets that of every layer, so it comes first.
    model.trainable = True
    for position, step in enumerate(steps):
        if isinstance(step.operation, keras.layers.Layer):
            step.operation.trainable = position >= start
    norms = [norm for layer in _layers(steps[start:head]) for norm in batch_norms(layer)]
    if batch_norm != "train":
        for norm in norms:
            norm.trainable = False
    # A step that was traced before would train what was trainable then, and Keras 3.15 does not say so: its warning
    # stands after a `raise`, in `Trainer._assert_compile_called`.
    model.train_function = None
    if norms and dataset is not None:
        recalibrate(model, norms, dataset, num_batches)


def unfreeze(
    model: keras.Model, *, batch_norm: str = "frozen", dataset: Iterable[Any] | None = None, num_batches: int = 50
) -> None:
    """Makes all of a model trainable but, by default, its batch norms; the same as `freeze_to(model, 0)`.

    Args:
        model: A functional or sequential model.
        batch_norm: As in `freeze_to`.
        dataset: As in `freeze_to`.
        num_batches: As in `freeze_to`.
    """
    freeze_to(model, 0, num_groups=2, batch_norm=batch_norm, dataset=dataset, num_batches=num_batches)


def _check_policy(batch_norm: str, dataset: Iterable[Any] | None, num_batches: int) -> None:
    require(batch_norm in _POLICIES, f"`batch_norm` must be one of {_POLICIES}", batch_norm=batch_norm)
    if (batch_norm == "recalibrate") != (dataset is not None):
        raise InvalidValueError(
            "`dataset` must be given for batch_norm='recalibrate', and for nothing else. Received: "
            f"batch_norm={batch_norm!r}, dataset={dataset!r}."
        )
    require_integer("num_batches", num_batches)


def _first_trainable(steps: Sequence[Step], group_or_layer: int | str, num_groups: int) -> int:
    if isinstance(group_or_layer, str):
        names = [step.name for step in steps]
        if group_or_layer not in names:
            raise InvalidValueError(
                f"`group_or_layer` must be the name of a layer or the index of a group. Received: "
                f"group_or_layer={group_or_layer!r}. The names are in `[layer.name for layer in model.layers]`."
            )
        return names.index(group_or_layer)
    if not isinstance(group_or_layer, int) or not -num_groups <= group_or_layer < num_groups:
        raise InvalidValueError(
            f"`group_or_layer` must be between {-num_groups} and {num_groups - 1} for {num_groups} groups, or the name "
            f"of a layer. Received: group_or_layer={group_or_layer!r}."
        )
    # The first group begins at the input however many there are, so it needs no split.
    if group_or_layer in (0, -num_groups):
        return 0
    return _inner_bounds(steps, num_groups)[group_or_layer % num_groups - 1]


def _layers(steps: Sequence[Step]) -> list[keras.layers.Layer]:
    return [step.operation for step in steps if isinstance(step.operation, keras.layers.Layer)]


def _has_weights(step: Step) -> bool:
    return bool(getattr(step.operation, "weights", ()))


def _head_start(steps: Sequence[Step]) -> int:
    """Returns the position after the last feature map; that of the last layer with weights if none comes after it."""
    after_map = max((index + 1 for index, step in enumerate(steps) if len(step.shape) > 2), default=0)
    with_weights = [index for index, step in enumerate(steps) if _has_weights(step)]
    if not with_weights:
        raise InvalidValueError(
            f"`model` must have weights. Received: a model of the layers {[step.name for step in steps]}."
        )
    images_only = not any(index < after_map for index in with_weights)
    return with_weights[-1] if images_only or after_map > with_weights[-1] else after_map


def _inner_bounds(steps: Sequence[Step], num_groups: int) -> list[int]:
    """Returns the positions at which the second, third, … group begins."""
    head = _head_start(steps)
    depths = [0]
    for step in steps[:head]:
        depths.append(depths[-1] + _has_weights(step))
    best: list[int] | None = None
    for candidates in _candidates(steps[:head], depths):
        inside = [bound for bound in candidates if 0 < depths[bound] < depths[-1]]
        bounds = _even_split(inside, depths, num_groups - 1)
        if bounds is not None and (best is None or _unevenness(bounds, depths) < _unevenness(best, depths)):
            best = bounds
        if best is not None and _unevenness(best, depths) <= _TOLERANCE:
            break
    if best is None:
        raise InvalidValueError(
            f"`num_groups` must be small enough for the model's {depths[-1]} layers with weights before the head. "
            f"Received: num_groups={num_groups}. A model inside the model counts as one layer; build it flat."
        )
    return [*best, head]


def _candidates(steps: Sequence[Step], depths: Sequence[int]) -> Iterator[list[int]]:
    """Yields the bounds to choose from, the best kind first: at a change of resolution, at one tensor, at two."""
    single = [index + 1 for index, step in enumerate(steps) if len(step.frontier) == 1]
    sizes = {bound: math.prod(side or 1 for side in steps[bound - 1].shape[1:-1]) for bound in single}
    last_of_size = [bound for bound, following in pairwise(single) if sizes[following] < sizes[bound]]
    yield sorted({_narrowest(bound, single, steps, depths) for bound in last_of_size})
    yield single
    # NASNet: every cell reads the two before it, so that no single tensor carries everything.
    yield [index + 1 for index, step in enumerate(steps) if 1 <= len(step.frontier) <= 2]


def _narrowest(bound: int, single: Sequence[int], steps: Sequence[Step], depths: Sequence[int]) -> int:
    """Steps back over a widening convolution and its norm: in MobileNets they belong to the block that follows."""
    near = [other for other in single if other <= bound and 0 < depths[other] >= depths[bound] - 2]
    sizes = {other: math.prod(side or 1 for side in steps[other - 1].shape[1:]) for other in near}
    best = min(near, key=lambda other: (sizes[other], -other), default=bound)
    return best if best != bound and sizes[best] * 2 < sizes[bound] else bound


def _unevenness(bounds: Sequence[int], depths: Sequence[int]) -> float:
    """Returns the depth of the deepest group over the mean depth."""
    edges = [0, *(depths[bound] for bound in bounds), depths[-1]]
    return max(end - start for start, end in pairwise(edges)) * (len(edges) - 1) / depths[-1]


def _even_split(bounds: Sequence[int], depths: Sequence[int], num_parts: int) -> list[int] | None:
    """Chooses `num_parts - 1` bounds so that the sum of the squared depths of the parts is least."""
    # best[end] = (cost, bounds) of the part before `end`, one bound more in every round
    best: dict[int, tuple[float, list[int]]] = {bound: (depths[bound] ** 2, []) for bound in (*bounds, len(depths) - 1)}
    for _ in range(num_parts - 1):
        following: dict[int, tuple[float, list[int]]] = {}
        for end in best:
            choices: list[Any] = [
                (cost + (depths[end] - depths[bound]) ** 2, [*chosen, bound])
                for bound, (cost, chosen) in best.items()
                if bound < end and depths[bound] < depths[end]
            ]
            if choices:
                following[end] = min(choices)
        best = following
    found = best.get(len(depths) - 1)
    return found[1] if found else None
