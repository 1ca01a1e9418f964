"""Which part of each batch a worker of a `tf.distribute` strategy reads, and how Keras is given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_sgdr.validation import InvalidValueError


@dataclass(frozen=True)
class WorkerShare:
    """The replicas of one worker, of all those that train in step.

    Attributes:
        num_replicas: Of all workers together.
        first: This worker's first one, from 0.
        last: One more than its last.
    """

    num_replicas: int
    first: int
    last: int

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy) -> WorkerShare:
        """Returns the share of this process."""
        num_replicas, resolver = strategy.num_replicas_in_sync, strategy.cluster_resolver
        num_local = len(strategy.extended.worker_devices)
        if num_local == num_replicas:
            return cls(num_replicas, 0, num_replicas)
        # A cluster may have its chief as a job of its own, before the workers.
        has_chief = "chief" in resolver.cluster_spec().jobs and resolver.task_type != "chief"
        number = resolver.task_id + has_chief
        return cls(num_replicas, number * num_local, (number + 1) * num_local)

    @property
    def num_local(self) -> int:
        """The number of this worker's replicas."""
        return self.last - self.first

    def checked_batch_size(self, batch_size: int, num_images: int, *, is_training: bool) -> int:
        """Returns how many images all workers take in a step: in training `batch_size`.

        Otherwise it may be another, so that in the last step too no replica is without an image: then each image can
        be counted once.

        Raises:
            ValueError: If `batch_size` cannot be divided among the replicas, or there are fewer images than those.
        """
        n = self.num_replicas
        if batch_size % n:
            raise InvalidValueError(
                f"`batch_size` must be a multiple of the number of replicas, {n}, among which each batch is divided. "
                f"Received: batch_size={batch_size}. Give {batch_size + n - batch_size % n}, for instance."
            )
        if num_images < n:
            raise InvalidValueError(
                f"`split` must have an image for each of {n} replicas. Received: {num_images} images. Train with fewer "
                "replicas, or without a strategy."
            )
        if is_training:
            return batch_size
        sizes = (*range(batch_size, 0, -n), *range(batch_size, num_images + n, n))
        return next(size for size in sizes if num_images % size == 0 or num_images % size >= n)

    def ends_of_rest(self, num_images: int, batch_size: int) -> list[int]:
        """Returns where the parts of this worker's replicas begin and end in the last batch, if that is smaller."""
        n, rest = self.num_replicas, num_images % batch_size
        return [max(rest, n) * part // n if rest else 0 for part in range(self.first, self.last + 1)]

    def positions(self, num_images: int, batch_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Returns what this worker reads of an epoch, whose last batch may be smaller than the others.

        A batch is divided evenly, and in its order, so that those of all workers one after the other are the batch of
        a single machine. Where the last one has fewer images than there are replicas, some get its last image again.

        Returns:
            Positions in the epoch, shape `(images,)`; the weight of each image, with which the mean over replicas of
            their mean losses is the mean loss of the batch's images: 1 but in a last batch that cannot be divided, and
            0 for an image that is there again.
        """
        n, num_full = self.num_replicas, num_images // batch_size
        own = batch_size // n
        full = np.arange(num_full)[:, None] * batch_size + np.arange(self.first * own, self.last * own)
        rest, ends = num_images % batch_size, self.ends_of_rest(num_images, batch_size)
        last = num_full * batch_size + np.arange(ends[0], ends[-1])
        sizes = np.diff(ends)
        weights = np.repeat(n * sizes / max(rest, 1), sizes) * (last < num_images)
        return (
            np.concatenate([full.ravel(), np.minimum(last, num_images - 1)]).astype(np.int64),
            np.concatenate([np.ones(full.size), weights]).astype(np.float32),
        )


def divided(dataset: tf.data.Dataset, batch_size: int, last_sizes: list[int]) -> tf.data.Dataset:
    """Divides a worker's batches among its replicas, an element for each in turn.

    Args:
        dataset: Batches.
        batch_size: The images of one, but for the last.
        last_sizes: The images that each replica has of the last batch of an epoch.
    """
    sizes = tf.fill([len(last_sizes)], tf.constant(batch_size // len(last_sizes), tf.int64))

    def parts(*batch: Any) -> tf.data.Dataset:
        is_full = tf.shape(tf.nest.flatten(batch)[0])[0] == batch_size
        whole = tf.data.Dataset.from_tensors(batch if len(batch) > 1 else batch[0])
        return whole.rebatch(tf.where(is_full, sizes, tf.constant(last_sizes, tf.int64)))

    return dataset.flat_map(parts)


def distributed(local: tf.data.Dataset, strategy: tf.distribute.Strategy, num_steps: int) -> Any:
    """Gives Keras a worker's own part of each batch; a `tf.data.Dataset` it would divide once more.

    Args:
        local: The parts, one for each of this worker's replicas in turn.
        strategy: The strategy.
        num_steps: Batches in an epoch.

    Returns:
        A `tf.distribute.DistributedDataset`. TensorFlow's own has no methods to change it; this one has `map` and
        `repeat`, and the attributes `local` and `num_steps`.
    """
    batches = strategy.distribute_datasets_from_function(lambda _: local)
    batches.local, batches.num_steps = local, num_steps
    if int(local.cardinality()) >= 0:
        # TensorFlow counts the parts of all replicas; and where Keras does not know the number of steps, it runs one
        # more, without images, in which weights decay and momentum goes on.
        batches._cardinality = num_steps
    batches.map = lambda function: distributed(local.map(function), strategy, num_steps)
    batches.repeat = lambda: distributed(local.repeat(), strategy, num_steps)
    return batches
