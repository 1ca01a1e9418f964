"""Reads a CSV file that names images and their labels into a `FolderIndex`."""

import csv
import io
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_sgdr.data.index.files import is_remote, is_there
from keras_sgdr.data.index.named_images import NamedImages, folder_of
from keras_sgdr.data.index.read_files import read_files
from keras_sgdr.data.index.split import FolderIndex, Split, split_called, split_off, with_classes
from keras_sgdr.validation import InvalidValueError, MissingFileError

_SHOWN = 50
_TRUE, _FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no", "")
# What other programs write where there is no value.
MISSING_LABELS = ("nan", "null", "none", "n/a", "na")


class _Row(NamedTuple):
    line: int
    path: str
    split: str
    labels: tuple[str, ...]


def index_csv(
    path: str | os.PathLike[str],
    *,
    directory: str | os.PathLike[str] | None = None,
    valid_fraction: float | None = None,
    seed: int = 0,
    group_by: str | None = None,
    label_delimiter: str | None = None,
    suffix: str = "",
) -> FolderIndex:
    """Reads which images there are, and their labels, from a CSV file with a header.

    The first column holds the file names. With one more column its values are the classes (`filename,label`); with
    several, each is a label of its own and holds 0 or 1 (`filename,beach,night,people`). Blanks around a label do not
    count. A column named `split` with the values `train`, `valid` and `test` (or other names in `SPLIT_NAMES`) says
    where an image belongs, or a column named `is_valid` with true or false, as fastai has it; both win over
    `valid_fraction`. Fields are separated by commas, semicolons or tabs, whichever the header has.

    Args:
        path: The CSV file, UTF-8.
        directory: The folder that file names are relative to; the CSV file's own folder if None.
        valid_fraction: The part that validates, in (0, 1), where no column says so.
        seed: Chooses among the splits that `valid_fraction` allows.
        group_by: Finds in an image's path what must not be in train and in valid both; see `index_folder`.
        label_delimiter: Splits the one column of labels into several labels, for instance " "; as fastai's
            `label_delim`.
        suffix: Appended to names that lack it, for instance ".jpg"; as fastai's `suff`.

    Returns:
        A `FolderIndex`; labels are int32 for one label an image, and float32 of shape `(images, classes)` for several.

    Raises:
        FileNotFoundError: If the CSV file or an image that it names is missing.
        ValueError: If a row is not understood, or a split would be empty or lack a class.
    """
    splits = read_csv(path, directory=directory, label_delimiter=label_delimiter, suffix=suffix)
    root = folder_of(path) if directory is None else os.fspath(directory)
    if "all" in splits:
        if valid_fraction is None:
            raise InvalidValueError(
                f"A CSV file without a `split` column needs `valid_fraction`. Received: valid_fraction=None and "
                f"{path}. Pass valid_fraction=0.2, or add a column `split` with train or valid in it."
            )
        trains, valids = split_off(splits["all"], fraction=valid_fraction, seed=seed, group_by=group_by, root=root)
        return FolderIndex(str(path), trains.class_names, trains, valids)
    if "train" not in splits:
        raise InvalidValueError(f"Train must have images. Received: no row of {path} for training.")
    if "valid" not in splits:
        if valid_fraction is None:
            raise InvalidValueError(f"Valid must have images. Received: no row of {path} with split='valid'.")
        trains, valids = split_off(splits["train"], fraction=valid_fraction, seed=seed, group_by=group_by, root=root)
    else:
        trains, valids = splits["train"], splits["valid"]
    if trains.class_names != valids.class_names:
        raise InvalidValueError(
            "Train and valid must have the same classes. Received: "
            f"only in train: {sorted(set(trains.class_names) - set(valids.class_names))}, "
            f"only in valid: {sorted(set(valids.class_names) - set(trains.class_names))} ({path})."
        )
    folders = {"valid": str(path)} if "valid" in splits else {}
    tests = splits.get("test")
    if tests is not None and tests.labels is not None:
        tests = with_classes(tests, trains.class_names, where=f"the test rows of {path}")
    return FolderIndex(str(path), trains.class_names, trains, valids, tests, folders)


def read_csv(
    path: str | os.PathLike[str],
    *,
    directory: str | os.PathLike[str] | None = None,
    label_delimiter: str | None = None,
    suffix: str = "",
) -> dict[str, Split]:
    """Reads a CSV file as `index_csv` does, and returns the splits that its columns name, or "all".

    Raises:
        FileNotFoundError: If the CSV file or an image that it names is missing.
        ValueError: If a row is not understood.
    """
    path = os.fspath(path)
    if not (is_there(path) if is_remote(path) else Path(path).is_file()):
        raise MissingFileError(f"`path` must be an existing CSV file. Received: no file {path}. Check the path.")
    images = NamedImages(folder_of(path) if directory is None else os.fspath(directory), suffix)
    columns, rows = _read(path, images)
    if len(columns) > 1 and label_delimiter is not None:
        raise InvalidValueError(
            f"`label_delimiter` splits one column of labels. Received: {path} with the columns {', '.join(columns)}."
        )
    tests = [row for row in rows if row.split == "test"]
    is_unlabelled = bool(tests) and not any(label for row in tests for label in row.labels)
    labelled = [row for row in rows if not (is_unlabelled and row.split == "test")]
    _check_labels(path, columns, labelled)
    split_of = _several_columns if len(columns) > 1 else _one_column
    class_names: tuple[str, ...] = columns
    if label_delimiter is not None:
        if not label_delimiter:
            raise InvalidValueError("`label_delimiter` must not be empty. Received: label_delimiter=''.")
        labelled = [row._replace(labels=_parts(row.labels[0], label_delimiter)) for row in labelled]
        for row in labelled:
            if not row.labels:
                raise InvalidValueError(f"Every image must have a label. Received: none in row {row.line} of {path}.")
        class_names, split_of = tuple(sorted({label for row in labelled for label in row.labels})), _several_labels
    splits = {}
    for name in ("all", "train", "valid", "test"):
        if any(row.split == name for row in rows):
            chosen = sorted((row for row in labelled if row.split == name), key=lambda row: row.path)
            splits[name] = split_of(name, chosen, class_names)
    if is_unlabelled:
        splits["test"] = Split("test", tuple(row.path for row in tests), None, ())
    return splits


def _read(path: str, images: NamedImages) -> tuple[tuple[str, ...], list[_Row]]:
    """Returns the names of the columns of labels, and the rows."""
    text, delimiter = read_text(path)
    lines = _lines(path, text, delimiter)
    names = [name.strip() for name in (lines[0][1] if lines else [])]
    # Without a name are what pandas calls the index, and what stands behind a last comma.
    places = [place for place, name in enumerate(names) if name]
    columns = [names[place] for place in places]
    if columns and images.find(columns[0]) is not None:
        raise InvalidValueError(
            f"A CSV file must begin with a header. Received: {path}, whose first line names the image {columns[0]}. "
            f"Put `filename{delimiter}label` above it."
        )
    labels = tuple(name for name in columns[1:] if name not in ("split", "is_valid"))
    rows, missing = [], []
    for line, cells in lines[1:]:
        where = f"row {line} of {path}"
        if len(cells) != len(names):
            raise InvalidValueError(f"Every row must have {len(names)} fields. Received: {len(cells)} in {where}.")
        values = {column: cells[place].strip() for column, place in zip(columns, places, strict=True)}
        image = images.find(cells[places[0]])
        if image is None:
            missing.append(f"{images.place_of(cells[places[0]])} (row {line})")
        rows.append(_Row(line, image or "", _split_of(values, where), tuple(values[name] for name in labels)))
    if not rows or not labels:
        raise InvalidValueError(
            f"A CSV file must have a header, a column of file names, one of labels, and rows. Received: {path} with "
            f"columns {columns} and {len(rows)} rows."
        )
    if missing:
        _check_order(path, images, columns, [dict(zip(names, cells, strict=True)) for _, cells in lines[1:]])
        more = f", and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise MissingFileError(
            f"Every image that the CSV file names must exist. Received: no file {', '.join(missing[:_SHOWN])}{more}, "
            f"in {path}. The first column must hold names relative to {images.folder}; pass suffix='.jpg' "
            "(--suffix .jpg) if they lack it."
        )
    return labels, rows


def read_text(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Returns what a CSV file holds, and its delimiter: of commas, semicolons and tabs what the header has most of.

    Raises:
        ValueError: If the file is not encoded in UTF-8.
    """
    content = read_files([os.fspath(path)])[0]
    if isinstance(content, OSError):
        raise content
    try:
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"A CSV file must be encoded in UTF-8. Received: {path} with the byte {error.object[error.start]:#x}. Save "
            "it anew as UTF-8."
        ) from error
    return text, max(",;\t", key=text.partition("\n")[0].count)


def _lines(path: str, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Returns the number and the cells of each line that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise InvalidValueError(
            f"A CSV file must be one that can be read. Received: {path}, line {reader.line_num}: {error}. Look for a "
            "quote that is not closed."
        ) from error


def _check_order(path: str, images: NamedImages, columns: list[str], rows: list[dict[str, str]]) -> None:
    """Refuses a file whose names of images stand in another column than the first."""
    for column in columns[1:]:
        if all(images.find(row[column]) is not None for row in rows):
            raise InvalidValueError(
                f"The first column must hold the names of the images. Received: {path}, which has them in the column "
                f"{column}. Put that column first."
            )


def _split_of(values: dict[str, str], where: str) -> str:
    if "split" in values:
        split = split_called(values["split"])
        if split is None:
            raise InvalidValueError(
                f"`split` must be train, valid or test. Received: split={values['split']!r} in {where}."
            )
        return split
    if "is_valid" in values:
        value = values["is_valid"].lower()
        if value not in (*_TRUE, *_FALSE):
            raise InvalidValueError(
                f"`is_valid` must be true or false. Received: is_valid={values['is_valid']!r} in {where}."
            )
        return "valid" if value in _TRUE else "train"
    return "all"


def _check_labels(path: str, columns: tuple[str, ...], rows: list[_Row]) -> None:
    """Refuses labels that are empty, or neither 0 nor 1 where there are several columns; warns of missing ones."""
    for row in rows:
        for column, label in zip(columns, row.labels, strict=True):
            if not label:
                raise InvalidValueError(
                    f"Every image must have a label. Received: an empty {column} in row {row.line} of {path}. Fill it "
                    "in or remove the row."
                )
            if len(columns) > 1 and label not in ("0", "1"):
                raise InvalidValueError(
                    f"Of several columns of labels, each must hold 0 or 1. Received: {column}={label!r} in row "
                    f"{row.line} of {path}. Remove columns that are no labels."
                )
    missing = [row.labels[0] for row in rows if row.labels[0].lower() in MISSING_LABELS]
    if missing and len(columns) == 1:
        warnings.warn(f"{path} has {len(missing)} rows with the label {missing[0]!r}, taken for a class.", stacklevel=5)


def _parts(cell: str, delimiter: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(delimiter) if part.strip())


def _one_column(name: str, rows: list[_Row], class_names: tuple[str, ...]) -> Split:
    rows = sorted(rows, key=lambda row: row.labels[0])
    class_names = tuple(sorted({row.labels[0] for row in rows}))
    positions = {label: position for position, label in enumerate(class_names)}
    labels = np.array([positions[row.labels[0]] for row in rows], dtype=np.int32)
    return Split(name, tuple(row.path for row in rows), labels, class_names)


def _several_columns(name: str, rows: list[_Row], class_names: tuple[str, ...]) -> Split:
    labels = np.array([[float(label) for label in row.labels] for row in rows], dtype=np.float32)
    return Split(name, tuple(row.path for row in rows), labels, class_names)


def _several_labels(name: str, rows: list[_Row], class_names: tuple[str, ...]) -> Split:
    labels = np.array([[float(each in row.labels) for each in class_names] for row in rows], dtype=np.float32)
    return Split(name, tuple(row.path for row in rows), labels, class_names)
