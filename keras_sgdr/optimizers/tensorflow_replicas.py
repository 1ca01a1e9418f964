"""Gradients of a whole batch, of which each replica of a `tf.distribute` strategy has a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def sum_over_replicas(gradients: Sequence[Any]) -> tuple[list[Any], int]:
    """Returns the sums of gradients over all replicas, None where there is none, and the number of replicas."""
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return list(gradients), 1
    sums = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, [each for each in gradients if each is not None]))
    return [None if each is None else next(sums) for each in gradients], replica.num_replicas_in_sync
