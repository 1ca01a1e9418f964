import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.lr_finder.tensorflow_dataset_copy import CannotCopyError, copy_dataset


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


def dropping():
    layer = keras.layers.Dropout(0.5, seed=1)
    return tf.data.Dataset.range(6).map(lambda x: layer(tf.fill((4,), tf.cast(x, tf.float32)), training=True))


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
    "random layer": dropping,
    "new random numbers": lambda: tf.data.Dataset.random(1, rerandomize_each_iteration=True).take(6),
    "variable": counting,
    "table": looking_up,
}


# Whose elements are others on every pass; those of the rest come in another order only.
DRAWS = ("random generator", "random layer", "new random numbers", "variable")


@pytest.mark.parametrize("name", PIPELINES)
def test_passes_over_a_copy_leave_the_pipeline_as_it_was(name):
    make = PIPELINES[name]
    keras.utils.set_random_seed(5)
    expected = passes(make(), 4)
    keras.utils.set_random_seed(5)
    pipeline = make()
    before = passes(pipeline, 1)
    copied = copy_dataset(pipeline)
    assert sorted(passes(copied)[1]) == sorted(expected[1]) or name in DRAWS
    assert copied.cardinality() == pipeline.cardinality()
    assert before + passes(pipeline, 3) == expected


def test_pass_that_is_not_finished_leaves_no_lock_where_the_pipeline_caches(tmp_path):
    pipeline = tf.data.Dataset.range(6).cache(str(tmp_path / "new")).shuffle(6, seed=1)
    iterator = iter(copy_dataset(pipeline))
    next(iterator)
    assert list(tmp_path.iterdir()) == []
    assert sorted(passes(pipeline, 1)[0]) == list(range(6))
    assert any(tmp_path.iterdir())


def test_cache_that_is_there_is_read(tmp_path):
    tf.data.Dataset.range(6).cache(str(tmp_path / "there")).reduce(0, lambda _, x: 0)
    copied = copy_dataset(tf.data.Dataset.range(9).cache(str(tmp_path / "there")))
    assert passes(copied, 1)[0] == list(range(6))


def test_pipeline_that_is_too_large_to_be_written_is_refused(monkeypatch):
    # As TensorFlow does for one of more than 2 GB, without an error.
    monkeypatch.setattr(tf.raw_ops, "DatasetToGraphV2", lambda **_: tf.constant(b""))
    with pytest.raises(CannotCopyError, match="larger than 2 GB"):
        copy_dataset(tf.data.Dataset.range(6))


UNCHANGED_BY_A_PASS = {
    "arrays": lambda: tf.data.Dataset.from_tensor_slices(np.arange(12)).batch(5).prefetch(1),
    "function": lambda: tf.data.Dataset.range(12).map(lambda x: 2 * x, num_parallel_calls=2).repeat(2),
    "stateless random": lambda: tf.data.Dataset.range(3).map(lambda i: tf.random.stateless_uniform((), (i, 1))),
    "sampled": lambda: tf.data.Dataset.sample_from_datasets([tf.data.Dataset.range(3)] * 2, [0.5, 0.5], seed=1),
}


@pytest.mark.parametrize("make", UNCHANGED_BY_A_PASS.values(), ids=UNCHANGED_BY_A_PASS)
def test_pipeline_that_a_pass_does_not_change_is_not_copied(make):
    pipeline = make()
    before = passes(pipeline)
    assert copy_dataset(pipeline) is pipeline
    assert before[0] == before[1] == passes(pipeline, 1)[0]
