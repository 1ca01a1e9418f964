"""Evaluates a finished run on a folder of images."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.decode.corrupt_images import check_images
from keras_sgdr.data.index.files import is_folder
from keras_sgdr.data.index.folder import Split, labelled_splits
from keras_sgdr.evaluation.interpretation import Interpretation, interpret, plot_mistakes
from keras_sgdr.evaluation.tta import check_finite, predict_each
from keras_sgdr.evaluation.tta_layer import with_views
from keras_sgdr.models.classifier import Classifier, load_classifier
from keras_sgdr.recipe.images import digest_of, index_for, place_of
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run_directory import read_settings
from keras_sgdr.validation import InvalidValueError, MissingFileError

_SPLITS = ("train", "valid", "test")


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
    tta: str | None = None,
    plots: str | os.PathLike[str] | None = None,
    verbose: int = 1,
    **layout: Any,
) -> dict[str, Interpretation]:
    """Evaluates the classifier of a run on the images of a folder.

    Args:
        run: The run directory.
        folder: A folder as in `train_image_classifier`, or a CSV file. One that the run was trained on is split as it
            was then; of any other, nothing is held out.
        split: `"train"`, `"valid"`, `"test"` or `"all"`. Defaults to the held-out images, `"valid"`, of the folder that
            the run was trained on; of any other to those in its `valid/`, else in its `test/`, else to all.
        batch_size: Images per step.
        tta: Views to average over, as in `Recipe`; those that the run has chosen if None or `"auto"`.
        plots: A directory for `confusion_matrix.png`, `top_losses.png`, and `predictions.csv`, a row for each image,
            the highest loss first; made if it is missing.
        verbose: 1 shows progress bars and says which images are evaluated.
        **layout: How another folder than the run's is read: `train`, `valid`, `test` and `suffix` of `index_folder`.
            Default to the run's, as far as there are such folders.

    Returns:
        `"plain"` and, unless there are no views, `"tta"`. Classes that the folder lacks have no images there.

    Raises:
        FileNotFoundError: If the run or the folder is missing.
        ValueError: If the folder has a class that the classifier does not know, there is no such split, or a file
            cannot be decoded; then all such files are named.
    """
    classifier, recipe = load_classifier(run), recipe_of(run)
    views = classifier.views if tta in (None, "auto") else dataclasses.replace(recipe, tta=tta).views
    images = images_to_evaluate(run, folder, classifier.class_names, split, **layout)
    if verbose:
        sys.stdout.write(f"evaluate {len(images)} images of {folder}: {images.name}\n")
    check_images(images.paths)
    models = {"plain": classifier.model, **({"tta": with_views(classifier.model, views)} if views else {})}
    predicted = predict_each(list(models.values()), dataset_for(classifier, images, batch_size), verbose=verbose)
    results = {}
    for name, probabilities in zip(models, predicted, strict=True):
        check_finite(probabilities)
        results[name] = interpret(probabilities, images.labels, classifier.class_names)
    if plots is not None:
        result = list(results.values())[-1]
        worst = dataset_for(classifier, images.take(result.top_losses(9)), batch_size)
        Path(plots).mkdir(parents=True, exist_ok=True)
        plot_mistakes(result, np.concatenate([images for images, _ in worst.as_numpy_iterator()]), Path(plots))
        result.write_csv(Path(plots) / "predictions.csv", images.paths)
    return results


def images_to_evaluate(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    class_names: Sequence[str],
    split: str | None,
    **layout: Any,
) -> Split:
    """Returns the images that `evaluate_run` looks at; arguments and errors are its own."""
    if split not in (None, *_SPLITS, "all"):
        raise InvalidValueError(f"`split` must be one of {', '.join(_SPLITS)}, all or None. Received: split={split!r}.")
    return _images(splits_to_evaluate(run, folder, class_names, **layout), split, folder)


def splits_to_evaluate(
    run: str | os.PathLike[str], folder: str | os.PathLike[str], class_names: Sequence[str], **layout: Any
) -> dict[str, Split]:
    """Returns the labelled images of a folder: split as in the run that was trained on it, or as they are there."""
    recipe, settings = recipe_of(run), read_settings(run)
    try:
        index = index_for(folder, recipe)
        was_trained_on = digest_of(index) == settings.get("images")
    except (InvalidValueError, MissingFileError):  # what cannot be trained on was not
        was_trained_on = False
    if was_trained_on:
        splits = {"train": index.train, "valid": index.valid, "test": index.test}
        return {name: split for name, split in splits.items() if split is not None and split.labels is not None}
    if settings.get("folder") == place_of(folder):
        warnings.warn(
            f"{folder} has changed since the run was trained on it: which of its images were held out is not known, "
            "and images of the training are evaluated too.",
            stacklevel=3,
        )
    named = {name: getattr(recipe, name) for name in _SPLITS}
    known = {name: value for name, value in named.items() if value is not None and is_folder(f"{folder}/{value}")}
    given = {name: value for name, value in layout.items() if value}
    return labelled_splits(folder, class_names, **{"suffix": recipe.suffix, **known, **given})


def _images(splits: Mapping[str, Split], wanted: str | None, folder: str | os.PathLike[str]) -> Split:
    if wanted is None:
        wanted = next((name for name in ("valid", "test") if name in splits), "all")
    if wanted == "all":
        labels = np.concatenate([split.labels for split in splits.values()])
        paths = [path for split in splits.values() for path in split.paths]
        return Split("all", tuple(paths), labels, next(iter(splits.values())).class_names)
    if wanted not in splits:
        raise InvalidValueError(
            f"`split` must be one that the folder has. Received: split={wanted!r}, folder={folder} with "
            f"{', '.join(splits)}."
        )
    return splits[wanted]


def dataset_for(classifier: Classifier, images: Split, batch_size: int) -> Any:
    """Returns images as a classifier takes them, batch by batch."""
    return load_dataset(images, image_size=classifier.image_size, resize=classifier.resize, batch_size=batch_size)
