"""A split of pictures -> batches, in an order and with an augmentation that depend on nothing but seed and epoch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sgdr.data.bad_pictures import without_bad_pictures
from keras_sgdr.data.batch_augmentation import BatchAugmentation, make_batch_augmentation
from keras_sgdr.data.decoding import checked_image_size, checked_resize, decode_image, decode_pixels
from keras_sgdr.data.gaps import Place, refuse_gaps
from keras_sgdr.data.splits import Split
from keras_sgdr.data.stateless_random import crop_position, epoch_draws

# The functions below say what they mean in graph operations; to convert them would double the time it takes to begin.
graph_code = tf.autograph.experimental.do_not_convert


def load_dataset(
    split: Split,
    *,
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 32,
    resize: str = "crop",
    augmentation: Any = None,
    shuffle: bool = False,
    seed: int = 0,
    initial_step: int = 0,
    drop_remainder: bool = False,
    on_bad_image: str = "error",
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
        augmentation: a layer from `basic`, `side_on` or `top_down`; any other layer of Keras or KerasCV for pictures
            (`RandAugment`, `AugMix`, `RandomErasing`, …), or a list of layers, of which a preset is fastest as the
            first one, in the same resampling as the resize. `MixUp` and `CutMix` mix pictures of a batch and make the
            labels float32 of shape `(batch, num_classes)`: train on `CategoricalCrossentropy`. A picture's view is a
            function of (seed, epoch, index) for all of them, see `keras_sgdr.data.repeatable_draws.draws_from`; but a
            mixed picture's also of its neighbours in the batch, and what a layer draws by other means than Keras's and
            TensorFlow's random functions (`keras.layers.AugMix` picks its operations with Python's) it draws once.
            With "crop", it is a random part of the picture along its long side. None for the pictures as they are.
        shuffle: whether each epoch has an order of its own; otherwise that of the split.
        seed: chooses orders and views.
        initial_step: the global step (batches since the first epoch began) to begin at; what comes before it is not
            decoded. Within an epoch, the dataset's cardinality is unknown, because the first pass is shorter.
        drop_remainder: whether a last batch of fewer than `batch_size` pictures is left out.
        on_bad_image: "error" fails when a file that is not a picture is reached, and names it; "skip" decodes all files
            first and leaves the bad ones out, with one warning that names them.

    Returns:
        A dataset of `(images, labels)`, or of `images` where the split has no labels. Images have the shape
        `(batch, height, width, 3)` and values in [0, 255], float32 if they are augmented and uint8 if not; labels are
        int32 of shape `(batch,)`, or float32 of shape `(batch, num_classes)` where there are several for a picture.

    Raises:
        ValueError: if an argument is out of its range, or a layer mixes labels that the split has not.
        TypeError: if `augmentation` is something else than layers.
        tf.errors.InvalidArgumentError: on the way, if a file is not a picture, naming it. See
            `keras_sgdr.data.bad_pictures.check_pictures` for finding out before.
    """
    size = checked_image_size(image_size)
    checked_resize(resize)
    _check_integer("batch_size", batch_size, 1)
    _check_integer("initial_step", initial_step, 0)
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f'`on_bad_image` must be "error" or "skip". Received: on_bad_image={on_bad_image!r}.')
    if on_bad_image == "skip":
        split = without_bad_pictures(split)
    num_steps = len(split) // batch_size if drop_remainder else -(-len(split) // batch_size)
    if not num_steps:
        raise ValueError(
            f"`split` must fill at least one batch. Received: {len(split)} pictures with batch_size={batch_size}, "
            f"drop_remainder={drop_remainder}."
        )
    num_pictures = num_steps * batch_size if drop_remainder else len(split)
    first_epoch, first_step = divmod(initial_step, num_steps)
    plan = _Plan(len(split), num_pictures, batch_size, shuffle, seed, first_epoch, first_step * batch_size)
    epoch_counter = tf.Variable(first_epoch, dtype=tf.int64, trainable=False, name="epoch")
    layers = make_batch_augmentation(augmentation, split=split, image_size=size)
    dataset = _stream(plan, _Pictures(split, size, resize, layers), epoch_counter)
    if not first_step:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_steps))
    dataset.epoch_counter = epoch_counter
    return dataset


@dataclass(frozen=True)
class _Plan:
    """Which pictures an epoch is made of, and in which order."""

    num_in_split: int
    num_pictures: int
    batch_size: int
    shuffle: bool
    seed: int
    first_epoch: int
    first_position: int

    def pictures(self, epoch: Any, paths: Any) -> tf.data.Dataset:
        """Gives an epoch's pictures: epoch, place in the epoch, index in the split, seed."""
        order, seeds = epoch_draws(self.num_in_split, seed=self.seed, epoch=epoch)
        if not self.shuffle:
            order = tf.range(self.num_in_split, dtype=tf.int64)
        end = tf.constant(self.num_pictures, tf.int64)
        start = tf.where(epoch == self.first_epoch, tf.constant(self.first_position, tf.int64), 0)

        @graph_code
        def picture(position: Any) -> tuple[Any, Place, Any, Any]:
            index = order[position]
            following = order[tf.minimum(position + 1, self.num_in_split - 1)]
            place = Place(position, start, end, paths[order[start]], paths[following])
            return epoch, place, index, seeds[index]

        return tf.data.Dataset.range(start, self.num_pictures).map(picture)


@dataclass(frozen=True)
class _Pictures:
    """What a picture looks like, and what it shows."""

    split: Split
    size: tuple[int, int]
    resize: str
    augmentation: BatchAugmentation | None

    def decode(self, path: Any, seed: Any) -> Any:
        """Reads a file: for augmentation, as pixels that are still to be resampled."""
        encoded = tf.io.read_file(path)
        position = None if self.augmentation is None else crop_position(seed)
        decoder = decode_pixels if self.augmentation is not None and self.augmentation.resizes else decode_image
        return decoder(encoded, image_size=self.size, resize=self.resize, crop_position=position)

    def finish(self, pictures: Any, labels: Any, seeds: Any) -> Any:
        """Makes a batch of what `decode` gave."""
        if self.augmentation is not None:
            pictures, labels = self.augmentation.augment(pictures, labels, seeds)
        return pictures if self.split.labels is None else (pictures, labels)


def _stream(plan: _Plan, pictures: _Pictures, epoch_counter: Any) -> tf.data.Dataset:
    paths = tf.constant(list(pictures.split.paths))
    labels = tf.constant(np.zeros(len(pictures.split)) if pictures.split.labels is None else pictures.split.labels)

    @graph_code
    def epoch(_: Any) -> tf.data.Dataset:
        return plan.pictures(epoch_counter.read_value(), paths)

    @graph_code
    def decode(epoch: Any, place: Place, index: Any, seed: Any) -> Any:
        return epoch, place, pictures.decode(paths[index], seed), labels[index], seed

    @graph_code
    def finish(epochs: Any, places: Place, *batch: Any) -> Any:
        return epochs[0], places.position[-1], pictures.finish(*batch)

    @graph_code
    def count(epoch: Any, position: Any, batch: Any) -> Any:
        # Here, where a batch is handed over, and not where it is made, which may be several batches ahead; with the
        # last one and not after it, because Keras does not ask for more batches than there are.
        epoch_counter.assign(tf.where(position == plan.num_pictures - 1, epoch + 1, epoch_counter))
        return batch

    dataset = tf.data.Dataset.range(1).flat_map(epoch)
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors().batch(plan.batch_size)
    dataset = refuse_gaps(dataset, lambda *batch: batch[1])
    dataset = dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE).map(count)
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)


def _check_integer(name: str, value: int, low: int) -> None:
    if not isinstance(value, int) or value < low:
        raise ValueError(f"`{name}` must be an integer >= {low}. Received: {name}={value}.")
