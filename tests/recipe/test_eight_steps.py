"""The eight steps with the network that they are for, EfficientNet-Lite0 with ImageNet's weights, on real images."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.train import train_image_classifier

SMALL = Recipe(
    image_size=32, batch_size=16, augmentation="basic", resize="squish", n_cycles=2, cycle_len=1, head_views=1
)


@pytest.fixture(scope="module")
def result(digits_folder, tmp_path_factory):
    return train_image_classifier(digits_folder, output=tmp_path_factory.mktemp("out") / "run", recipe=SMALL, verbose=0)


def test_digits_are_learnt(result):
    assert result.tta.accuracy > 0.9
    assert len(result.plain.labels) == 36


def test_finder_finds_a_rate_and_the_whole_network_is_better_than_the_head(result):
    stages = json.loads((result.output / "run.json").read_text())["stages"]
    assert "the curve" in stages["find_rate"]["why"]
    head, *cycles = stages["train_all"]["candidates"]
    assert stages["train_all"]["best"] != "the head"
    assert min(each["loss"] for each in cycles) < head["loss"]


@pytest.mark.slow
def test_model_predicts_the_same_in_a_new_process(result, digits_folder, tmp_path):
    paths = sorted((digits_folder / "seven").iterdir())[:5]
    images = np.stack([tf.image.resize(tf.io.decode_png(path.read_bytes(), 3), (32, 32)) for path in paths])
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, keras\n"  # plain Keras can load it
        "model = keras.models.load_model(sys.argv[1])\n"
        "np.save(sys.argv[2] + '/out.npy', model.predict(np.load(sys.argv[2] + '/images.npy'), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", code, str(result.output / "model.keras"), str(tmp_path)], check=True)
    assert np.allclose(np.load(tmp_path / "out.npy"), result.model.predict(images, verbose=0), atol=1e-6)
