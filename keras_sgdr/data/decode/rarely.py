"""`rarely`: for graph operations that few images need."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def rarely(function: Callable[..., Any]) -> Any:
    """Keeps the operations that few images need out of the graph, which passes over each of them for all others.

    As the decorator of a function of a module, it also lets TensorFlow trace that once, and not for each dataset.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
