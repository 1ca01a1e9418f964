"""With operation determinism on, everything runs, and two processes have the same bits."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TRAIN = """
import hashlib, sys
import keras, tensorflow as tf
from keras_sgdr import DifferentialLR, SGDRScheduler, basic, layer_groups, lr_find, predict_tta, side_on, top_down
from keras_sgdr import build_classifier, index_folder, load_dataset, precompute_features, freeze_to, unfreeze

keras.utils.set_random_seed(3)
tf.config.experimental.enable_op_determinism()
index = index_folder(sys.argv[1], valid_fraction=0.25)
layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3, strides=2), keras.layers.BatchNormalization()]
layers += [keras.layers.ReLU(), keras.layers.DepthwiseConv2D(3), keras.layers.Conv2D(8, 1)]
backbone = keras.Sequential([keras.Input((32, 32, 3)), *layers])
model = build_classifier(2, backbone=backbone, image_size=32)
digest = hashlib.sha256()
for preset in (basic, side_on, top_down):
    data = load_dataset(index.train, image_size=32, batch_size=8, augmentation=preset(max_zoom=1.1), shuffle=True)
    for images, _ in data.as_numpy_iterator():
        digest.update(images.tobytes())
digest.update(side_on()(images, training=True).numpy().tobytes())
freeze_to(model, -1)
features, head = precompute_features(model, load_dataset(index.train, image_size=32, batch_size=8), verbose=0)
head.compile("adam", "sparse_categorical_crossentropy")
head.fit(features, epochs=1, verbose=0)
unfreeze(model)
groups = layer_groups(model)
optimizer = DifferentialLR(keras.optimizers.AdamW(), groups, [1e-4, 1e-3, 1e-2])
model.compile(optimizer, "sparse_categorical_crossentropy")
curve = lr_find(model, data, num_steps=3, verbose=0)
model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[SGDRScheduler(1e-3, cycle_len=1)])
digest.update(curve.losses.tobytes())
for weights in model.get_weights():
    digest.update(weights.tobytes())
digest.update(predict_tta(model, data, num_views=2, augmentation=side_on(), verbose=0).tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir()
        for number in range(12):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(root / name / f"{number}.jpg")
    return root


@pytest.mark.slow
def test_two_processes_have_the_same_bits(folder):
    # Each with the threads that the machine has: sums over another number of them are rounded otherwise.
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", TRAIN, str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0].split()[-1] for process in processes)
    assert all(process.returncode == 0 for process in processes)
    assert first == second


@pytest.mark.slow
def test_two_runs_of_the_command_have_the_same_bits(folder, tmp_path):
    environment = os.environ | {"TF_DETERMINISTIC_OPS": "1", "KERAS_SGDR_CACHE": "off"}
    digests = []
    for name in ("first", "second"):
        options = ["--image-size", "32", "--batch-size", "8", "--n-cycles", "1", "--cycle-len", "2"]
        command = [str(Path(sys.executable).with_name("keras-sgdr")), "train", str(folder), "-o", str(tmp_path / name)]
        subprocess.run([*command, *options], env=environment, check=True, capture_output=True)
        files = ("history.csv", "predictions.npz")
        digests.append([hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
