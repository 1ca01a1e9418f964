"""Which strategy is picked, and what is refused before any worker waits for another."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr import Recipe, distribution_strategy
from keras_sgdr.data.dataset.worker_share import WorkerShare
from keras_sgdr.distribution.workers import Workers
from keras_sgdr.recipe.images import index_for
from keras_sgdr.recipe.train import _check_replicas


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def config(*addresses, job="worker", kind="worker", index=0):
    return json.dumps({"cluster": {job: addresses}, "task": {"type": kind, "index": index}})


def test_one_machine_without_gpus_has_no_strategy():
    assert distribution_strategy() is None
    assert distribution_strategy(None) is None
    workers = Workers(None)
    assert (workers.count, workers.number, workers.is_chief) == (1, 0, True)
    assert workers.all_of("mine") == ["mine"]
    workers.check_same(images="abc")


def test_one_worker_alone_is_no_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config("127.0.0.1:2222"))
    assert distribution_strategy() is None
    monkeypatch.setenv("TF_CONFIG", json.dumps({"task": {"type": "worker", "index": 0}}))
    assert distribution_strategy() is None


def test_mirrored_is_of_this_machine():
    strategy = distribution_strategy("mirrored")
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert Workers(strategy).count == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[1]", "has no attribute 'get'"),
        (config("a:1", "a:1"), "an address is there twice"),
        (config("a:1", "b"), "'b' has no port"),
        (config("a:1", "b:70000"), "'b:70000' has no port from 1 to 65535"),
        (config("a:1", "b:1", index=2), "the task must be one of the cluster's"),
        (config("a:1", "b:1", index="0"), "the task must be one of the cluster's"),
        (config("a:1", "b:1", kind="ps"), "the task must be one of the cluster's"),
        (config("a:1", "b:1", job="ps", kind="ps"), "its jobs must be worker"),
    ],
)
def test_wrong_cluster_is_refused_at_once(monkeypatch, text, reason):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r"TF_CONFIG must be JSON like .* Received: ") as raised:
        distribution_strategy()
    assert reason in str(raised.value)


def test_slurms_tasks_are_the_workers(monkeypatch):
    from keras_sgdr.distribution.strategy import _resolver

    variables = {"PROCID": 2, "STEP_NUM_TASKS": 3, "STEP_NODELIST": "node[1-2]", "STEP_TASKS_PER_NODE": "2,1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    resolver = _resolver()
    assert resolver.cluster_spec().as_dict() == {"worker": ["node1:8888", "node1:8889", "node2:8888"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)


def test_environment_without_workers_is_refused():
    with pytest.raises(ValueError, match="neither TF_CONFIG nor Slurm's"):
        distribution_strategy("multi_worker")
    with pytest.raises(ValueError, match="Received: strategy='all'"):
        distribution_strategy("all")
    with pytest.raises(ValueError, match="Received: timeout_seconds=0"):
        distribution_strategy(timeout_seconds=0)


def test_it_comes_first(monkeypatch):
    tf.constant(1) + 1
    monkeypatch.setenv("TF_CONFIG", config("127.0.0.1:1", "127.0.0.1:2"))
    with pytest.raises(RuntimeError, match="before TensorFlow has computed anything"):
        distribution_strategy()


def test_a_strategy_leaves_names_and_draws_as_they_are():
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    distribution_strategy("mirrored")
    layer = keras.layers.Dense(3)
    layer.build((None, 4))
    assert keras.optimizers.SGD().name == "sgd"
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    expected = keras.layers.Dense(3)
    expected.build((None, 4))
    assert layer.name == expected.name == "dense"
    np.testing.assert_array_equal(layer.kernel, expected.kernel)


@pytest.mark.parametrize(
    ("settings", "replicas", "message"),
    [
        ({"accumulate": 2}, 1, "`accumulate` must be 1 with a strategy.*accumulate=2"),
        ({"xla": "on"}, 2, "`xla` must be off with several replicas.*xla='on', replicas=2"),
    ],
)
def test_what_cannot_be_trained_under_a_strategy_is_refused_at_once(digits_folder, settings, replicas, message):
    recipe = Recipe(**settings)
    with pytest.raises(ValueError, match=message):
        _check_replicas(recipe, index_for(digits_folder, recipe), WorkerShare(replicas, 0, replicas))


def test_one_replica_may_be_compiled(digits_folder):
    recipe = Recipe(xla="on")
    _check_replicas(recipe, index_for(digits_folder, recipe), WorkerShare(1, 0, 1))
