"""The table of commands, options and tests in tests/README.md."""

import ast
import re
from pathlib import Path

import click

from keras_sgdr_cli.main import cli

TESTS = Path(__file__).parents[1]


def rows() -> list[tuple[str, list[str], str]]:
    """The command, the options and the test of each row."""
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    cells = [line.strip("|\n").split("|") for line in text.splitlines() if line.startswith("|") and "::" in line]
    return [
        (command.strip().strip("`"), re.findall(r"`(--[\w-]+)`", options), test.strip().strip("`"))
        for command, options, test in cells
    ]


def commands(group: click.Group, *words: str) -> dict[str, click.Command]:
    """All commands below a group, under their words; the group itself under the empty word."""
    found: dict[str, click.Command] = {} if words else {"": group}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, *words, name)
        else:
            found[" ".join((*words, name))] = command
    return found


def test_every_command_and_every_option_has_a_row():
    listed = {(command, option) for command, options, _ in rows() for option in options}
    there = {
        (name, max(option.opts, key=len))
        for name, command in commands(cli).items()
        for option in command.params
        if isinstance(option, click.Option)
    }
    assert listed == there | {("", "--help")}
    assert {command for command, _, _ in rows()} == set(commands(cli))


def test_every_test_that_is_named_is_there():
    for _, _, test in rows():
        path, name = test.split("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
