"""SGDR and a rate per layer group where there are no images: a text classifier and a table.

    python examples/text_and_tables.py

The texts are docstrings of Python's standard library, each to be told which package it is from; the table is
scikit-learn's of breast tumours.
"""

import importlib
import pkgutil

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer

from keras_sgdr import DifferentialLR, SGDRScheduler, lr_find

PACKAGES = ("asyncio", "email", "tkinter", "unittest")
WORDS, LENGTH = 2000, 60


def docstrings() -> tuple[np.ndarray, np.ndarray]:
    """Each docstring as the numbers of its words, and the package it is from."""
    texts, labels = [], []
    for label, package in enumerate(PACKAGES):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            if module.name.rpartition(".")[2].startswith("__"):
                continue
            try:
                members = vars(importlib.import_module(module.name)).values()
            except ImportError:  # of another system, or not installed
                continue
            own = [value for value in members if getattr(value, "__module__", None) == module.name]
            own += [each for value in own for each in getattr(value, "__dict__", {}).values()]
            found = {each.__doc__ for each in own if isinstance(getattr(each, "__doc__", None), str)}
            texts += sorted(text for text in found - set(texts) if len(text) > 40)
            labels += [label] * (len(texts) - len(labels))
    hashed = [[1 + sum(map(ord, word)) % (WORDS - 1) for word in text.split()][:LENGTH] for text in texts]
    return keras.utils.pad_sequences(hashed, LENGTH, padding="post"), np.array(labels)


def trained(model: keras.Model, groups: list, x: np.ndarray, y: np.ndarray) -> float:
    """Finds the rate and trains in four cycles, the first group at a third of it; the accuracy on a fifth."""
    order = np.random.default_rng(0).permutation(len(x))
    train, valid = order[: len(x) * 4 // 5], order[len(x) * 4 // 5 :]
    optimizer = DifferentialLR(keras.optimizers.Adam(), groups, [1 / 3, 1.0])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    rate = lr_find(model, (x[train], y[train]), verbose=0).suggest("valley")
    print(f"{model.name}: {len(x)} rows, rate {rate:.1e}")
    scheduler = SGDRScheduler(rate, cycle_len=1, cycle_mult=2, n_cycles=4)
    data = (x[valid], y[valid])
    history = model.fit(
        x[train], y[train], epochs=scheduler.epochs, callbacks=[scheduler], verbose=0, validation_data=data
    )
    return history.history["val_accuracy"][-1]


def main() -> None:
    keras.utils.set_random_seed(0)
    x, y = docstrings()
    embedding = keras.layers.Embedding(WORDS, 32, mask_zero=True)
    head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(len(PACKAGES), activation="softmax")]
    text = keras.Sequential([keras.Input((LENGTH,)), embedding, *head], name="text")
    print(f"accuracy {trained(text, [[embedding], head[1:]], x, y):.3f}")

    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    first, last = keras.layers.Dense(32, activation="relu"), keras.layers.Dense(2, activation="softmax")
    table = keras.Sequential([keras.Input((x.shape[1],)), first, last], name="table")
    print(f"accuracy {trained(table, [[first], [last]], x, y):.3f}")


if __name__ == "__main__":
    main()
