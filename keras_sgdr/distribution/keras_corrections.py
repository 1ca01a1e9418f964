"""What keeps `model.fit` of Keras 3 from working on several workers, and its corrections.

Both faults are in https://github.com/keras-team/keras/issues/20585. A correction is made only where a probe meets the
fault, so that a Keras without it is left as it is.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def correct_keras(strategy: tf.distribute.Strategy) -> list[str]:
    """Corrects Keras's trainer for a strategy; all of its workers must call this.

    Returns:
        The names of what was at fault; none where it was corrected before.
    """
    faults = []
    if not _is_reduced(strategy):
        _correct_reduction()
        faults.append("reduce_per_replica")
    if not _is_built(strategy):
        _correct_building()
        faults.append("_maybe_symbolic_build")
    return faults


def _trainer() -> Any:
    """Keras's trainer for TensorFlow, whose faults cannot be reached by a public way."""
    from keras.src.backend.tensorflow import trainer

    return trainer


def _is_reduced(strategy: tf.distribute.Strategy) -> bool:
    """Whether the mean over replicas of a number, such as a metric, can be taken."""

    @tf.function
    def mean() -> Any:
        values = strategy.run(lambda: tf.constant(1.0))
        return _trainer().reduce_per_replica(values, strategy, reduction="auto")

    try:
        mean.get_concrete_function()
    except (ValueError, TypeError):
        return False
    return True


def _correct_reduction() -> None:
    """Takes means over replicas without an axis, which a number has not."""
    trainer = _trainer()
    original = trainer.reduce_per_replica

    def reduce_per_replica(values: Any, strategy: Any, reduction: str) -> Any:
        if reduction not in ("auto", "mean") or not trainer._collective_all_reduce_multi_worker(strategy):
            return original(values, strategy, reduction)
        return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    trainer.reduce_per_replica = reduce_per_replica


def _is_built(strategy: tf.distribute.Strategy) -> bool:
    """Whether a model that is not built can be, for batches of which each replica has another number of images."""
    sizes = tf.data.Dataset.range(1, 1 + len(strategy.extended.worker_devices))
    parts = sizes.map(lambda size: (tf.zeros([size, 1]), tf.zeros([size, 1])))
    with strategy.scope():
        # Named, and without random weights, so that a user's layers have the names and weights of a run without it
        model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="zeros", name="probe")], name="probe_model")
        model.compile(keras.optimizers.SGD(name="probe_optimizer"), "mse")
    dataset = strategy.distribute_datasets_from_function(lambda _: parts)
    try:
        model._maybe_symbolic_build(iterator=_trainer().TFEpochIterator(strategy, dataset, shuffle=False))
    except (ValueError, tf.errors.InvalidArgumentError):
        return False
    return True


def _correct_building() -> None:
    """Builds a model from the shapes of a batch's part, instead of the mean of the parts' images.

    No batch is taken for it, which would count: what follows it is prepared too, perhaps to the end of an epoch.
    """
    trainer = _trainer()
    original = trainer.TensorFlowTrainer._maybe_symbolic_build

    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is None or self._distribute_strategy is None:
            original(self, iterator, data_batch)
            return
        spec = iterator._distributed_dataset.element_spec
        # With several replicas on this machine, the specs of all of them; they are alike.
        local = keras.tree.map_structure(lambda each: getattr(each, "_value_specs", [each])[0], spec)
        with self._distribute_strategy.scope():
            self._symbolic_build(data_batch=local)

    trainer.TensorFlowTrainer._maybe_symbolic_build = _maybe_symbolic_build
