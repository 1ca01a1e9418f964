"""Predictions for files, against Pillow and the model itself."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sgdr.evaluation.predictions import predict_files
from keras_sgdr.models.classifier import Classifier


@pytest.fixture(scope="module")
def classifier():
    """Two random layers, so that each image has probabilities of its own."""
    keras.utils.set_random_seed(4)
    layers = [keras.layers.Rescaling(1 / 64), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 10, 3)), *layers])
    return Classifier(model, ("ant", "bee", "cow"), image_size=(8, 10), resize="crop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of the model's own size, which no resize changes, at two depths; a broken one and a text beside them."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 10, 3), "uint8")
    for name, image in zip(("b.png", "a.png", "deep/e.png", "deep/d.png", "deep/c.png"), pixels, strict=True):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(root / name)
    (root / "bad.png").write_bytes(b"no image at all")
    (root / "notes.txt").write_text("for people")
    return root


def probabilities_of(classifier, paths):
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    return classifier.model.predict(pixels, verbose=0)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_each_row_is_that_of_its_file(classifier, folder, batch_size):
    predictions = predict_files(classifier, [folder / "deep" / "e.png", folder], batch_size=batch_size)
    names = [path.removeprefix(f"{folder}/") for path in predictions.paths]
    assert names == ["deep/e.png", "a.png", "b.png", "deep/c.png", "deep/d.png", "deep/e.png"]
    np.testing.assert_allclose(predictions.probabilities, probabilities_of(classifier, predictions.paths), atol=1e-6)
    assert predictions.class_names == ("ant", "bee", "cow")


def test_file_that_is_no_image_is_rejected_with_the_reason(classifier, folder):
    predictions = predict_files(classifier, [folder / "a.png", folder / "bad.png", folder / "b.png"], batch_size=2)
    ((path, reason),) = predictions.rejected
    assert path == str(folder / "bad.png")
    assert reason.startswith("no image: ")
    assert predictions.paths == (str(folder / "a.png"), str(folder / "b.png"))
    np.testing.assert_allclose(predictions.probabilities, probabilities_of(classifier, predictions.paths), atol=1e-6)


def test_files_of_which_none_is_an_image_give_no_rows(classifier, folder):
    predictions = predict_files(classifier, [folder / "bad.png"])
    assert predictions.probabilities.shape == (0, 3)
    assert len(predictions.rejected) == 1


def test_image_of_another_size_is_cropped_and_resized(classifier, tmp_path):
    # A red middle of the model's proportions, which is all that a centred crop leaves
    wide = np.zeros((16, 60, 3), "uint8")
    wide[:, 20:40] = (255, 0, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    red = np.broadcast_to(np.array([255, 0, 0], "uint8"), (1, 8, 10, 3))
    predictions = predict_files(classifier, [tmp_path / "wide.png"])
    np.testing.assert_allclose(predictions.probabilities, classifier.model.predict(red, verbose=0), atol=0.02)


def test_progress_counts_the_files(classifier, folder, capsys):
    predict_files(classifier, [folder], verbose=1)
    assert "6/6" in capsys.readouterr().out


def test_path_that_does_not_exist_is_named(classifier, folder):
    with pytest.raises(FileNotFoundError, match=r"`paths` must exist\. Received: .*/none\.png"):
        predict_files(classifier, [folder / "a.png", folder / "none.png"])


def test_folder_without_images_is_named(classifier, tmp_path):
    with pytest.raises(ValueError, match=f"at least one image. Received: {tmp_path}"):
        predict_files(classifier, [tmp_path])


@pytest.mark.parametrize("batch_size", [0, 2.5])
def test_batch_size_out_of_range_is_refused(classifier, folder, batch_size):
    with pytest.raises(ValueError, match=f"Received: batch_size={batch_size}"):
        predict_files(classifier, [folder], batch_size=batch_size)
