"""What averaging over fixed views adds to the finished runs of `tests.benchmarks.recipe`: accuracy and log-loss.

    python -m tests.benchmarks.views --work WORK

Looks at the validation images of each run in WORK/runs, and prints, for each folder, the mean over its seeds of the
differences to the plain image; and in how many runs the kinds that suit the augmentation lower the log-loss by more
than a standard error, so that a run would keep them. "drawn" are four views drawn as in training.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from keras_sgdr.augmentation import random_view
from keras_sgdr.evaluation.interpretation import interpret
from keras_sgdr.evaluation.tta import predict_tta
from keras_sgdr.evaluation.tta_layer import with_views
from keras_sgdr.models.classifier import load_classifier
from keras_sgdr.recipe.evaluate import dataset_for, images_to_evaluate
from keras_sgdr.recipe.settings import AUTO_VIEWS

KINDS: dict[str, tuple[str, ...]] = {
    "flip": ("flip",),
    "flip and zoom": ("flip", "zoom"),
    "flip and zooms": ("flip", "zooms"),
    "ten crops": ("ten_crops",),
}


def differences(run: Path) -> tuple[str, dict[str, tuple[float, float]], bool]:
    """The run's augmentation, what each way adds to accuracy and loss, and whether the run's own kinds are kept."""
    settings = json.loads((run / "run.json").read_text())["settings"]
    classifier = load_classifier(run)
    images = images_to_evaluate(run, settings["folder"], classifier.class_names, "valid")
    data = dataset_for(classifier, images, 64)

    def result(kinds: tuple[str, ...], **options: Any) -> Any:
        model = with_views(classifier.model, kinds)
        found = predict_tta(model, data, **{"num_views": 0, "verbose": 0, **options})
        return interpret(found, images.labels, classifier.class_names)

    plain = result(())
    augmentation = getattr(random_view, settings["augmentation"])(max_zoom=settings["max_zoom"])
    results = {"drawn": result((), num_views=4, augmentation=augmentation)}
    results |= {name: result(kinds) for name, kinds in KINDS.items()}
    own = results["the run's"] = result(AUTO_VIEWS[settings["augmentation"]])
    gains = plain.losses - own.losses
    kept = len(gains) > 1 and gains.mean() > gains.std(ddof=1) / math.sqrt(len(gains))
    added = {name: (each.accuracy - plain.accuracy, each.loss - plain.loss) for name, each in results.items()}
    return settings["augmentation"], added, bool(kept)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    found = defaultdict(list)
    for run in sorted((parser.parse_args().work / "runs").iterdir()):
        name, _, seed = run.name.rpartition("-")
        if seed.isdigit() and (run / "predictions.npz").is_file():
            augmentation, *rest = differences(run)
            found[augmentation, name].append(rest)
    for (augmentation, name), runs in sorted(found.items()):
        cells = [
            ", ".join(f"{np.mean([added[way][part] for added, _ in runs]):+.3f}" for part in (0, 1))
            for way in runs[0][0]
        ]
        print(f"| {augmentation}, {name} | {' | '.join(cells)} | {sum(kept for _, kept in runs)} of {len(runs)} |")


if __name__ == "__main__":
    main()
