"""Loads a split of images as batches, whose order and augmentation depend on seed and epoch alone."""

import os
from collections.abc import Mapping
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr.data.dataset.batch_augmentation import make_batch_augmentation
from keras_sgdr.data.dataset.data_service import check_service, service_stream
from keras_sgdr.data.dataset.epoch_stream import EpochImages, EpochPlan, stream
from keras_sgdr.data.dataset.image_cache import ImageMemory, cached_images
from keras_sgdr.data.dataset.worker_share import WorkerShare, distributed, divided
from keras_sgdr.data.decode.corrupt_images import without_bad_images
from keras_sgdr.data.decode.decode_image import checked_image_size, checked_resize
from keras_sgdr.data.decode.decode_spec import DecodeSpec
from keras_sgdr.data.index.class_weights import checked_class_weights
from keras_sgdr.data.index.files import is_remote
from keras_sgdr.data.index.read_files import file_stamps
from keras_sgdr.data.index.shards import ShardPaths, is_record
from keras_sgdr.data.index.split import Split
from keras_sgdr.validation import InvalidValueError, require_integer


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
    class_weight: str | Mapping[int, float] | None = None,
    cache: str | os.PathLike[str] | ImageMemory | None = None,
    strategy: tf.distribute.Strategy | None = None,
    service: str | None = None,
    verbose: int = 1,
) -> Any:
    """Returns the batches of a split, ready for `model.fit(dataset, epochs=n)`.

    Each pass over the dataset is the next epoch: another order of the whole split, other views of its images. The
    order of epoch e, and the view of image i in it, are functions of (seed, e, i) alone, so that neither the number
    of threads nor a restart changes what the model sees.

    The epoch is kept in a variable, `dataset.epoch_counter` (int64), which counts an epoch when its last batch has been
    taken; a pass that is left before is begun anew by the next one. To put a dataset back to where it was, save
    `epoch = dataset.epoch_counter.numpy()` and later call `dataset.epoch_counter.assign(epoch)`.

    Before each pass TensorFlow prepares the dataset's graph, for half a second or so. Where there are few images,
    `model.fit(dataset.repeat(), steps_per_epoch=len(dataset))` does that once, and shows the model the same.

    The number of batches in an epoch is `dataset.num_steps`, also where `len(dataset)` cannot be known. What the
    batches depend on is in `dataset.source`, where `precompute_features` looks for it.

    Args:
        split: The images, from `index_folder`. `split.oversampled()` repeats those of rare classes;
            `split.weighted(...)` makes the batches `(images, labels, weights)`, also together with `class_weight`,
            with which the weights are multiplied. Where images are mixed, a weight is the first one's.
        image_size: `(height, width)` of the batches in pixels, or one number for both.
        batch_size: Images in a batch; the last one of an epoch may be smaller.
        resize: "crop", "squish" or "pad", see `keras_sgdr.data.decode.decode_image.decode_image`.
        augmentation: A layer from `basic`, `side_on` or `top_down`; any other layer of Keras or KerasCV for images
            (`RandAugment`, `AugMix`, `RandomErasing`, …), or a list of layers, of which a preset is fastest as the
            first one, in the same resampling as the resize. `MixUp` and `CutMix` mix images of a batch and make the
            labels float32 of shape `(batch, num_classes)`: train on `CategoricalCrossentropy`. An image's view is a
            function of (seed, epoch, index) for all of them, see `keras_sgdr.augmentation.seeded_layers`; but a
            mixed image's also of its neighbours in the batch, and what a layer draws by other means than Keras's and
            TensorFlow's random functions (`keras.layers.AugMix` picks its operations with Python's) it draws once.
            With "crop", it is a random part of the image along its long side. None for the images as they are.
        shuffle: Whether each epoch has an order of its own; otherwise that of the split.
        seed: Chooses orders and views.
        initial_step: The global step (batches since the first epoch began) to begin at; what comes before it is not
            decoded. Within an epoch, the dataset's cardinality is unknown, because the first pass is shorter; as
            `model.fit` takes the length of its first epoch for that of all, give it `dataset.repeat()` and
            `steps_per_epoch` then, see `keras_sgdr.TrainingCheckpoint`.
        drop_remainder: Whether a last batch of fewer than `batch_size` images is left out.
        on_bad_image: "error" fails when a file that is not an image is reached, and names it; "skip" decodes all files
            first and leaves the bad ones out, with one warning that names them.
        class_weight: Makes the batches `(images, labels, weights)`. `model.fit` multiplies each image's loss with its
            weight and divides by the number of images, not by the sum of the weights; metrics are weighted only if
            they are compiled as `weighted_metrics`. "balanced" gives a class n / (k * n_c), which all images together
            count as without weights and all classes the same; a dictionary gives the weights of classes, 1 where it has
            none.
        cache: Where the decoded images are kept, as uint8 and before the augmentation, with the margin from which
            "crop" takes another part in each epoch: the batches are the same with it and without. "memory", for as long
            as the dataset lives; a `keras_sgdr.data.dataset.image_cache.ImageMemory`, if they fit into it, for all
            datasets that are given the same one; or a directory on this machine, also for later runs and for several at
            once. They are decoded here, which is resumed if it is interrupted, under a key made of the files (path,
            size and time of change), `image_size`, `resize`, and whether they are augmented; what is kept of files that
            have changed since lies there until it is removed. It takes up to `12 * height * width` bytes for each image
            that is augmented, more for long ones, or else `3 * height * width`.
        strategy: The `tf.distribute` strategy that the model is trained with, so that each worker reads and augments
            its own part of each batch alone. `batch_size` is that of all together, and the parts of all are exactly
            the batch of a single machine; but what `MixUp` and `CutMix` mix are neighbours in a part. Of the last
            batch, if it cannot be divided, the images of a shuffled dataset are weighted, so that the gradient is that
            of a single machine. One that is not shuffled, for validation, may have other batches, so that each image
            counts once.
        service: The address of a tf.data service, "grpc://host:5000", whose machines read, decode and augment; see
            `keras-sgdr data-service --help`. They must see the files under the same paths. The batches of an epoch are
            the same, but in an order that changes. A machine that is lost is waited for, until its worker is started
            again under the same address; what it had begun is left out. So the dataset's length is not known.
        verbose: Whether to say how much room the cache takes, and to show its progress (1), or nothing (0).

    Returns:
        A `tf.data.Dataset`, or with a `strategy` a `tf.distribute.DistributedDataset` that has `repeat()` and `map()`,
        of `(images, labels)`, or of `images` where the split has no labels. Images have the shape
        `(batch, height, width, 3)` and values in [0, 255], float32 if they are augmented and uint8 if not; labels are
        int32 of shape `(batch,)`, or float32 of shape `(batch, num_classes)` where there are several for an image.

    Raises:
        ValueError: If an argument is out of its range, a layer mixes labels that the split has not, there is not the
            room for the cache, or (with a cache) files are not images, naming them.
        TypeError: If `augmentation` is something else than layers.
        tf.errors.InvalidArgumentError: On the way, if a file is not an image, naming it. See
            `keras_sgdr.data.decode.corrupt_images.check_images` for finding out before.
    """
    size = checked_image_size(image_size)
    checked_resize(resize)
    require_integer("batch_size", batch_size)
    require_integer("initial_step", initial_step, low=0)
    if on_bad_image not in ("error", "skip"):
        raise InvalidValueError(f'`on_bad_image` must be "error" or "skip". Received: on_bad_image={on_bad_image!r}.')
    if service is not None:
        check_service(service, split, cache=cache, strategy=strategy)
    if on_bad_image == "skip":
        split = without_bad_images(split)
    share = None if strategy is None else WorkerShare.of(strategy)
    if share is not None:
        batch_size = share.checked_batch_size(batch_size, len(split), is_training=shuffle)
    plan = _make_plan(len(split), batch_size, drop_remainder, shuffle, seed, initial_step)
    own = plan if share is None else _own_plan(plan, share, is_weighted=shuffle and split.labels is not None)
    layers = make_batch_augmentation(augmentation, split=split, image_size=size)
    decode_spec = DecodeSpec(
        size, resize, layers is not None and resize == "crop", layers is not None and layers.resizes
    )
    class_weights = checked_class_weights(split, class_weight)
    # A directory outlives the files: what they hold later does not matter, so their times before they were read count.
    is_on_disk = cache is not None and cache != "memory" and not isinstance(cache, ImageMemory)
    stamps = list(file_stamps(split.paths)) if is_on_disk else None
    cached = None if cache is None else cached_images(split.paths, decode_spec, cache=cache, verbose=verbose)
    images = EpochImages(split, decode_spec, cached, layers, class_weights)
    epoch_counter = tf.Variable(plan.first_epoch, dtype=tf.int64, trainable=False, name="epoch")
    if service is not None:
        dataset = service_stream(plan, images, epoch_counter, service)
        dataset.epoch_counter, dataset.num_steps, dataset.source = epoch_counter, plan.num_steps, None
        return dataset
    dataset = stream(own, images, epoch_counter)
    if share is not None and share.num_local > 1:
        sizes = np.diff(share.ends_of_rest(plan.num_images, plan.batch_size)).tolist()
        dataset = divided(dataset, own.batch_size, sizes)
    if not plan.first_position:
        num_parts = plan.num_steps * (share.num_local if share is not None else 1)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_parts))
    dataset.epoch_counter, dataset.num_steps = epoch_counter, plan.num_steps
    dataset.source = _source(images, own, stamps)
    dataset.cached_images = cached  # which the graph does not keep alive
    if strategy is None:
        return dataset
    batches = distributed(dataset, strategy, plan.num_steps)
    batches.epoch_counter, batches.positions = epoch_counter, own.positions
    return batches


def _own_plan(plan: EpochPlan, share: WorkerShare, *, is_weighted: bool) -> EpochPlan:
    """Returns what a worker reads of an epoch."""
    positions, weights = share.positions(plan.num_images, plan.batch_size)
    own_batch_size = plan.batch_size // share.num_replicas * share.num_local
    return replace(
        plan,
        num_images=len(positions),
        batch_size=own_batch_size,
        first_position=plan.first_position // plan.batch_size * own_batch_size,
        positions=positions,
        weights=weights if is_weighted and not np.all(weights == 1) else None,
    )


def _make_plan(
    num_in_split: int, batch_size: int, drop_remainder: bool, shuffle: bool, seed: int, initial_step: int
) -> EpochPlan:
    num_steps = num_in_split // batch_size if drop_remainder else -(-num_in_split // batch_size)
    if not num_steps:
        raise InvalidValueError(
            f"`split` must fill at least one batch. Received: {num_in_split} images with batch_size={batch_size}, "
            f"drop_remainder={drop_remainder}."
        )
    num_images = num_steps * batch_size if drop_remainder else num_in_split
    first_epoch, first_step = divmod(initial_step, num_steps)
    return EpochPlan(num_in_split, num_images, batch_size, shuffle, seed, first_epoch, first_step * batch_size)


def _source(images: EpochImages, plan: EpochPlan, stamps: list[tuple[int, int]] | None) -> list[Any] | None:
    """Describes what the batches depend on, for `precompute_features`; None where that would take too long or fail."""
    paths = images.split.paths
    layers = () if images.augmentation is None else images.augmentation.layers
    try:
        for layer in layers:
            keras.saving.serialize_keras_object(layer)
    except (TypeError, ValueError, NotImplementedError):  # a layer of the user's that does not describe itself
        return None
    is_slow = not isinstance(paths, ShardPaths) and any(map(is_remote, paths))
    if is_slow or any(isinstance(layer, keras.layers.AugMix) for layer in layers):
        return None  # AugMix picks its operations by other means than a seed
    files: list[Any]
    if isinstance(paths, ShardPaths):
        files = [paths.digest()]
    else:
        files = [_content(path) for path in paths] if stamps is None else [[*map(_absolute, paths)], stamps]
    arrays = [images.split.labels, images.split.weights, images.class_weights]
    adapted = [layer.get_weights() for layer in layers]
    return [files, arrays, list(layers), adapted, list(astuple(plan)), list(astuple(images.decode_spec))]


def _content(path: str) -> Any:
    """Returns a path, which stands for its content; or else its bytes, and the stamp of the file."""
    try:
        path.encode()
        is_plain = not is_record(path)
    except UnicodeEncodeError:
        is_plain = False
    return Path(path) if is_plain else [_absolute(path), *next(file_stamps([path]))]


def _absolute(path: str) -> bytes:
    return os.fsencode(os.path.abspath(path))  # noqa: PTH100 (a link is another file)
