import errno
import json
import subprocess
import sys
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest

from keras_sgdr import validation
from keras_sgdr.data.check import check_folder
from keras_sgdr.models import backbones
from keras_sgdr.recipe import train
from keras_sgdr.validation import KerasSgdrError
from keras_sgdr_cli.main import cli
from tests.cli.command_line import MAIN, assert_one_line, run

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(cli.commands)


def write_png(path: Path, value: int = 0) -> None:
    import numpy as np
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(value).integers(0, 256, (12, 12, 3)).astype("uint8")
    path.write_bytes(tf.io.encode_png(image).numpy())


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "valid"):
        for name in ("cat", "dog"):
            for i in range(3):
                write_png(tmp_path / "pets" / split / name / f"{i}.png", i)
    return tmp_path / "pets"


def test_help_does_not_wait_for_tensorflow():
    code = (
        "import contextlib, sys, keras_sgdr_cli.main as m\n"
        "for words in ([], *([name] for name in m.cli.commands), ['cache', 'list']):\n"
        "    with contextlib.suppress(SystemExit): m.cli([*words, '--help'])\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'matplotlib', 'keras_sgdr'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_documented(name):
    command = cli.commands[name]
    assert command.help
    assert f"keras-sgdr {name}" in README


def options_of(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Option]]:
    """Yields the options of a command and of all below it, each with the command's words."""
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from options_of(each, (*path, name))
    yield from ((" ".join(path), option) for option in command.params if isinstance(option, click.Option))


def test_every_option_says_what_it_is_for():
    options = list(options_of(cli))
    assert ("cache list", "directory") in [(command, option.name) for command, option in options]
    assert [f"{command} --{option.name}" for command, option in options if not option.help] == []


def test_missing_folder_is_named(tmp_path):
    assert_one_line(run("train", tmp_path / "nowhere", "-o", tmp_path / "run"), tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


def test_empty_folder_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    assert_one_line(run("train", tmp_path / "empty", "-o", tmp_path / "run"), tmp_path / "empty")


def test_class_without_images_is_named(folder, tmp_path):
    for image in (folder / "train" / "dog").iterdir():
        image.unlink()
    assert_one_line(run("train", folder, "-o", tmp_path / "run"), folder / "train" / "dog")


def test_classes_that_differ_are_named(folder, tmp_path):
    (folder / "valid" / "dog").rename(folder / "valid" / "wolf")
    assert_one_line(run("train", folder, "-o", tmp_path / "run"), "dog", "wolf")


def test_text_called_jpg_is_named_before_training(folder, tmp_path):
    (folder / "train" / "cat" / "notes.jpg").write_text("not an image")
    result = run("train", folder, "-o", tmp_path / "run", "--image-size", 32, "--weights", "none")
    assert_one_line(result, folder / "train" / "cat" / "notes.jpg")
    assert "epoch" not in result.stdout


def test_second_run_in_the_same_directory_is_refused(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"settings": {}, "stages": {"check": {}}}')
    assert_one_line(run("train", folder, "-o", tmp_path / "run"), tmp_path / "run", "resume", "overwrite")


def test_directory_that_is_no_run_is_named(tmp_path):
    for arguments in (
        ("predict", tmp_path, tmp_path),
        ("export", tmp_path, tmp_path / "x"),
        ("evaluate", tmp_path, "."),
    ):
        assert_one_line(run(*arguments), tmp_path)


def test_unknown_backbone_is_named(folder, tmp_path):
    result = run("train", folder, "-o", tmp_path / "run", "--backbone", "EfficientNetLite9", "--weights", "none")
    assert_one_line(result, "EfficientNetLite9")


def test_wrong_call_exits_with_2(folder, tmp_path):
    result = run("train", folder, "-o", tmp_path / "run", "--resize", "stretch")
    assert result.exit_code == 2
    assert "stretch" in result.stderr


def errors_raised_on_purpose(base: type = KerasSgdrError) -> Iterator[type]:
    for kind in base.__subclasses__():
        yield kind
        yield from errors_raised_on_purpose(kind)


@pytest.fixture
def failing(monkeypatch):
    """Makes `keras-sgdr backbones` fail with an error."""

    def fail_with(error: Exception) -> None:
        def describe_backbones():
            raise error

        monkeypatch.setattr(backbones, "describe_backbones", describe_backbones)

    return fail_with


def test_an_error_raised_on_purpose_is_one_line_also_of_a_subclass(failing):
    kinds = list(errors_raised_on_purpose())
    assert {validation.InvalidValueError, validation.MissingFileError} < set(kinds)
    for kind in [*kinds, type("Narrower", (validation.InvalidTypeError,), {})]:
        error = kind.__new__(kind, "`x` must be y.")
        error.args = ("`x` must be y.",)
        failing(error)
        assert_one_line(run("backbones"), "`x` must be y.")


def test_a_name_with_a_line_end_does_not_break_the_line(failing):
    failing(validation.InvalidValueError("`x` must be y. Received: ca\nts \x1b[31m."))
    assert_one_line(run("backbones"), r"Received: ca\nts \x1b[31m.")
    failing(OSError(errno.ENOENT, "No such file or directory", "a\nb.jpg"))
    assert_one_line(run("backbones"), r"a\nb.jpg")


def test_a_full_disk_is_one_line(failing):
    failing(OSError(28, "No space left on device", "model.keras"))
    assert_one_line(run("backbones"), "No space left on device: model.keras")


def test_a_reader_that_stops_reading_is_no_error_to_speak_of(failing):
    failing(OSError(errno.EPIPE, "Broken pipe"))
    result = run("backbones")
    assert result.stderr == ""
    assert result.exit_code == 1


@pytest.mark.parametrize("kind", [ValueError, TypeError, RuntimeError, json.JSONDecodeError])
def test_another_error_is_a_bug_and_keeps_its_traceback(failing, kind):
    failing(kind("broken", "", 0) if kind is json.JSONDecodeError else kind("broken"))
    result = run("backbones")
    assert type(result.exception) is kind
    assert result.stderr == ""


def test_a_bug_within_the_package_keeps_its_traceback(folder, monkeypatch):
    # int("cat") then fails in a frame of the package, with a built-in error and no frame of another package below.
    monkeypatch.setattr(check_folder, "printable", int)
    result = run("check", folder)
    assert type(result.exception) is ValueError
    assert "invalid literal for int()" in str(result.exception)
    frames = traceback.extract_tb(result.exception.__traceback__)
    assert Path(frames[-1].filename) == Path(check_folder.__file__)


def test_interruption_is_one_line_and_says_how_to_go_on(folder, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_image_classifier", interrupted)
    assert_one_line(run("train", folder, "-o", tmp_path / "run"), "interrupted", "--resume")


def test_version_is_the_distributions():
    done = subprocess.run([sys.executable, "-c", MAIN, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == metadata.version("keras-sgdr")


def test_one_class_is_refused_with_its_folder(folder, tmp_path):
    for split in ("train", "valid"):
        for image in (folder / split / "dog").iterdir():
            image.unlink()
        (folder / split / "dog").rmdir()
    assert_one_line(run("train", folder, "-o", tmp_path / "run"), folder, "cat")


def test_text_among_the_images_to_show_is_one_line(folder, tmp_path):
    for image in (folder / "train" / "cat").iterdir():
        image.write_text("not an image")
    result = run("show", folder, "-o", tmp_path / "grid.png", "--image-size", 32, "--images", 6)
    assert_one_line(result, "keras-sgdr check")


def test_directory_of_a_plot_is_made_before_the_work(folder, tmp_path):
    result = run("show", folder, "-o", tmp_path / "plots" / "grid.png", "--image-size", 32)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "plots" / "grid.png").is_file()
    (tmp_path / "file").write_text("")
    for command in ("show", "lr-find"):
        assert_one_line(run(command, folder, "-o", tmp_path / "file" / "grid.png"), tmp_path / "file")


@pytest.mark.slow
def test_names_that_are_not_utf8_are_printed_escaped(folder):
    cats = folder / "train" / "cat"
    (cats / "0.png").rename(cats / "caf\udce9.png")  # Python's name for a byte that is not UTF-8
    (cats / "na\udcefve.png").write_text("not an image")
    done = subprocess.run([sys.executable, "-c", MAIN, "check", str(folder)], capture_output=True)
    assert done.returncode == 1
    assert b"na\\xefve.png" in done.stdout
    assert b"Traceback" not in done.stderr
