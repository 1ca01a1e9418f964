"""What holds for the help and the exit codes of every command."""

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from keras_sgdr_cli.main import cli
from tests.cli.command_line import run


def all_commands(command: click.Command, *words: str) -> dict[tuple[str, ...], click.Command]:
    """The command itself under its words, and all commands and groups below it."""
    found = {words: command}
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            found |= all_commands(each, *words, name)
    return found


COMMANDS = all_commands(cli)
# A call of each command that cannot do what is asked; {} is an empty directory.
FAILING = {
    ("backbones",): ["NoSuchNetwork"],
    ("cache", "clear"): None,  # where nothing is, nothing is listed and cleared
    ("cache", "list"): None,
    ("check",): ["{}/nowhere"],
    ("compare",): ["{}", "{}"],
    ("completion",): None,  # click has all shells that it takes
    ("data-service", "dispatcher"): None,  # see data/dataset/test_data_service.py
    ("data-service", "worker"): ["--dispatcher", "localhost:9"],
    ("demo",): ["-o", "{}/file/x"],
    ("doctor",): None,  # see test_doctor.py: it needs another environment
    ("evaluate",): ["{}", "{}"],
    ("export",): ["{}", "{}/x"],
    ("lr-find",): ["{}/nowhere"],
    ("predict",): ["{}", "{}"],
    ("relabel",): ["{}", "{}/changes.csv"],
    ("report",): ["{}"],
    ("serve",): ["{}"],
    ("shard",): ["{}/nowhere", "{}/shards"],
    ("show",): ["{}/nowhere"],
    ("train",): ["{}/nowhere", "-o", "{}/run"],
}
every_command = pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "keras-sgdr")


def examples_in(text: str) -> list[str]:
    """The command lines below "Examples:" in what `--help` prints."""
    return re.findall(r"^ +((?:\w+=\S+ )*keras-sgdr .+)$", text.partition("Example")[2], re.MULTILINE)


@every_command
def test_help_has_examples_that_parse(words):
    examples = examples_in(run(*words, "--help").stdout)
    assert examples
    for line in examples:
        program, *arguments = [word for word in shlex.split(line.partition(">")[0]) if not re.match(r"[A-Z_]+=", word)]
        assert program == "keras-sgdr"
        command, parsed = cli, arguments
        while isinstance(command, click.Group):
            name, command, parsed = command.resolve_command(click.Context(command), parsed)
        if words and not isinstance(COMMANDS[words], click.Group):
            assert command is COMMANDS[words], f"{line}: of another command"
        if "--help" not in parsed:
            command.make_context(name, list(parsed)).close()  # which parses, and refuses what is wrong


def test_a_wrong_example_is_seen():
    assert examples_in("Examples:\n  keras-sgdr train pets --outptu x\n") == ["keras-sgdr train pets --outptu x"]
    with pytest.raises(click.NoSuchOption):
        cli.commands["train"].make_context("train", ["pets", "--outptu", "x"])


@every_command
def test_help_exits_with_0_and_an_unknown_option_with_2(words):
    for option, code in (("--help", 0), ("--no-such-option", 2)):
        result = run(*words, option)
        assert result.exit_code == code, result.output
    assert "No such option" in result.stderr
    assert "Traceback" not in result.output


@every_command
def test_a_missing_argument_exits_with_2(words):
    required = [each for each in COMMANDS[words].params if each.required]
    if required:
        result = run(*words)
        assert result.exit_code == 2
        assert "Missing" in result.stderr


def test_every_command_has_a_call_that_fails():
    assert set(FAILING) == {words for words, command in COMMANDS.items() if not isinstance(command, click.Group)}


@pytest.mark.parametrize("words", [words for words, call in FAILING.items() if call], ids=" ".join)
def test_what_cannot_be_done_exits_with_1_and_one_line(words, tmp_path):
    (tmp_path / "file").write_text("")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "file").write_text("")
    result = run(*words, *(word.replace("{}", str(empty)) for word in FAILING[words]))
    assert result.exit_code == 1, result.output
    assert re.fullmatch(r"Error: .+\n", result.stderr), result.stderr


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["evalute", "run", "pets"], "Did you mean 'evaluate'?"),
        (["cache", "lst"], "Did you mean 'list'?"),
        (["train", "pets", "-o", "x", "--imagesize", "64"], "--image-size"),
        (["predict", "--outptu", "x", "run", "a.jpg"], "--output"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_one_that_is_meant(call, meant):
    result = run(*call)
    assert result.exit_code == 2
    assert meant in result.stderr


def test_completion_is_of_commands_options_and_choices():
    def completed(line: str) -> list[str]:
        words = {"COMP_WORDS": f"keras-sgdr {line}", "COMP_CWORD": str(len(f"x {line}x".split()) - 1)}
        environment = words | {"_KERAS_SGDR_COMPLETE": "bash_complete"}
        printed = CliRunner().invoke(cli, env=environment, prog_name="keras-sgdr").stdout
        return [each.partition(",")[2] for each in printed.splitlines()]

    assert completed("tr") == ["train"]
    assert completed("cache ") == ["clear", "list"]
    assert set(completed("train pets --cy")) == {"--cycle-len", "--cycle-mult"}
    assert completed("train pets --resize s") == ["squish"]
