"""`keras-sgdr completion`, by the shell that reads what it prints."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.cli.command_line import MAIN, run_well


@pytest.fixture
def program(tmp_path):
    """A directory with the program, which does nothing if it imports what takes long."""
    heavy = "{'tensorflow', 'keras', 'numpy', 'keras_sgdr'} & set(sys.modules)"
    code = f"import sys, atexit\natexit.register(lambda: {heavy} and sys.stderr.write('imported too much'))\n{MAIN}"
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "keras-sgdr"
    script.write_text(f"#!{sys.executable}\n{code}")
    script.chmod(0o755)
    return script


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("keras-sgdr rel", ["relabel"]),
        ("keras-sgdr train pets --head-", ["--head-views", "--head-cycles", "--head-learning-rate"]),
        ("keras-sgdr cache ", ["clear", "list"]),
        ("keras-sgdr completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_bash_completes_what_is_typed(program, tmp_path, typed, offered):
    (tmp_path / "script").write_text(run_well("completion", "bash").stdout)
    *words, last = typed.split(" ")
    # As bash does when the tab key is pressed: it calls the function that `complete` has named for the command.
    ask = f"""
        source {tmp_path}/script
        complete -p keras-sgdr > {tmp_path}/registered
        function_name=$(sed -E 's/.*-F ([^ ]+) .*/\\1/' {tmp_path}/registered)
        COMP_WORDS=({" ".join(map(shlex.quote, [*words, last]))}); COMP_CWORD={len(words)}
        $function_name keras-sgdr
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert done.stdout.split() == offered


@pytest.mark.parametrize(("shell", "line"), [("zsh", "#compdef keras-sgdr"), ("fish", "complete --no-files")])
def test_other_shells_have_a_script_of_their_own(shell, line):
    assert line in run_well("completion", shell).stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_script(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "script").write_text(run_well("completion", shell).stdout)
    assert subprocess.run([shell, "-n", str(tmp_path / "script")]).returncode == 0


def test_completion_does_not_wait_for_tensorflow(program):
    done = subprocess.run([program, "completion", "fish"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
