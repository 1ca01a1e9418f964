"""Splits of a set of labelled images: what they hold, and how one is divided."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import PurePath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from keras_sgdr.data.index.files import is_remote
from keras_sgdr.data.index.shards import ShardPaths
from keras_sgdr.validation import InvalidValueError

Labels: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Split:
    """Part of a folder: the images that a model is trained on, validated on, or asked about.

    An image's position in `paths` is its index, from which its augmentation is drawn.

    Attributes:
        name: "train", "valid" or "test".
        paths: The files, sorted by class and then by name.
        labels: int32 of shape `(len(paths),)`, the positions of the classes in `class_names`; or float32 of shape
            `(len(paths), len(class_names))` with 0 or 1 where an image may have several labels; or None.
        class_names: The sorted names of the classes.
        weights: What each image counts in training, float32 of shape `(len(paths),)`; None if all count the same. See
            `weighted`.
    """

    name: str
    paths: Sequence[str]
    labels: Labels | None
    class_names: tuple[str, ...]
    weights: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def counts(self) -> dict[str, int]:
        """The number of images of each class, in the order of the class names; empty without labels."""
        if self.labels is None:
            return {}
        labels = self.labels
        totals = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(self.class_names))
        return {name: int(total) for name, total in zip(self.class_names, totals, strict=True)}

    def take(self, indices: npt.ArrayLike, *, name: str | None = None) -> "Split":
        """Returns the split that holds only the images at `indices`, in that order, with their labels and weights."""
        positions = np.asarray(indices, dtype=np.int64)
        paths = self.paths
        return replace(
            self,
            name=name or self.name,
            paths=paths.take(positions) if isinstance(paths, ShardPaths) else tuple(paths[each] for each in positions),
            labels=None if self.labels is None else self.labels[positions],
            weights=None if self.weights is None else self.weights[positions],
        )

    def weighted(self, sample_weight: npt.ArrayLike) -> "Split":
        """Returns this split with a weight for each image, so that `load_dataset` adds weights to the batches.

        Args:
            sample_weight: Numbers >= 0, one for each image, instead of those that the split has.

        Raises:
            ValueError: If there is not one for each image, or the images have no labels.
        """
        weights = np.asarray(sample_weight, np.float32)
        if self.labels is None:
            raise InvalidValueError(f"`sample_weight` needs labels. Received: the split {self.name!r} without.")
        if weights.shape != (len(self),) or not np.all((weights >= 0) & np.isfinite(weights)):
            raise InvalidValueError(
                "`sample_weight` must have a number >= 0 for each image. Received: an array of shape "
                f"{weights.shape} for {len(self)} images, the lowest {np.min(weights, initial=np.inf)}."
            )
        return replace(self, weights=weights)

    def oversampled(self) -> "Split":
        """Returns this split with the images of rare classes repeated until each class has as many as the largest.

        Each repetition is an index of its own, so that it gets a view of its own when it is augmented. An alternative
        to `class_weight`, not for images that a model is measured on.

        Returns:
            A split whose first `len(self)` images are those of this one.

        Raises:
            ValueError: If an image may have several labels, or none.
        """
        if self.labels is None or self.labels.ndim != 1:
            raise InvalidValueError(
                f"`split` must have one label for each image to be oversampled. Received: split {self.name!r} without."
            )
        most = max(self.counts.values())
        extra = [np.resize(positions, most - len(positions)) for _, positions in _strata(self) if len(positions)]
        return self.take(np.concatenate([np.arange(len(self)), *extra]))


@dataclass(frozen=True, eq=False)
class FolderIndex:
    """Everything that is known about a folder before an image is opened.

    Attributes:
        directory: The folder, or the CSV file, that was indexed.
        class_names: The sorted names of the classes, the same for every split.
        train: The images to learn from.
        valid: The images to measure on.
        test: Images for a last look, with labels or without, or None.
        folders: Where each split was found, by its name; without "valid" if that was held out of train.
        left_out: Files that are no images that can be decoded, images outside class folders, and folders (with a slash
            at the end) that are neither a split nor a class.
    """

    directory: str
    class_names: tuple[str, ...]
    train: Split
    valid: Split
    test: Split | None = None
    folders: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """The folder that paths are shown from: of a CSV file, the innermost one that holds all its images."""
        if not self.directory.lower().endswith(".csv"):
            return self.directory
        splits = [split for split in (self.train, self.valid, self.test) if split is not None]
        folders = {path.rpartition("/")[0] for split in splits for path in split.paths}
        if is_remote(self.directory):
            protocol = self.directory.partition("://")[0]
            return f"{protocol}://{os.path.commonpath([folder.partition('://')[2] for folder in folders])}"
        return os.path.commonpath([os.path.abspath(folder) for folder in folders])  # noqa: PTH100 (a link is itself)


# How people call them; in any case of letters.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}


def split_called(name: str) -> str | None:
    """Returns "train", "valid" or "test" for one of the names in `SPLIT_NAMES`, in any case; None for others."""
    return next((split for split, names in SPLIT_NAMES.items() if name.strip().lower() in names), None)


def with_classes(split: Split, class_names: Sequence[str], *, where: str) -> Split:
    """Returns a split whose labels are positions in `class_names`, of which it may lack some.

    Raises:
        ValueError: If it has a class that is not among `class_names`.
    """
    unknown = [name for name in split.class_names if name not in class_names]
    if unknown:
        raise InvalidValueError(
            f"{where} must have no other classes than {', '.join(class_names)}. Received: {', '.join(unknown)}."
        )
    if split.labels is None or split.labels.ndim == 2:
        return split
    positions = np.array([class_names.index(name) for name in split.class_names], dtype=np.int32)
    return replace(split, labels=positions[split.labels], class_names=tuple(class_names))


def split_off(
    split: Split, *, fraction: float, seed: int, group_by: str | None = None, root: str = "/"
) -> tuple[Split, Split]:
    """Splits stratified by class: the same fraction of each class, chosen by the hash of its images' names.

    Args:
        split: A split with labels; with several labels an image, it is split as one class.
        fraction: The part that goes to the second split, in (0, 1).
        seed: Chooses among the possible splits.
        group_by: A regular expression that finds in an image's path the name of its group (the first one in
            parentheses, if it has any). A group goes to one split as a whole, so that of a class no more than
            the fraction goes to the second one, or, where each group of it is larger, its smallest.
        root: The folder that paths are searched below.

    Returns:
        The splits "train" and "valid".

    Raises:
        ValueError: If a class has a single image or group, which cannot be in both, or a path has no group.
    """
    if group_by is not None:
        held_out = _held_out_groups(split, fraction, seed, group_by, root)
        return split.take(np.flatnonzero(~held_out), name="train"), split.take(np.flatnonzero(held_out), name="valid")
    chosen = np.zeros(len(split), dtype=bool)
    for name, positions in _strata(split):
        if len(positions) < 2:
            raise InvalidValueError(
                f"Every class must have at least 2 images to be split. Received: class {name!r} has only "
                f"{split.paths[positions[0]]}. Add images to it or remove it."
            )
        count = min(max(1, round(fraction * len(positions))), len(positions) - 1)
        chosen[_by_hash(split, positions, seed)[:count]] = True
    return split.take(np.flatnonzero(~chosen), name="train"), split.take(np.flatnonzero(chosen), name="valid")


def _held_out_groups(split: Split, fraction: float, seed: int, group_by: str, root: str) -> npt.NDArray[np.bool_]:
    """Returns which images validate where images of one group must stay together."""
    names, group_of = np.unique(
        [_group_of(os.path.relpath(path, root), group_by) for path in split.paths], return_inverse=True
    )
    strata = list(_strata(split))
    counts = np.stack([np.bincount(group_of[positions], minlength=len(names)) for _, positions in strata])
    totals = counts.sum(axis=1)
    wanted = np.maximum(1, np.round(fraction * totals))
    held_out, held = np.zeros(len(names), dtype=bool), np.zeros(len(strata))
    for group in sorted(range(len(names)), key=lambda group: _hash(str(names[group]), seed)):
        if np.all(held + counts[:, group] <= wanted):
            held_out[group] = True
            held += counts[:, group]
    for stratum in np.flatnonzero(held == 0):
        # of the groups that leave every class something to be trained on, the smallest
        spare = np.flatnonzero(
            (counts[stratum] > 0) & np.all((held[:, None] + counts < totals[:, None]) | (counts == 0), axis=0)
        )
        if not len(spare):
            raise InvalidValueError(
                f"Every class must have images of at least 2 groups to be split. Received: class "
                f"{strata[stratum][0]!r} with {np.sum(counts[stratum] > 0)} by group_by={group_by!r}. Add images of "
                "others, or name a folder of validation images."
            )
        smallest = min(spare, key=lambda group: (counts[:, group].sum(), _hash(str(names[group]), seed)))
        held_out[smallest] = True
        held += counts[:, smallest]
    return held_out[group_of]


def _group_of(path: str, group_by: str) -> str:
    found = re.search(group_by, path)
    if found is None:
        raise InvalidValueError(
            f"`group_by` must find the group of every image in its path. Received: group_by={group_by!r}, which "
            f"finds none in {path}."
        )
    return found.group(1 if found.re.groups else 0) or ""


def _strata(split: Split) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    if split.labels is None:
        raise InvalidValueError(
            f"`split` must have labels to be split by class. Received: split {split.name!r} without labels."
        )
    if split.labels.ndim == 2:
        yield "any", np.arange(len(split))
        return
    order = np.argsort(split.labels, kind="stable")
    starts = np.searchsorted(split.labels[order], np.arange(len(split.class_names) + 1))
    for label, name in enumerate(split.class_names):
        yield name, order[starts[label] : starts[label + 1]]


def _by_hash(split: Split, positions: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Orders images by a hash of the last two parts of their paths: the same wherever the folder lies."""

    def key(position: int) -> bytes:
        return _hash("/".join(PurePath(split.paths[position]).parts[-2:]), seed)

    return np.array(sorted(positions, key=key), dtype=np.int64)


def _hash(name: str, seed: int) -> bytes:
    return blake2b(f"{seed}/{name}".encode(errors="surrogateescape"), digest_size=8).digest()
