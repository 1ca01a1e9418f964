"""Writes a tree of plain values and arrays to one file, and reads it."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.validation import InvalidValueError

_TREE = "tree"


def write_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes dictionaries, lists, numbers, strings, None and arrays as an uncompressed `.npz`, whole or not at all.

    Args:
        path: The file, whatever its suffix; its directory is made.
        tree: What to write; tuples become lists, NumPy's numbers Python's.
    """
    arrays: list[NDArray[Any]] = []
    text = json.dumps(_without_arrays(tree, arrays))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as aside, aside.open("wb") as file:
        named = {str(number): _as_native(array) for number, array in enumerate(arrays)}
        np.savez(file, allow_pickle=False, **{_TREE: np.frombuffer(text.encode(), "uint8")}, **named)


def read_tree(path: str | os.PathLike[str]) -> Any:
    """Returns what `write_tree` was given.

    Raises:
        ValueError: If the file is not one of those.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _with_arrays(json.loads(arrays[_TREE].tobytes()), arrays)
    # Whatever NumPy, zip and JSON say of a file that is another's, or cut off
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidValueError(
            f"`path` must be a checkpoint. Received: path={os.fspath(path)} ({error!r}). Remove it to begin anew."
        ) from error


def _without_arrays(tree: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(tree, dict):
        return {name: _without_arrays(value, arrays) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_arrays(value, arrays) for value in tree]
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, np.ndarray):
        arrays.append(tree)
        return {"array": len(arrays) - 1, "dtype": tree.dtype.name}
    return tree


def _with_arrays(tree: Any, arrays: Any) -> Any:
    if isinstance(tree, list):
        return [_with_arrays(value, arrays) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == {"array", "dtype"}:
        return arrays[str(tree["array"])].view(np.dtype(tree["dtype"]))
    return {name: _with_arrays(value, arrays) for name, value in tree.items()}


def _as_native(array: NDArray[Any]) -> NDArray[Any]:
    # NumPy's format knows no bfloat16 or float8: their bits are written as integers.
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array
