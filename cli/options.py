"""The options that commands share, and where their values come from: the command line, a file, another run."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

# As text: a `Path` takes one of the slashes of a URL away.
FOLDER = click.argument("folder", type=click.Path())
RATE = click.FloatRange(min=0, min_open=True)


# Of `train`, what says where and how it runs, and what a run that goes on from another one shares with it
_OF_A_CALL = {"config", "folder", "output", "dry_run", "resume", "moved", "overwrite"}
_OF_A_CALL |= {"quiet", "log_format", "csv_log", "tensorboard", "upload", "strategy"}
_OF_THE_NETWORK = ("backbone", "image_size", "resize", "augmentation", "max_zoom")


def numbers(kind: Any) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Returns a callback that reads numbers with commas between them, or a file's list of them."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
        return tuple(kind.convert(part, parameter, context) for part in parts)

    return read


def read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Lets a file's settings stand where the command line has none."""
    if path is None:
        return
    settings = _settings_in(path)
    names = {parameter.name for parameter in context.command.params} - _OF_A_CALL
    unknown = sorted(set(settings) - names)
    if unknown:
        raise click.BadParameter(f"{path} has settings that there are not: {', '.join(unknown)}.")
    context.default_map = {**(context.default_map or {}), **settings}


def read_start(context: click.Context, _: click.Parameter, run: Path | None) -> str | None:
    """Lets what images and network of a run were stand where neither the command line nor a file says other."""
    if run is None:
        return None
    if not (run / "config.toml").is_file():
        raise click.BadParameter(f"it must be the directory of a finished run. Received: {run}.")
    settings = _settings_in(run / "config.toml")
    before = {name: settings[name] for name in _OF_THE_NETWORK if name in settings}
    context.default_map = {**before, **(context.default_map or {})}
    return str(run.resolve())


def _settings_in(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from error


_NAME_OPTIONS = (
    click.option("--train", help="The folder of training images; '.' if all folders in FOLDER are classes."),
    click.option("--valid", help="The folder of validation images.  [default: valid, val, validation or dev]"),
    click.option("--test", help="The folder of test images.  [default: test or testing]"),
    click.option("--suffix", default="", help="If FOLDER is a CSV of names without a suffix: '.jpg', for instance."),
)
_SPLIT_OPTIONS = (
    click.option(
        "--valid-fraction",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.2,
        help="Share of each class held out if FOLDER has no validation images.",
    ),
    click.option("--group-by", metavar="REGEX", help="What must not be in both of them, in paths: 'patient[0-9]+'."),
    click.option("--label-delimiter", help="If FOLDER is a CSV with several labels in a cell."),
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the split and of all that is random later."),
)
_RECIPE_OPTIONS = (
    click.option(
        "--backbone", default="EfficientNetLite0", help="A name that `keras-sgdr backbones` lists, or a .keras file."
    ),
    click.option("--weights", default="imagenet", help="'imagenet', 'none', or the path of a weights file."),
    click.option("--image-size", type=click.IntRange(min=1), default=224, help="Height and width in pixels."),
    click.option("--resize", type=click.Choice(["crop", "squish", "pad"]), default="crop", help="How to get there."),
    click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Images per step."),
    click.option(
        "--augmentation",
        type=click.Choice(["side_on", "top_down", "basic"]),
        default="side_on",
        help="side_on flips left to right, top_down by all eight symmetries, basic not at all.",
    ),
    click.option("--max-zoom", type=click.FloatRange(1, 10), default=1.1, help="The augmentation's largest zoom."),
    click.option(
        "--dropout",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.2,
        help="Share of features dropped before the head.",
    ),
)


def _with(options: tuple[Callable[..., Any], ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


# The folders inside FOLDER; those, and how it is split; all of that, and images and model.
# Defaults and ranges are those of `Recipe`, which --help cannot wait for: a test compares them.
name_options = _with(_NAME_OPTIONS)
layout_options = _with((*_NAME_OPTIONS, *_SPLIT_OPTIONS))
recipe_options = _with((*_NAME_OPTIONS, *_SPLIT_OPTIONS, *_RECIPE_OPTIONS))


def make_recipe(options: dict[str, Any]) -> Any:
    """Returns the `Recipe` of parsed options."""
    from keras_sgdr.recipe.recipe import Recipe

    if options.get("weights") == "none":
        options = {**options, "weights": None}
    context = click.get_current_context(silent=True)
    source = None if context is None else context.get_parameter_source("image_size")
    if options.get("sizes") and source is not ParameterSource.COMMANDLINE:
        options = {**options, "image_size": options["sizes"][-1]}
    return Recipe(**options)
