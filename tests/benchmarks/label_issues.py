"""Wrong labels that are found: a tenth of a folder's labels swapped on purpose, ours beside cleanlab's.

    python -m tests.benchmarks.label_issues --data DIR [--folders sign_digits flowers] [--seeds 3] [--image-size 96]

DIR holds folders of images, such as sign_digits and flowers. cleanlab is asked where it is installed. Both get the same
out-of-fold probabilities of a linear head. "At the true number" are as many images as were swapped, the most certain
first; "found" are those that each reports by itself.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from keras_sgdr import Recipe, index_folder
from keras_sgdr.evaluation.label_issues import find_label_issues, out_of_fold_probabilities
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.recipe.builders import make_model
from keras_sgdr.recipe.check_labels import in_order

SHARE = 0.1


def scores(found: Any, swapped: Any) -> str:
    """Recall and precision of the images that were found."""
    hits = np.isin(found, swapped).sum()
    return f"{hits / len(swapped):.3f} {hits / max(1, len(found)):.3f}"


def main() -> None:
    """Prints a line for each folder and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folders", nargs="+", default=["sign_digits", "flowers"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=96)
    arguments = parser.parse_args()
    print("folder, seed: recall and precision of ours at the true number; found; cleanlab at the true number; found")
    for name in arguments.folders:
        index = index_folder(arguments.data / name)
        recipe = Recipe(image_size=arguments.image_size)
        model = make_model(recipe, len(index.class_names), recipe.weights)
        freeze_to(model, -1)
        activations, labels = in_order(recipe, model, index.train, 0)
        num_classes = len(index.class_names)
        for seed in range(arguments.seeds):
            draw = np.random.default_rng(seed)
            swapped = draw.choice(len(labels), round(SHARE * len(labels)), replace=False)
            given = labels.copy()
            given[swapped] = (labels[swapped] + draw.integers(1, num_classes, len(swapped))) % num_classes
            probabilities = out_of_fold_probabilities(activations, given, num_classes=num_classes, seed=seed)
            named = find_label_issues(probabilities, given).indices
            cells = [scores(named[: len(swapped)], swapped), scores(named, swapped)]
            if importlib.util.find_spec("cleanlab"):
                from cleanlab.filter import find_label_issues as cleanlabs
                from cleanlab.rank import get_label_quality_scores

                ranked = np.argsort(get_label_quality_scores(given, probabilities, method="normalized_margin"))
                found = cleanlabs(given, probabilities, return_indices_ranked_by="normalized_margin", n_jobs=1)
                cells += [scores(ranked[: len(swapped)], swapped), scores(found, swapped)]
            print(f"{name}, {seed}: {'; '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
