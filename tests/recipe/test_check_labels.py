"""What linear heads and activations tell of a folder of photographs."""

import numpy as np
from PIL import Image
from skimage import data

from keras_sgdr import Recipe, index_folder
from keras_sgdr.recipe.check_labels import check_labels


def test_a_crop_across_the_splits_is_a_lookalike_and_other_parts_of_a_photograph_are_not(tmp_path):
    draw, places = np.random.default_rng(0), {}
    for split, count in (("train", 12), ("valid", 4)):
        for name in ("astronaut", "chelsea", "coffee"):
            (tmp_path / split / name).mkdir(parents=True)
            photograph = Image.fromarray(getattr(data, name)())
            for number in range(count):
                x, y = (int(draw.integers(0, side - 128)) for side in photograph.size)
                photograph.crop((x, y, x + 128, y + 128)).save(tmp_path / split / name / f"{number}.png")
                places[str(tmp_path / split / name / f"{number}.png")] = np.array([x, y])
    original = tmp_path / "train" / "coffee" / "3.png"
    copy = tmp_path / "valid" / "coffee" / "again.jpg"
    Image.open(original).crop((3, 2, 126, 125)).save(copy, quality=40)
    found = check_labels(index_folder(tmp_path), recipe=Recipe(image_size=96), verbose=0)
    pairs = {(each.path, each.other): each.detail for each in found.findings if each.kind == "lookalike"}
    assert pairs.pop((str(original), str(copy))).startswith(f"looks like {copy}, which is in valid (0.")
    # of the others most are crops that overlap
    assert all(one.split("/")[-2] == other.split("/")[-2] for one, other in pairs)
    assert np.mean([np.abs(places[one] - places[other]).max() < 128 for one, other in pairs]) > 0.6
