"""What a finder trains on: the data given, in a way that leaves its order as it was."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras


class ProbeData:
    """The arguments of `fit` for a probe, and the state of the data that is put back after it.

    Args:
        data: What `lr_find` was given, see there.
    """

    def __init__(self, data: Any) -> None:
        if isinstance(data, (types.GeneratorType, Iterator)):
            raise TypeError(
                "`dataset` must be something that can be gone through more than once. Received: an iterator, "
                f"{type(data).__name__}. Pass a function that makes it, for instance lr_find(model, make_batches)."
            )
        self.is_function = callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__")
        self.data = data

    @contextmanager
    def arguments(self) -> Iterator[dict[str, Any]]:
        """The arguments of `fit`; on leaving, the data's order is put back."""
        data = self.data() if self.is_function else self.data
        if isinstance(data, keras.utils.PyDataset):
            # Its `on_epoch_end` may shuffle.
            yield {"x": copy.deepcopy(data)}
        elif isinstance(data, (tuple, list)):
            yield dict(zip(("x", "y", "sample_weight"), data, strict=False))
        else:
            with _kept_place(data):
                # Keras warns, where it cannot shuffle, that it does not.
                yield {"x": data, "shuffle": False}


@contextmanager
def _kept_place(data: Any) -> Iterator[None]:
    """Puts back what the datasets of `load_dataset` count epochs with, and the generator of a torch DataLoader."""
    counter, generator = getattr(data, "epoch_counter", None), getattr(data, "generator", None)
    epoch = None if counter is None else counter.numpy()
    state = None if generator is None else generator.get_state()
    try:
        yield
    finally:
        if counter is not None:
            counter.assign(epoch)
        if generator is not None:
            generator.set_state(state)
