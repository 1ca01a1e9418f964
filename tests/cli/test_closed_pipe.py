"""What every command does whose output nobody reads any more, as before `| head -1`."""

import os
import subprocess
import sys

import pytest

from tests.cli.command_line import MAIN
from tests.cli.test_help import FAILING

# A call of each command that prints something; {folder}, {run} and {out} are filled in.
CALLS = {
    ("backbones",): [],
    ("cache", "clear"): ["--directory", "{out}"],
    ("cache", "list"): ["--directory", "{out}"],
    ("check",): ["{folder}"],
    ("compare",): ["{run}", "{run}"],
    ("completion",): ["bash"],
    ("data-service", "dispatcher"): ["--port", "0"],
    ("data-service", "worker"): None,  # which first needs a dispatcher
    ("demo",): ["-o", "{out}/demo"],
    ("doctor",): [],
    ("evaluate",): ["{run}", "{folder}"],
    ("export",): ["{run}", "{out}/export"],
    ("lr-find",): ["{folder}", "-o", "{out}/curve.png", "--num-steps", "10", "--image-size", "32"],
    ("predict",): ["{run}", "{folder}/one"],
    ("relabel",): ["{folder}", "{out}/changes.csv"],
    ("report",): ["{run}", "-o", "{out}/report.html"],
    ("serve",): ["{run}", "--port", "0"],
    ("shard",): ["{folder}", "{out}/shards"],
    ("show",): ["{folder}", "-o", "{out}/grid.png", "--image-size", "32"],
    ("train",): ["{folder}", "-o", "{out}/run", "--dry-run", "--image-size", "32"],
}
QUICK = {("completion",), ("check",), ("doctor",)}


def test_every_command_has_a_call():
    assert set(CALLS) == set(FAILING)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=" ".join(words), marks=() if words in QUICK else pytest.mark.slow)
        for words, call in CALLS.items()
        if call is not None
    ],
)
def test_a_command_whose_output_nobody_reads_ends_in_silence(words, digits_folder, trained_run, tmp_path):
    (tmp_path / "changes.csv").write_text("path,label\n")
    places = {"folder": digits_folder, "run": trained_run, "out": tmp_path}
    arguments = [word.format(**places) for word in CALLS[words]]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *words, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=300
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""
