import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.lr_finder.dataset_guard import probe_arguments, reordered
from keras_sgdr.lr_finder.lr_find import lr_find
from tests.lr_finder.test_lr_finder import make_data, make_dataset, make_model


class ShufflingDataset(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()
        self.order = np.arange(4)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        x, y = make_data()
        rows = slice(16 * self.order[index], 16 * self.order[index] + 16)
        return x[rows], y[rows]

    def on_epoch_end(self):
        self.order = np.roll(self.order, 1)


def test_py_dataset_keeps_its_order():
    dataset = ShufflingDataset()
    lr_find(make_model(), dataset, num_steps=9)
    assert dataset.order.tolist() == [0, 1, 2, 3]


class CountingDataset:
    """Stands for data that counts its epochs, as that of `load_dataset` does, and is no `tf.data.Dataset`."""

    def __init__(self):
        self.epoch_counter = tf.Variable(5, dtype=tf.int64)

    def __iter__(self):
        self.epoch_counter.assign_add(1)
        return iter([])


def test_py_dataset_that_cannot_be_copied_is_used_with_a_warning():
    dataset = ShufflingDataset()
    dataset.lock = threading.Lock()
    with pytest.warns(UserWarning, match="Received: cannot pickle"), probe_arguments(dataset) as arguments:
        assert arguments["x"] is dataset


def test_epoch_counter_is_put_back():
    data = CountingDataset()
    with probe_arguments(data) as arguments:
        list(arguments["x"])
        assert data.epoch_counter.numpy() == 6
    assert data.epoch_counter.numpy() == 5


def test_pipeline_that_cannot_be_copied_is_used_with_a_warning(monkeypatch):
    def refuse(**_):
        raise tf.errors.FailedPreconditionError(None, None, "no copy of this")

    monkeypatch.setattr(tf.raw_ops, "DatasetToGraphV2", refuse)
    dataset = make_dataset()
    with pytest.warns(UserWarning, match="Received: no copy of this"), probe_arguments(dataset) as arguments:
        assert arguments["x"] is dataset


def test_pipeline_distributed_already_is_used_with_a_warning():
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    dataset = strategy.experimental_distribute_dataset(make_dataset())
    with pytest.warns(UserWarning, match="distributed to replicas"), probe_arguments(dataset) as arguments:
        assert arguments["x"] is dataset


class DataWithGenerator(list):
    """Batches that were drawn from NumPy's kind of generator, which has no `get_state`."""

    generator = np.random.default_rng(0)


def test_generator_of_another_kind_is_left_alone():
    data = DataWithGenerator([make_data()])
    expected = np.random.default_rng(0).random(2)
    with probe_arguments(data) as arguments:
        assert arguments["x"] is data[0]
        assert data.generator.random() == expected[0]
    assert data.generator.random() == expected[1]


def test_structured_arrays_are_reordered_together():
    rows = np.arange(8)
    arguments = {"x": {"a": rows, "b": [rows * 10]}, "y": rows * 100, "sample_weight": None}
    other = reordered(arguments, 1)
    order = other["x"]["a"]
    assert order.tolist() != rows.tolist()
    assert sorted(order) == rows.tolist()
    np.testing.assert_array_equal(other["x"]["b"][0], order * 10)
    np.testing.assert_array_equal(other["y"], order * 100)
    assert other["sample_weight"] is None


def test_sparse_arrays_cannot_be_reordered():
    sparse = tf.sparse.from_dense(np.eye(4))
    with pytest.raises(TypeError, match=r"`repeats` must be 1 .* Received: \['SparseTensor', 'ndarray'\]"):
        reordered({"x": sparse, "y": np.arange(4)}, 1)


def test_iterator_is_refused():
    with pytest.raises(TypeError, match="Received: an iterator, generator"):
        lr_find(make_model(), (batch for batch in [make_data()]))
