"""Copies a run to a URL while it goes on, so that it outlives the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_sgdr.data.index.files import is_remote
from keras_sgdr.data.index.remote import remove, upload
from keras_sgdr.recipe.run_directory import JOURNAL
from keras_sgdr.validation import InvalidValueError


class RunUpload:
    """Copies the directory of a run to a URL, as `on_event` of `train_image_classifier`: when a stage has ended.

    What has not changed since is not copied again. The journal comes last, so that a copy has all that its journal
    names; and then, what this process has copied and is gone here is removed there. A copy that fails ends the run; it
    goes on with `resume`.

    Args:
        output: The run directory.
        url: A folder behind a URL.

    Raises:
        ValueError: If `url` is none.
    """

    def __init__(self, output: str | os.PathLike[str], url: str) -> None:
        if not is_remote(url):
            raise InvalidValueError(f"`url` must be a URL such as s3://bucket/folder. Received: url={url!r}.")
        self._output = Path(output)
        self._url = url.rstrip("/")
        self._copied: dict[str, tuple[int, int]] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        """Copies what is new when a stage has ended; and at the first event, so that a wrong URL is known early."""
        if event["event"] == "stage" or not self._copied:
            self.copy()

    def copy(self) -> None:
        """Copies the files that are new or have changed, and removes those that are gone.

        Raises:
            FileNotFoundError: If there is no such bucket.
            ConnectionError: If the store refuses, or does not answer.
        """
        files = [path for path in self._output.rglob("*") if path.is_file() and not path.name.startswith(".")]
        for path in sorted(files, key=lambda path: (path.name == JOURNAL, path)):
            name, found = path.relative_to(self._output).as_posix(), path.stat()
            stamp = (found.st_size, found.st_mtime_ns)
            if self._copied.get(name) != stamp:
                upload(path, f"{self._url}/{name}")
                self._copied[name] = stamp
        names = {path.relative_to(self._output).as_posix() for path in files}
        for name in sorted(self._copied.keys() - names):
            remove(f"{self._url}/{name}")
            del self._copied[name]
