"""What differs where other processes train a model in step with this one, under a `tf.distribute` strategy."""

from __future__ import annotations

from typing import Any

from keras_sgdr.validation import InvalidValueError


def trains_with_others(model: Any) -> bool:
    """Returns whether other processes have replicas of a model.

    Then its metrics are those of all: to read or to set one is a collective operation, for which all must meet.
    """
    strategy = getattr(model, "distribute_strategy", None)  # which Keras has on TensorFlow alone
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return False
    return bool(strategy.num_replicas_in_sync > len(strategy.extended.worker_devices))


def require_same_place(model: Any, start: Any) -> None:
    """Refuses, on all workers, to go on in different places; all must call this.

    Args:
        model: The model.
        start: Where this worker goes on, with `epoch` and `batch`; None if its file cannot be used.

    Raises:
        ValueError: If one of them would go on elsewhere, or not at all.
    """
    import tensorflow as tf

    strategy = model.distribute_strategy
    place = tf.constant([[-1, 0] if start is None else [start.epoch, start.batch]], tf.int64)
    gather = tf.function(lambda: strategy.gather(strategy.run(lambda: tf.identity(place)), axis=0))
    places = gather().numpy().tolist()[:: len(strategy.extended.worker_devices)]
    if any(each != places[0] for each in places):
        described = [
            f"{'no file of use' if epoch < 0 else f'epoch {epoch}, batch {batch}'} on worker {number}"
            for number, (epoch, batch) in enumerate(places)
        ]
        raise InvalidValueError(
            f"All workers must go on from checkpoints of the same moment. Received: {', '.join(described)}. Give all "
            "of them the file of one that is the furthest back, or remove all files."
        )
