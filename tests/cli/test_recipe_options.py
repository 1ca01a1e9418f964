"""The options of the command line against the settings of `Recipe`.

They stand in both, for `keras-sgdr --help` cannot wait for Keras; here they are held equal.
"""

import dataclasses
import math

import click
import pytest

from keras_sgdr import Recipe
from keras_sgdr.recipe.settings import AUGMENTATIONS, CLASS_WEIGHTS, PRECISIONS, RESIZES
from keras_sgdr_cli.main import cli
from keras_sgdr_cli.options import make_recipe

FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}
NOT_OF_THE_RECIPE = {
    "output",
    "config",
    "dry_run",
    "resume",
    "moved",
    "overwrite",
    "quiet",
    "log_format",
    "csv_log",
    "strategy",
    "upload",
    "tensorboard",
    "unfreeze",
    "num_steps",
    "views",
    "num_images",
}
# On both sides of every bound that a setting has, or could reasonably have.
NUMBERS = [-1, -1e-9, 0, 1e-9, 0.5, 1 - 1e-9, 1, 1 + 1e-9, 2, 3, 9, 10, 10 + 1e-9, 11, 1e9]
NUMERIC = [
    name
    for name, field in FIELDS.items()
    if ("int" in str(field.type) or "float" in str(field.type)) and "tuple" not in str(field.type)
]


def parsed(command: str, *arguments: object) -> dict:
    """What click makes of a command line."""
    needed = {"train": ["FOLDER", "-o", "RUN"], "evaluate": ["RUN", "FOLDER"]}.get(command, ["FOLDER"])
    with cli.commands[command].make_context(command, [*needed, *map(str, arguments)]) as context:
        return {name: value for name, value in context.params.items() if name != "folder"}


def option_of(name: str) -> click.Option:
    (option,) = [option for option in cli.commands["train"].params if option.name == name]
    return option


def test_train_has_an_option_for_each_setting():
    options = {option.name for option in cli.commands["train"].params if isinstance(option, click.Option)}
    assert options - NOT_OF_THE_RECIPE == set(FIELDS)


@pytest.mark.parametrize("command", ["train", "lr-find", "show"])
def test_defaults_are_those_of_the_recipe(command):
    options = {name: value for name, value in parsed(command).items() if name not in NOT_OF_THE_RECIPE}
    assert make_recipe(options) == Recipe()
    assert set(options) <= set(FIELDS)


@pytest.mark.parametrize("command", ["check", "evaluate"])
def test_defaults_of_options_that_other_commands_share_are_those_of_the_recipe(command):
    shared = {name: value for name, value in parsed(command).items() if name in FIELDS}
    assert len(shared) > 3
    defaults = {name: FIELDS[name].default for name in shared}
    if command == "evaluate":
        defaults["tta"] = None  # what the run has chosen
    assert shared == defaults


@pytest.mark.parametrize("name", NUMERIC)
def test_an_option_takes_the_numbers_that_the_recipe_takes(name):
    is_integer = "int" in str(FIELDS[name].type)
    for value in [int(value) for value in NUMBERS if value == int(value)] if is_integer else NUMBERS:
        try:
            given = parsed("train", f"--{name.replace('_', '-')}={value!r}")[name]
        except click.BadParameter:
            given = None
        try:
            taken = getattr(Recipe(**{name: value}), name)
        except ValueError:
            taken = None
        assert given == taken, value


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", [name for name in NUMERIC if "float" in str(FIELDS[name].type)])
def test_no_option_takes_what_is_not_finite(name, value):
    with pytest.raises((click.BadParameter, ValueError), match=f"Received: {name}=|not in the range"):
        make_recipe({name: parsed("train", f"--{name.replace('_', '-')}={value!r}")[name]})


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("resize", RESIZES),
        ("augmentation", AUGMENTATIONS),
        ("class_weight", CLASS_WEIGHTS),
        ("precision", PRECISIONS),
    ],
)
def test_choices_are_those_of_the_recipe(name, choices):
    assert sorted(option_of(name).type.choices) == sorted(choices)
