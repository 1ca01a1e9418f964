"""Lets the workers that train in step tell each other values, so that all take the same decisions."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sgdr.data.dataset.worker_share import WorkerShare
from keras_sgdr.validation import InvalidValueError, WorkerLostError

# What a collective operation fails with when another worker has gone
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


class Workers:
    """The processes of a `tf.distribute` strategy. All of them must call the same methods, in the same order.

    Args:
        strategy: The strategy; None, or one of a single process, is one worker alone.

    Attributes:
        count: How many there are.
        number: Which one this is, from 0, the chief.
    """

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.count, self.number = 1, 0
        if strategy is not None:
            share = WorkerShare.of(strategy)
            self.count, self.number = share.num_replicas // share.num_local, share.first // share.num_local
        # Traced once, and given values as arguments: as constants of a graph they would be copied many times over.
        self._gather_vectors = tf.function(
            lambda vector: strategy.gather(strategy.run(tf.identity, args=(vector,)), axis=0),
            input_signature=[tf.TensorSpec([None], tf.int64)],
        )

    @property
    def is_chief(self) -> bool:
        """Whether this is the one that writes files and prints."""
        return self.number == 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raises WorkerLostError where a worker that is lost ends what is done within."""
        try:
            yield
        except _LOST as error:
            if self.count == 1:
                raise
            raise WorkerLostError(
                f"All workers must go on to the end. Received: {_reason(error)}. See what the others have printed, and "
                "start all of them again, with `resume`."
            ) from error

    def all_of(self, value: Any) -> list[Any]:
        """Returns the value of each worker, in the workers' order.

        Args:
            value: Anything that Python can pickle; what a worker sends is trusted, as all that TensorFlow sends is.
        """
        if self.count == 1:
            return [value]
        written = pickle.dumps(value)
        sizes = self._gather(np.array([len(written)], np.int64))
        padded = np.zeros(-(-int(sizes.max()) // 8), np.int64)
        padded.view(np.uint8)[: len(written)] = np.frombuffer(written, np.uint8)
        rows = self._gather(padded).reshape(self.count, -1)
        return [pickle.loads(row.tobytes()[:size]) for row, size in zip(rows, sizes, strict=True)]

    def from_chief(self, value: Any) -> Any:
        """Returns the chief's value."""
        return self.all_of(value if self.is_chief else None)[0]

    def check_same(self, **values: Any) -> None:
        """Refuses values that are not the same on all workers.

        Raises:
            ValueError: If one of them is another than the chief's, on all workers.
        """
        every = self.all_of(values)
        for number, others in enumerate(every):
            for name, value in others.items():
                if value != every[0][name]:
                    raise InvalidValueError(
                        f"All workers must have the same {name}. Received: {every[0][name]!r} on worker 0 and "
                        f"{value!r} on worker {number}. Give all of them the same images, settings and versions."
                    )

    def _gather(self, array: Any) -> Any:
        """Returns the arrays of all workers, int64 of the same length, one after the other."""
        # Each replica gives what its worker has: the first of each is enough.
        return self._gather_vectors(tf.constant(array)).numpy().reshape(self.count, -1, len(array))[:, 0].ravel()


def _reason(error: tf.errors.OpError) -> str:
    """Returns what TensorFlow says of a lost worker, without the trace of the operation that waited for it."""
    reason = error.message.partition("aborted by: ")[2] or error.message
    return reason.partition("\n")[0].rstrip(". ")
