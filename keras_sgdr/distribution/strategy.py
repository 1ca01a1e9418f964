"""Picks a `tf.distribute` strategy from the devices and the environment."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import tensorflow as tf

from keras_sgdr.distribution.keras_corrections import correct_keras
from keras_sgdr.validation import InvalidValueError, NotReadyError, require

_KINDS = ("auto", "mirrored", "multi_worker", None)


def distribution_strategy(kind: str | None = "auto", *, timeout_seconds: float = 300) -> tf.distribute.Strategy | None:
    """Returns the strategy for the devices and machines that are here.

    Model, optimizer and metrics are made within `strategy.scope()`, and `load_dataset(..., strategy=strategy)` gives
    each worker its part of each batch. Must be called before TensorFlow has computed anything, if there are several
    workers. What keeps `model.fit` of Keras 3 from working with them is corrected, see
    `keras_sgdr.distribution.keras_corrections`.

    The workers of a cluster are read from TF_CONFIG, as everywhere in TensorFlow, or from Slurm's variables. When one
    of them is lost, `fit` ends in the others with `tf.errors.UnavailableError`, after ten seconds or so.

    Args:
        kind: "auto": several workers where the environment names them, else all GPUs of this machine where it has
            several, else None. "mirrored": all GPUs of this machine, or its processor. "multi_worker": the workers
            that the environment names. None: no strategy.
        timeout_seconds: How long to wait for the other workers at the beginning.

    Returns:
        A `MirroredStrategy`, a `MultiWorkerMirroredStrategy`, or None.

    Raises:
        ValueError: If an argument is out of its range, or the environment names no workers, or not rightly.
        RuntimeError: If TensorFlow has been used before, or a worker does not come in time.

    Example:
        ```python
        strategy = distribution_strategy("mirrored")  # or "multi_worker"
        with strategy.scope():
            model = build_classifier(10, image_size=128)
            model.compile("adam", "sparse_categorical_crossentropy")
        train = load_dataset(index.train, image_size=128, batch_size=64, shuffle=True, strategy=strategy)
        model.fit(train, epochs=3, shuffle=False)
        ```

    Reference:
        [Multi-worker training](https://www.tensorflow.org/tutorials/distribute/multi_worker_with_keras)
    """
    require(kind in _KINDS, f"`strategy` must be one of {_KINDS}", strategy=kind)
    require(timeout_seconds > 0, "`timeout_seconds` must be greater than 0", timeout_seconds=timeout_seconds)
    resolver = _resolver() if kind in ("auto", "multi_worker") else None
    if resolver is not None:
        return _multi_worker(resolver, timeout_seconds)
    if kind == "multi_worker":
        raise InvalidValueError(
            "The environment must name several workers. Received: strategy='multi_worker', and neither TF_CONFIG nor "
            "Slurm's variables name more than one. Start each worker with a TF_CONFIG of its own."
        )
    if kind == "mirrored" or (kind == "auto" and len(tf.config.list_physical_devices("GPU")) > 1):
        strategy = tf.distribute.MirroredStrategy()
        correct_keras(strategy)
        return strategy
    return None


def _resolver() -> Any:
    """Returns the cluster that the environment describes; None where it describes none, or one worker alone."""
    text = os.environ.get("TF_CONFIG")
    if text:
        _check_config(text)
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        # Which GPUs are a task's is Slurm's choice. Without GPUs the resolver fails, and it lists no more of a node's
        # tasks than there are GPUs for.
        any_gpus = {"gpus_per_node": 1024, "gpus_per_task": 1, "auto_set_gpu": False}
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(**any_gpus)
        resolver.cluster_spec()  # which reads the task of this process too
    else:
        return None
    return resolver if sum(map(len, resolver.cluster_spec().as_dict().values())) > 1 else None


def _check_config(text: str) -> None:
    """Refuses a TF_CONFIG with which TensorFlow would wait for ever, or end without a reason."""
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'

    def refuse(reason: str) -> InvalidValueError:
        return InvalidValueError(f"TF_CONFIG must be JSON like {example}. Received: {text}: {reason}.")

    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        addresses = [address for job in cluster.values() for address in job]
        kind, number = task.get("type"), task.get("index")
    except (ValueError, AttributeError, TypeError) as error:
        raise refuse(str(error)) from error
    if not cluster:
        return
    if not set(cluster) <= {"chief", "worker"}:
        raise refuse("its jobs must be worker, and perhaps chief")
    if len(set(addresses)) != len(addresses):
        raise refuse("an address is there twice")
    for address in addresses:
        port = str(address).rpartition(":")[2]
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise refuse(f"{address!r} has no port from 1 to 65535")
    if kind not in cluster or not isinstance(number, int) or not 0 <= number < len(cluster[kind]):
        raise refuse(f"the task must be one of the cluster's, and is {task}")


def _multi_worker(resolver: Any, timeout_seconds: float) -> tf.distribute.Strategy:
    if _context()._initialized:
        raise NotReadyError(
            "`distribution_strategy` must be called before TensorFlow has computed anything, for it opens the way to "
            "the other workers. Received: TensorFlow in use. Call it first in the program."
        )
    _limit_waiting(resolver, timeout_seconds)
    first, *others = (address for _, tasks in sorted(resolver.cluster_spec().as_dict().items()) for address in tasks)
    if first == resolver.cluster_spec().task_address(resolver.task_type, resolver.task_id):
        # Each worker listens before it looks for the first; that one would wait for all without an end.
        _wait_for(others, timeout_seconds)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except tf.errors.UnknownError as error:
        own = resolver.cluster_spec().task_address(resolver.task_type, resolver.task_id)
        raise NotReadyError(
            f"This worker must be able to listen at {own}. Received: {error.message}. See that no other program, nor a "
            "run before this one, has that port."
        ) from error
    except tf.errors.OpError as error:
        raise _missing([first], timeout_seconds) from error
    correct_keras(strategy)
    return strategy


def _missing(addresses: list[str], timeout_seconds: float) -> NotReadyError:
    return NotReadyError(
        f"All workers must be there within {timeout_seconds:g} s. Received: no answer from {', '.join(addresses)}. "
        "Start all of them, with the same list of workers, and see that each can reach the others' ports."
    )


def _wait_for(addresses: list[str], timeout_seconds: float) -> None:
    """Waits until somebody listens at each address."""
    end, left = time.monotonic() + timeout_seconds, list(addresses)
    while left:
        host, _, port = left[0].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            left.pop(0)
        except OSError:
            if time.monotonic() > end:
                raise _missing(left, timeout_seconds) from None
            time.sleep(0.2)


def _context() -> Any:
    """TensorFlow's state in this process: whether it has begun, and how it waits, is told and set in no public way."""
    from tensorflow.python.eager import context

    return context.context()


def _limit_waiting(resolver: Any, timeout_seconds: float) -> None:
    """Lets TensorFlow wait for the other workers for a limited time; by itself it waits for an hour.

    As `MultiWorkerMirroredStrategy` does it, where nothing is configured yet.
    """
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2

    jobs = resolver.cluster_spec().as_dict()
    milliseconds = int(1000 * timeout_seconds)
    _context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{'chief' if 'chief' in jobs else 'worker'}/replica:0/task:0",
        cluster_register_timeout_in_ms=milliseconds,
        heartbeat_timeout_in_ms=min(milliseconds, 10_000),
        # One that fails alone waits for the others at its end, and they for it.
        shutdown_barrier_timeout_in_ms=min(milliseconds, 10_000),
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=name, num_tasks=len(tasks)) for name, tasks in jobs.items()
        ],
    )
