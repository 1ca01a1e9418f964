"""Restores the epoch that a dataset of `load_dataset` keeps, for those who only look at its batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def epoch_kept(dataset: Any) -> Iterator[None]:
    """Puts back the epoch that a dataset was at, if it counts them, so that training goes on with it all the same."""
    counter = getattr(dataset, "epoch_counter", None)
    before = None if counter is None else counter.numpy()
    try:
        yield
    finally:
        if counter is not None:
            counter.assign(before)
