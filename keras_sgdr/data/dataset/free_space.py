"""How much memory, how much of a disk and how many processor cores can be had."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def available_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Returns the memory that can be had without swapping, in bytes; None where the system does not say.

    Args:
        proc: Where Linux tells of its processes.
        groups: Where it tells of their groups (cgroups, of version 1 or 2), which batch systems and containers limit.
    """
    found = []
    with suppress(OSError, KeyError, ValueError):
        found.append(1024 * int(_table(proc / "meminfo")["MemAvailable:"]))
    found += [left for group in _groups(proc, groups, "memory") if (left := _left_in_group(group)) is not None]
    return min(found, default=None)


def available_cores(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Returns how many processor cores this process may use at once; a container's share need not be whole.

    Args:
        proc: As of `available_memory`.
        groups: Likewise.
    """
    # Linux alone knows of processes that are kept to some of the cores.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(cores), *(share for group in _groups(proc, groups, "cpu") if (share := _share_of_cores(group)))])


def _groups(proc: Path, groups: Path, controller: str) -> Iterator[Path]:
    """Yields the control groups that this process is in, for memory or for processors."""
    with suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, own = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                top = groups / controllers
                # A group has what each group around it has. In a container, its own is the top.
                inner = top / own.lstrip("/")
                yield from (inner, *inner.parents)


def _share_of_cores(group: Path) -> float | None:
    # Where there is no limit, "max" stands there, or -1
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota = (group / "cpu.cfs_quota_us").read_text()
        return max(int(quota), 0) / int((group / "cpu.cfs_period_us").read_text()) or None
    return None


def _left_in_group(group: Path) -> int | None:
    for limit, used, reclaimed in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        # Where there is no limit, "max" stands there, or a number beyond all memory
        with suppress(OSError, KeyError, ValueError):
            taken = int((group / used).read_text()) - int(_table(group / "memory.stat")[reclaimed])
            # What was read from files counts as used, and makes way.
            return max(int((group / limit).read_text()) - taken, 0)
    return None


def available_disk(directory: Path) -> int:
    """Returns the room on the disk that a directory is on, or will be, in bytes."""
    existing = next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _table(path: Path) -> dict[str, str]:
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {words[0]: words[1] for words in lines if len(words) > 1}
