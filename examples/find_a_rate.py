"""The learning-rate finder: what each rule suggests, the band of several curves, and a rate for each layer group.

python examples/find_a_rate.py
"""

import keras
from sklearn.datasets import load_digits

from keras_sgdr import DifferentialLR, lr_find, lr_find_groups


def main() -> None:
    keras.utils.set_random_seed(0)
    digits = load_digits()
    data = digits.images[..., None] / 16, digits.target
    early = [keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.Conv2D(32, 3, activation="relu")]
    head = [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *early, *head])

    model.compile(keras.optimizers.SGD(momentum=0.9), "sparse_categorical_crossentropy")
    curve = lr_find(model, data, verbose=0)
    for rule, rate in curve.suggestions().items():
        print(f"{rule:>10}: {rate:.1e}")
    curve.plot().savefig("curve.png")
    curve.to_csv("curve.csv")

    # The batches come in another order each time; the suggestion is the median.
    curves = lr_find(model, data, repeats=5, verbose=0)
    print("five orders:", ", ".join(f"{each.suggest():.1e}" for each in curves.repeats), f"-> {curves.suggest():.1e}")

    # What each group alone can bear: bounds for the rates of a DifferentialLR
    optimizer = DifferentialLR(keras.optimizers.SGD(momentum=0.9), [early, head], [1e-2, 1e-2])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    rates = lr_find_groups(model, data, verbose=0).suggest("valley")
    print("early layers and head:", ", ".join(f"{rate:.1e}" for rate in rates))


if __name__ == "__main__":
    main()
