"""`EncodedFiles`: the bytes of a split's images in a `tf.data` pipeline, wherever they are."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sgdr.data.index.read_files import are_plain, read_files
from keras_sgdr.data.index.shards import ShardPaths

# Read by one call of Python: each costs as much as some reads, and files behind a URL come all at once.
_AT_ONCE = 32

# The functions below say what they mean in graph operations; to convert them would double the time it takes to begin.
graph_code = tf.autograph.experimental.do_not_convert


class EncodedFiles:
    """Reads images by their index.

    Plain files are read by TensorFlow itself. Those in shards and behind a URL are read in Python, several at once; of
    one that cannot be read there are no bytes, which fail to decode.

    Args:
        paths: The images.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._is_plain = are_plain(paths)
        # Of a whole split in shards the keys are its rows, which need no list.
        self._keys: Any = None
        self._first = 0
        # TensorFlow never forgets a function of Python: these hold no more than the opened shards, and no paths.
        self._read: Callable[[Any], list[bytes | OSError]] = _read_named
        self._names: Callable[[Any], list[str]] = _decoded
        if not isinstance(paths, ShardPaths):
            self._keys = tf.constant([os.fsencode(path) for path in paths])
            return
        self._read, self._names = paths.shards.read, paths.shards.paths
        if isinstance(paths.rows, range):
            self._first = paths.rows.start
        else:
            self._keys = tf.constant(paths.rows)

    def map(
        self, images: tf.data.Dataset, index_of: Callable[..., Any], function: Callable[..., Any], *, num_parallel: int
    ) -> tf.data.Dataset:
        """Returns `images.map(function)`, where the function is given the bytes of the image as a last argument.

        Args:
            images: What is known of each image.
            index_of: Returns its index from that.
            function: In graph operations.
            num_parallel: How many calls of it there are at once.
        """
        if self._is_plain:

            @graph_code
            def read_and_call(*image: Any) -> Any:
                return function(*image, tf.io.read_file(self._keys[index_of(*image)]))

            return images.map(read_and_call, num_parallel_calls=num_parallel)

        @graph_code
        def read(*batch: Any) -> Any:
            keys = self._key(index_of(*batch))
            encoded = tf.numpy_function(partial(_contents, self._read), [keys], tf.string, stateful=False)
            return *batch, tf.ensure_shape(encoded, [None])

        encoded = images.batch(_AT_ONCE).map(read, num_parallel_calls=num_parallel).unbatch()
        return encoded.map(graph_code(function), num_parallel_calls=num_parallel)

    def name(self, index: Any) -> Any:
        """Returns, in graph operations, the path of an image; and why it cannot be read, if it cannot."""
        if self._is_plain:
            return self._keys[index]
        return tf.numpy_function(partial(_described, self._read, self._names), [self._key(index)[None]], tf.string)

    def _key(self, index: Any) -> Any:
        return index + self._first if self._keys is None else tf.gather(self._keys, index)


def _contents(read: Callable[..., Any], keys: Any) -> Any:
    # Not an array of NumPy's own strings, which lose zeros at their ends.
    return np.array([b"" if isinstance(each, OSError) else each for each in read(keys)], object)


def _described(read: Callable[..., Any], names: Callable[..., Any], keys: Any) -> Any:
    (name,), (encoded,) = names(keys), read(keys)
    return os.fsencode(f"{name} ({encoded})" if isinstance(encoded, OSError) else name)


def _decoded(keys: Any) -> list[str]:
    return [os.fsdecode(key) for key in keys]


def _read_named(keys: Any) -> list[bytes | OSError]:
    return read_files(_decoded(keys))
