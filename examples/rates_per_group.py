"""A rate for each layer group of any model: layers that have learnt the digits 0 to 4 serve to learn 5 to 9.

python examples/rates_per_group.py
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

from keras_sgdr import DifferentialLR, OneCycleScheduler

RATE, EPOCHS = 1e-2, 30


def make_head() -> list[keras.layers.Layer]:
    return [keras.layers.Flatten(), keras.layers.Dense(5, activation="softmax")]


def fit(model: keras.Model, optimizer: keras.optimizers.Optimizer, x: np.ndarray, y: np.ndarray) -> None:
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=EPOCHS, batch_size=32, callbacks=[OneCycleScheduler(RATE)], verbose=0)


def main() -> None:
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32") / 16, digits.target
    body = [keras.layers.Conv2D(filters, 3, activation="relu") for filters in (16, 32)]
    low = keras.Sequential([keras.Input((8, 8, 1)), *body, *make_head()])
    fit(low, keras.optimizers.Adam(), x[y < 5], y[y < 5])
    learnt = [layer.get_weights() for layer in body]

    some = np.concatenate([np.flatnonzero(y == digit)[:40] for digit in range(5, 10)])
    rest = np.setdiff1d(np.flatnonzero(y >= 5), some)
    # The first layers need to change less than the head, and then they do not forget. The scheduler moves all rates.
    for name, rates in (("one rate", [RATE] * 3), ("a rate for each group", [RATE / 100, RATE / 10, RATE])):
        for layer, weights in zip(body, learnt, strict=True):
            layer.set_weights(weights)
        keras.utils.set_random_seed(1)
        head = make_head()
        model = keras.Sequential([keras.Input((8, 8, 1)), *body, *head])
        optimizer = DifferentialLR(keras.optimizers.Adam(), [body[:1], body[1:], head], rates)
        fit(model, optimizer, x[some], y[some] - 5)
        new = model.evaluate(x[rest], y[rest] - 5, verbose=0)[1]
        old = low.evaluate(x[y < 5], y[y < 5], verbose=0)[1]  # the same first layers, under the head of before
        print(f"{name}: accuracy {new:.3f} on the new digits, {old:.3f} on the old ones")
    optimizer.summary()


if __name__ == "__main__":
    main()
