import dataclasses
import json
import re

import keras
import numpy as np
import pytest

from keras_sgdr import TTA
from keras_sgdr.augmentation import random_view
from keras_sgdr.data.decode.decode_image import checked_resize
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.settings import AUGMENTATIONS, AUTO_VIEWS, RESIZES, VIEWS


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"augmentation": "sideways"}, "augmentation='sideways'"),
        ({"image_size": 0}, "image_size=0"),
        ({"n_cycles": 1.5}, "n_cycles=1.5"),
        ({"group_factor": 0.5}, "group_factor=0.5"),
        ({"num_groups": 1}, "num_groups=1"),
        ({"cycle_mult": 0}, "cycle_mult=0"),
        ({"cycle_len": 0}, "cycle_len=0"),
        ({"tta": "mirror"}, "tta='mirror'"),
        ({"tta": "flip,off"}, "tta='flip,off'"),
        ({"answer_precision": 0.0}, "answer_precision=0.0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"seed": None}, "seed=None"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"resize": "stretch"}, "resize='stretch'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"valid_fraction": None}, "valid_fraction=None"),
        ({"max_zoom": "1.1"}, "max_zoom='1.1'"),
        ({"image_cache": "atuo"}, "image_cache='atuo'"),
        ({"image_cache": None}, "image_cache=None"),
        ({"gradual_unfreezing": "no"}, "gradual_unfreezing='no'"),
        ({"gradual_unfreezing": True}, "n_cycles=1, num_groups=3"),
    ],
)
def test_bad_settings_are_named(arguments, received):
    with pytest.raises(ValueError, match=f"Received: {re.escape(received)}"):
        Recipe(**arguments)


def test_image_cache_is_a_word_that_is_known_or_a_path(tmp_path):
    for name in ("auto", "memory", "off", "./new", str(tmp_path / "new")):
        assert Recipe(image_cache=name).image_cache == name


def test_numbers_of_numpy_can_be_written_down():
    assert json.loads(json.dumps(dataclasses.asdict(Recipe(image_size=np.int64(96)))))["image_size"] == 96


def test_augmentations_and_resizes_are_those_that_the_data_package_has():
    for name in AUGMENTATIONS:
        assert isinstance(getattr(random_view, name)(), random_view.RandomView)
    assert [checked_resize(name) for name in RESIZES] == list(RESIZES)
    with pytest.raises(ValueError, match=f"one of {', '.join(RESIZES)}"):
        checked_resize("other")


def test_a_recipe_cannot_be_changed_in_the_midst_of_a_run():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().seed = 1


def test_views_are_those_of_the_layer_and_suit_each_augmentation():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    assert {kind: TTA(model, kind).num_views for kind in VIEWS} == VIEWS
    assert set(AUTO_VIEWS) == set(AUGMENTATIONS)
    for augmentation, kinds in AUTO_VIEWS.items():
        recipe = Recipe(augmentation=augmentation)
        assert recipe.views == kinds
        assert recipe.num_views == TTA(model, kinds).num_views
    assert (Recipe(tta="off").views, Recipe(tta="off").num_views) == ((), 0)
    assert Recipe(tta="flip,zooms").views == ("flip", "zooms")
