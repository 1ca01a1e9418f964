"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a neighbour of `path` to write to, which takes its place when the block ends without an error.

    Whoever reads `path` meanwhile, and whoever comes after a crash, finds what was there before. The neighbour's
    name ends as `path` does, for writers that go by the suffix.

    Args:
        path: The file to be.

    Yields:
        The neighbour, `.partial-…` in the same directory; not there yet.
    """
    path = Path(path)
    # Of machines that share a disk, two may have a process of this number.
    aside = path.with_name(f".partial-{platform.node()}-{os.getpid()}-{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
