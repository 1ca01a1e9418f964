"""Folders of small images that differ from each other."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def image_of(number: int, height: int = 24, width: int = 32) -> Image.Image:
    """A smooth image; each number gives another one, whose mean grows with the number."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + number % 5) + channel) * np.cos(y / (4 + number % 3)) for channel in range(3)]
    return Image.fromarray((60 + 3 * number + 40 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """train/ with 22 images and valid/ with 6, of the classes a and b, as PNG."""
    root = tmp_path_factory.mktemp("images")
    number = 0
    for split, count in (("train", 11), ("valid", 3)):
        for class_name in "ab":
            folder = root / split / class_name
            folder.mkdir(parents=True)
            for position in range(count):
                image_of(number).save(folder / f"{position:02}.png")
                number += 1
    return root
