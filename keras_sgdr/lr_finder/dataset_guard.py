"""Passes data to `fit` for a finder, in a way that leaves the order of the data as it was."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_sgdr.data.dataset.epoch_counter import epoch_kept
from keras_sgdr.lr_finder.tensorflow_dataset_copy import CannotCopyError, copy_dataset, is_of_tensorflow
from keras_sgdr.validation import InvalidTypeError


def check_data(data: Any) -> None:
    """Refuses data that can be gone through once only."""
    if isinstance(data, Iterator):
        raise InvalidTypeError(
            "`dataset` must be something that can be gone through more than once. Received: an iterator, "
            f"{type(data).__name__}. Pass a function that makes it, for instance lr_find(model, make_batches)."
        )


def fit_arguments(data: Any) -> dict[str, Any]:
    """Returns the arguments of `fit` for data as `lr_find` takes it."""
    if isinstance(data, (tuple, list)):
        return dict(zip(("x", "y", "sample_weight"), data, strict=False))
    if isinstance(data, keras.utils.PyDataset):
        return {"x": data}
    # Keras warns, where it cannot shuffle, that it does not.
    return {"x": data, "shuffle": False}


def peek_as_keras_does(model: Any, data: Any) -> None:
    """Builds model, metrics and optimizer from a look at the data's first batch, on JAX and PyTorch.

    Their trainers take this look before a model's first epoch only, and it counts as a pass over data that shuffles.
    Done here, before anything is copied, it does not go missing.
    """
    if (
        keras.backend.backend() != "tensorflow"
        and not _is_function(data)
        and not isinstance(data, keras.utils.PyDataset)
    ):
        model.fit(**fit_arguments(data), epochs=0, verbose=0)


@contextmanager
def probe_arguments(data: Any) -> Iterator[dict[str, Any]]:
    """Yields the arguments of `fit` for a finder, and leaves the order of the user's data as it was."""
    if _is_function(data):
        data = data()
    elif isinstance(data, keras.utils.PyDataset):
        data = _copied(data)
    with _kept_place(data):
        yield fit_arguments(_own_copy(data))


def reordered(arguments: dict[str, Any], order: int) -> dict[str, Any]:
    """Returns the arguments with their arrays in another order for each `order` but 0, and seeds the global generators.

    A pipeline shuffles anew on its next pass by itself; that of `load_dataset` once its epoch is over.
    """
    if order == 0:
        return arguments
    counter = getattr(arguments["x"], "epoch_counter", None)
    if counter is not None:
        counter.assign_add(1)
    random.seed(order)
    np.random.seed(order)
    if "y" not in arguments:
        return arguments
    arrays = keras.tree.map_structure(lambda values: None if values is None else np.asarray(values), arguments)
    num_rows = {array.shape[:1] for array in keras.tree.flatten(arrays) if array is not None}
    if len(num_rows) != 1 or () in num_rows:
        kinds = sorted({type(values).__name__ for values in keras.tree.flatten(arguments)})
        raise InvalidTypeError(
            f"`repeats` must be 1 unless all arrays have as many rows, as NumPy counts them. Received: {kinds}. "
            "Give dense arrays, or a function that makes a shuffled pipeline of them."
        )
    permutation = np.random.permutation(*num_rows.pop())
    return keras.tree.map_structure(lambda array: None if array is None else array[permutation], arrays)


def _is_function(data: Any) -> bool:
    return callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__")


def _copied(data: keras.utils.PyDataset) -> Any:
    """Returns a copy, because its `on_epoch_end` may shuffle."""
    try:
        return copy.deepcopy(data)
    except TypeError as error:  # a lock, an open file
        return _used_itself(data, str(error))


def _own_copy(data: Any) -> Any:
    """Returns a copy of a `tf.data` pipeline, whose passes, shuffles and variables are its own; other data as it is."""
    if not (is_of_tensorflow(data) and hasattr(data, "element_spec")):
        return data
    if hasattr(data, "epoch_counter"):
        # A dataset of `load_dataset` keeps nothing but its epoch, which is put back. In a copy the functions that read
        # and write it would have a variable each, and every pass would be the same epoch. Without end, because before
        # each pass TensorFlow prepares the graph again, which takes longer than the few batches of a small folder.
        endless = data.repeat()
        endless.epoch_counter = data.epoch_counter
        endless.num_batches = data.num_steps if hasattr(data, "num_steps") else int(data.cardinality())
        return endless
    try:
        return copy_dataset(data)
    except CannotCopyError as error:
        return _used_itself(data, str(error))


def _used_itself(data: Any, reason: str) -> Any:
    warnings.warn(
        "The finder trains on `dataset` itself, which cannot be copied. If it shuffles anew on each pass, its "
        f"order goes on by the finder's; give a function that makes it to avoid that. Received: {reason}",
        stacklevel=3,
    )
    return data


@contextmanager
def _kept_place(data: Any) -> Iterator[None]:
    """Puts back the epoch of a dataset of `load_dataset`, and the generator of a torch DataLoader."""
    generator: Any = getattr(data, "generator", None)
    state = generator.get_state() if hasattr(generator, "set_state") else None
    try:
        with epoch_kept(data):
            yield
    finally:
        if state is not None:
            generator.set_state(state)
