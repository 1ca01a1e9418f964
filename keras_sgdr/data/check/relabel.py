"""Moves images to the class folders that a table names, or away, and back."""

import csv
import io
import os
from pathlib import Path

from keras_sgdr.data.check.quarantine import MANIFEST, free_place, move_all
from keras_sgdr.data.index.csv import read_text
from keras_sgdr.data.index.file_names import in_utf8
from keras_sgdr.data.index.shards import is_shards
from keras_sgdr.data.index.split import FolderIndex
from keras_sgdr.validation import FileThereError, InvalidValueError, MissingFileError, require

# In the folder itself, which passes hidden folders over: where the journal is, and what was deleted
JOURNAL = ".relabelled"
DELETE = "delete"


def relabel(index: FolderIndex, changes: str | os.PathLike[str]) -> dict[str, str]:
    """Moves images as a table says, and writes down where they were.

    The journal, `.relabelled/moved.json` in the folder, is written before the first file is moved; `restore` of
    `keras_sgdr.data.check.quarantine` undoes it, also after an interruption. Nothing is moved unless all can be.

    Args:
        index: The folder, of class folders.
        changes: A CSV file with the columns `path` and `label`: an image of the folder, as it stands in the index or
            relative to the folder, and the class that it goes to, or `delete`. Other columns are passed over.

    Returns:
        Where each file has gone, by where it was.

    Raises:
        FileNotFoundError: If there is no such table, or no such image in the folder.
        ValueError: If a class is none of the folder's or is called "delete", an image is named twice, or the folder is
            a CSV file.
        FileExistsError: If changes made before have not been undone or confirmed by removing the journal.
    """
    root = Path(index.directory)
    if not root.is_dir() or is_shards(str(root)):
        raise InvalidValueError(
            f"`index` must be of class folders. Received: {root}. Change the labels in that file instead, or in the "
            "folder that these shards were written from."
        )
    require(DELETE not in index.class_names, f"No class may be called {DELETE!r}", classes=index.class_names)
    manifest = root / JOURNAL / MANIFEST
    if manifest.exists():
        raise FileThereError(
            f"Changes made before must be undone, or confirmed by removing {manifest}. Received: a journal of them."
        )
    places = {
        in_utf8(_absolute(path)): (
            index.folders.get(split.name, index.folders["train"]),
            split.class_names[label],
            path,
        )
        for split in (index.train, index.valid, index.test)
        if split is not None and split.labels is not None
        for path, label in zip(split.paths, split.labels, strict=True)
    }
    moves: dict[str, str] = {}
    taken: set[str] = set()
    for where, named, label in _rows(Path(changes)):
        path = next((each for each in (named, root / named) if in_utf8(_absolute(each)) in places), None)
        if path is None:
            raise MissingFileError(f"`path` must be an image of {root}. Received: path={named!r} in {where}.")
        folder, before, source = places[in_utf8(_absolute(path))]
        if source in moves:
            raise InvalidValueError(f"An image may be named once. Received: path={named!r} again in {where}.")
        if label not in (DELETE, *index.class_names):
            raise InvalidValueError(
                f"`label` must be {DELETE} or one of {', '.join(index.class_names)}. Received: label={label!r} in "
                f"{where}."
            )
        if label == DELETE:
            moves[source] = free_place(root / JOURNAL, os.path.relpath(source, root), taken)
        elif label != before:
            moves[source] = free_place(Path(folder) / label, os.path.relpath(source, Path(folder) / before), taken)
    if moves:
        move_all(moves, manifest)
    return moves


def _rows(changes: Path) -> list[tuple[str, str, str]]:
    """Returns of each row where it stands, the path and the label."""
    if not changes.is_file():
        raise MissingFileError(f"`changes` must be an existing CSV file. Received: no file {changes}.")
    # Spreadsheets write semicolons or tabs in some countries.
    text, delimiter = read_text(changes)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = {"path", "label"} - set(reader.fieldnames or ())
    if missing:
        raise InvalidValueError(
            f"`changes` must have the columns path and label. Received: {changes} without {', '.join(sorted(missing))}."
        )
    return [
        (f"row {reader.line_num} of {changes}", (row["path"] or "").strip(), (row["label"] or "").strip())
        for row in reader
    ]


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (a link is another file)
