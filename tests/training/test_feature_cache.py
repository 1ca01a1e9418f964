import multiprocessing
import os
import threading
import time

import numpy as np
import pytest

from keras_sgdr.training.feature_cache import FeatureCache, default_cache_directory

BATCHES = [
    [np.arange(12, dtype="float32").reshape(4, 3) + number, np.arange(4, dtype="int32") * number] for number in range(3)
]


def write(cache, key="k", batches=BATCHES, description=None):
    with cache.writing(key) as writer:
        for batch in batches[writer.num_batches :]:
            writer.append(batch)
        cache.complete(key, description or {"model": "m"})


def expected(batches=BATCHES):
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def assert_complete(cache, key="k", batches=BATCHES):
    for ours, theirs in zip(cache.read(key), expected(batches), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_what_was_written_is_read(tmp_path):
    cache = FeatureCache(tmp_path / "new" / "cache")
    assert cache.read("k") is None
    write(cache)
    assert_complete(cache)
    assert not cache.read("k")[0].flags.writeable
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


@pytest.mark.parametrize("lost_bytes", [1, 5, 20, 48, 60, 100])
@pytest.mark.parametrize("file", ["column_0.bin", "column_1.bin", "journal.jsonl"])
def test_bytes_lost_in_an_interruption_are_written_again(tmp_path, file, lost_bytes):
    cache = FeatureCache(tmp_path)
    with cache.writing("k") as writer:
        writer.append(BATCHES[0])
        writer.append(BATCHES[1])
    path = tmp_path / "k.partial" / file
    os.truncate(path, max(path.stat().st_size - lost_bytes, 0))
    with cache.writing("k") as writer:
        assert writer.num_batches < 2
    write(cache)
    assert_complete(cache)


def test_a_changed_byte_is_noticed_on_resuming(tmp_path):
    cache = FeatureCache(tmp_path)
    with cache.writing("k") as writer:
        writer.append(BATCHES[0])
        writer.append(BATCHES[1])
    content = bytearray((tmp_path / "k.partial" / "column_0.bin").read_bytes())
    content[50] ^= 1
    (tmp_path / "k.partial" / "column_0.bin").write_bytes(content)
    with cache.writing("k") as writer:
        assert writer.num_batches == 1
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


def _write_slowly(directory, written):
    cache = FeatureCache(directory)
    generator = np.random.default_rng(0)
    batches = [[generator.normal(size=(64, 256)).astype("float32"), np.full(64, n)] for n in range(40)]
    with cache.writing("k") as writer:
        for batch in batches[writer.num_batches :]:
            writer.append(batch)
            written.value = writer.num_batches
        cache.complete("k", {})


def test_killed_at_ten_moments_the_next_run_is_right(tmp_path):
    # fork, so that a child begins to write at once; it runs nothing but NumPy and files.
    context = multiprocessing.get_context("fork")
    written = context.Value("i", 0)
    kills, moments = 0, np.linspace(0, 38, 10).astype(int)
    for moment in moments:
        child = context.Process(target=_write_slowly, args=(tmp_path, written))
        child.start()
        while written.value <= moment and child.is_alive():
            pass
        child.kill()
        child.join()
        kills += child.exitcode == -9
    assert kills >= 8
    _write_slowly(tmp_path, written)
    generator = np.random.default_rng(0)
    batches = [[generator.normal(size=(64, 256)).astype("float32"), np.full(64, n)] for n in range(40)]
    assert_complete(FeatureCache(tmp_path), batches=batches)


def test_a_second_writer_waits_for_the_first(tmp_path):
    cache, order = FeatureCache(tmp_path), []

    def second():
        with FeatureCache(tmp_path).writing("k") as writer:
            order.append(("second", writer.num_batches))

    with cache.writing("k") as writer:
        thread = threading.Thread(target=second)
        thread.start()
        writer.append(BATCHES[0])
        order.append(("first", writer.num_batches))
        cache.complete("k", {})
    thread.join()
    # The entry was complete by then, so that the second began a new one instead of adding to it.
    assert order == [("first", 1), ("second", 0)]
    assert [entry.complete for entry in cache.entries()] == [True]
    assert_complete(cache, batches=BATCHES[:1])


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
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_directory() == tmp_path / "keras_sgdr"


def test_a_limit_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="Received: max_bytes=0"):
        FeatureCache(tmp_path, max_bytes=0)


@pytest.mark.parametrize("column", [np.array(["a", "b"], object), np.array(["a", "b"])])
def test_strings_are_refused(tmp_path, column):
    with FeatureCache(tmp_path).writing("k") as writer, pytest.raises(TypeError, match="Received: columns of"):
        writer.append([column])
