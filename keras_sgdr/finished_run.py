"""What a finished run is asked afterwards: its settings, and how well it does on a folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_sgdr.data.dataset import load_dataset
from keras_sgdr.data.folder import FolderIndex, Split
from keras_sgdr.evaluation.interpretation import Interpretation, interpret, plot_mistakes
from keras_sgdr.evaluation.tta import predict_tta
from keras_sgdr.from_recipe import make_augmentation
from keras_sgdr.models.classifier import Classifier, load_classifier
from keras_sgdr.recipe import digest_of, index_for, is_split
from keras_sgdr.run_directory import read_settings
from keras_sgdr.settings import Recipe


def recipe_of(run: str | os.PathLike[str]) -> Recipe:
    """Returns the settings of a run; the defaults for a directory that holds a classifier and no run."""
    settings = read_settings(run)
    return Recipe(
        **{field.name: settings[field.name] for field in dataclasses.fields(Recipe) if field.name in settings}
    )


def evaluate_run(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    split: str | None = None,
    batch_size: int = 32,
    tta_views: int = 4,
    plots: str | os.PathLike[str] | None = None,
    verbose: int = 1,
) -> dict[str, Interpretation]:
    """Returns what the classifier of a run gets right and wrong on the pictures of a folder.

    Args:
        run: The run directory.
        folder: As in `train_image_classifier`. One without `train/` and `valid/` that the run was trained on is split
            as it was then.
        split: `"train"`, `"valid"` or `"all"`. Defaults to the held-out pictures of the folder that the run was
            trained on and of one with `train/` and `valid/`, and to all pictures of any other.
        batch_size: Pictures per step.
        tta_views: Augmented views per picture, as in `predict_tta`.
        plots: A directory for `confusion_matrix.png` and `top_losses.png`; made if it is missing.
        verbose: 1 shows progress bars.

    Returns:
        `"plain"` and, unless `tta_views` is 0, `"tta"`.

    Raises:
        FileNotFoundError: If the run or the folder is missing.
        ValueError: If the folder has other classes than the classifier, or there is no such split.
    """
    if split not in (None, "train", "valid", "all"):
        raise ValueError(f'`split` must be "train", "valid", "all" or None. Received: split={split!r}.')
    classifier, recipe = load_classifier(run), recipe_of(run)
    index = index_for(folder, recipe)
    held_out = is_split(folder) or digest_of(index) == read_settings(run).get("pictures")
    pictures = _pictures(index, split or ("valid" if held_out else "all"))
    if pictures.class_names != classifier.class_names:
        raise ValueError(
            f"`folder` must have the classes that the classifier knows, {', '.join(classifier.class_names)}. "
            f"Received: folder={folder} with {', '.join(pictures.class_names)}."
        )
    results = {}
    for name, views in {"plain": 0, "tta": tta_views}.items():
        if name == "plain" or views:
            probabilities = predict_tta(
                classifier.model,
                _dataset(classifier, pictures, batch_size),
                num_views=views,
                augmentation=make_augmentation(recipe),
                seed=recipe.seed,
                verbose=verbose,
            )
            results[name] = interpret(probabilities, pictures.labels, classifier.class_names)
    if plots is not None:
        result = list(results.values())[-1]
        worst = _dataset(classifier, pictures.take(result.top_losses(9)), batch_size)
        Path(plots).mkdir(parents=True, exist_ok=True)
        plot_mistakes(result, np.concatenate([images for images, _ in worst.as_numpy_iterator()]), Path(plots))
    return results


def _pictures(index: FolderIndex, split: str) -> Split:
    if split != "all":
        return getattr(index, split)
    train, valid = index.train, index.valid
    labels = np.concatenate([train.labels, valid.labels])
    return Split("all", (*train.paths, *valid.paths), labels, index.class_names)


def _dataset(classifier: Classifier, pictures: Any, batch_size: int) -> Any:
    return load_dataset(pictures, image_size=classifier.image_size, resize=classifier.resize, batch_size=batch_size)
