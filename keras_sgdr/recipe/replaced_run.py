"""The run that an overwriting one replaces: kept aside until the new one has got so far that it is worth more."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


class ReplacedRun:
    """What a run has left in its directory, moved aside, and back again if the run that replaces it comes to nothing.

    A process killed in the midst of either leaves what `bring_back` puts in order.

    Args:
        journal: The journal in the run's directory; without it, what is there is no run.
        files: Returns the files and folders of a run that are in the directory, the journal first.
    """

    def __init__(self, journal: Path, files: Callable[[], list[Path]]) -> None:
        self._journal, self._files = journal, files
        self._aside = journal.parent / ".before"

    def __bool__(self) -> bool:
        return self._aside.is_dir()

    def set_aside(self) -> None:
        """Moves what is there, its journal first."""
        self._aside.mkdir(exist_ok=True)
        for path in self._files():
            path.replace(self._aside / path.name)

    def bring_back(self) -> None:
        """Puts what was set aside, if anything, into the place of what came after, the journal last."""
        if not self:
            return
        if self._journal.is_file() and (self._aside / self._journal.name).is_file():  # else nothing has come after
            for path in self._files():
                remove(path)
        for path in sorted(self._aside.iterdir(), key=lambda path: path.name == self._journal.name):
            path.replace(self._journal.parent / path.name)
        self._aside.rmdir()

    def forget(self) -> None:
        """Removes it for good."""
        shutil.rmtree(self._aside, ignore_errors=True)


def remove(path: Path) -> None:
    """Removes a file, or a folder and all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
