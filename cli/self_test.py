"""The self-test of `doctor`: a small network learns two colours, and answers the same once exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_SIZE = 32
_EPOCHS = 3


def _draw(directory: Path, _: dict[str, Any]) -> str:
    """Writes red and blue discs, anywhere and of any size, as PNG files, a folder per class."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:_SIZE, :_SIZE]
    for name, colour in (("blue", (40, 60, 230)), ("red", (230, 60, 40))):
        (directory / "discs" / name).mkdir(parents=True)
        for i in range(40):
            y, x = random.integers(10, _SIZE - 10, 2)
            inside = np.hypot(rows - y, columns - x) < random.integers(6, 14)
            image = np.where(inside[:, :, None], colour, random.integers(60, 190))
            encoded = tf.io.encode_png(image.astype("uint8")).numpy()
            (directory / "discs" / name / f"{i}.png").write_bytes(encoded)
    return "80 images written"


def _train(directory: Path, state: dict[str, Any]) -> str:
    """Trains with augmentation, a rate for each layer group and a cosine cycle."""
    import keras

    from keras_sgdr.augmentation.random_view import basic
    from keras_sgdr.data.dataset.load_dataset import load_dataset
    from keras_sgdr.data.index.folder import index_folder
    from keras_sgdr.models.classifier import build_classifier
    from keras_sgdr.models.layer_groups import layer_groups
    from keras_sgdr.optimizers.differential_lr import DifferentialLR
    from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler

    keras.utils.set_random_seed(0)
    index = index_folder(directory / "discs", valid_fraction=0.2)
    train = load_dataset(index.train, image_size=_SIZE, batch_size=16, augmentation=basic(), shuffle=True)
    valid = load_dataset(index.valid, image_size=_SIZE, batch_size=16)
    layers = [keras.layers.Rescaling(1 / 255)]
    for filters in (8, 16, 32):
        layers += [keras.layers.Conv2D(filters, 3, strides=2, activation="relu")]
    backbone = keras.Sequential([keras.Input((_SIZE, _SIZE, 3)), *layers], name="small")
    model = build_classifier(2, backbone=backbone, image_size=_SIZE, dropout=0.0)
    optimizer = DifferentialLR(keras.optimizers.Adam(), layer_groups(model), [3e-3, 6e-3, 1e-2])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    scheduler = SGDRScheduler(1e-2, cycle_len=_EPOCHS)
    model.fit(train, epochs=_EPOCHS, callbacks=[scheduler], shuffle=False, verbose=0)
    accuracy = float(model.evaluate(valid, verbose=0)[1])
    state.update(model=model, index=index)
    if not accuracy > 0.8:
        raise click.ClickException(
            f"after {_EPOCHS} epochs the network tells {accuracy:.0%} of the discs apart, and 80% are easy. The "
            "arithmetic of TensorFlow is wrong on this machine: install its packages anew."
        )
    return f"tells {accuracy:.0%} of {len(index.valid)} images apart after {_EPOCHS} epochs"


def _save(directory: Path, state: dict[str, Any]) -> str:
    from keras_sgdr.models.classifier import load_classifier, save_classifier

    save_classifier(state["model"], directory / "run", class_names=state["index"].class_names)
    state["loaded"] = load_classifier(directory / "run")
    return "saved and loaded"


def _predict(_: Path, state: dict[str, Any]) -> str:
    from keras_sgdr.evaluation.predictions import predict_files

    state["predictions"] = predict_files(state["loaded"], state["index"].valid.paths[::2], verbose=0)
    return f"{len(state['predictions'].paths)} images"


def _export(directory: Path, state: dict[str, Any]) -> str:
    """Asks the exported model for the same images, encoded, and compares the answers."""
    import numpy as np
    import tensorflow as tf

    from keras_sgdr.serving.savedmodel import export_savedmodel

    exported = export_savedmodel(state["loaded"].model, directory / "export", class_names=state["index"].class_names)
    serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
    encoded = [Path(path).read_bytes() for path in state["predictions"].paths]
    answers = serve(image_bytes=tf.constant(encoded))["probabilities"].numpy()
    difference = float(np.abs(answers - state["predictions"].probabilities).max())
    if not difference < 1e-3:
        raise click.ClickException(f"the export's probabilities differ from the model's by up to {difference:.2g}")
    return f"its probabilities are the model's, to {difference:.1g}"


# In this order; each has a directory, and what the steps before it have left.
STEPS: dict[str, Callable[[Path, dict[str, Any]], str]] = {
    "draw": _draw,
    "train": _train,
    "save": _save,
    "predict": _predict,
    "export": _export,
}
