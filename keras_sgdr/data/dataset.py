"""A split of pictures -> batches, in an order and with an augmentation that depend on nothing but seed and epoch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sgdr.data.augmentation import RandomView
from keras_sgdr.data.decoding import checked_image_size, checked_resize, decode_image
from keras_sgdr.data.splits import Split
from keras_sgdr.data.stateless_random import permutation, picture_seeds


def load_dataset(
    split: Split,
    *,
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 32,
    resize: str = "crop",
    augmentation: RandomView | None = None,
    shuffle: bool = False,
    seed: int = 0,
    initial_step: int = 0,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Gives the batches of a split, ready for `model.fit(dataset, epochs=n)`.

    Each pass over the dataset is the next epoch: another order of the whole split, other views of its pictures. The
    order of epoch e, and the view of picture i in it, are functions of (seed, e, i) alone, so that neither the number
    of threads nor a restart changes what the model sees.

    The epoch is kept in a variable, `dataset.epoch_counter` (int64), which counts an epoch when its last batch has been
    taken; a pass that is left before is begun anew by the next one. To put a dataset back to where it was, save
    `epoch = dataset.epoch_counter.numpy()` and later call `dataset.epoch_counter.assign(epoch)`.

    Args:
        split: the pictures, from `index_folder`.
        image_size: `(height, width)` of the batches in pixels, or one number for both.
        batch_size: pictures in a batch; the last one of an epoch may be smaller.
        resize: "crop", "squish" or "pad", see `keras_sgdr.data.decoding.decode_image`.
        augmentation: a layer from `basic`, `side_on` or `top_down`; None for the pictures as they are.
        shuffle: whether each epoch has an order of its own; otherwise that of the split.
        seed: chooses orders and views.
        initial_step: the global step (batches since the first epoch began) to begin at; what comes before it is not
            decoded. Within an epoch, the dataset's cardinality is unknown, because the first pass is shorter.
        drop_remainder: whether a last batch of fewer than `batch_size` pictures is left out.

    Returns:
        A dataset of `(images, labels)`, or of `images` where the split has no labels. Images have the shape
        `(batch, height, width, 3)` and values in [0, 255], float32 if they are augmented and uint8 if not; labels are
        int32 of shape `(batch,)`, or float32 of shape `(batch, num_classes)` where there are several for a picture.

    Raises:
        ValueError: if an argument is out of its range.
        tf.errors.InvalidArgumentError: on the way, if a file is not a picture, naming it. See
            `keras_sgdr.data.bad_pictures.check_pictures` for finding out before.
    """
    size = checked_image_size(image_size)
    checked_resize(resize)
    _check_integer("batch_size", batch_size, 1)
    _check_integer("initial_step", initial_step, 0)
    num_steps = len(split) // batch_size if drop_remainder else -(-len(split) // batch_size)
    if not num_steps:
        raise ValueError(
            f"`split` must fill at least one batch. Received: {len(split)} pictures with batch_size={batch_size}, "
            f"drop_remainder={drop_remainder}."
        )
    first_epoch, first_step = divmod(initial_step, num_steps)
    plan = _Plan(len(split), batch_size, num_steps, shuffle, seed, first_epoch, first_step)
    load = _loader(split, size, resize, augmentation, seed)
    return _stream(plan, load)


@dataclass(frozen=True)
class _Plan:
    """Which pictures make up which batch."""

    num_pictures: int
    batch_size: int
    num_steps: int
    shuffle: bool
    seed: int
    first_epoch: int
    first_step: int

    def batches(self, epoch: Any) -> tf.data.Dataset:
        """Gives an epoch's batches: the number of the step, the epoch and the pictures' indices."""
        order = tf.range(self.num_pictures, dtype=tf.int64)
        if self.shuffle:
            order = permutation(self.num_pictures, seed=self.seed, epoch=epoch)
        start = tf.where(epoch == self.first_epoch, tf.constant(self.first_step, tf.int64), 0)

        def batch(step: Any) -> tuple[Any, Any, Any]:
            return step, epoch, order[step * self.batch_size : (step + 1) * self.batch_size]

        return tf.data.Dataset.range(start, self.num_steps).map(batch)


def _stream(plan: _Plan, load: Callable[[Any, Any], Any]) -> tf.data.Dataset:
    epoch_counter = tf.Variable(plan.first_epoch, dtype=tf.int64, trainable=False, name="epoch")

    def count(step: Any, epoch: Any, batch: Any) -> Any:
        # Here, where a batch is handed over, and not where it is loaded, which may be several batches ahead; not after
        # the last one either, because Keras does not ask for more batches than there are.
        epoch_counter.assign(tf.where(step == plan.num_steps - 1, epoch + 1, epoch_counter))
        return batch

    dataset = tf.data.Dataset.range(1).flat_map(lambda _: plan.batches(epoch_counter.read_value()))
    dataset = dataset.map(
        lambda step, epoch, indices: (step, epoch, load(epoch, indices)), num_parallel_calls=tf.data.AUTOTUNE
    )
    dataset = dataset.prefetch(tf.data.AUTOTUNE).map(count)
    options = tf.data.Options()
    options.deterministic = True
    dataset = dataset.with_options(options)
    if not plan.first_step:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(plan.num_steps))
    dataset.epoch_counter = epoch_counter
    return dataset


def _loader(
    split: Split, size: tuple[int, int], resize: str, augmentation: RandomView | None, seed: int
) -> Callable[[Any, Any], Any]:
    """Gives the function from an epoch and indices to a batch."""
    paths = tf.constant(list(split.paths))
    labels = None if split.labels is None else tf.constant(np.asarray(split.labels))

    def load(epoch: Any, indices: Any) -> Any:
        images = _decoded(tf.gather(paths, indices), size, resize)
        if augmentation is not None:
            images = augmentation.augment(images, picture_seeds(seed=seed, epoch=epoch, indices=indices))
        return images if labels is None else (images, tf.gather(labels, indices))

    return load


def _decoded(paths: Any, size: tuple[int, int], resize: str) -> Any:
    """Decodes a batch of files; when one fails, names it.

    A failing operation cannot say which file it read, and cannot be caught in a graph. But a dataset can skip it: then
    fewer pictures than paths come out, and the second dataset below takes over, which finds out which one it was.
    """
    files = tf.data.Dataset.from_tensor_slices(paths)
    count = tf.size(paths, out_type=tf.int64)

    def decode(path: Any) -> Any:
        return decode_image(tf.io.read_file(path), image_size=size, resize=resize)

    decoded = files.map(decode).ignore_errors().batch(count, drop_remainder=True)
    images = decoded.concatenate(files.map(lambda path: _named(path, decode)).batch(count)).take(1).get_single_element()
    return tf.ensure_shape(images, (None, *size, 3))


def _named(path: Any, decode: Callable[[Any], Any]) -> Any:
    """Decodes a file, or fails with its name."""
    one = tf.data.Dataset.from_tensors(path).map(decode).ignore_errors().batch(1)
    found = one.concatenate(tf.data.Dataset.from_tensors(tf.zeros([0, 1, 1, 3], tf.uint8))).take(1).get_single_element()
    message = "Every file must be a picture that can be decoded. Received: not a picture:"
    with tf.control_dependencies([tf.debugging.Assert(tf.shape(found)[0] == 1, [message, path])]):
        return found[0]


def _check_integer(name: str, value: int, low: int) -> None:
    if not isinstance(value, int) or value < low:
        raise ValueError(f"`{name}` must be an integer >= {low}. Received: {name}={value}.")
