"""How much memory and how much of a disk can still be had."""

import shutil
from contextlib import suppress
from pathlib import Path


def available_memory() -> int | None:
    """Returns the memory that can be had without swapping, in bytes; None where the system does not say."""
    found = []
    with suppress(OSError, KeyError, ValueError):
        found.append(1024 * int(_table("/proc/meminfo")["MemAvailable:"]))
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, KeyError, ValueError):  # in a group without a limit, "max" stands there
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        # What was read from files counts as used, and makes way.
        found.append(limit - used + int(_table(str(group / "memory.stat"))["inactive_file"]))
    return min(found, default=None)


def available_disk(directory: Path) -> int:
    """Returns the room on the disk that a directory is on, or will be, in bytes."""
    existing = next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _table(path: str) -> dict[str, str]:
    lines = (line.split() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return {words[0]: words[1] for words in lines if len(words) > 1}
