"""Writes what a run was, chose and reached as one HTML file that a person opens."""

from __future__ import annotations

import base64
import csv
import json
import os
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import keras
import numpy as np
import tensorflow as tf

from keras_sgdr import plots
from keras_sgdr._version import __version__
from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.check.relabel import DELETE
from keras_sgdr.data.index.file_names import in_utf8
from keras_sgdr.data.index.split import FolderIndex
from keras_sgdr.evaluation.class_maps import class_maps, overlay
from keras_sgdr.evaluation.interpretation import Interpretation, interpret, mcnemar
from keras_sgdr.evaluation.label_issues import find_label_issues
from keras_sgdr.models.classifier import load_classifier
from keras_sgdr.recipe.evaluate import dataset_for, recipe_of
from keras_sgdr.recipe.images import digest_of, index_for
from keras_sgdr.recipe.run_directory import (
    EVALUATE,
    EXPORT,
    FIND_HEAD_RATE,
    FIND_RATE,
    REPORT_FILE,
    TRAIN_ALL,
    read_journal,
)
from keras_sgdr.validation import InvalidValueError, MissingFileError

_WORST, _SUSPECTS, _UNSURE = 12, 12, 6
_THUMBNAIL, _QUALITY = 192, 82
_MOST_CLASSES = 100


def write_report(
    run: str | os.PathLike[str], path: str | os.PathLike[str] | None = None, *, refresh: int | None = None
) -> Path:
    """Writes `report.html` of a run, finished or under way: one file that opens without a network.

    What a stage has not left yet is left out. The worst mistakes are shown as images if the folder of the run is still
    there as it was.

    Args:
        run: The run directory.
        path: The file; `report.html` in the run directory if None.
        refresh: Seconds after which a browser loads the page again while the run is under way; never if None.

    Returns:
        The file.

    Raises:
        ValueError: If `run` is not the directory of a run.
    """
    directory = Path(run)
    journal = read_journal(directory)
    if journal is None:
        raise InvalidValueError(f"`run` must be the directory of a run. Received: run={os.fspath(run)!r}, without one.")
    path = directory / REPORT_FILE if path is None else Path(path)
    is_under_way = EXPORT not in journal["stages"]
    page = _TEMPLATE.render(in_utf8(_contents(directory, journal)), refresh=refresh if is_under_way else None)
    with atomic_write(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def watch_report(
    run: str | os.PathLike[str], path: str | os.PathLike[str] | None = None, *, seconds: int = 5
) -> Iterator[Path]:
    """Writes the report of a run under way whenever a stage has ended, until the last one has; yields it each time.

    Args:
        run: As in `write_report`, as what follows.
        path: The file.
        seconds: How often to look, and how often a browser loads the page again.

    Raises:
        ValueError: If `run` is not the directory of a run.
    """
    seen: list[str] | None = None
    while seen is None or EXPORT not in seen:
        stages = list((read_journal(Path(run)) or {}).get("stages", ()))
        if stages == seen:
            time.sleep(seconds)
            continue
        yield write_report(run, path, refresh=seconds)
        seen = stages


def _contents(directory: Path, journal: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page shows, as texts, numbers, and images in data: addresses."""
    settings, stages = journal["settings"], journal["stages"]
    history = [row for values in stages.values() for row in values.get("history", [])]
    contents: dict[str, Any] = {
        "name": directory.resolve().name,
        "settings": settings,
        "stages": [
            (name, *(values.get(clock, 0.0) for clock in ("seconds", "cpu_seconds"))) for name, values in stages.items()
        ],
        "findings": stages.get("check", {}).get("findings", {}),
        "history": history,
        "head_rate": stages.get(FIND_HEAD_RATE),
        "rate": stages.get(FIND_RATE),
        "whole": stages.get(TRAIN_ALL),
        "curves": [
            (title, _curve(directory / f"{name}.csv"))
            for name, title in (("lr_finder_head", "Step 2: the head"), ("lr_finder_all", "Step 7: the whole network"))
            if (directory / f"{name}.csv").is_file()
        ],
        "schedule": _png(directory / "schedule.png"),
        "losses": plots.as_svg(plots.plot_history(history)) if history else None,
        "versions": {
            "keras-sgdr": journal.get("version", __version__),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
        "command": _command(directory, settings),
        # not the labels of a table, and not where "delete" is a class
        "can_relabel": Path(settings["folder"]).is_dir() and DELETE not in settings["classes"],
    }
    if EVALUATE in stages:
        chosen = {name: stages[EVALUATE].get(name) for name in ("test_accuracy", "views", "threshold")}
        contents |= {**chosen, **_results(directory, settings, averages=bool(chosen["views"]))}
    return contents


def _results(directory: Path, settings: dict[str, Any], *, averages: bool) -> dict[str, Any]:
    """What the classifier says of the validation images, as it predicts from then on: with views or without."""
    with np.load(directory / "predictions.npz") as file:
        saved = dict(file)
    names, labels = settings["classes"], saved["labels"]
    plain, tta = (interpret(saved[each], labels, names) for each in ("plain", "tta"))
    kept = tta if averages else plain
    hits = kept.predictions == labels
    lists = {
        "worst": [int(i) for i in kept.top_losses() if not hits[i]][:_WORST],
        "suspects": _suspects(kept),
        "unsure": [int(i) for i in kept.most_uncertain(_UNSURE)],
    }
    shown = _shown(directory, settings, kept, sorted({i for each in lists.values() for i in each}), saved["paths"])
    return {
        "kept": kept,
        "plain": plain,
        "tta": tta if settings["tta"] != "off" else None,
        "p_value": mcnemar(plain, tta),
        "confusion": plots.as_svg(kept.plot_confusion_matrix()) if len(names) <= _MOST_CLASSES else None,
        "reliability": plots.as_svg(plots.plot_reliability(kept.probabilities.max(axis=1), hits)),
        "classes": kept.per_class(),
        "confused": kept.most_confused()[:10],
        **{name: [shown[i] for i in indices] for name, indices in lists.items()},
    }


def _suspects(result: Interpretation) -> list[int]:
    """The validation images whose label is probably wrong, as the model tells, which was not trained on them."""
    labels, present = result.labels, np.unique(result.labels)
    # Confident learning wants images of every class that it may name.
    probabilities = result.probabilities[:, present]
    shares = probabilities / np.maximum(probabilities.sum(axis=1, keepdims=True), 1e-12)
    return [int(i) for i in find_label_issues(shares, np.searchsorted(present, labels)).indices[:_SUSPECTS]]


def _shown(
    directory: Path, settings: dict[str, Any], result: Interpretation, indices: Sequence[int], paths: Any
) -> dict[int, dict[str, Any]]:
    """Images with what they are and what they were taken for; as the model sees them, where they are still there."""
    names = result.class_names
    index = _index_of(settings, directory)
    images = {} if index is None or not indices else _images(directory, index, indices, result.predictions)
    return {
        i: {
            **images.get(i, {"image": None, "map": None}),
            "path": str(paths[i]),
            "label": names[result.labels[i]],
            "predicted": names[result.predictions[i]],
            "probability": float(result.probabilities[i].max()),
            "loss": float(result.losses[i]),
        }
        for i in indices
    }


def _index_of(settings: dict[str, Any], directory: Path) -> FolderIndex | None:
    try:
        index = index_for(settings["folder"], recipe_of(directory))
    except (InvalidValueError, MissingFileError):
        return None
    return index if digest_of(index) == settings["images"] else None


def _images(
    directory: Path, index: FolderIndex, indices: Sequence[int], predictions: Any
) -> dict[int, dict[str, str | None]]:
    """Validation images, and what in them speaks for the class that they were taken for."""
    classifier = load_classifier(directory)
    (batch, _), *_ = dataset_for(classifier, index.valid.take(indices), len(indices)).as_numpy_iterator()
    images = _thumbnails(batch)
    try:
        maps: Sequence[str | None] = _thumbnails(
            overlay(batch, class_maps(classifier.model, batch, predictions[list(indices)]))
        )
    except InvalidValueError:  # a backbone of the user's that has no feature map
        maps = [None] * len(indices)
    return {i: {"image": image, "map": drawn} for i, image, drawn in zip(indices, images, maps, strict=True)}


def _thumbnails(images: Any) -> list[str]:
    side = min(_THUMBNAIL, max(images.shape[1:3]))
    scaled = tf.image.resize(images, (side, side), preserve_aspect_ratio=True, antialias=True)
    return [
        _data("image/jpeg", tf.io.encode_jpeg(tf.cast(tf.round(each), tf.uint8), quality=_QUALITY).numpy())
        for each in scaled
    ]


def _curve(path: Path) -> str:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [[float(row[name]) for row in rows] for name in ("learning_rate", "loss", "smoothed_loss")]
    return plots.as_svg(plots.plot_lr_curve(*columns))


def _command(directory: Path, settings: dict[str, Any]) -> str:
    words = ["keras-sgdr", "train", settings["folder"], "-o", "NEW", "--config", str(directory / "config.toml")]
    return shlex.join(words)


def _png(path: Path) -> str | None:
    return _data("image/png", path.read_bytes()) if path.is_file() else None


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("keras_sgdr.recipe", ""),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "share": _share,
    "time": _time,
    "json": json.dumps,
    "svg": lambda text: _data("image/svg+xml", text.encode()),
}
_TEMPLATE = _ENVIRONMENT.get_template("report.html.j2")
