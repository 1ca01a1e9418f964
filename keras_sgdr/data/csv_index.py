"""A CSV file that names pictures and their labels -> FolderIndex."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_sgdr.data.splits import FolderIndex, Labels, Split, split_off

_Rows = list[dict[str, str]]


def index_csv(
    path: str | os.PathLike[str],
    *,
    directory: str | os.PathLike[str] | None = None,
    valid_fraction: float | None = None,
    seed: int = 0,
) -> FolderIndex:
    """Reads which pictures there are, and their labels, from a CSV file with a header.

    The first column holds the file names. With one more column its values are the classes (`filename,label`); with
    several, each is a label of its own and holds 0 or 1 (`filename,beach,night,people`). A column named `split` with
    the values `train`, `valid` and `test` says where a picture belongs, and wins over `valid_fraction`.

    Args:
        path: the CSV file, UTF-8.
        directory: the folder that file names are relative to; the CSV file's own folder if None.
        valid_fraction: the part that validates, in (0, 1), where there is no `split` column.
        seed: chooses among the splits that `valid_fraction` allows.

    Returns:
        A `FolderIndex`; labels are int32 for one column and float32 of shape `(pictures, columns)` for several.

    Raises:
        FileNotFoundError: if the CSV file or a picture that it names is missing.
        ValueError: if a row is not understood, or a split would be empty or lack a class.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be an existing CSV file. Received: no file {path}. Check the path.")
    folder = path.parent if directory is None else Path(directory)
    rows, filename, labels = _read(path)
    _check_files(path, rows, folder, filename)
    if "split" not in rows[0]:
        if valid_fraction is None:
            raise ValueError(
                f"A CSV file without a `split` column needs `valid_fraction`. Received: valid_fraction=None and "
                f"{path}. Pass valid_fraction=0.2, or add a column `split` with train or valid in it."
            )
        trains, valids = split_off(_split("all", rows, folder, filename, labels), fraction=valid_fraction, seed=seed)
        return FolderIndex(str(path), trains.class_names, trains, valids)
    return _index_of_splits(path, rows, folder, filename, labels)


def _read(path: Path) -> tuple[_Rows, str, tuple[str, ...]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = list(reader.fieldnames or ())
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A CSV file must be encoded in UTF-8. Received: {path} with the byte {error.object[error.start]:#x}. Save "
            "it anew as UTF-8."
        ) from error
    labels = tuple(name for name in columns[1:] if name != "split")
    if not rows or not labels:
        raise ValueError(
            f"A CSV file must have a header, a column of file names, one of labels, and rows. Received: {path} with "
            f"columns {columns} and {len(rows)} rows."
        )
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"Every row must have {len(columns)} fields. Received: row {line} of {path}.")
    return rows, columns[0], labels


def _check_files(path: Path, rows: _Rows, folder: Path, filename: str) -> None:
    for line, row in enumerate(rows, start=2):
        if not (folder / row[filename]).is_file():
            raise FileNotFoundError(
                f"Every picture that the CSV file names must exist. Received: no file {folder / row[filename]} "
                f"(row {line} of {path}). Names are relative to {folder}."
            )


def _index_of_splits(path: Path, rows: _Rows, folder: Path, filename: str, labels: tuple[str, ...]) -> FolderIndex:
    by_split: dict[str, _Rows] = {"train": [], "valid": [], "test": []}
    for line, row in enumerate(rows, start=2):
        if row["split"] not in by_split:
            raise ValueError(
                f"`split` must be train, valid or test. Received: split={row['split']!r} in row {line} of {path}."
            )
        by_split[row["split"]].append(row)
    for name in ("train", "valid"):
        if not by_split[name]:
            raise ValueError(f"Train and valid must have pictures. Received: no row of {path} with split={name!r}.")
    trains = _split("train", by_split["train"], folder, filename, labels)
    valids = _split("valid", by_split["valid"], folder, filename, labels)
    if trains.class_names != valids.class_names:
        raise ValueError(
            "Train and valid must have the same classes. Received: "
            f"only in train: {sorted(set(trains.class_names) - set(valids.class_names))}, "
            f"only in valid: {sorted(set(valids.class_names) - set(trains.class_names))} ({path})."
        )
    tests = by_split["test"]
    test = Split("test", tuple(str(folder / row[filename]) for row in tests), None, ()) if tests else None
    return FolderIndex(str(path), trains.class_names, trains, valids, test)


def _split(name: str, rows: _Rows, folder: Path, filename: str, columns: tuple[str, ...]) -> Split:
    rows = sorted(rows, key=lambda row: (row[columns[0]] if len(columns) == 1 else "", row[filename]))
    paths = tuple(str(folder / row[filename]) for row in rows)
    if len(columns) > 1:
        return Split(name, paths, _indicators(rows, columns), columns)
    values = [row[columns[0]] for row in rows]
    class_names = tuple(sorted(set(values)))
    positions = {class_name: position for position, class_name in enumerate(class_names)}
    return Split(name, paths, np.array([positions[value] for value in values], dtype=np.int32), class_names)


def _indicators(rows: _Rows, columns: Sequence[str]) -> Labels:
    for row in rows:
        for column in columns:
            if row[column] not in ("0", "1"):
                raise ValueError(f"A label column must hold 0 or 1. Received: {column}={row[column]!r} in {row}.")
    return np.array([[float(row[column]) for column in columns] for row in rows], dtype=np.float32)
