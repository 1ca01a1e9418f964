"""Runs killed with SIGKILL in the midst of training, as processes, and resumed: they end as an unbroken run does."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from keras_sgdr_cli.main import cli

# The command line, killed in a batch: of a `fit` whose optimizer has run so many before.
KILLED = """
import os, signal, sys
import keras
from keras_sgdr.recipe.run import Run
from keras_sgdr_cli.main import main

stage, step = os.environ["KILL_IN"].split(":")
fit = Run.fit

class Kill(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == int(step):
            os.kill(os.getpid(), int(os.environ["KILL_BY"]))

Run.fit = lambda self, name, *args, **options: fit(self, name, *args, *[Kill()][name != stage:], **options)
main()
"""
# One processor: sums over threads come in any order.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "KERAS_SGDR_CACHE": "off"}
FINISHED = "from keras_sgdr_cli.main import main; main()"


def train(folder, output, *options, kill_in=None, by=signal.SIGKILL):
    """Runs `keras-sgdr train` in a process, killed in the batch `kill_in`, "stage:step", if that is given."""
    command = [sys.executable, "-c", KILLED if kill_in else FINISHED, "train", str(folder), "-o", str(output), *options]
    environment = os.environ | ONE_THREAD | {"KILL_IN": kill_in or "", "KILL_BY": str(int(by))}
    # A shell that starts the tests in the background lets them ignore Ctrl-C, and their children with them.
    listen = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, **listen)
    expected = 0 if not kill_in else -signal.SIGKILL if by == signal.SIGKILL else 1
    assert done.returncode == expected, done.stderr[-2000:]
    if expected == 1:
        last = done.stderr.splitlines()[-1]
        assert last == "Error: interrupted. What is done is kept; the same command with --resume goes on from there."
    return done.stdout


def outcome(output):
    journal = json.loads((output / "run.json").read_text())
    return journal["stages"], dict(np.load(output / "predictions.npz"))


def without_time(values):
    return {name: value for name, value in values.items() if name not in ("seconds", "cpu_seconds")}


def assert_same(broken, unbroken):
    (stages, predictions), (expected_stages, expected) = outcome(broken), outcome(unbroken)
    assert list(stages) == list(expected_stages)
    assert [without_time(stage) for stage in stages.values()] == [
        without_time(each) for each in expected_stages.values()
    ]
    for name, probabilities in expected.items():
        assert np.array_equal(predictions[name], probabilities), name
    assert not list(broken.glob("*.checkpoint"))
    assert (broken / "export" / "1" / "saved_model.pb").is_file()
    assert (broken / "history.csv").read_text() == (unbroken / "history.csv").read_text()


QUICK = ["--head-learning-rate", "1e-3", "--learning-rate", "1e-4", "--head-views", "0", "--tta", "off"]


@pytest.fixture(scope="module", params=[QUICK, pytest.param([], marks=pytest.mark.slow)], ids=["quick", "finders"])
def options(request, tiny_options):
    """With 2 live epochs of 5 batches for the head, one cycle of 3 for the whole network; or all else as it is."""
    return [*tiny_options, "--head-cycles", "2", "--cycle-len", "3", *request.param]


@pytest.fixture(scope="module")
def broken(digits_folder, options, tmp_path_factory):
    """A run killed in step 4, resumed, and killed in step 8."""
    broken = tmp_path_factory.mktemp("killed") / "run"
    train(digits_folder, broken, *options, kill_in="train_head_augmented:7")
    assert (broken / "train_head_augmented.checkpoint").is_file()
    assert list(json.loads((broken / "run.json").read_text())["stages"]) == [
        "check",
        "plan",
        "find_head_rate",
        "train_head",
    ]
    said = train(digits_folder, broken, *options, "--resume", kill_in="train_all:8")
    assert "go on after epoch 1" in said
    assert "train_head: done before" in said
    assert (broken / "train_all.checkpoint").is_file()
    return broken


def test_run_killed_in_steps_4_and_8_ends_as_an_unbroken_one(broken, digits_folder, options, tmp_path):
    resumed = shutil.copytree(broken, tmp_path / "resumed")
    said = train(digits_folder, resumed, *options, "--resume")
    assert "find_rate: done before" in said
    assert "go on after epoch 1" in said
    train(digits_folder, tmp_path / "unbroken", *options)
    assert_same(resumed, tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("changed", "received"),
    [(("--cycle-len", "2"), "cycle_len=2"), (("--group-factor", "3"), "group_factor=3")],
)
def test_settings_of_a_stage_that_has_begun_may_not_change(broken, digits_folder, options, changed, received):
    arguments = ["train", str(digits_folder), "-o", str(broken), *options, *changed, "--resume"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    assert received in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_end_goes_on_with_the_next_batch(digits_folder, tiny_options, tmp_path, number):
    """In an epoch's midst, in its last batch, and in a cycle at a smaller size."""
    options = [*tiny_options, *QUICK, "--sizes", "24,32", "--cycle-len", "4"]
    options[options.index("--image-size") : options.index("--image-size") + 2] = []
    train(digits_folder, tmp_path / "unbroken", *options)
    broken = tmp_path / "broken"
    said = train(digits_folder, broken, *options, kill_in="train_smaller:7", by=number)
    assert "interrupted: saved what was trained up to this batch" in said
    # of 5 batches; the one in which the signal came is the last that was trained
    assert "go on after epoch 1, batch 3" in train(
        digits_folder, broken, *options, "--resume", kill_in="train_all:4", by=number
    )
    said = train(digits_folder, broken, *options, "--resume")
    assert "go on after epoch 1\n" in said
    assert_same(broken, tmp_path / "unbroken")


@pytest.mark.slow
def test_gradual_unfreezing_killed_in_its_second_phase_ends_as_unbroken(digits_folder, tiny_options, tmp_path):
    """And once more after the checkpoint says that a cycle which was no better has stopped it."""
    options = [*tiny_options, "--gradual-unfreezing", "--n-cycles", "3", "--cycle-len", "2", "--cycle-mult", "1"]
    options += ["--learning-rate", "1e-3", "--tta", "off"]
    train(digits_folder, tmp_path / "unbroken", *options)
    broken = tmp_path / "broken"
    train(digits_folder, broken, *options, kill_in="train_all:13")
    # the end of a `fit`, before the stage is written down, leaves the same files as a kill would
    stopped = shutil.copytree(broken, tmp_path / "stopped")
    train(digits_folder, broken, *options, "--resume")
    assert_same(broken, tmp_path / "unbroken")
    train(digits_folder, stopped, *options, "--resume", kill_in="train_all:18")
    train(digits_folder, stopped, *options, "--resume")
    assert_same(stopped, tmp_path / "unbroken")


# The command line, killed at a moment: the beginning of a batch, or before or after a file takes its place or goes. It
# counts the moments, and leaves their number where it is not killed.
KILLED_AT = """
import os, signal
from pathlib import Path
import keras
from keras_sgdr.recipe.run import Run
from keras_sgdr_cli.main import main

moments = 0

def moment():
    global moments
    moments += 1
    if moments == int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)

def watched(method):
    def call(*args, **options):
        moment()
        result = method(*args, **options)
        moment()
        return result
    return call

class Batches(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        moment()

for name in ("replace", "rename", "unlink"):
    setattr(Path, name, watched(getattr(Path, name)))
fit = Run.fit
Run.fit = lambda self, name, *args, **options: fit(self, name, *args, Batches(), **options)
try:
    main()
finally:
    Path(os.environ["MOMENTS"]).write_text(str(moments))
"""
KINDS = {
    "finders": ["--head-cycles", "1", "--cycle-len", "2"],
    "groups": ["--gradual-unfreezing", "--n-cycles", "2", "--cycle-len", "1", "--learning-rate", "1e-3"],
    "sizes": ["--sizes", "24,32", "--cycle-len", "4", "--learning-rate", "1e-3", "--ema", "0.5"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("finders", 9), ("groups", 8), ("sizes", 8)])
def test_run_killed_at_any_moment_ends_as_an_unbroken_one(digits_folder, tiny_options, tmp_path, kind, kills):
    options = [*tiny_options, *KINDS[kind], "--tta", "off"]
    if kind == "sizes":
        options[options.index("--image-size") : options.index("--image-size") + 2] = []

    def train_until(output, moment, *more):
        command = [sys.executable, "-c", KILLED_AT, "train", str(digits_folder), "-o", str(output), *options, *more]
        environment = os.environ | ONE_THREAD | {"KILL_AT": str(moment), "MOMENTS": str(tmp_path / "moments")}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    assert train_until(tmp_path / "unbroken", 0).returncode == 0
    last = int((tmp_path / "moments").read_text())
    for kill in range(kills):
        broken = tmp_path / f"broken{kill}"
        moment = 1 + round(kill * (last - 1) / (kills - 1))
        killed = train_until(broken, moment)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr[-2000:])
        resumed = train_until(broken, 0, "--resume")
        assert resumed.returncode == 0, (moment, resumed.stderr[-2000:])
        assert_same(broken, tmp_path / "unbroken")
        shutil.rmtree(broken)
