"""From a folder of pictures (or a CSV) to splits: which files there are, and what each of them shows."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from keras_sgdr.data.csv_index import index_csv
from keras_sgdr.data.listing import files_below, is_folder, subfolders
from keras_sgdr.data.splits import FolderIndex, Split, split_off

__all__ = ["PICTURE_SUFFIXES", "FolderIndex", "Split", "index_folder"]

# TIFF, HEIC and AVIF cannot be decoded, but a picture that is left out in silence is worse than one that is named.
PICTURE_SUFFIXES = frozenset(
    ["avif", "bmp", "dib", "gif", "heic", "heif", "jfif", "jpe", "jpeg", "jpg", "jxl", "png", "tif", "tiff", "webp"]
)


@dataclass
class _Walk:
    """Lists pictures below a folder and says now and then how many it has seen."""

    on_progress: Callable[[int], None] | None = None
    every: int = 10_000
    seen: int = field(default=0, init=False)

    def pictures(self, folder: str) -> list[str]:
        """Gives the paths of the pictures below `folder`, sorted; hidden files and folders are left out."""
        found = []
        for path in files_below(folder):
            if path.rpartition(".")[2].lower() not in PICTURE_SUFFIXES:
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
    train: str = "train",
    valid: str = "valid",
    test: str | None = None,
    valid_fraction: float | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> FolderIndex:
    """Finds the pictures of a folder, their classes and their splits, without opening any of them.

    Three layouts are understood. `directory/train/CLASS/…` and `directory/valid/CLASS/…`; with `valid_fraction`, one
    folder `directory/CLASS/…` that is split here; and a CSV file (see `keras_sgdr.data.csv_index.index_csv`). Pictures
    are recognised by the suffixes in `PICTURE_SUFFIXES`; files and folders whose names begin with a dot are skipped.
    Class folders are searched at any depth.

    Which pictures `valid_fraction` picks depends on the seed and on their names alone, so the picks stay put when other
    pictures are added: of the n pictures of a class, the `max(1, round(valid_fraction * n))` with the lowest hash.

    Args:
        directory: a folder, or a `.csv` file.
        train: name of the folder of training pictures.
        valid: name of the folder of validation pictures.
        test: name of a folder of pictures without labels.
        valid_fraction: the part of each class that validates, in (0, 1), for a folder that is not split yet.
        seed: chooses among the splits that `valid_fraction` allows.
        on_progress: called with the number of pictures found so far, every 10,000 pictures.

    Returns:
        A `FolderIndex`.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if a folder is empty, a class has no pictures, or train and valid have different classes.

    Example:
        >>> index = index_folder("dogscats")  # doctest: +SKIP
        >>> index.class_names, len(index.train)  # doctest: +SKIP
        (('cats', 'dogs'), 23000)
    """
    directory = os.fspath(directory).rstrip("/") or "/"
    if valid_fraction is not None and not 0.0 < valid_fraction < 1.0:
        raise ValueError(
            f"`valid_fraction` must be between 0 and 1, both excluded. Received: valid_fraction={valid_fraction}."
        )
    if directory.lower().endswith(".csv"):
        return index_csv(directory, valid_fraction=valid_fraction, seed=seed)
    walk = _Walk(on_progress)
    _check_directory(directory, "directory", "Check the path.")
    test_split = None if test is None else _unlabelled_split(directory, test, walk)
    if valid_fraction is None:
        trains, valids = _given_splits(directory, train, valid, walk)
    else:
        _check_not_split(directory, train, valid_fraction)
        skipped = () if test is None else (test,)
        whole = _labelled_split(directory, "train", subfolders(directory, skipped), walk)
        trains, valids = split_off(whole, fraction=valid_fraction, seed=seed)
    return FolderIndex(directory, trains.class_names, trains, valids, test_split)


def _given_splits(directory: str, train: str, valid: str, walk: _Walk) -> tuple[Split, Split]:
    remedy = f"Give `directory` a {train!r} and a {valid!r} folder, or pass valid_fraction=0.2 to split one folder."
    folders = {name: f"{directory}/{name}" for name in (train, valid)}
    for argument, name in (("train", train), ("valid", valid)):
        _check_directory(folders[name], argument, remedy)
    in_train, in_valid = subfolders(folders[train]), subfolders(folders[valid])
    if in_train != in_valid:
        raise ValueError(
            "`train` and `valid` must have the same class folders. Received: "
            f"only in {folders[train]}: {sorted(set(in_train) - set(in_valid))}, "
            f"only in {folders[valid]}: {sorted(set(in_valid) - set(in_train))}. Add or remove these folders."
        )
    return (
        _labelled_split(folders[train], "train", in_train, walk),
        _labelled_split(folders[valid], "valid", in_valid, walk),
    )


def _labelled_split(folder: str, name: str, class_names: tuple[str, ...], walk: _Walk) -> Split:
    if not class_names:
        raise ValueError(
            f"`directory` must hold one folder of pictures for each class. Received: no class folders in {folder}."
        )
    paths: list[str] = []
    counts = []
    for class_name in class_names:
        found = walk.pictures(f"{folder}/{class_name}")
        if not found:
            raise ValueError(
                "Every class folder must hold at least one picture. Received: no pictures in "
                f"{folder}/{class_name}. Add pictures or remove the folder."
            )
        counts.append(len(found))
        paths.extend(found)
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), counts)
    return Split(name, tuple(paths), labels, class_names)


def _unlabelled_split(directory: str, test: str, walk: _Walk) -> Split:
    folder = f"{directory}/{test}"
    _check_directory(folder, "test", "Check the name, or pass test=None.")
    paths = walk.pictures(folder)
    if not paths:
        raise ValueError(f"`test` must hold at least one picture. Received: no pictures in {folder}.")
    return Split("test", tuple(paths), None, ())


def _check_directory(folder: str, argument: str, remedy: str) -> None:
    if not is_folder(folder):
        raise FileNotFoundError(f"`{argument}` must be an existing folder. Received: no folder {folder}. {remedy}")


def _check_not_split(directory: str, train: str, valid_fraction: float) -> None:
    folder = f"{directory}/{train}"
    if is_folder(folder) and subfolders(folder):
        raise ValueError(
            f"`valid_fraction` splits one folder of class folders. Received: valid_fraction={valid_fraction} and a "
            f"folder {folder} with class folders of its own. Leave valid_fraction out, or pass directory={folder!r}."
        )
