"""The `tf.data` stream behind `load_dataset`: the order of an epoch, and how its images become batches."""

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_sgdr.augmentation.stateless_random import crop_position, epoch_draws
from keras_sgdr.data.dataset.batch_augmentation import BatchAugmentation
from keras_sgdr.data.dataset.decode_errors import EpochPosition, refuse_gaps
from keras_sgdr.data.dataset.encoded_files import EncodedFiles, graph_code
from keras_sgdr.data.dataset.image_cache import CachedImages
from keras_sgdr.data.decode.decode_spec import DecodeSpec
from keras_sgdr.data.index.split import Split

# tf.data's own choice begins low in every epoch: on short ones a tenth slower. Twice the processors, for what is done
# waits for its turn: one batch's images are laid out while the next one's are decoded.
_NUM_PARALLEL = 2 * (os.cpu_count() or 1)


class ExampleKey(NamedTuple):
    """What an image of an epoch is, before it is read.

    Attributes:
        position: In the epoch, int64.
        index: In the split, int64.
        next_index: That of the image after it; the last one's own.
        seed: int32 of shape `(2,)`.
        crop_position: Where along its long side it is cropped, float32.
    """

    position: Any
    index: Any
    next_index: Any
    seed: Any
    crop_position: Any


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """Which images an epoch is made of, and in which order.

    Attributes:
        num_in_split: All images.
        num_images: Those of an epoch; of a worker's, its share.
        batch_size: Images in a batch; of a worker's, its share.
        shuffle: Whether each epoch has an order of its own.
        seed: Chooses orders and views.
        first_epoch: Where the stream begins.
        first_position: Where that epoch begins.
        positions: Where a worker's images stand in the epoch of all, int64 of shape `(num_images,)`.
        weights: What each of them counts, float32 of shape `(num_images,)`; None where all count the same.
    """

    num_in_split: int
    num_images: int
    batch_size: int
    shuffle: bool
    seed: int
    first_epoch: int
    first_position: int
    positions: npt.NDArray[np.int64] | None = None
    weights: npt.NDArray[np.float32] | None = None

    @property
    def num_steps(self) -> int:
        """The number of batches of an epoch."""
        return -(-self.num_images // self.batch_size)

    def images(self, epoch: Any) -> tf.data.Dataset:
        """Returns an epoch's images, each with what it shares with all of them, int64 of shape `(4,)`."""
        key, shared = self.keys(epoch)
        slices = tf.data.Dataset.from_tensor_slices(key)
        return tf.data.Dataset.zip(slices, tf.data.Dataset.from_tensors(tf.stack(shared)).repeat())

    def keys(self, epoch: Any) -> tuple[ExampleKey, tuple[Any, Any, Any, Any]]:
        """Returns what an epoch's images are, all at once, and what they share.

        That is the epoch, the first position, one more than the last, and the index of the first image.
        """
        order, seeds = epoch_draws(self.num_in_split, seed=self.seed, epoch=epoch)
        if not self.shuffle:
            order = tf.range(self.num_in_split, dtype=tf.int64)
        if self.positions is not None:
            order = tf.gather(order, self.positions)
        end = tf.constant(self.num_images, tf.int64)
        start = tf.where(epoch == self.first_epoch, tf.constant(self.first_position, tf.int64), 0)
        positions = tf.range(start, end)
        indices = tf.gather(order, positions)
        following = tf.gather(order, tf.minimum(positions + 1, tf.size(order, tf.int64) - 1))
        seeds = tf.gather(seeds, indices)
        # What is computed for all at once need not be for each, where a dozen small operations are a hundredth.
        key = ExampleKey(positions, indices, following, seeds, crop_position(seeds))
        return key, (epoch, start, end, order[start])


@dataclass(frozen=True, eq=False)
class EpochImages:
    """What images look like, what they show, and what they count.

    Attributes:
        split: The images.
        decode_spec: What is decoded of them.
        cached: Where they are decoded already, if they are.
        augmentation: What happens to a batch of them.
        class_weights: What each class counts besides, float32 of shape `(num_classes,)`; None if all count the same.
    """

    split: Split
    decode_spec: DecodeSpec
    cached: CachedImages | None
    augmentation: BatchAugmentation | None
    class_weights: npt.NDArray[np.float32] | None

    def batches(self, images: tf.data.Dataset, files: EncodedFiles, batch_size: int) -> tf.data.Dataset:
        """Makes batches of what `EpochPlan.images` gave, and of the decoded images as a third part."""
        cached = self.cached
        if cached is not None:

            @graph_code
            def read(key: Any, shared: Any) -> Any:
                return key, shared, cached.batch(key.index, key.crop_position)

            return images.batch(batch_size).map(read, num_parallel_calls=_NUM_PARALLEL)

        @graph_code
        def decode(key: Any, shared: Any, encoded: Any) -> Any:
            return key, shared, self.decode_spec.decode(encoded, key.crop_position)

        decoded = files.map(images, lambda key, _: key.index, decode, num_parallel=_NUM_PARALLEL).ignore_errors()
        *others, _ = decoded.element_spec
        shapes = tf.nest.map_structure(lambda spec: spec.shape, (*others, self.decode_spec.spec))
        batches = decoded.padded_batch(batch_size, shapes)
        return refuse_gaps(batches, files.name, _places, batch_size=batch_size)

    def finish(self, key: ExampleKey, decoded: Any) -> Any:
        """Augments a batch, and adds the labels and weights."""
        labels = self.split.labels
        if labels is not None:
            labels = tf.gather(labels, key.index)
        if self.decode_spec.is_resampled:
            pixels, frames = decoded
            decoded = pixels, self.decode_spec.windows(frames, key.crop_position)
        if self.augmentation is not None:
            decoded, labels = self.augmentation.augment(decoded, labels, key.seed)
        if labels is None:
            return decoded
        if self.split.weights is None and self.class_weights is None:
            return decoded, labels
        return decoded, labels, self._weigh(key.index, labels)

    def _weigh(self, indices: Any, labels: Any) -> Any:
        weights = tf.ones(tf.shape(indices)) if self.split.weights is None else tf.gather(self.split.weights, indices)
        if self.class_weights is None:
            return weights
        if labels.dtype.is_integer:
            return weights * tf.gather(self.class_weights, labels)
        # Where images were mixed, a label is part of one class and part of another.
        return weights * tf.linalg.matvec(labels, self.class_weights)


def _places(key: ExampleKey, shared: Any, _: Any) -> EpochPosition:
    _, starts, ends, first_indices = tf.unstack(shared, axis=1)
    return EpochPosition(key.position, starts, ends, first_indices, key.next_index)


def _weighted(batch: Any, factors: Any) -> Any:
    images, labels, *weights = batch
    return images, labels, *([weight * factors for weight in weights] or [factors])


def stream(plan: EpochPlan, images: EpochImages, epoch_counter: Any) -> tf.data.Dataset:
    """Returns a dataset of which each pass is the next epoch, as `epoch_counter` counts them."""
    files = EncodedFiles(images.split.paths)

    @graph_code
    def epoch(_: Any) -> tf.data.Dataset:
        return plan.images(epoch_counter.read_value())

    @graph_code
    def finish(key: ExampleKey, shared: Any, decoded: Any) -> Any:
        batch = images.finish(key, decoded)
        if plan.weights is not None:
            batch = _weighted(batch, tf.gather(plan.weights, key.position))
        return shared[0, 0], key.position[-1], batch

    @graph_code
    def count(epoch: Any, position: Any, batch: Any) -> Any:
        # Here, where a batch is handed over, and not where it is made, which may be several batches ahead; with the
        # last one and not after it, because Keras does not ask for more batches than there are.
        epoch_counter.assign(tf.where(position == plan.num_images - 1, epoch + 1, epoch_counter))
        return batch

    dataset = images.batches(tf.data.Dataset.range(1).flat_map(epoch), files, plan.batch_size)
    return without_tuning(dataset.map(finish, num_parallel_calls=_NUM_PARALLEL).prefetch(tf.data.AUTOTUNE).map(count))


def without_tuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset with the options of a pipeline that says itself what it does at once."""
    options = tf.data.Options()
    options.deterministic = True
    # Many images are decoded at once, and many batches augmented; threads inside each would be in each other's way.
    options.threading.max_intra_op_parallelism = 1
    # Nothing is left to tune, and in TensorFlow 2.21 an iterator that is deleted sometimes waits for the tuner's next
    # look, up to as long as the pass took and a minute at most.
    options.autotune.enabled = False
    return dataset.with_options(options)
