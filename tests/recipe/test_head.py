"""Which head a run that goes on from another keeps: its own, or that of the run before."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.distribution.workers import Workers
from keras_sgdr.recipe.head import train_head


@pytest.mark.parametrize("knows", [True, False], ids=["a head that knows better", "a head that knows nothing"])
def test_the_head_of_the_run_before_is_kept_where_it_is_better(knows):
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(200, 2)).astype("float32")
    labels = (activations[:, 0] > 0).astype("int32")
    # six images to learn from; the others to be judged by
    data = [
        tf.data.Dataset.from_tensor_slices((activations[part], labels[part])).batch(32)
        for part in (slice(6), slice(6, None))
    ]
    head = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    before = [np.array([[-20.0, 20.0], [0.0, 0.0]]) * knows, np.zeros(2)]
    head.set_weights(before)
    said = []
    run = SimpleNamespace(
        recipe=SimpleNamespace(start_from="before"),
        model=head,
        workers=Workers(None),
        precompute=lambda: (*data, head),
        say=said.append,
    )
    values = train_head(run)
    (row,) = values["history"]
    assert row["epoch"] == 1
    assert row["val_accuracy"] > 0.7
    assert f"accuracy {row['val_accuracy']:.4f}" in said[1]
    assert np.allclose(head.get_weights()[0], before[0]) == knows
    assert ("the head of before" in said[-1]) == knows
