"""Runs a command line, in this process or in one of its own."""

import os
import subprocess
import sys

from click.testing import CliRunner, Result

from keras_sgdr_cli.main import cli

MAIN = "from keras_sgdr_cli.main import main; main()"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def run_well(*arguments: object) -> Result:
    """Runs a command that must end with exit code 0."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def assert_one_line(result: Result, *words: object) -> None:
    """The command failed with one line, which holds all the words."""
    assert result.exit_code in (1, 2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    for word in words:
        assert str(word) in lines[0]


def run_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with TensorFlow as talkative as it is by default."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)], capture_output=True, text=True, env=kept | environment
    )
