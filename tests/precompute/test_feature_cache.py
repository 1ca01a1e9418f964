import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from keras_sgdr.precompute import feature_cache
from keras_sgdr.precompute.feature_cache import FeatureCache, default_cache_directory, user_cache

BATCHES = [
    [np.arange(12, dtype="float32").reshape(4, 3) + number, np.arange(4, dtype="int32") * number] for number in range(3)
]


def write(cache, key="k", batches=BATCHES, description=None):
    with cache.writing(key) as writer:
        for batch in batches[writer.num_batches :]:
            writer.append(batch)
        writer.complete(description or {"model": "m"})


def expected(batches=BATCHES):
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def assert_complete(cache, key="k", batches=BATCHES):
    for ours, theirs in zip(cache.read(key), expected(batches), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours[:], theirs)


def test_what_was_written_is_read(tmp_path):
    cache = FeatureCache(tmp_path / "new" / "cache")
    assert cache.read("k") is None
    write(cache)
    assert_complete(cache)
    assert cache.read("other") is None


def test_an_entry_is_invisible_until_it_is_complete(tmp_path):
    cache = FeatureCache(tmp_path)
    with cache.writing("k") as writer:
        writer.append(BATCHES[0])
    assert cache.read("k") is None
    (entry,) = cache.entries()
    assert not entry.complete
    write(cache)
    assert_complete(cache)


def test_a_damaged_entry_is_removed_and_not_read(tmp_path):
    cache = FeatureCache(tmp_path)
    write(cache)
    os.truncate(tmp_path / "k" / "column_0.bin", 100)
    assert cache.read("k") is None
    assert cache.entries() == []
    write(cache)
    (tmp_path / "k" / "entry.json").write_text("{")
    assert cache.read("k") is None


def test_the_least_recently_used_entries_go_first(tmp_path):
    cache = FeatureCache(tmp_path)
    for key in "abc":
        write(cache, key)
        os.utime(tmp_path / key / "entry.json", (ord(key), ord(key)))
    size = cache.entries()[0].num_bytes
    cache.read("a")
    write(FeatureCache(tmp_path, max_bytes=int(2.5 * size)), "d")
    assert sorted(entry.key for entry in cache.entries()) == ["a", "d"]
    write(FeatureCache(tmp_path, max_bytes=1), "e")
    assert [entry.key for entry in cache.entries()] == ["e"]


def test_entries_are_described_and_cleared(tmp_path):
    cache = FeatureCache(tmp_path)
    assert cache.entries() == []
    assert cache.clear() == 0
    started = time.time() - 1
    write(cache, "a", description={"model": "lite0"})
    with cache.writing("b") as writer:
        writer.append(BATCHES[0])
    (tmp_path / "notes.txt").write_text("not ours")
    entries = {entry.key: entry for entry in cache.entries()}
    assert entries["a"].description == {"model": "lite0"}
    assert entries["a"].complete
    assert entries["a"].last_used >= started
    assert entries["a"].num_bytes >= sum(array.nbytes for array in expected())
    assert cache.clear() == sum(entry.num_bytes for entry in entries.values())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_default_directory_is_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_SGDR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_directory() == tmp_path / "keras_sgdr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_directory() == tmp_path / ".cache" / "keras_sgdr"
    monkeypatch.setenv("KERAS_SGDR_CACHE", "~/features")
    assert default_cache_directory() == tmp_path / "features"
    assert user_cache(max_bytes=5).max_bytes == 5
    assert (tmp_path / "features").is_dir()


def test_the_user_s_cache_can_be_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_SGDR_CACHE", "off")
    assert user_cache() is None
    assert default_cache_directory() == tmp_path / "keras_sgdr"
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_gives_way_to_a_temporary_one(monkeypatch, tmp_path):
    # Below a file: what even root cannot write to
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_SGDR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match=r"kept in .*until this process ends.*Set KERAS_SGDR_CACHE to"):
        cache = user_cache()
    write(cache)
    assert_complete(cache)
    cache.clear()


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def without_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("KERAS_SGDR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", without_home)
    with pytest.warns(UserWarning, match=r"Could not determine home directory.*KERAS_SGDR_CACHE"):
        assert user_cache().directory.is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
def test_a_full_disk_is_named_and_the_next_run_goes_on(tmp_path):
    cache, column = FeatureCache(tmp_path), tmp_path / "k.partial" / "column_1.bin"
    with cache.writing("k") as writer:
        writer.append(BATCHES[0])
        kept = column.rename(tmp_path / "kept")
        column.symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"No space left.*set KERAS_SGDR_CACHE .*column_1.bin"):
            writer.append(BATCHES[1])
        column.unlink()
        kept.rename(column)
    with cache.writing("k") as writer:
        assert writer.num_batches == 1
    write(cache)
    assert_complete(cache)


def test_an_error_while_writing_is_passed_on(tmp_path):
    with pytest.raises(FileNotFoundError, match="an image"), FeatureCache(tmp_path).writing("k"):
        raise FileNotFoundError("an image")


def test_an_entry_that_is_being_written_is_not_removed(tmp_path):
    cache = FeatureCache(tmp_path, max_bytes=1)
    with cache.writing("k") as writer:
        writer.append(BATCHES[0])
        assert cache.clear() == 0
        write(cache, "other")
        writer.append(BATCHES[1])
    write(cache)
    assert_complete(cache)
    assert [entry.key for entry in cache.entries()] == ["k"]


@pytest.mark.parametrize("num_removed", range(4))
def test_a_removal_that_is_killed_leaves_nothing_that_is_read_or_forgotten(tmp_path, monkeypatch, num_removed):
    cache, unlink, left = FeatureCache(tmp_path), Path.unlink, iter(range(num_removed))
    write(cache)

    def unlink_or_die(path, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_or_die)
        with pytest.raises(KeyboardInterrupt):
            cache.clear()
    if num_removed:
        assert cache.read("k") is None
    assert len(cache.entries()) == 1
    cache.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    write(FeatureCache(tmp_path))
    monkeypatch.setattr(os, "utime", refuse)
    assert_complete(FeatureCache(tmp_path))


def test_a_limit_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="Received: max_bytes=0"):
        FeatureCache(tmp_path, max_bytes=0)


def test_a_drive_that_is_away_for_a_moment_costs_no_entry(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)
    write(cache)

    def fail(folder):
        raise OSError(5, "Input/output error", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr("keras_sgdr.precompute.feature_cache.open_arrays", fail)
        with pytest.raises(OSError, match="Input/output error"):
            cache.read("k")
    assert_complete(cache)


def test_an_entry_that_vanishes_while_others_are_listed_is_left_out(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)
    write(cache, "one")
    write(cache, "two")
    describe = feature_cache.describe_arrays

    def describe_and_lose_the_other(folder):
        shutil.rmtree(tmp_path / {"one": "two", "two": "one"}[folder.name], ignore_errors=True)
        return describe(folder)

    monkeypatch.setattr(feature_cache, "describe_arrays", describe_and_lose_the_other)
    assert len(cache.entries()) == 1
