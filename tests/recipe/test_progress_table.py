import io

import keras
import numpy as np
import pytest

from keras_sgdr.recipe.progress_table import ProgressTable


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.25), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model, stream, **options):
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    table = ProgressTable("head", stream=stream)
    return model.fit(x, y, epochs=2, batch_size=8, verbose=0, callbacks=[table], **options), (x, y)


def test_rows_hold_what_fit_returns(model):
    stream = io.StringIO()
    x, y = np.random.default_rng(1).normal(size=(8, 3)), np.arange(8) % 2
    log = fit(model, stream, validation_data=(x, y))[0].history
    title, heads, *rows = stream.getvalue().splitlines()
    assert title == "head"
    assert heads.split() == ["epoch", "train_loss", "valid_loss", "accuracy", "seconds", "rate"]
    for i, row in enumerate(rows):
        epoch, loss, val_loss, accuracy, seconds, rate = row.split()
        assert int(epoch) == i + 1
        expected = (log["loss"][i], log["val_loss"][i], log["val_accuracy"][i])
        assert np.allclose([float(loss), float(val_loss), float(accuracy)], expected, atol=5e-5)
        assert float(seconds) >= 0
        assert float(rate) == 0.25
    assert len(rows) == 2


def test_without_validation_the_training_accuracy_stands(model):
    stream = io.StringIO()
    log = fit(model, stream)[0].history
    assert np.isclose(float(stream.getvalue().splitlines()[-1].split()[2]), log["accuracy"][-1], atol=5e-5)


def test_bar_is_drawn_on_a_terminal_and_cleared(model):
    stream = Terminal()
    fit(model, stream)
    text = stream.getvalue()
    assert "epoch 1/2 [====" in text
    assert "1/5" in text
    assert ", rate 2.5e-01" in text
    assert text.split("\r\x1b[K")[-1].startswith("         2")


def test_no_bar_in_a_file(model):
    stream = io.StringIO()
    fit(model, stream)
    assert "\r" not in stream.getvalue()
