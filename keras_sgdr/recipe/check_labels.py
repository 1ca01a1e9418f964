"""Looks for wrong labels in a folder, and whether it has enough images, with linear heads on activations."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.check.check_folder import Finding
from keras_sgdr.data.index.file_names import in_utf8
from keras_sgdr.data.index.folder import check_trainable
from keras_sgdr.data.index.split import FolderIndex, Split
from keras_sgdr.evaluation.label_issues import find_label_issues, out_of_fold_probabilities
from keras_sgdr.evaluation.learning_curve import LearningCurve, learning_curve
from keras_sgdr.evaluation.similar_images import find_neighbours
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.precompute.feature_cache import user_cache
from keras_sgdr.precompute.precompute import precompute_features
from keras_sgdr.recipe.builders import FEATURE_CACHE_BYTES, make_dataset, make_model
from keras_sgdr.recipe.recipe import Recipe

# At this, one image in a hundred is named of flowers, of signs and of digits. Copies are found of photographs: most
# that were saved again or mirrored, and about half that were cropped by a tenth; of signs and digits hardly any.
ALIKE, _THE_SAME = 0.7, 0.9995


@dataclass(frozen=True, eq=False)
class LabelCheck:
    """What linear heads found in a folder.

    Attributes:
        findings: Of the kind "wrong label", the most certain first; then "lookalike" (a crop, another shot of the same
            thing, which a hash does not see).
        suggested: The class that each wrong label looks like.
        curve: The heads' errors by the number of images.
    """

    findings: tuple[Finding, ...]
    suggested: tuple[str, ...]
    curve: LearningCurve

    def write_changes(self, path: str | os.PathLike[str]) -> None:
        """Writes the suggestions as a table for `relabel`, to be looked through before: path, label, detail."""
        wrong = [finding for finding in self.findings if finding.kind == "wrong label"]
        with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "label", "detail"])
            for finding, name in zip(wrong, self.suggested, strict=True):
                writer.writerow(in_utf8([finding.path, name, finding.detail]))


def check_labels(index: FolderIndex, *, recipe: Recipe | None = None, verbose: int = 1) -> LabelCheck:
    """Finds images of the training and validation splits whose label is probably wrong, and what more images would do.

    And those that look alike, in a split or across both.

    Nothing is trained but linear heads: five for the labels, each without the images that it is asked about, and some
    on parts of the training images. The activations are kept for a training that follows.

    Args:
        index: The images; they must all be readable.
        recipe: The backbone, and how it is shown the images.
        verbose: 1 shows the progress, 0 nothing.
    """
    recipe = recipe or Recipe()
    check_trainable(index)
    model = make_model(recipe, len(index.class_names), recipe.weights)
    freeze_to(model, -1)
    splits = (index.train, index.valid)
    each = [in_order(recipe, model, split, verbose) for split in splits]
    activations, labels = (np.concatenate(column) for column in zip(*each, strict=True))
    probabilities = out_of_fold_probabilities(activations, labels, num_classes=len(index.class_names), seed=recipe.seed)
    issues = find_label_issues(probabilities, labels)
    paths = [path for split in splits for path in split.paths]
    findings = tuple(
        Finding(
            "wrong label",
            paths[image],
            f"looks like {index.class_names[suggested]} ({probabilities[image, suggested]:.2f}) rather than "
            f"{index.class_names[labels[image]]} ({probabilities[image, labels[image]]:.2f})",
        )
        for image, suggested in zip(issues.indices, issues.suggested, strict=True)
    )
    findings += _lookalikes(activations, splits)
    curve = learning_curve(*each, num_classes=len(index.class_names), seed=recipe.seed)
    return LabelCheck(findings, tuple(index.class_names[label] for label in issues.suggested), curve)


def _lookalikes(activations: Any, splits: tuple[Split, ...]) -> tuple[Finding, ...]:
    """Images that look alike, the one in the training split named first."""
    paths = [(path, split.name) for split in splits for path in split.paths]
    neighbours = find_neighbours(activations)
    found = []
    for image, other, similarity in neighbours.alike(ALIKE):
        if similarity >= _THE_SAME:  # a copy, of which the hashes tell
            continue
        (path, split), (second, other_split) = paths[image], paths[other]
        where = "" if split == other_split else f", which is in {other_split}"
        found.append(Finding("lookalike", path, f"looks like {second}{where} ({similarity:.2f})", second))
    return tuple(found)


def in_order(recipe: Recipe, model: Any, split: Split, verbose: int) -> tuple[Any, Any]:
    """Activations and labels of a split, in the order of its paths."""
    cache = user_cache(max_bytes=FEATURE_CACHE_BYTES)
    data = make_dataset(recipe, split)
    features, _ = precompute_features(model, data, directory=cache, shuffle=False, verbose=verbose)
    activations, labels = zip(*features.as_numpy_iterator(), strict=True)
    return np.concatenate(activations), np.concatenate(labels)
