"""Arrays on disk: whole or not at all, whatever happens to the writer."""

import multiprocessing
import os
import signal
import sys
import threading

import numpy as np
import pytest

from keras_sgdr.array_store import (
    ArrayWriter,
    StoredArray,
    describe_arrays,
    open_arrays,
    partial_of,
    remove_arrays,
    writing_arrays,
)

COUNT = 12
# fork, so that a child begins to write at once; it runs nothing but NumPy and files.
CONTEXT = multiprocessing.get_context("fork")


def batch(number):
    """Activations and targets of as many rows as usual; and images of various lengths one after the other."""
    generator = np.random.default_rng(number)
    rows = 3 + number % 3
    return [
        generator.normal(size=(rows, 5, 2)).astype("float32"),
        np.arange(rows, dtype="int64") + 10 * number,
        generator.integers(0, 256, 17 * number + 1, np.uint8),
    ]


EXPECTED = [np.concatenate(column) for column in zip(*map(batch, range(COUNT)), strict=True)]


def write(folder, *, until=COUNT):
    with writing_arrays(folder, advice="free some room") as writer:
        for number in range(writer.num_batches, until):
            writer.append(batch(number))
        if until == COUNT:
            writer.complete({"of": "tests"})


def assert_whole(folder):
    arrays = open_arrays(folder)
    for ours, theirs in zip(arrays, EXPECTED, strict=True):
        assert (ours.dtype, ours.shape, len(ours)) == (theirs.dtype, theirs.shape, len(theirs))
        np.testing.assert_array_equal(ours[:], theirs)


def assert_rows_of_all_kinds(arrays):
    chosen = np.array([7, 2, 2, 40, 0])
    for ours, theirs in zip(arrays, EXPECTED, strict=True):
        for rows in (chosen, slice(3, 9), slice(None, 4), slice(1, 30, 7), slice(5, 5)):
            np.testing.assert_array_equal(ours[rows], theirs[rows])
        filled = np.zeros_like(theirs[:6])
        ours.read_into(filled[1:5], 20)
        np.testing.assert_array_equal(filled, np.concatenate([filled[:1] * 0, theirs[20:24], filled[:1] * 0]))


def test_what_was_written_is_read_in_any_order(tmp_path):
    folder = tmp_path / "new" / "k"
    with pytest.raises(FileNotFoundError):
        open_arrays(folder)
    write(folder)
    assert_whole(folder)
    assert_rows_of_all_kinds(open_arrays(folder))
    assert describe_arrays(folder) == {"of": "tests"}
    assert [path.name for path in folder.parent.iterdir()] == ["k"]


def test_systems_without_positioned_reads_read_the_same(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "preadv")
    write(tmp_path / "k")
    arrays = open_arrays(tmp_path / "k")
    threads = [threading.Thread(target=assert_rows_of_all_kinds, args=[arrays]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_rows_of_all_kinds(arrays)


def test_arrays_are_there_for_who_reads_them_when_the_folder_is_removed(tmp_path):
    write(tmp_path / "k")
    arrays = open_arrays(tmp_path / "k")
    assert remove_arrays(tmp_path / "k")
    assert list(tmp_path.iterdir()) == []
    assert_rows_of_all_kinds(arrays)


def test_nothing_is_there_until_it_is_complete(tmp_path):
    write(tmp_path / "k", until=5)
    with pytest.raises(FileNotFoundError):
        open_arrays(tmp_path / "k")
    assert describe_arrays(tmp_path / "k") == {}
    write(tmp_path / "k")
    assert_whole(tmp_path / "k")


@pytest.mark.parametrize("lost_bytes", [1, 5, 60, 100_000])
@pytest.mark.parametrize("file", ["column_0.bin", "column_1.bin", "column_2.bin", "journal.jsonl"])
def test_bytes_lost_in_an_interruption_are_written_again(tmp_path, file, lost_bytes):
    write(tmp_path / "k", until=5)
    path = tmp_path / "k.partial" / file
    os.truncate(path, max(path.stat().st_size - lost_bytes, 0))
    writer = ArrayWriter(tmp_path / "k", advice="")
    assert writer.num_batches < 5
    assert writer.num_rows in ([], [sum(len(batch(n)[c]) for n in range(writer.num_batches)) for c in range(3)])
    write(tmp_path / "k")
    assert_whole(tmp_path / "k")


def test_a_changed_byte_is_noticed_on_resuming(tmp_path):
    write(tmp_path / "k", until=5)
    path = tmp_path / "k.partial" / "column_0.bin"
    content = bytearray(path.read_bytes())
    content[sum(len(batch(number)[0]) for number in range(3)) * 40] ^= 1
    path.write_bytes(content)
    assert ArrayWriter(tmp_path / "k", advice="").num_batches == 3
    write(tmp_path / "k")
    assert_whole(tmp_path / "k")


def write_and_be_killed(folder, moment, count):
    """Kills itself before it touches a file for the n-th time."""

    def on_event(event, arguments):
        if str(folder) in str(arguments):
            if count.value == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            count.value += 1

    sys.addaudithook(on_event)
    write(folder)


def exit_code_of(target, *arguments):
    child = CONTEXT.Process(target=target, args=arguments)
    child.start()
    child.join()
    return child.exitcode


def remove_and_tell(folder):
    sys.exit(int(remove_arrays(folder)))


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_half_there(tmp_path):
    count = CONTEXT.Value("i", 0)
    assert exit_code_of(write_and_be_killed, tmp_path / "whole", -1, count) == 0
    num_events = count.value
    assert num_events > 4 * COUNT
    # Every third one, in the order that goes wrong most often at the end; the files are left from one to the next.
    for number, moment in enumerate([*range(0, num_events, 3), *range(num_events - 6, num_events)]):
        folder = tmp_path / str(number)
        for again in (moment, moment // 2):  # killed once more while it resumes
            count.value = 0
            assert exit_code_of(write_and_be_killed, folder, again, count) in (-signal.SIGKILL, 0)
            if folder.exists():
                assert_whole(folder)
        write(folder)
        assert_whole(folder)
        assert not partial_of(folder).exists()


def test_several_writers_take_turns(tmp_path):
    children = [CONTEXT.Process(target=write, args=(tmp_path / "k",)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert_whole(tmp_path / "k")


def test_a_second_writer_waits_for_the_first_and_begins_anew(tmp_path):
    order = []

    def second():
        with writing_arrays(tmp_path / "k", advice="") as writer:
            order.append(("second", writer.num_batches))

    with writing_arrays(tmp_path / "k", advice="") as writer:
        thread = threading.Thread(target=second)
        thread.start()
        for number in range(COUNT):
            writer.append(batch(number))
        order.append(("first", writer.num_batches))
        writer.complete({})
    thread.join()
    assert order == [("first", COUNT), ("second", 0)]
    assert_whole(tmp_path / "k")
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_what_is_being_written_is_not_removed(tmp_path):
    with writing_arrays(tmp_path / "k", advice="") as writer:
        writer.append(batch(0))
        assert not remove_arrays(tmp_path / "k")
        assert exit_code_of(remove_and_tell, tmp_path / "k") == 0
    write(tmp_path / "k")
    assert_whole(tmp_path / "k")


def test_a_full_disk_is_named_with_the_advice_and_keeps_what_was_written(tmp_path):
    resource = pytest.importorskip("resource", reason="Windows limits no process's files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: free some room.*column_"):
            write(tmp_path / "k")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer = ArrayWriter(tmp_path / "k", advice="")
    assert 1 < writer.num_batches < COUNT
    assert writer.num_bytes == sum(column.nbytes for n in range(writer.num_batches) for column in batch(n))
    write(tmp_path / "k")
    assert_whole(tmp_path / "k")


@pytest.mark.parametrize("journal", ["{}\n", "[]\n3\n", '[{"dtype": 1}]\n', '[]\n{"rows": 4, "crc32": 1}\n', "null\n"])
def test_a_journal_that_is_none_of_ours_counts_as_nothing_written(tmp_path, journal):
    partial_of(tmp_path / "k").mkdir()
    (partial_of(tmp_path / "k") / "journal.jsonl").write_text(journal)
    write(tmp_path / "k")
    assert_whole(tmp_path / "k")


@pytest.mark.parametrize("rows", [np.array([True, False]), [0, 48], [-1], [0.5]])
def test_rows_that_are_not_there_are_refused(tmp_path, rows):
    write(tmp_path / "k")
    with pytest.raises(IndexError, match=r"`rows` must be numbers in \[0, 48\)\. Received: rows="):
        open_arrays(tmp_path / "k")[0][rows]


def test_damaged_arrays_are_refused(tmp_path):
    write(tmp_path / "k")
    arrays = open_arrays(tmp_path / "k")
    os.truncate(tmp_path / "k" / "column_0.bin", 1000)
    with pytest.raises(ValueError, match=r"column_0\.bin must hold 1920 bytes\. Received: 1000 bytes"):
        open_arrays(tmp_path / "k")
    with pytest.raises(OSError, match="has become shorter"):
        arrays[0][:]


def test_more_is_read_than_the_system_gives_at_once(tmp_path, monkeypatch):
    write(tmp_path / "k")
    array, preadv = open_arrays(tmp_path / "k")[0], os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, place: preadv(file, [buffers[0][:7]], place))
    np.testing.assert_array_equal(array[:], EXPECTED[0])


@pytest.mark.parametrize("column", [np.array(["a", "b"], object), np.array(["a", "b"])])
def test_strings_are_refused(tmp_path, column):
    with writing_arrays(tmp_path / "k", advice="") as writer, pytest.raises(TypeError, match="Received: columns of"):
        writer.append([column])
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_the_file_does_not_hold_is_refused(tmp_path):
    (tmp_path / "rows").write_bytes(bytes(12))
    with pytest.raises(ValueError, match=r"must hold 16 bytes\. Received: 12 bytes"):
        StoredArray(tmp_path / "rows", dtype=np.dtype("float64"), shape=(2,))
