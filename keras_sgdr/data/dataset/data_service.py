"""Decodes and augments images on other machines, by TensorFlow's own tf.data service."""

from __future__ import annotations

import re
import socket
import warnings
from typing import Any

import tensorflow as tf

from keras_sgdr.data.dataset.encoded_files import EncodedFiles, graph_code
from keras_sgdr.data.dataset.epoch_stream import EpochImages, EpochPlan, without_tuning
from keras_sgdr.data.index.read_files import are_plain
from keras_sgdr.data.index.split import Split
from keras_sgdr.validation import InvalidValueError, ServerError

# Batches that a machine of the service prepares at a time
_AT_ONCE = 2


def check_service(service: str, split: Split, *, cache: Any, strategy: Any) -> None:
    """Refuses an address, or what the machines of a service have no part in, before anything is read.

    Raises:
        ValueError: If that is so.
        ConnectionError: If nobody listens at the address.
    """
    address = re.fullmatch(r"grpc://[^/:]+:([0-9]{1,5})", service)
    if address is None or not 0 < int(address[1]) < 65536:
        raise InvalidValueError(
            f"`service` must be the address of a dispatcher, like 'grpc://host:5000'. Received: service={service!r}."
        )
    if not are_plain(split.paths):
        raise InvalidValueError(
            "`split` must be of files with a `service`, which has no part in Python's reading of shards and URLs. "
            f"Received: {split.paths[0]}. Leave `service` out."
        )
    for name, value in (("cache", cache), ("strategy", strategy)):
        if value is not None:
            raise InvalidValueError(
                f"`{name}` must be None with a `service`, whose machines have no part in it. Received: both. Leave one "
                "out."
            )
    require_dispatcher(service.removeprefix("grpc://"))


def require_dispatcher(address: str) -> None:
    """Refuses an address, "host:port", at which nobody listens, for which TensorFlow would look without an end.

    Raises:
        ConnectionError: If that is so.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, UnicodeError) as error:  # the latter of what can be no host's name
        reason = getattr(error, "strerror", None) or error
        raise ServerError(
            f"A dispatcher of a tf.data service must listen at {address}. Received: {reason}. Start one there: "
            "keras-sgdr data-service dispatcher."
        ) from error


def service_stream(plan: EpochPlan, images: EpochImages, epoch_counter: Any, service: str) -> tf.data.Dataset:
    """Returns a dataset of which each pass is the next epoch, made by the machines of a service.

    Each of them takes batches as it gets done with others: the batches of an epoch are those that one machine would
    make, each once, and come in an order that is another every time. A lost machine is waited for until a worker has
    its address again; what it had taken is missing.
    """
    files = EncodedFiles(images.split.paths)
    batch_size = plan.batch_size

    def epoch(_: Any) -> tf.data.Dataset:
        # Counted when it begins: a pass that lost batches has no last one that could be known.
        key, (number, first, end, _) = plan.keys(epoch_counter.assign_add(1) - 1)

        def batch(step: Any) -> tf.data.Dataset:
            low = step * batch_size
            own = tf.nest.map_structure(lambda column: column[low : low + batch_size], key)
            shared = tf.stack([number, first + low, tf.minimum(first + low + batch_size, end), own.index[0]])
            pairs = tf.data.Dataset.zip(
                tf.data.Dataset.from_tensor_slices(own), tf.data.Dataset.from_tensors(shared).repeat()
            )
            return images.batches(pairs, files, batch_size)

        # Once for all batches, for each making of what augments them is as long as many of them.
        finish = graph_code(lambda key, _, decoded: images.finish(key, decoded))
        num_steps = -(-(end - first) // batch_size)
        steps = tf.data.Dataset.range(num_steps).interleave(
            batch, cycle_length=_AT_ONCE, num_parallel_calls=_AT_ONCE, deterministic=True
        )
        steps = steps.map(finish, num_parallel_calls=_AT_ONCE)
        # tf.data would rewrite each function within functions on its own, which takes minutes and brings nothing here.
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        steps = steps.with_options(options)
        distribute = tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC, service=service
        )
        with warnings.catch_warnings():
            # TensorFlow reads the options of the dataset, and warns itself that in a graph they are the graph's.
            warnings.filterwarnings("ignore", message="To make it possible to preserve tf.data options")
            return without_tuning(steps).apply(distribute)

    return without_tuning(tf.data.Dataset.range(1).flat_map(epoch).prefetch(tf.data.AUTOTUNE))
