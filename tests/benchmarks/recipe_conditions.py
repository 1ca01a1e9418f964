"""The folders on which the recipe is measured: of many sizes, classes, shares and difficulties."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from keras_sgdr_cli.demo import write_digits

Items = list[tuple[Path, str]]


@dataclass(frozen=True)
class Condition:
    """A folder and how it is trained on.

    Attributes:
        name: The condition.
        what: What it stands for.
        make: Returns the files and classes of train and valid, from the folder of the sets.
        paint: What is done to each image, given its number; None copies the file.
        image_size: Pixels.
        augmentation: The preset.
        backbone: The network.
    """

    name: str
    what: str
    make: Callable[[Path], tuple[Items, Items]]
    paint: Callable[[Image.Image, int], Image.Image] | None = None
    image_size: int = 64
    augmentation: str = "side_on"
    backbone: str = "EfficientNetLite0"

    def folder(self, data: Path, work: Path) -> Path:
        """Writes the folder, unless it is there."""
        root = work / "folders" / self.name
        if not root.is_dir():
            partial = root.with_name(f".partial-{self.name}")
            shutil.rmtree(partial, ignore_errors=True)
            for split, items in zip(("train", "valid"), self.make(data), strict=True):
                for number, (path, label) in enumerate(items):
                    self._write(partial / split / label, path, number)
            partial.rename(root)
        return root

    def _write(self, directory: Path, path: Path, number: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if self.paint is None:
            shutil.copy(path, directory / f"{number:05}{path.suffix}")
        else:
            self.paint(Image.open(path).convert("RGB"), number).save(directory / f"{number:05}.png")


def _digits(_data: Path) -> tuple[Items, Items]:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    write_digits(folder)
    items = [(path, path.parent.name) for path in sorted(folder.glob("*/*"))]
    held_out = set(np.random.default_rng(0).permutation(len(items))[: len(items) // 5].tolist())
    return [item for i, item in enumerate(items) if i not in held_out], [items[i] for i in sorted(held_out)]


def _folder(name: str) -> Callable[[Path], tuple[Items, Items]]:
    def listed(data: Path) -> tuple[Items, Items]:
        train, valid = (
            [(path, path.parent.name) for path in sorted((data / name / split).glob("*/*"))]
            for split in ("train", "valid")
        )
        return train, valid

    return listed


_signs, _flowers = _folder("sign_digits"), _folder("flowers")


def _few(
    make: Callable[[Path], tuple[Items, Items]], per_class: int = 20, most_valid: int = 360
) -> Callable[[Path], tuple[Items, Items]]:
    def fewer(data: Path) -> tuple[Items, Items]:
        train, valid = make(data)
        rng = np.random.default_rng(0)
        chosen = [i for label in sorted({label for _, label in train}) for i in _drawn(train, label, per_class, rng)]
        kept = sorted(rng.permutation(len(valid))[:most_valid])
        return [train[i] for i in chosen], [valid[i] for i in kept]

    return fewer


def _drawn(items: Items, label: str, count: int, rng: np.random.Generator) -> list[int]:
    positions = [i for i, (_, name) in enumerate(items) if name == label]
    return sorted(positions[i] for i in rng.permutation(len(positions))[:count])


def _easy(data: Path) -> tuple[Items, Items]:
    names = {"0": "fist", "5": "hand"}
    train, valid = ([(p, names[c]) for p, c in items if c in names] for items in _signs(data))
    return train, valid


def _skewed(data: Path) -> tuple[Items, Items]:
    """Signs of 0 to 4 and of 5 to 9, 85 to 15."""

    def of(items: Items) -> Items:
        low, high = [p for p, c in items if c < "5"], [p for p, c in items if c >= "5"]
        rare = np.random.default_rng(0).permutation(len(high))[: round(len(low) * 15 / 85)]
        return [(p, "low") for p in low] + [(high[i], "high") for i in sorted(rare)]

    train, valid = _signs(data)
    return of(train), of(valid)


def _odd_and_even(data: Path) -> tuple[Items, Items]:
    train, valid = ([(p, "odd" if int(c) % 2 else "even") for p, c in items] for items in _signs(data))
    return train, valid


def _noisy(data: Path) -> tuple[Items, Items]:
    """One training label in ten is another class's."""
    train, valid = _few(_signs, 60)(data)
    rng = np.random.default_rng(0)
    wrong = set(rng.permutation(len(train))[: len(train) // 10].tolist())
    names = sorted({label for _, label in train})
    others = [str(rng.choice([name for name in names if name != label])) for _, label in train]
    return [(p, others[i] if i in wrong else label) for i, (p, label) in enumerate(train)], valid


_TINTS = ((255, 150, 150), (150, 255, 150), (150, 150, 255))


def _many(data: Path) -> tuple[Items, Items]:
    """Sixty classes: the ten signs in three colours, upright and upside down."""
    train, valid = _few(_signs, 72)(data)
    return [(p, f"{c}_{i % 6}") for i, (p, c) in enumerate(train)], [
        (p, f"{c}_{i % 6}") for i, (p, c) in enumerate(valid)
    ]


def _tinted(image: Image.Image, number: int) -> Image.Image:
    tinted = Image.fromarray((np.asarray(image) * (np.array(_TINTS[number % 3]) / 255)).astype("uint8"))
    return tinted.rotate(180) if number % 6 >= 3 else tinted


CONDITIONS: Sequence[Condition] = (
    Condition("digits", "scikit-learn's digits, 10 classes", _digits, augmentation="basic"),
    Condition("digits_20", "20 images a class", _few(_digits), augmentation="basic"),
    Condition("signs", "sign language, 10 classes", _signs),
    Condition("signs_20", "20 images a class", _few(_signs)),
    Condition("flowers", "photographs, 5 classes", _flowers),
    Condition("flowers_20", "20 images a class", _few(_flowers), image_size=96),
    Condition("easy", "fist or hand, 2 classes", _easy),
    Condition("skewed", "2 classes, 85 to 15", _skewed),
    Condition(
        "grey",
        "2 classes, grey, eight symmetries",
        _few(_odd_and_even, 300),
        lambda image, _: image.convert("L"),
        augmentation="top_down",
    ),
    Condition("noisy", "a tenth of the labels wrong", _noisy),
    Condition("lite1", "60 signs a class, EfficientNet-Lite1", _few(_signs, 60), backbone="EfficientNetLite1"),
    Condition("many", "60 classes of 12 images", _many, _tinted, augmentation="basic"),
)
