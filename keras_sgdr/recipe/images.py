"""The images of a run: how their folder is read, and what tells them from others."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from keras_sgdr.data.index.files import is_remote
from keras_sgdr.data.index.folder import FolderIndex, check_trainable, index_folder
from keras_sgdr.data.index.read_files import file_stamps
from keras_sgdr.data.index.shards import ShardPaths
from keras_sgdr.recipe.recipe import Recipe

# A link to nothing; the check that comes first names it.
_MISSING = (-1, -1)


def digest_of(index: FolderIndex) -> str:
    """Returns what tells splits apart: a resumed run must not validate on images that it was trained on."""
    digest = hashlib.sha256()
    for split in filter(None, (index.train, index.valid, index.test)):
        if isinstance(split.paths, ShardPaths):
            digest.update(split.paths.digest())
            continue
        for path, (size, _) in zip(split.paths, file_stamps(split.paths, missing=_MISSING), strict=True):
            name = os.fsencode(os.path.relpath(path, index.directory))
            digest.update(name + b"\0" + str(size).encode() + b"\0")
        if split.labels is not None:  # which need not stand in the paths
            digest.update(split.labels.tobytes())
        digest.update(b"\1")
    return digest.hexdigest()[:16]


def index_for(folder: str | os.PathLike[str], recipe: Recipe) -> FolderIndex:
    """Returns the images of a folder that is split already, or is split here by the recipe's fraction and seed."""
    return check_trainable(index_folder(folder, **layout_of(recipe)))


def place_of(folder: str | os.PathLike[str]) -> str:
    """Returns a folder's place on this machine, or its URL."""
    return os.fspath(folder) if is_remote(os.fspath(folder)) else str(Path(folder).resolve())


def layout_of(recipe: Recipe) -> dict[str, Any]:
    """Returns the settings that say how a folder is read, as arguments of `index_folder`."""
    names = ("train", "valid", "test", "valid_fraction", "seed", "group_by", "label_delimiter", "suffix")
    return {name: getattr(recipe, name) for name in names}
