"""Names the file that failed to decode in the middle of a stream.

A failing operation cannot say which file it read, and a graph cannot catch it. But a dataset can leave the image out
(`ignore_errors`); then there is a gap in the places of those that come through, and the place before a gap knows what
should have followed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class EpochPosition(NamedTuple):
    """Where an image stands in its epoch.

    Attributes:
        position: Of the image, int64.
        start: Of the first image of this pass, int64.
        end: One more than the last image's position, int64.
        first_index: The first image's index.
        next_index: The index of the image after this one.
    """

    position: Any
    start: Any
    end: Any
    first_index: Any
    next_index: Any


def refuse_gaps(
    dataset: tf.data.Dataset, name: Callable[[Any], Any], places_of: Callable[..., EpochPosition], *, batch_size: int
) -> tf.data.Dataset:
    """Passes batches on until an image is missing, and then fails with the name of its file.

    Args:
        dataset: Batches of images.
        name: Returns, in graph operations, what the image with an index is called.
        places_of: Returns the images' places, with tensors of shape `(batch,)`, from a batch's parts.
        batch_size: Images in a batch; one of fewer is the last.

    Returns:
        The same batches; `tf.errors.InvalidArgumentError` instead of the first one that lacks an image.
    """
    # An epoch may end with a gap: the empty batch at the end looks for that.
    with_end = dataset.concatenate(tf.data.Dataset.from_tensors(_empty(dataset.element_spec)))
    start = (tf.constant(-1, tf.int64),) * 3

    @tf.autograph.experimental.do_not_convert
    def check(state: Any, batch: Any) -> tuple[Any, Any]:
        places = places_of(*batch)
        return tf.cond(
            tf.size(places.position) > 0,
            lambda: _after(state, places, name, batch_size),
            lambda: _at_end(state, name),
        ), batch

    checked = with_end.scan(start, check)

    @tf.autograph.experimental.do_not_convert
    def is_batch(*batch: Any) -> Any:
        return tf.size(places_of(*batch).position) > 0

    return checked.filter(is_batch)


def _after(
    state: tuple[Any, Any, Any], places: EpochPosition, name: Callable[[Any], Any], batch_size: int
) -> tuple[Any, Any, Any]:
    expected, _, index = state
    is_first = expected < 0
    expected = tf.where(is_first, places.start[0], expected)
    index = tf.where(is_first, places.first_index[0], index)
    steps = places.position - tf.concat([[expected - 1], places.position[:-1]], axis=0)
    # After the last batch Keras asks for no more: if that is short of an image, it must be said now.
    is_last = tf.size(steps) < batch_size
    steps = tf.concat([steps, [tf.where(is_last, places.end[0] - places.position[-1], 1)]], axis=0)
    missing = tf.gather(tf.concat([[index], places.next_index], axis=0), tf.argmax(steps != 1))
    with tf.control_dependencies([_fail_unless(tf.reduce_all(steps == 1), lambda: name(missing))]):
        return places.position[-1] + 1, places.end[-1], places.next_index[-1]


def _at_end(state: tuple[Any, Any, Any], name: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    expected, end, index = state

    def missing() -> Any:
        every = tf.where(index < 0, "every file, such as ", "")
        return tf.strings.join([every, name(tf.maximum(index, 0))])

    with tf.control_dependencies([_fail_unless((expected == end) & (expected >= 0), missing)]):
        return tuple(tf.identity(part) for part in state)


def _fail_unless(condition: Any, path_of: Callable[[], Any]) -> Any:
    message = "Every file must be an image that can be decoded. Received: not an image:"
    path = tf.cond(condition, lambda: "", path_of)
    # A name need not be UTF-8; a message that is not would be a UnicodeDecodeError.
    path = tf.strings.unicode_transcode(path, "UTF-8", "UTF-8")
    advice = 'Remove it, or load with on_bad_image="skip".'
    return tf.debugging.Assert(condition, [message, path, advice])


def _empty(spec: Any) -> Any:
    return tf.nest.map_structure(lambda part: tf.zeros([0, *part.shape[1:]], part.dtype), spec)
