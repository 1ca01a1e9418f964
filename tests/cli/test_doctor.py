"""`keras-sgdr doctor`, in whole and in broken environments."""

import errno
import os
import pty
import re
import subprocess
import sys
from importlib import metadata

import pytest

from tests.cli.command_line import MAIN, run_process

ESCAPE = "\x1b["


def sections(printed: str) -> dict[str, list[str]]:
    """The lines below each title, which is not indented."""
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        if line.startswith("  "):
            found[next(reversed(found))].append(line.strip())
        else:
            found[line] = []
    return found


def test_doctor_says_what_is_here(tmp_path):
    done = run_process("doctor", "--no-self-test", KERAS_SGDR_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert ESCAPE not in done.stdout
    found = sections(done.stdout)
    assert list(found)[-1] == "all well, as far as can be said without the self-test"
    for name in ("keras-sgdr", "keras", "tensorflow", "keras-cv", "numpy"):
        assert f"{name} {metadata.version(name)}" in found["packages"]
    assert "serve: here" in found["extras"]
    assert f"processor cores: {len(os.sched_getaffinity(0))} of {os.cpu_count()}" in found["machine"]
    assert f"precomputed features: 0.0 MiB in {tmp_path / 'cache'}" in found["caches"]
    assert found["ImageNet weights"][0].startswith("here: EfficientNetLite0")


@pytest.mark.slow
def test_doctor_trains_saves_exports_and_ends_well():
    done = run_process("doctor")
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    found = sections(done.stdout)
    assert [line.partition(":")[0] for line in found["self-test"]] == ["draw", "train", "save", "predict", "export"]
    assert int(re.search(r"tells (\d+)% of 16 images apart", done.stdout)[1]) > 80
    assert list(found)[-1] == "all well"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"KERAS_BACKEND": "jax"}, "Received: KERAS_BACKEND=jax. Unset that variable"),
        ({"KERAS_BACKEND": "nothing"}, "Received: KERAS_BACKEND=nothing. Unset that variable"),
        ({"KERAS_HOME": "{}/unreadable"}, "Mend or remove {}/unreadable/keras.json, or set KERAS_HOME"),
        pytest.param(
            {"KERAS_HOME": "{}/channels"},
            "image_data_format='channels_first' in {}/channels/keras.json. Change it there",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"KERAS_SGDR_CACHE": "{}/file/x"},
            "nothing can be written to {}/file/x (Not a directory). Set KERAS_SGDR_CACHE",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["other_backend", "unknown_backend", "unreadable_settings", "other_settings", "cache_is_a_file"],
)
def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path, variables, said):
    (tmp_path / "unreadable" / "keras.json").mkdir(parents=True)
    (tmp_path / "channels").mkdir()
    (tmp_path / "channels" / "keras.json").write_text('{"image_data_format": "channels_first"}')
    (tmp_path / "file").write_text("")
    variables = {name: value.replace("{}", str(tmp_path)) for name, value in variables.items()}
    done = run_process("doctor", "--no-self-test", **variables)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "one of these is wrong:" in done.stdout
    assert said.replace("{}", str(tmp_path)) in done.stdout.splitlines()[-1]
    assert "all well" not in done.stdout


@pytest.mark.slow
def test_doctor_in_a_package_that_is_broken_names_the_place(tmp_path):
    (tmp_path / "keras_cv.py").write_text("raise OSError('libGL.so.1: cannot open shared object file')\n")
    done = run_process("doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert f"libGL.so.1: cannot open shared object file ({tmp_path}/keras_cv.py, line 1)" in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_without_optional_packages_names_them(without_optional_packages):
    done = without_optional_packages("doctor", "--no-self-test")
    assert done.returncode == 0, done.stdout + done.stderr
    found = sections(done.stdout)
    assert "demo: without scikit-learn; pip install 'keras-sgdr[demo]'" in found["extras"]
    assert "onnx: without onnx, onnxruntime, tf2onnx; pip install 'keras-sgdr[onnx]'" in found["extras"]


def test_colours_are_for_terminals(tmp_path):
    """The same command writes escape sequences to a terminal and none to a pipe."""
    command = [sys.executable, "-c", MAIN, "doctor", "--no-self-test"]
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"KERAS_BACKEND": "jax", "TERM": "xterm"}  # which is refused before TensorFlow is imported
    ours, theirs = pty.openpty()
    subprocess.run(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    on_a_terminal = b""
    try:
        while block := os.read(ours, 4096):
            on_a_terminal += block
    except OSError as error:  # Linux's way to say that the terminal has no writer any more
        if error.errno != errno.EIO:
            raise
    os.close(ours)
    assert ESCAPE.encode() in on_a_terminal
    in_a_pipe = subprocess.run(command, capture_output=True, env=environment).stdout
    assert ESCAPE.encode() not in in_a_pipe
    assert b"KERAS_BACKEND=jax" in in_a_pipe
