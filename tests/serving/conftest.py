import keras
import pytest

from keras_sgdr import load_classifier
from keras_sgdr.serving.savedmodel import export_savedmodel

NAMES = ("cat", "<script>", "Löwe")


@pytest.fixture(scope="session")
def model():
    """It tells images apart, oblong ones of 24 x 32 pixels."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((24, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "pets"
    return export_savedmodel(model, directory, class_names=NAMES, about={"metrics": {"accuracy": 0.5}})


@pytest.fixture(scope="session")
def classifier(trained_run):
    return load_classifier(trained_run)
