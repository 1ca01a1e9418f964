"""Which head a run keeps: that of step 3 or of step 4, its own or that of the run it goes on from."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.distribution.workers import Workers
from keras_sgdr.recipe import head as recipe_head
from keras_sgdr.recipe.head import train_head
from tests.recipe.one_stage import begun, candidate_of_loss, run_stage


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


@pytest.mark.parametrize(("loss", "best"), [(0.5, "the head of step 4"), (0.7, "the head of step 3")])
def test_the_better_head_of_steps_3_and_4_stays(digits_folder, tiny, tmp_path, monkeypatch, capsys, loss, best):
    with begun(digits_folder, dataclasses.replace(tiny, head_views=1), tmp_path / "run") as run:
        run_stage(run, "train_head")
        before = run.model.layers[-1].get_weights()
        told = iter([0.6, loss])
        monkeypatch.setattr(recipe_head, "_candidate", lambda _, name: candidate_of_loss(name, next(told)))
        values = run_stage(run, "train_head_augmented")
    assert values["best"] == best
    assert f"best on the validation images: {best} (loss {min(0.6, loss):.4f}" in capsys.readouterr().out
    is_restored = np.array_equal(run.model.layers[-1].get_weights()[0], before[0])
    assert is_restored == (best == "the head of step 3")
