"""Exports the classifier of a run, with a card that says what the run has measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_sgdr.evaluation.interpretation import Interpretation, interpret, wilson_interval
from keras_sgdr.models.backbones import BACKBONES
from keras_sgdr.models.classifier import Classifier, load_classifier
from keras_sgdr.recipe.run_directory import CHECK, EVALUATE, TRAIN_ALL, read_journal
from keras_sgdr.serving.savedmodel import export_savedmodel


def export_run(
    run: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    version: int | None = None,
    precision: str = "float32",
) -> Path:
    """Exports the classifier of a finished run for TensorFlow Serving, and returns the version's folder.

    Args:
        run: The run's directory, or another in which a classifier was saved.
        directory: As in `export_savedmodel`, as `version` and `precision`.
        version: A positive integer. Defaults to one more than the highest version in `directory`.
        precision: Of the weights.

    Raises:
        FileNotFoundError: If there is no classifier.
        ValueError: If it is damaged, or `version` is there already.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)  # before the model is loaded
    return export_classifier(load_classifier(run), run, directory, version=version, precision=precision)


def export_classifier(
    classifier: Classifier,
    run: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    version: int | None = None,
    precision: str = "float32",
) -> Path:
    """Exports the classifier of a run as it is in memory; arguments as of `export_run`."""
    base = Path(directory)
    return export_savedmodel(
        classifier.model,
        base,
        class_names=classifier.class_names,
        version=version,
        precision=precision,
        # A run's own export is called as the run is.
        name=(Path(run) if base.parent.resolve() == Path(run).resolve() else base).resolve().name,
        resize=classifier.resize,
        views=classifier.views,
        threshold=classifier.threshold,
        about=about_run(run, classifier),
    )


def about_run(run: str | os.PathLike[str], classifier: Classifier) -> dict[str, Any]:
    """Returns what a model card tells of a run: the backbone, the data, and the scores with their intervals."""
    journal = read_journal(Path(run)) or {"settings": {}, "stages": {}}
    settings, stages = journal["settings"], journal["stages"]
    about: dict[str, Any] = {}
    if "backbone" in settings:
        row = BACKBONES.get(settings["backbone"])
        licence = row.licence if row is not None and settings.get("weights") == "imagenet" else None
        about["backbone"] = {"name": Path(settings["backbone"]).name, "licence of its weights": licence}
    if "images" in settings:
        about["data"] = {"images": stages.get(CHECK, {}).get("images"), "digest": settings["images"]}
    if "temperature" in stages.get(TRAIN_ALL, {}):
        about["temperature"] = stages[TRAIN_ALL]["temperature"]  # the graph divides its logits by it
    path = Path(run) / "predictions.npz"
    if EVALUATE in stages and path.is_file():
        with np.load(path) as found:
            if "labels" in found:
                predicted = found["tta" if classifier.views else "plain"]
                about["metrics"] = {"validation": scores(interpret(predicted, found["labels"], classifier.class_names))}
        tested = stages[EVALUATE]
        if "test_images" in tested:
            accuracy, number = tested["test_accuracy"], tested["test_images"]
            interval = wilson_interval(round(accuracy * number), number)
            test = {"images": number, "accuracy": accuracy, "accuracy, 95 % interval": list(interval)}
            about.setdefault("metrics", {})["test"] = test
    return about


def scores(result: Interpretation) -> dict[str, Any]:
    """Returns accuracy with its interval, log-loss and calibration error as JSON values."""
    number = len(result.labels)
    hits = int((result.predictions == result.labels).sum())
    return {
        "images": number,
        "accuracy": hits / number,
        "accuracy, 95 % interval": list(wilson_interval(hits, number)),
        "log-loss": float(result.loss),
        "expected calibration error": float(result.calibration_error),
    }
