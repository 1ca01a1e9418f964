"""Builds what a recipe describes: the model, its images and activations, the optimizers and the finder's curve."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr.augmentation import random_view
from keras_sgdr.data.dataset.free_space import available_memory
from keras_sgdr.data.dataset.image_cache import ImageMemory
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.split import FolderIndex, Split
from keras_sgdr.distribution.workers import Workers
from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.lr_finder.lr_find import lr_find
from keras_sgdr.models.classifier import build_classifier, load_classifier
from keras_sgdr.models.layer_groups import freeze_to, layer_groups, unfreeze
from keras_sgdr.models.softmax_regression import SoftmaxRegression, fit_softmax_regression
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.optimizers.group_rates import discounted_rates
from keras_sgdr.precompute.feature_cache import user_cache
from keras_sgdr.precompute.precompute import precompute_features
from keras_sgdr.recipe.candidates import guessing_loss
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.validation import InvalidValueError, require

# The least recently used features are removed above this
FEATURE_CACHE_BYTES = 20 * 2**30
# Decoded images are kept in memory up to this
IMAGE_MEMORY_BYTES = 2 * 2**30
# The head's optimum is sought on at most so many images: 1,280 activations of each take 250 MB, and more change little.
HEAD_IMAGES = 50_000
# What `xla` is called by Keras
_JIT_COMPILE = {"auto": "auto", "on": True, "off": False}


def make_model(recipe: Recipe, num_classes: int, weights: str | None) -> keras.Model:
    """Returns the untrained classifier of a recipe."""
    backbone = recipe.backbone
    if backbone.endswith(".keras"):
        require(Path(backbone).is_file(), "`backbone` must be a known name or a `.keras` file", backbone=backbone)
        backbone = keras.models.load_model(backbone, compile=False)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(chosen_precision(recipe.precision))
    try:
        return build_classifier(
            num_classes,
            backbone=backbone,
            weights=weights,
            image_size=recipe.image_size,
            dropout=recipe.dropout,
        )
    finally:
        keras.config.set_dtype_policy(before)


def take_over(model: keras.Model, run: str, class_names: Sequence[str]) -> None:
    """Gives a model the weights of a finished run's; the head's for the classes that both have, and zero for others.

    Raises:
        ValueError: If the run has another backbone.
    """
    before = load_classifier(run)
    weights, found = model.get_weights(), before.model.get_weights()
    if [each.shape for each in weights[:-2]] != [each.shape for each in found[:-2]]:
        raise InvalidValueError(
            f"`start_from` must be a run with the same backbone. Received: start_from={run!r}, a {before.model.name} "
            f"of {before.model.count_params()} parameters, for a {model.name} of {model.count_params()}. Give "
            "`backbone` as it was there."
        )
    kernel, bias = (np.zeros_like(each) for each in weights[-2:])
    for place, name in enumerate(class_names):
        if name in before.class_names:
            known = before.class_names.index(name)
            kernel[:, place], bias[place] = found[-2][:, known], found[-1][known]
    model.set_weights([*found[:-2], kernel, bias])


def chosen_precision(precision: str) -> str:
    """Returns the name of a dtype policy; for "auto" what the GPUs here are fastest with."""
    if precision != "auto":
        return precision
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    # Tensor cores compute float16 from NVIDIA's capability 7 on, and bfloat16, which needs no loss scaling, from 8 on.
    capability = min((each.get("compute_capability", (0, 0)) for each in details), default=(0, 0))
    if capability >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= (7, 0) else "float32"


def make_augmentation(recipe: Recipe) -> keras.layers.Layer:
    """Returns the augmentation of a recipe."""
    preset = getattr(random_view, recipe.augmentation)
    return preset(max_zoom=recipe.max_zoom)


def make_dataset(recipe: Recipe, split: Split, **options: Any) -> Any:
    """Returns the images of a split, batch by batch; `options` are further ones of `load_dataset`."""
    return load_dataset(
        split,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        resize=recipe.resize,
        seed=recipe.seed,
        **options,
    )


def training_split(recipe: Recipe, index: FolderIndex) -> Split:
    """Returns the images that a recipe trains on, those of rare classes more than once if it says so."""
    return index.train.oversampled() if recipe.oversample else index.train


def count_images(recipe: Recipe, index: FolderIndex) -> dict[str, int]:
    """Returns how many images each split has, those of rare classes as often as they are trained on."""
    splits = {"train": training_split(recipe, index), "valid": index.valid, "test": index.test}
    return {name: len(split) for name, split in splits.items() if split is not None}


def make_training_data(recipe: Recipe, split: Split, **options: Any) -> Any:
    """Returns what step 8 is trained on: images augmented and shuffled, and mixed and weighted as the recipe says."""
    mixing = random_view.mixing_layers(mixup=recipe.mixup, cutmix=recipe.cutmix)
    augmentation = [make_augmentation(recipe), *mixing]
    layers = {"augmentation": augmentation, "class_weight": recipe.class_weight}
    dataset = make_dataset(recipe, split, shuffle=True, **layers, **options)
    return with_labels_for(recipe, dataset, len(split.class_names), label_smoothing=recipe.label_smoothing)


def with_labels_for(recipe: Recipe, dataset: Any, num_classes: int, *, label_smoothing: float = 0.0) -> Any:
    """Returns a dataset with labels as step 8's loss takes them: where labels are mixed, one-hot, and smoothed."""
    if not recipe.mixes_labels:
        return dataset

    def soften(images: Any, labels: Any, *weights: Any) -> Any:
        labels = tf.one_hot(labels, num_classes) if labels.dtype.is_integer else labels
        return (images, labels * (1 - label_smoothing) + label_smoothing / num_classes, *weights)

    softened = dataset.map(soften)
    softened.made_of = dataset  # keeps alive what the graph does not
    softened.epoch_counter, softened.num_steps = dataset.epoch_counter, dataset.num_steps
    return softened


def make_features(
    recipe: Recipe,
    model: keras.Model,
    split: Split,
    *,
    views: int = 0,
    class_weight: str | None = None,
    cache: Any = None,
    strategy: Any = None,
    verbose: int = 1,
) -> tuple[Any, keras.Model]:
    """Returns activations at the model's frozen boundary, kept for later runs, and the rest of the model.

    Args:
        recipe: The settings.
        model: The classifier, frozen up to where the activations are wanted.
        split: The images.
        views: How many augmented views of each, of which every epoch has one; with 0 the images as they are.
        class_weight: What each class counts for the head, as in `load_dataset`.
        cache: Where the decoded images are kept, as in `load_dataset`.
        strategy: That of several workers, each of whom computes the activations of its own part of the images.
        verbose: 1 shows the progress.
    """
    options = {"class_weight": class_weight, "cache": cache, "strategy": strategy, "verbose": verbose}
    images = make_dataset(recipe, split, augmentation=make_augmentation(recipe) if views else None, **options)
    return precompute_features(
        model,
        images if strategy is None else images.local,
        directory=user_cache(max_bytes=FEATURE_CACHE_BYTES),
        views=max(views, 1),
        seed=recipe.seed,
        verbose=verbose,
    )


def fit_head(train: Sequence[Any], valid: Any, head: keras.Model, workers: Workers) -> SoftmaxRegression:
    """Puts a head of one dense layer at its optimum on precomputed activations, of one or of several datasets.

    Each worker has the activations of its own part of the images, and gets those of all.
    """
    each = [_arrays(features, workers) for features in train]
    arrays = tuple(np.concatenate(column) for column in zip(*each, strict=True))
    found = fit_softmax_regression(arrays, _arrays(valid, workers), num_classes=head.output_shape[-1])
    head.layers[-1].set_weights([found.kernel, found.bias])
    return found


def predict_head(features: Any, head: keras.Model, workers: Workers) -> tuple[Any, Any]:
    """Returns what a head says of precomputed activations, and their labels, in one order."""
    activations, labels, *_ = _arrays(features, workers)
    return head.predict_on_batch(activations), labels


def _arrays(features: Any, workers: Workers) -> tuple[Any, ...]:
    """Activations, labels and perhaps weights in memory, of about `HEAD_IMAGES` images at most, as they come: shuffled.

    Their order is made one of their own, for in another one sums are other by rounding errors: a resumed run, whose
    shuffles are others, finds the same optimum as an unbroken one.
    """
    batches: list[Any] = []
    for batch in features.as_numpy_iterator():
        batches.append(batch)
        if len(batches) * len(batches[0][1]) * workers.count >= HEAD_IMAGES:
            break
    own = [np.concatenate(column) for column in zip(*batches, strict=True)]
    activations, labels, *weights = (np.concatenate(column) for column in zip(*workers.all_of(own), strict=True))
    # By all their bytes: after a ReLU, many rows begin alike.
    rows = np.column_stack([labels.astype("float32"), activations.astype("float32", copy=False)])
    order = np.argsort(rows.view(f"V{rows.strides[0]}").ravel(), kind="stable")
    return (rows[order, 1:], labels[order], *(each[order] for each in weights))


def compile_head(head: keras.Model, *, mixes_labels: bool = False) -> None:
    """Compiles the head, alone or with a frozen body."""
    with head.distribute_strategy.scope():
        _compile(head, keras.optimizers.Adam(), mixes_labels=mixes_labels)


def compile_all(model: keras.Model, recipe: Recipe, rate: float = 1e-3) -> None:
    """Unfreezes the whole network and compiles it with a rate per layer group, `rate` for the last (steps 5 and 6)."""
    unfreeze(model)
    groups = layer_groups(model, num_groups=recipe.num_groups)
    rates: Sequence[float] = discounted_rates(rate, num_groups=len(groups), factor=recipe.group_factor)
    if recipe.learning_rates is not None:
        rates = [rate / recipe.learning_rates[-1] * each for each in recipe.learning_rates]
    with model.distribute_strategy.scope():
        inner = keras.optimizers.AdamW(
            rate,
            use_ema=recipe.ema > 0,
            ema_momentum=recipe.ema,
            gradient_accumulation_steps=recipe.accumulate if recipe.accumulate > 1 else None,
        )
        _compile(model, DifferentialLR(inner, groups, rates), mixes_labels=recipe.mixes_labels, xla=recipe.xla)


def find_rate(
    model: keras.Model, recipe: Recipe, split: Split, *, num_steps: int = 50, verbose: int = 1, **options: Any
) -> LRCurve:
    """Returns the finder's curve of the whole network; `options` are further ones of `load_dataset`."""
    data = make_training_data(recipe, split, verbose=verbose, **options)
    curve = lr_find(model, data, start_lr=1e-5, end_lr=1.0, num_steps=num_steps, verbose=verbose)
    # With weights, each class counts as much.
    guess = math.log(len(split.class_names)) if recipe.class_weight else guessing_loss(split.labels)
    return dataclasses.replace(curve, guessing_loss=guess)


def recompile_from(model: keras.Model, recipe: Recipe, group: int) -> None:
    """Freezes what `compile_all` unfroze up to a layer group; the optimizer goes on."""
    freeze_to(model, group, num_groups=recipe.num_groups)
    with model.distribute_strategy.scope():
        _compile(model, model.optimizer, mixes_labels=recipe.mixes_labels, xla=recipe.xla)


def _compile(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, *, mixes_labels: bool, xla: str = "auto"
) -> None:
    loss = "categorical_crossentropy" if mixes_labels else "sparse_categorical_crossentropy"
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"], jit_compile=_JIT_COMPILE[xla])
    # The first step would make these variables while TensorFlow traces it, which takes twenty times as long; and a step
    # that makes any is traced a second time. With several replicas Keras makes those of the metrics before.
    model.optimizer.build(model.trainable_variables)  # which may wrap it, to scale the loss
    if not tf.distribute.has_strategy():
        num_classes = model.output_shape[-1]
        labels = np.zeros((1, num_classes) if mixes_labels else 1, "float32" if mixes_labels else "int32")
        model.compute_metrics(None, labels, np.zeros((1, num_classes), "float32"))
        model.reset_metrics()


def image_cache(name: str) -> str | ImageMemory | None:
    """Returns what `load_dataset` calls the cache of that name."""
    if name == "off":
        return None
    if name not in ("auto", "memory"):
        return name
    free = available_memory()
    free = sys.maxsize if free is None else free
    return ImageMemory(free if name == "memory" else min(IMAGE_MEMORY_BYTES, free // 4))


def set_stage_seed(model: keras.Model, seed: int, stage: int) -> None:
    """Begins the random numbers of a stage: the global ones, and those of the model's dropout.

    Each dropout layer draws from a seed of its own, which its making chose, and counts; `save_weights` leaves both out,
    and so a resumed run would draw others.
    """
    keras.utils.set_random_seed(seed + stage)
    saved = {id(variable) for variable in model.weights}
    generators = [variable for variable in model.variables if id(variable) not in saved]
    for i, state in enumerate(generators):
        state.assign([np.random.SeedSequence([seed, stage, i]).generate_state(1)[0] >> 1, 0])
