"""What the settings of a `Recipe` may be."""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any

from keras_sgdr.validation import InvalidValueError, require, require_integer

# Functions of `augmentation.random_view`, and what `load_dataset` knows
AUGMENTATIONS = ("basic", "side_on", "top_down")
RESIZES = ("crop", "squish", "pad")
IMAGE_CACHES = ("auto", "memory", "off")
CLASS_WEIGHTS = ("balanced",)
IMAGE_SIZE = 224
# The kinds of views of `TTA`, how many views each has, and those that lowered the log-loss most with each augmentation
VIEWS = {"flip": 2, "dihedral": 8, "five_crops": 5, "ten_crops": 10, "zoom": 2, "zooms": 3}
AUTO_VIEWS = {"basic": ("zooms",), "side_on": ("flip", "zoom"), "top_down": ("flip", "zooms")}
XLA = ("auto", "on", "off")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
_LEAST_INTEGERS = {
    **dict.fromkeys(("image_size", "batch_size", "n_cycles", "cycle_len", "cycle_mult", "accumulate"), 1),
    **dict.fromkeys(("max_epochs", "rate_batch_size"), 1),
    "num_groups": 2,  # the head is one
    "head_views": 0,
    "head_cycles": 0,
    "seed": 0,
}
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "valid_fraction": ("in (0, 1)", lambda value: 0 < value < 1),
    "max_zoom": ("in [1, 10]", lambda value: 1 <= value <= 10),
    "dropout": ("in [0, 1)", lambda value: 0 <= value < 1),
    "group_factor": ("a finite number >= 1", lambda value: 1 <= value < math.inf),
    "head_learning_rate": ("a finite number > 0", lambda value: 0 < value < math.inf),
    "learning_rate": ("a finite number > 0", lambda value: 0 < value < math.inf),
    "max_minutes": ("a finite number > 0", lambda value: 0 < value < math.inf),
    "answer_precision": ("in (0, 1]", lambda value: 0 < value <= 1),
    "mixup": ("in [0, 10]", lambda value: 0 <= value <= 10),
    "cutmix": ("in [0, 10]", lambda value: 0 <= value <= 10),
    "label_smoothing": ("in [0, 1)", lambda value: 0 <= value < 1),
    "ema": ("in [0, 1)", lambda value: 0 <= value < 1),
}
_MAY_BE_NONE = (
    "answer_precision",
    "cycle_len",
    "head_learning_rate",
    "learning_rate",
    "max_epochs",
    "max_minutes",
    "rate_batch_size",
)


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Checks settings by themselves and together, and returns them as what can be written as JSON or TOML.

    Raises:
        InvalidValueError, InvalidTypeError: A setting is not allowed.
    """
    given = dict(settings)
    _check_words(given)
    given |= _checked_numbers(given)
    given["image_cache"] = str(given["image_cache"])
    if given["start_from"] is not None:
        given["start_from"] = str(given["start_from"])
    _check_plan(given)
    if given["learning_rates"] is not None:
        given["learning_rates"] = _checked_rates(given)
    if given["sizes"] is not None:
        given["sizes"] = _checked_sizes(given)
        given["image_size"] = given["sizes"][-1]
    return given


def _check_words(given: Mapping[str, Any]) -> None:
    for name, allowed in {
        "augmentation": AUGMENTATIONS,
        "resize": RESIZES,
        "precision": PRECISIONS,
        "xla": XLA,
    }.items():
        require(given[name] in allowed, f"`{name}` must be one of {allowed}", **{name: given[name]})
    cache = str(given["image_cache"])
    # A mere word is rather misspelt than the name of a folder.
    require(
        cache in IMAGE_CACHES or "/" in cache or "\\" in cache,
        f"`image_cache` must be one of {IMAGE_CACHES}, or a directory such as ./images",
        image_cache=given["image_cache"],
    )
    for name in ("gradual_unfreezing", "oversample"):
        require(isinstance(given[name], bool), f"`{name}` must be True or False", **{name: given[name]})
    require(
        given["class_weight"] in (None, *CLASS_WEIGHTS),
        f"`class_weight` must be one of {CLASS_WEIGHTS}, or None",
        class_weight=given["class_weight"],
    )
    tta = given["tta"]
    require(
        tta in ("auto", "off") or set(str(tta).split(",")) <= set(VIEWS),
        f"`tta` must be 'auto', 'off', or of {', '.join(VIEWS)} with commas between them",
        tta=tta,
    )
    if given["group_by"] is not None:
        try:
            re.compile(given["group_by"])
        except (re.error, TypeError) as error:
            raise InvalidValueError(
                f"`group_by` must be a regular expression. Received: group_by={given['group_by']!r} ({error})."
            ) from error


def _checked_numbers(given: Mapping[str, Any]) -> dict[str, int]:
    values = {name: value for name, value in given.items() if value is not None or name not in _MAY_BE_NONE}
    integers = {name: least for name, least in _LEAST_INTEGERS.items() if name in values}
    for name, least in integers.items():
        require_integer(name, values[name], low=least)
    for name, (allowed, holds) in _RANGES.items():
        if name in values:
            is_number = isinstance(values[name], (int, float)) and not isinstance(values[name], bool)
            require(is_number and holds(values[name]), f"`{name}` must be {allowed}", **{name: values[name]})
    return {name: int(values[name]) for name in integers}  # NumPy's integers cannot be written as JSON


def _check_plan(given: Mapping[str, Any]) -> None:
    gradual, n_cycles, num_groups = (given[name] for name in ("gradual_unfreezing", "n_cycles", "num_groups"))
    if gradual and n_cycles < num_groups - 1:
        raise InvalidValueError(
            "`n_cycles` must be at least `num_groups - 1` with `gradual_unfreezing`, which unfreezes a group in "
            f"each cycle. Received: n_cycles={n_cycles}, num_groups={num_groups}. Pass for instance "
            f"n_cycles={num_groups}, cycle_len=2."
        )
    limits = {name: given[name] for name in ("max_epochs", "max_minutes", "sizes")}
    require(
        not gradual or all(value is None for value in limits.values()),
        "`gradual_unfreezing` must be off with `sizes`, and where a plan may be shortened: it needs all its cycles",
        **limits,
    )
    require(
        not (given["oversample"] and given["class_weight"]),
        "Only one of `oversample` and `class_weight` may be given, or rare classes would count twice",
        oversample=given["oversample"],
        class_weight=given["class_weight"],
    )


def _checked_rates(given: Mapping[str, Any]) -> tuple[float, ...]:
    rates = _floats(given["learning_rates"])
    require(
        len(rates) == given["num_groups"] and all(_RANGES["learning_rate"][1](rate) for rate in rates),
        f"`learning_rates` must be {given['num_groups']} finite numbers > 0, one for each of `num_groups`",
        learning_rates=given["learning_rates"],
    )
    require(
        given["learning_rate"] is None,
        "Only one of `learning_rate` and `learning_rates` may be given",
        learning_rate=given["learning_rate"],
        learning_rates=rates,
    )
    return rates


def _checked_sizes(given: Mapping[str, Any]) -> tuple[int, ...]:
    sizes = tuple(given["sizes"]) if isinstance(given["sizes"], (list, tuple)) else (given["sizes"],)
    for size in sizes:
        require_integer("sizes", size)
    require(
        given["max_epochs"] is None or given["max_epochs"] >= len(sizes),
        "`max_epochs` must be at least one for each of `sizes`",
        max_epochs=given["max_epochs"],
        sizes=sizes,
    )
    require(
        len(sizes) > 1 and list(sizes) == sorted(set(sizes)),
        "`sizes` must be two or more rising sizes",
        sizes=sizes,
    )
    require(
        given["image_size"] in (IMAGE_SIZE, sizes[-1]),
        "`image_size` must be left out where `sizes` are given, or be the last of them",
        image_size=given["image_size"],
        sizes=sizes,
    )
    return tuple(map(int, sizes))


def _floats(values: object) -> tuple[float, ...]:
    """Returns numbers as floats, which JSON has; nothing where something else is among them."""
    if not isinstance(values, (list, tuple)):
        return ()
    are_numbers = all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in values)
    return tuple(float(value) for value in values) if are_numbers else ()


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings as they are when they have been written to a journal and read again."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def as_toml(settings: Mapping[str, Any]) -> str:
    """Returns settings as TOML, without those that are None (weights are "none") and names that are not UTF-8."""
    values = {**as_json(settings), "weights": settings["weights"] or "none"}
    # What JSON writes for these kinds of values is TOML too.
    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items() if value is not None
    ]
    return "".join(line for line in lines if line == line.encode(errors="ignore").decode())
