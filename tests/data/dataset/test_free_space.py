"""How much room there is, on this machine and as Linux tells it to a process in a group with a limit."""

import os
import subprocess
import sys

import pytest

from keras_sgdr.data.dataset.free_space import available_cores, available_disk, available_memory

GB = 10**9


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text))


@pytest.fixture
def proc(tmp_path):
    """A machine with 50 GB to be had."""
    write(tmp_path / "proc", meminfo=f"MemTotal: 64000000 kB\nMemAvailable: {50 * GB // 1024} kB\n")
    return tmp_path / "proc"


def test_version_2_counts_the_group_and_those_around_it(proc, tmp_path):
    write(proc / "self", cgroup="0::/job/step\n")
    groups = tmp_path / "cgroup"
    write(groups / "job" / "step", memory__max="max", memory__current=GB, memory__stat="inactive_file 0\n")
    assert available_memory(proc, groups) == pytest.approx(50 * GB, abs=1024)
    write(groups / "job", memory__max=8 * GB, memory__current=3 * GB, memory__stat=f"anon 1\ninactive_file {GB}\n")
    assert available_memory(proc, groups) == 8 * GB - (3 * GB - GB)


def test_version_1_counts_the_group_of_the_memory(proc, tmp_path):
    write(proc / "self", cgroup="7:pids:/\n4:memory:/job/step\n0::/\n")
    limited = {"memory__usage_in_bytes": 2 * GB, "memory__stat": f"total_inactive_file {GB}\n"}
    write(tmp_path / "memory" / "job" / "step", memory__limit_in_bytes=3 * GB, **limited)
    write(tmp_path / "memory", memory__limit_in_bytes=2**63 - 4096, **limited)
    assert available_memory(proc, tmp_path) == 2 * GB


def test_container_in_which_its_own_group_is_the_top(proc, tmp_path):
    write(proc / "self", cgroup="0::/somewhere/else\n")
    groups = tmp_path / "cgroup"
    write(groups, memory__max=4 * GB, memory__current=5 * GB, memory__stat="inactive_file 0\n")
    assert available_memory(proc, groups) == 0, "more is used than may be: there is none, and not less"


def test_system_that_does_not_say(tmp_path):
    assert available_memory(tmp_path, tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says")
def test_this_machine_has_memory():
    assert 0 < available_memory() < 1 << 50


def test_disk_of_a_directory_that_is_not_there_yet(tmp_path):
    free = available_disk(tmp_path)
    assert free > 0
    assert available_disk(tmp_path / "not" / "yet") == pytest.approx(free, rel=0.01)


def test_cores_are_those_of_the_smallest_share_around(proc, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    write(proc / "self", cgroup="0::/job/step\n")
    groups = tmp_path / "cgroup"
    write(groups / "job" / "step", cpu__max="max 100000\n")
    assert available_cores(proc, groups) == 8
    write(groups / "job", cpu__max="150000 100000\n")
    assert available_cores(proc, groups) == 1.5


def test_version_1_tells_cores_in_a_folder_that_has_both_names(proc, tmp_path):
    cores = available_cores(tmp_path, tmp_path)
    write(proc / "self", cgroup="7:cpuset:/a\n4:cpu,cpuacct:/job\n")
    write(tmp_path / "cpu,cpuacct" / "job", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert available_cores(proc, tmp_path) == cores
    write(tmp_path / "cpu,cpuacct" / "job", cpu__cfs_quota_us=50000)
    assert available_cores(proc, tmp_path) == 0.5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux keeps a process to some cores")
def test_a_process_that_is_kept_to_a_core_has_one(tmp_path):
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from keras_sgdr.data.dataset.free_space import available_cores; print(available_cores())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < float(printed) <= 1
