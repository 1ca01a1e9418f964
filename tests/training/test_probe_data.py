import keras
import numpy as np
import pytest

from keras_sgdr.training import probe_data
from keras_sgdr.training.lr_finder import lr_find
from keras_sgdr.training.probe_data import copy_pipeline, probe_arguments
from tests.training.test_lr_finder import make_data, make_dataset, make_model

tf = pytest.importorskip("tensorflow")


def passes(dataset, count=2):
    return [
        np.concatenate([np.atleast_1d(batch) for batch in dataset.as_numpy_iterator()]).tolist() for _ in range(count)
    ]


def count_up_to_six():
    yield from range(6)


def drawing():
    generator = tf.random.Generator.from_seed(1)
    return tf.data.Dataset.range(6).map(lambda _: generator.uniform(()))


def counting():
    counter = tf.Variable(0, dtype=tf.int64)
    return tf.data.Dataset.range(6).map(lambda _: counter.assign_add(1))


def looking_up():
    keys = tf.range(6, dtype=tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, 2 * keys), -1)
    dataset = tf.data.Dataset.range(6).map(table.lookup)
    dataset.table = table
    return dataset


PIPELINES = {
    "shuffle": lambda: tf.data.Dataset.range(12).shuffle(12, seed=1).batch(5),
    "shuffle without seed": lambda: tf.data.Dataset.range(12).shuffle(12).batch(5),
    "shuffle once": lambda: tf.data.Dataset.range(12).shuffle(12, seed=1, reshuffle_each_iteration=False),
    "two shuffles": lambda: tf.data.Dataset.range(12).shuffle(3, seed=1).batch(2).shuffle(6, seed=2),
    "shuffle and repeat": lambda: tf.data.Dataset.range(6).shuffle(6, seed=1).repeat(2).prefetch(2),
    "interleave": lambda: tf.data.Dataset.range(3).interleave(lambda i: tf.data.Dataset.range(4).shuffle(4, seed=2)),
    "cache": lambda: tf.data.Dataset.range(6).cache().shuffle(6, seed=1),
    "generator": lambda: tf.data.Dataset.from_generator(count_up_to_six, output_signature=tf.TensorSpec((), tf.int64)),
    "python function": lambda: tf.data.Dataset.range(6).shuffle(6, 3).map(lambda x: tf.py_function(int, [x], tf.int64)),
    "random generator": drawing,
    "variable": counting,
    "table": looking_up,
}


@pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES)
def test_passes_over_a_copy_leave_the_pipeline_as_it_was(make):
    keras.utils.set_random_seed(5)
    expected = passes(make(), 4)
    keras.utils.set_random_seed(5)
    pipeline = make()
    before = passes(pipeline, 1)
    copied = copy_pipeline(pipeline, tf)
    assert sorted(passes(copied)[1]) == sorted(expected[1]) or make in (drawing, counting)
    assert copied.cardinality() == pipeline.cardinality()
    assert before + passes(pipeline, 3) == expected


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


def test_epoch_counter_is_put_back():
    data = CountingDataset()
    with probe_arguments(data) as arguments:
        list(arguments["x"])
        assert data.epoch_counter.numpy() == 6
    assert data.epoch_counter.numpy() == 5


def test_pipeline_that_cannot_be_copied_is_used_with_a_warning(monkeypatch):
    def refuse(dataset, tensorflow):
        raise tf.errors.FailedPreconditionError(None, None, "no copy of this")

    monkeypatch.setattr(probe_data, "copy_pipeline", refuse)
    dataset = make_dataset()
    with pytest.warns(UserWarning, match="Received: no copy of this"), probe_arguments(dataset) as arguments:
        assert arguments["x"] is dataset


def test_iterator_is_refused():
    with pytest.raises(TypeError, match="Received: an iterator, generator"):
        lr_find(make_model(), (batch for batch in [make_data()]))
