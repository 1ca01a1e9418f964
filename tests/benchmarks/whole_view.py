"""Whether a view of the whole image helps where the crop cuts something off: accuracy and log-loss of a head.

    python -m tests.benchmarks.whole_view DATA WORK

DATA has train/ and valid/ of square images, of which oblong ones are cut at a random place, as high as the aspect says.
A head on EfficientNet-Lite0's activations is fitted to crops, the plain ones and two augmented views of each, and looks
at the validation images cropped, squished whole, padded whole, and at means of their probabilities; "flip" is what a
recipe has without that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_sgdr import build_classifier, freeze_to, index_folder, load_dataset, precompute_features, side_on
from keras_sgdr.evaluation.interpretation import interpret
from keras_sgdr.models.softmax_regression import fit_softmax_regression

SIZE = 96
MEANS = {
    "crop": ("crop",),
    "crop, flip": ("crop", "flip"),
    "squish": ("squish",),
    "pad": ("pad",),
    "crop, squish": ("crop", "squish"),
    "crop, pad": ("crop", "pad"),
    "crop, flip, squish": ("crop", "flip", "squish"),
}


class Mirror(keras.Layer):
    """Flips each image left to right."""

    def call(self, images: Any) -> Any:
        """Flips images, shape `(n, height, width, 3)`."""
        return keras.ops.flip(images, axis=-2)


def cut(data: Path, work: Path, aspect: float, seed: int) -> Path:
    """Cuts strips of each image's whole width, once."""
    folder = work / f"{data.name}-{aspect:g}-{seed}"
    random = np.random.default_rng(seed)
    for path in [] if folder.exists() else sorted(data.glob("*/*/*.*")):
        image = Image.open(path).convert("RGB")
        height = round(image.width / aspect)
        top = int(random.integers(0, image.height - height + 1))
        target = folder / path.relative_to(data).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        image.crop((0, top, image.width, top + height)).save(target)
    return folder


def activations(model: keras.Model, split: Any, *, views: int = 1, **options: Any) -> tuple[Any, ...]:
    """The activations and labels of a split."""
    data = load_dataset(split, image_size=SIZE, batch_size=64, verbose=0, **options)
    features, _ = precompute_features(model, data, views=views, shuffle=False, verbose=0)
    batches = [batch for _ in range(views) for batch in features.as_numpy_iterator()]
    return tuple(np.concatenate(column) for column in zip(*batches, strict=True))


def probabilities(head: Any, inputs: Any) -> Any:
    """What the head says of activations."""
    return keras.ops.convert_to_numpy(keras.ops.softmax(inputs @ head.kernel + head.bias))


def main() -> None:
    """Prints a row for each way to look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    for aspect in (1.5, 2.0):
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in MEANS}
        for seed in range(given.seeds):
            index = index_folder(cut(given.data, given.work, aspect, seed))
            model = build_classifier(len(index.class_names), image_size=SIZE)
            freeze_to(model, -1)
            views = activations(model, index.train, views=2, shuffle=True, augmentation=side_on(max_zoom=1.1))
            train = [np.concatenate(pair) for pair in zip(activations(model, index.train), views, strict=True)]
            looks = {resize: activations(model, index.valid, resize=resize) for resize in ("crop", "squish", "pad")}
            looks["flip"] = activations(model, index.valid, augmentation=Mirror())
            head = fit_softmax_regression(tuple(train), looks["crop"], num_classes=len(index.class_names))
            seen = {name: probabilities(head, look[0]) for name, look in looks.items()}
            for name, parts in MEANS.items():
                mean = np.mean([seen[part] for part in parts], axis=0)
                result = interpret(mean, looks["crop"][1], index.class_names)
                rows[name].append((result.accuracy, result.loss))
        for name, values in rows.items():
            text = "; ".join(f"{accuracy:.4f} {loss:.4f}" for accuracy, loss in values)
            sys.stdout.write(f"{given.data.name} {aspect:g} {name}: {text}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
