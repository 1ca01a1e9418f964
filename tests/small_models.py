"""One small model of each kind that Keras knows, with its layer groups."""

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="keras_sgdr_tests")
class Subclassed(keras.Model):
    # `zlast` comes after "optimizer" in the alphabet, in which Keras walks the attributes while saving.
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = keras.layers.Dense(6, activation="relu", name="body")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.zlast = keras.layers.Dense(3, name="zlast")

    def call(self, inputs, training=False):
        return self.zlast(self.norm(self.body(inputs), training=training))


def sequential():
    model = keras.Sequential(
        [
            keras.layers.Dense(6, activation="relu", name="body"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, name="head"),
        ],
        name="sequential_kind",
    )
    return model, [[model.layers[0]], [model.layers[1]], [model.layers[2]]]


def functional():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, activation="relu", name="body")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x), name="functional_kind")
    return model, [[layer] for layer in model.layers[1:]]


def nested():
    body = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6, name="body"), keras.layers.BatchNormalization(name="norm")],
        name="inside",
    )
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="first")(inputs)
    outputs = keras.layers.Dense(3, name="head")(body(x))
    model = keras.Model(inputs, outputs, name="nested_kind")
    return model, [[model.get_layer("first")], [body], [model.get_layer("head")]]


def subclassed():
    model = Subclassed(name="subclassed_kind")
    # TensorFlow never records gradients of weights that were made while their layer was frozen.
    model(np.zeros((1, 4), "float32"))
    return model, [[model.body], [model.norm], [model.zlast]]


KINDS = {"sequential": sequential, "functional": functional, "nested": nested, "subclassed": subclassed}


def data(seed=3, samples=48):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, 4)).astype("float32"), random.normal(size=(samples, 3)).astype("float32")


def fit(model, epochs=1, **kwargs):
    x, y = data()
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **kwargs)


def state(model):
    """All weights and all optimizer variables as arrays."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in [*model.variables, *model.optimizer.variables]]
