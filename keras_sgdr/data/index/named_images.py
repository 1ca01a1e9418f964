"""`NamedImages`: finds the images that a CSV file names, below a folder on this machine or behind a URL."""

import os
from pathlib import Path

from keras_sgdr.data.index.files import files_below, is_remote


class NamedImages:
    """The images that a CSV can name.

    Args:
        folder: Which their names are relative to.
        suffix: Appended to names that lack it.
    """

    def __init__(self, folder: str, suffix: str) -> None:
        self.folder = folder
        self._suffix = suffix
        # Not a request for each row
        self._listed = frozenset(files_below(folder)) if is_remote(folder) else None

    def place_of(self, name: str) -> str:
        """Returns the path of a name."""
        return str(Path(self.folder, name)) if self._listed is None else f"{self.folder}/{name}"

    def find(self, name: str) -> str | None:
        """Returns the path of an image that a CSV names, with the suffix if it lacks it, and from Windows too."""
        candidates = [name]
        if self._suffix and not name.endswith(self._suffix):
            candidates.append(name + self._suffix)
        candidates += [each.replace("\\", "/") for each in candidates if "\\" in each]
        for each in map(self.place_of, filter(None, candidates)):
            if each in self._listed if self._listed is not None else Path(each).is_file():
                return each
        return None


def folder_of(path: str | os.PathLike[str]) -> str:
    """Returns the folder that a file is in, on this machine or behind a URL."""
    path = os.fspath(path)
    return path.rpartition("/")[0] if is_remote(path) else str(Path(path).parent)
