"""Your own `model.fit` on several machines: run this on each, with its own TF_CONFIG; without one it trains alone.

TF_CONFIG='{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}' python two_machines.py
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import keras

import keras_sgdr
from keras_sgdr_cli.demo import write_digits

EPOCHS, BATCH_SIZE, SIZE = 4, 64, 8


def make_model() -> keras.Model:
    """A small network with a rate per layer group."""
    body = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Conv2D(64, 3, activation="relu"),
    ]
    head = [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *body, *head])
    optimizer = keras_sgdr.DifferentialLR(keras.optimizers.Adam(), [body, head], [5e-3, 1e-2])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    """Trains; every worker runs the same lines, and each sees its own part of each batch."""
    strategy = keras_sgdr.distribution_strategy()  # first, before TensorFlow computes anything
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make_model()

    with tempfile.TemporaryDirectory() as folder:  # yours lies on a disk that all see, or on each machine
        write_digits(Path(folder))
        index = keras_sgdr.index_folder(folder, valid_fraction=0.2)
        options = {"image_size": SIZE, "batch_size": BATCH_SIZE, "strategy": strategy}
        train = keras_sgdr.load_dataset(index.train, shuffle=True, **options)
        valid = keras_sgdr.load_dataset(index.valid, **options)
        scheduler = keras_sgdr.SGDRScheduler(1e-2, cycle_len=EPOCHS)
        log = model.fit(
            train, validation_data=valid, epochs=EPOCHS, callbacks=[scheduler], shuffle=False, verbose=0
        ).history
    # The same on each worker, and the same as one alone would reach
    sys.stdout.write(f"accuracy on the validation images: {log['val_accuracy'][-1]:.4f}\n")


if __name__ == "__main__":
    main()
