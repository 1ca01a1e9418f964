"""What a finder says of data on which nothing can be trained: one line, about the data, and no warnings of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.lr_finder.lr_find import LRFinder, lr_find
from tests.lr_finder.test_lr_finder import make_data

X, Y = make_data()


def make_model(optimizer=None):
    """Without rectifiers, which make zeros of NaN."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile(optimizer or keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


def batches(x=X, y=Y, size=16):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def with_one(value, at=40):
    x = X.copy()
    x[at, 2] = value
    return x


FAULTS = {
    "empty pipeline": (lambda: batches().take(0), "it has no batches"),
    "all filtered out": (lambda: batches().filter(lambda x, _: tf.reduce_all(x > 99)), "it has no batches"),
    "NaN in images": (lambda: batches(with_one(np.nan, at=3)), "its images hold NaN or infinity"),
    "NaN in arrays": (lambda: (np.full_like(X, np.nan), Y), "its images hold NaN or infinity"),
    "NaN in a later batch": (lambda: batches(with_one(np.nan)), "its images hold NaN or infinity, in batch 2"),
    "labels from 1": (lambda: batches(y=Y + 1), "its labels go from 1 to 2, and the model has 2 classes"),
    "labels below 0": (lambda: (X, Y - 1), "its labels go from -1 to 0, and the model has 2 classes"),
    "labels in columns": (
        lambda: batches(y=keras.utils.to_categorical(Y, 2)),
        "its labels have a column for each class, for which the loss is categorical_crossentropy",
    ),
    "other shape": (
        lambda: batches(np.zeros((64, 7), "float32")),
        r"its images have the shape \(16, 7\), and the model takes \(None, 4\)",
    ),
    "one batch of another shape": (
        lambda: [(X[:8], Y[:8]), (np.zeros((8, 3), "float32"), Y[:8])],
        r"its images have the shape \(8, 3\), and the model takes \(None, 4\), in batch 1",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_of_the_data_is_named_and_the_model_is_as_it_was(name):
    make, words = FAULTS[name]
    data = make()
    if isinstance(data, list):
        signature = (tf.TensorSpec((None, None)), tf.TensorSpec((None,), tf.int32))
        items = data
        data = tf.data.Dataset.from_generator(lambda: iter(items), output_signature=signature)
    model = make_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"`dataset` must be what .*Received: {words}") as caught:
        lr_find(model, data, num_steps=20, verbose=0)
    assert "\n" not in str(caught.value)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_iterator_that_is_spent_is_named():
    items = iter([(X[:16], Y[:16]), (X[16:32], Y[16:32])])
    signature = (tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int32))
    data = tf.data.Dataset.from_generator(lambda: items, output_signature=signature)
    with pytest.raises(ValueError, match=r"Received: it has no batches"):
        lr_find(make_model(), data, num_steps=20, verbose=0)


def test_frozen_model_is_named():
    model = make_model()
    model.trainable = False
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="Received: a model of which every layer is frozen"):
        lr_find(model, batches(), num_steps=20, verbose=0)


def test_error_that_is_not_the_datas_is_passed_on():
    model = make_model()
    model.get_layer(index=0).set_weights([np.full(w.shape, np.nan) for w in model.get_layer(index=0).get_weights()])
    with pytest.raises(ValueError, match=r"Received: loss=nan at a learning rate of 1\.0e-07\. Look for NaN"):
        lr_find(model, batches(), num_steps=20, verbose=0)


def test_loss_that_diverges_later_is_no_fault():
    model = make_model(keras.optimizers.SGD())
    curve = lr_find(model, (X * 1e6, Y), start_lr=1e-3, end_lr=1e30, num_steps=20, verbose=0)
    assert len(curve.losses) > 1


def test_callback_in_a_fit_refuses_an_empty_pass():
    with (
        pytest.warns(UserWarning, match="ran out of data"),
        pytest.raises(ValueError, match="Received: none"),
        LRFinder(num_steps=5) as finder,
    ):
        make_model().fit(batches().take(0), epochs=3, callbacks=[finder], shuffle=False, verbose=0)


@pytest.mark.parametrize("labels", [Y, Y[:, None]], ids=["flat", "one_column"])
def test_numbers_of_classes_for_a_loss_of_columns_are_named(labels):
    model = make_model()
    model.compile("adam", "categorical_crossentropy")
    with pytest.raises(ValueError, match="Received: its labels are numbers of classes, for which the loss is sparse_"):
        lr_find(model, (X, labels), verbose=0)
