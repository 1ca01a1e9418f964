"""Keeps what was seen of files from one check of a folder to the next."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.check.duplicates import SIDE, Fingerprint
from keras_sgdr.data.decode.corrupt_images import BadImage

# Goes up when fingerprints come out differently, so that older ones are not used.
_VERSION = 1
_DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, BadZipFile, zlib.error)
_Stamp = tuple[int, int]
_Seen = Fingerprint | BadImage


class FingerprintStore:
    """A file for each checked folder: fingerprints, by the size and the time of the last change of their files.

    Args:
        directory: Where the files are kept; None keeps nothing.
        folder: The folder that is checked.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, folder: str) -> None:
        name = blake2b(f"{_VERSION} {Path(folder).resolve()}".encode(errors="surrogateescape"), digest_size=16)
        self._path = None if directory is None else Path(directory) / f"{name.hexdigest()}.npz"

    def load(self, stamps: Mapping[str, _Stamp]) -> dict[str, _Seen]:
        """Returns what was seen of the files that have not changed.

        Args:
            stamps: For each path, the size in bytes and the time of the last change in nanoseconds.
        """
        if self._path is None or not self._path.is_file():
            return {}
        try:
            with self._path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return dict(_unpacked(arrays, stamps))
        except _DAMAGE:  # another's, or cut off: it is seen again
            return {}

    def save(self, seen: Sequence[_Seen], stamps: Mapping[str, _Stamp]) -> None:
        """Writes down what was seen, whole or not at all; a directory that cannot be written keeps nothing."""
        if self._path is None:
            return
        known = [each for each in seen if each.path in stamps]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path) as aside:
                np.savez(aside, **_packed(known, stamps))
        except OSError:
            return


def _packed(seen: Sequence[_Seen], stamps: Mapping[str, _Stamp]) -> dict[str, Any]:
    texts = [(each.path, "" if isinstance(each, Fingerprint) else each.reason) for each in seen]
    prints = [each for each in seen if isinstance(each, Fingerprint)]
    return {
        "texts": _joined([text for pair in texts for text in pair]),
        "formats": _joined([each.image_format or "" for each in prints]),
        "stamps": np.array([stamps[each.path] for each in seen], np.int64).reshape(-1, 2),
        "is_good": np.array([isinstance(each, Fingerprint) for each in seen], bool),
        "sizes": np.array([each.size or (-1, -1) for each in prints], np.int64).reshape(-1, 2),
        "digests": np.array([list(each.digest) for each in prints], np.uint8).reshape(-1, 16),
        "thumbnails": np.array([each.thumbnail for each in prints], np.uint8).reshape(-1, SIDE, SIDE, 3),
    }


def _unpacked(arrays: Mapping[str, Any], stamps: Mapping[str, _Stamp]) -> list[tuple[str, _Seen]]:
    texts, formats = _parted(arrays["texts"]), _parted(arrays["formats"])
    digests = [row.tobytes() for row in arrays["digests"]]
    found: list[tuple[str, _Seen]] = []
    good = 0
    for place, (is_good, stamp) in enumerate(zip(arrays["is_good"], arrays["stamps"].tolist(), strict=True)):
        path, reason = texts[2 * place : 2 * place + 2]
        if stamps.get(path) == tuple(stamp):
            if is_good:
                height, width = arrays["sizes"][good].tolist()
                size = None if height < 0 else (height, width)
                thumbnail = arrays["thumbnails"][good]
                found.append((path, Fingerprint(path, formats[good] or None, size, digests[good], thumbnail)))
            else:
                found.append((path, BadImage(path, reason)))
        good += bool(is_good)
    return found


def _joined(texts: Sequence[str]) -> Any:
    """Puts texts of any characters into one array of bytes."""
    return np.frombuffer(json.dumps(texts).encode("ascii"), np.uint8)


def _parted(array: Any) -> list[str]:
    texts: list[str] = json.loads(array.tobytes())
    return texts
