"""Moves what is wrong with a folder out of it, and back."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.check.check_folder import FolderReport
from keras_sgdr.data.index.shards import is_shards
from keras_sgdr.validation import FileThereError, InvalidValueError, MissingFileError

MANIFEST = "moved.json"


def quarantine(
    report: FolderReport, directory: str | os.PathLike[str], *, kinds: Sequence[str] = ("unreadable",)
) -> list[str]:
    """Moves the files of some findings out of a folder, and writes down where they were.

    The list is written before the first file is moved, so that `restore` can undo an interrupted move too. If there is
    nothing to move, nothing is written.

    Args:
        report: From `check_folder`.
        directory: Where the files go, under their paths relative to the report's folder.
        kinds: Which findings; see `keras_sgdr.data.check.check_folder.ERRORS` and `WARNINGS`.

    Returns:
        The files that were moved, sorted.

    Raises:
        FileExistsError: If `directory` already holds files that were moved before.
        ValueError: If the report is of shards, out of which nothing can be moved.
    """
    target = Path(directory)
    manifest = target / MANIFEST
    if manifest.exists():
        raise FileThereError(
            f"`directory` must not hold moved files already. Received: {manifest} exists. Restore them, or choose "
            "another folder."
        )
    if is_shards(report.directory):
        raise InvalidValueError(
            f"`report` must be of a folder of files. Received: {report.directory}, shards. Write them again without "
            "the files that are named."
        )
    root = Path(report.directory)
    root = root if root.is_dir() else root.parent
    # What repeats itself, listed twice in a CSV, is the only copy.
    named = {finding.path for finding in report.findings if finding.kind in kinds and finding.path != finding.other}
    paths = sorted(path for path in named if os.path.lexists(path) and not Path(path).is_dir())
    if not paths:
        return []
    taken: set[str] = set()
    moves = {path: free_place(target, os.path.relpath(path, root), taken) for path in paths}
    move_all(moves, manifest)
    return paths


def move_all(moves: dict[str, str], manifest: Path) -> None:
    """Moves files, each to the place that is given for it, when the list of them has been written for `restore`."""
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(manifest) as aside:
        aside.write_text(json.dumps(moves, indent=1), encoding="utf-8")
    for source, destination in moves.items():
        _move(source, destination)


def restore(directory: str | os.PathLike[str]) -> list[str]:
    """Puts back what `quarantine`, or `relabel`, has moved.

    Args:
        directory: Where the list of them is.

    Returns:
        The files that are back, sorted.

    Raises:
        FileNotFoundError: If nothing was moved there.
        FileExistsError: If there is another file by now where one was; then nothing is moved.
    """
    manifest = Path(directory) / MANIFEST
    if not manifest.is_file():
        raise MissingFileError(f"`directory` must hold moved files. Received: no file {manifest}. Check the path.")
    moves = json.loads(manifest.read_text(encoding="utf-8"))
    back = [source for source, destination in moves.items() if os.path.lexists(destination)]
    occupied = sorted(source for source in back if os.path.lexists(source))
    if occupied:
        raise FileThereError(
            f"Files must not be restored over others. Received: {len(occupied)} that exist again, such as "
            f"{occupied[0]}. Move or remove them first."
        )
    for source in back:
        _move(moves[source], source)
    manifest.unlink()
    return sorted(back)


def free_place(target: Path, relative: str, taken: set[str]) -> str:
    """Takes a path below `target` that is neither taken nor there, for a file from outside the folder too."""
    wanted = target.joinpath(*("_" if part == os.pardir else part for part in Path(relative).parts))
    place, number = wanted, 2
    while str(place) in taken or os.path.lexists(place):
        place = wanted.with_stem(f"{wanted.stem}-{number}")
        number += 1
    taken.add(str(place))
    return str(place)


def _move(source: str, destination: str) -> None:
    Path(destination).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, destination)
