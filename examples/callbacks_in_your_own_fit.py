"""One callback in a `model.fit` of your own: a small network on scikit-learn's digits, nothing else of ours.

python examples/callbacks_in_your_own_fit.py
"""

import keras
from sklearn.datasets import load_digits

from keras_sgdr import SGDRScheduler, lr_find


def main() -> None:
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x, y = digits.images[..., None] / 16, digits.target
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])

    curve = lr_find(model, (x[:1400], y[:1400]))
    rate = curve.suggest("valley")
    print(f"suggested rate: {rate:.2e}")

    scheduler = SGDRScheduler(rate, cycle_len=1, cycle_mult=2, n_cycles=3)
    model.fit(
        x[:1400],
        y[:1400],
        validation_data=(x[1400:], y[1400:]),
        epochs=scheduler.epochs,
        callbacks=[scheduler],
        verbose=2,
    )


if __name__ == "__main__":
    main()
