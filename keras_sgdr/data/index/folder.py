"""Indexes a folder of images (or a CSV): its splits, their files, and the class of each."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_sgdr.data.index.csv import index_csv, read_csv
from keras_sgdr.data.index.files import files_below, files_in, is_remote, subfolders
from keras_sgdr.data.index.formats import DECODED
from keras_sgdr.data.index.index_shards import index_shards
from keras_sgdr.data.index.layout import IMAGE_SUFFIXES, find_layout, is_image, suffix_of
from keras_sgdr.data.index.remote import forget_listings
from keras_sgdr.data.index.shards import is_shards
from keras_sgdr.data.index.split import FolderIndex, Split, split_off, with_classes
from keras_sgdr.validation import InvalidValueError

__all__ = ["IMAGE_SUFFIXES", "FolderIndex", "Split", "index_folder"]

_FORMATS = f"The formats are {', '.join(DECODED)}."


@dataclass
class _Walk:
    """Lists images below a folder, keeps what it leaves out, and says now and then how many it has seen."""

    on_progress: Callable[[int], None] | None = None
    every: int = 10_000
    seen: int = field(default=0, init=False)
    left_out: list[str] = field(default_factory=list, init=False)

    def images(self, folder: str) -> list[str]:
        """Returns the paths of the images below `folder`, sorted; hidden files and folders are passed over."""
        found = []
        for path in files_below(folder):
            if not is_image(path):
                self.left_out.append(path)
                continue
            found.append(path)
            self.seen += 1
            if self.on_progress is not None and self.seen % self.every == 0:
                self.on_progress(self.seen)
        found.sort()
        return found


def index_folder(
    directory: str | os.PathLike[str],
    *,
    train: str | None = None,
    valid: str | None = None,
    test: str | None = None,
    valid_fraction: float | None = None,
    seed: int = 0,
    group_by: str | None = None,
    label_delimiter: str | None = None,
    suffix: str = "",
    on_progress: Callable[[int], None] | None = None,
) -> FolderIndex:
    """Finds the images of a folder, their classes and their splits.

    Four layouts are understood. Splits, `directory/train/CLASS/…` and `directory/valid/CLASS/…`, and
    `directory/test/…` with class folders or without, under any of the names in `SPLIT_NAMES`, in any case of letters;
    one folder `directory/CLASS/…` that is split here; a CSV file (see `keras_sgdr.data.index.csv.index_csv`); and what
    `write_shards` has written, which is split already. Class folders are searched at any depth.

    Images are recognised by the suffixes in `IMAGE_SUFFIXES`; a file with another suffix, or none, is opened, and is an
    image if its content is one that can be decoded. Others are in `left_out`. Files and folders whose names begin with
    a dot are passed over.

    Which images `valid_fraction` picks depends on the seed and on their names alone, so the picks stay put when other
    images are added: of the n images of a class, the `max(1, round(valid_fraction * n))` with the lowest hash.

    Args:
        directory: A folder, a folder of shards, or a `.csv` file; on this machine, or a URL that fsspec knows
            (`s3://…`, `gs://…`).
        train: Name of the folder of training images, if it has a name of its own; "." if the class folders are in
            `directory` itself, also those that are called "train" or "test".
        valid: Name of the folder of validation images.
        test: Name of the folder of test images; without class folders, they have no labels.
        valid_fraction: The part of each training class that validates, in (0, 1), where there is no folder (or, in a
            CSV, no column) of validation images.
        seed: Chooses among the splits that `valid_fraction` allows.
        group_by: A regular expression that finds in an image's path what must not be in train and in valid both, such
            as a patient or a scene: `"patient[0-9]+"`. The first group in parentheses, if it has one. Only where
            `valid_fraction` splits.
        label_delimiter: Of a CSV whose cells hold several labels, for instance " ".
        suffix: Appended to the names in a CSV that lack it, for instance ".jpg".
        on_progress: Called with the number of images found so far, every 10,000 images.

    Returns:
        A `FolderIndex`.

    Raises:
        FileNotFoundError: If a folder is missing.
        ValueError: If a folder is empty, a class has no images, train and valid have different classes, or it is
            unclear which folders are splits and which are classes.

    Example:
        ```python
        index = index_folder("dogscats")
        print(index.class_names, len(index.train))  # ('cats', 'dogs') 23000
        ```
    """
    directory = os.fspath(directory).rstrip("/") or "/"
    if valid_fraction is not None and not 0.0 < valid_fraction < 1.0:
        raise InvalidValueError(
            f"`valid_fraction` must be between 0 and 1, both excluded. Received: valid_fraction={valid_fraction}."
        )
    if is_remote(directory):
        forget_listings(directory)
    if directory.lower().endswith(".csv"):
        options: dict[str, Any] = {"label_delimiter": label_delimiter, "suffix": suffix, "group_by": group_by}
        return index_csv(directory, valid_fraction=valid_fraction, seed=seed, **options)
    named = {"train": train, "valid": valid, "test": test}
    if is_shards(directory):
        given = {"group_by": group_by, "label_delimiter": label_delimiter, "suffix": suffix}
        return index_shards(directory, {**named, **given})
    folders, class_names = find_layout(directory, named)
    walk = _Walk(on_progress)
    trains = _labelled_split(folders["train"], "train", class_names, walk)
    if "valid" in folders:
        _check_same_classes(folders, class_names)
        valids = _labelled_split(folders["valid"], "valid", class_names, walk)
    elif valid_fraction is not None:
        trains, valids = split_off(trains, fraction=valid_fraction, seed=seed, group_by=group_by, root=directory)
    else:
        raise InvalidValueError(
            f"`directory` must have a folder of validation images, or be split here. Received: {directory}, with "
            "training images alone. Pass valid_fraction=0.2, or name the folder with `valid`."
        )
    tests = _test_split(folders["test"], class_names, walk) if "test" in folders else None
    left_out = (*walk.left_out, *_passed_over(directory, folders))
    return FolderIndex(directory, class_names, trains, valids, tests, folders, left_out)


def labelled_splits(
    directory: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    train: str | None = None,
    valid: str | None = None,
    test: str | None = None,
    suffix: str = "",
) -> dict[str, Split]:
    """Finds the labelled images of a folder for a classifier that knows `class_names`; nothing is held out.

    Args:
        directory: As in `index_folder`, also for what follows.
        class_names: The classes; the folder may lack some.
        train: Name of the folder of training images.
        valid: Name of the folder of validation images.
        test: Name of the folder of test images.
        suffix: Appended to the names in a CSV that lack it.

    Returns:
        The splits that are there, of "train", "valid" and "test"; or "all", where there are class folders alone.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has a class that is not among `class_names`, no images with labels, or several labels each.
    """
    directory = os.fspath(directory).rstrip("/") or "/"
    if directory.lower().endswith(".csv"):
        splits = read_csv(directory, suffix=suffix)
    elif is_shards(directory):
        index = index_shards(directory)
        splits = {split.name: split for split in (index.train, index.valid, index.test) if split is not None}
    else:
        folders, names = find_layout(directory, {"train": train, "valid": valid, "test": test})
        only_train = set(folders) == {"train"}
        splits = {
            "all" if only_train else name: _labelled_split(
                folder, name, names if name == "train" else subfolders(folder), _Walk(), may_lack_classes=True
            )
            for name, folder in folders.items()
            if subfolders(folder)
        }
    if not any(split.labels is not None and split.labels.ndim == 1 for split in splits.values()):
        raise InvalidValueError(
            f"Images must have one label each to be evaluated. Received: {directory}, whose images have none, or "
            "several."
        )
    return {
        name: with_classes(split, class_names, where=f"`directory` {directory}")
        for name, split in splits.items()
        if split.labels is not None
    }


def check_trainable(index: FolderIndex) -> FolderIndex:
    """Returns the index, if it is one that a classifier with one label an image can be trained on.

    Raises:
        ValueError: If its images have several labels each, or there are fewer than two classes.
    """
    if index.train.labels is not None and index.train.labels.ndim == 2:
        raise InvalidValueError(
            f"Every image must have one label. Received: {index.directory}, whose images have several of "
            f"{', '.join(index.class_names[:5])}, …. Training with several labels is not there yet."
        )
    if len(index.class_names) < 2:
        raise InvalidValueError(
            f"There must be at least two classes. Received: {index.directory} with {list(index.class_names)}."
        )
    return index


def describe(index: FolderIndex) -> str:
    """Says what was taken for what: a line for each split, and one for what is left out, if anything is."""
    lines = [f"train: {_count(index.train)} of {len(index.class_names)} classes{_where(index, 'train')}"]
    held_out = "" if "valid" in index.folders else ", held out of them"
    lines.append(f"valid: {_count(index.valid)}{_where(index, 'valid')}{held_out}")
    if index.test is not None:
        labels = "" if index.test.labels is not None else ", without labels"
        lines.append(f"test: {_count(index.test)}{_where(index, 'test')}{labels}")
    if index.left_out:
        lines.append(f"left out: {summary_of_left_out(index.left_out)}")
    return "\n".join(lines)


def summary_of_left_out(paths: Sequence[str]) -> str:
    """Counts left out files by suffix, the most frequent first, and names left out folders."""
    folders = [path.rstrip("/").rpartition("/")[2] for path in paths if path.endswith("/")]
    suffixes = Counter(suffix_of(path) for path in paths if not path.endswith("/"))
    counts = [
        f"{count} {f'.{suffix}' if suffix else 'without a suffix'}"
        for suffix, count in sorted(suffixes.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return ", ".join([*counts, *(f"the folder {name}" for name in folders)])


def _count(split: Split) -> str:
    return f"{len(split)} image{'' if len(split) == 1 else 's'}"


def _where(index: FolderIndex, split: str) -> str:
    return f" in {index.folders[split]}" if split in index.folders else ""


def _check_same_classes(folders: dict[str, str], class_names: tuple[str, ...]) -> None:
    in_valid = subfolders(folders["valid"])
    if class_names != in_valid:
        raise InvalidValueError(
            "`train` and `valid` must have the same class folders. Received: "
            f"only in {folders['train']}: {sorted(set(class_names) - set(in_valid))}, "
            f"only in {folders['valid']}: {sorted(set(in_valid) - set(class_names))}. Add or remove these folders."
        )


def _labelled_split(
    folder: str, name: str, class_names: tuple[str, ...], walk: _Walk, *, may_lack_classes: bool = False
) -> Split:
    paths: list[str] = []
    counts = []
    for class_name in class_names:
        before = len(walk.left_out)
        found = walk.images(f"{folder}/{class_name}")
        if not found and not may_lack_classes:
            others = summary_of_left_out(walk.left_out[before:])
            raise InvalidValueError(
                f"Every class folder must hold at least one image. Received: no images in {folder}/{class_name}"
                f"{f', but {others}. {_FORMATS}' if others else '.'} Add images or remove the folder."
            )
        counts.append(len(found))
        paths.extend(found)
    if not paths:
        raise InvalidValueError(f"There must be at least one image. Received: no images in {folder}. {_FORMATS}")
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), counts)
    return Split(name, tuple(paths), labels, class_names)


def _test_split(folder: str, class_names: tuple[str, ...], walk: _Walk) -> Split:
    in_test = subfolders(folder)
    if in_test:
        found = _labelled_split(folder, "test", in_test, walk, may_lack_classes=True)
        return with_classes(found, class_names, where=f"`test` {folder}")
    paths = walk.images(folder)
    if not paths:
        raise InvalidValueError(f"`test` must hold at least one image. Received: no images in {folder}. {_FORMATS}")
    return Split("test", tuple(paths), None, ())


def _passed_over(directory: str, folders: dict[str, str]) -> list[str]:
    """Returns images and CSV files beside class folders, and folders beside splits."""
    has_classes = [folder for folder in folders.values() if subfolders(folder)]
    stray = [path for folder in dict.fromkeys([*has_classes, directory]) for path in files_in(folder)]
    stray = [path for path in stray if suffix_of(path) == "csv" or is_image(path)]
    if directory in folders.values():
        return stray
    read = {folder.removeprefix(f"{directory}/").partition("/")[0] for folder in folders.values()}
    return stray + [f"{directory}/{name}/" for name in subfolders(directory, tuple(read))]
