"""Finds files that are not images before a training does."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import tensorflow as tf

from keras_sgdr.data.decode.decode_image import decode_image
from keras_sgdr.data.index.file_names import as_bytes, printable
from keras_sgdr.data.index.files import is_no_file
from keras_sgdr.data.index.formats import HEAD_LENGTH, damage_of, why_not_decoded
from keras_sgdr.data.index.read_files import are_plain, read_files
from keras_sgdr.data.index.split import Split
from keras_sgdr.validation import InvalidValueError

_SHOWN = 50


@dataclass(frozen=True)
class BadImage:
    """A file that does not decode, and why.

    Attributes:
        path: The file.
        reason: The decoder's words, one line.
    """

    path: str
    reason: str


def find_bad_images(
    paths: Iterable[str], *, num_threads: int | None = None, on_progress: Callable[[int], None] | None = None
) -> Iterator[BadImage]:
    """Decodes every file, at the smallest scale its format offers, and yields those that fail, in order.

    Args:
        paths: The files.
        num_threads: How many are decoded at once; as many as there are processors if None.
        on_progress: Called with the number of files seen so far, every 100 files.
    """
    threads = num_threads or os.cpu_count() or 1
    remaining = iter(paths)
    seen = 0
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(remaining, 100)):
            for path, reason in zip(chunk, pool.map(why_bad, chunk), strict=True):
                if reason is not None:
                    yield BadImage(path, reason)
            seen += len(chunk)
            if on_progress is not None:
                on_progress(seen)


def check_images(
    paths: Sequence[str], *, num_threads: int | None = None, on_progress: Callable[[int], None] | None = None
) -> None:
    """Refuses a set of files of which some are not images, before anything is trained on them.

    Args:
        paths: The files.
        num_threads: How many are decoded at once; as many as there are processors if None.
        on_progress: Called with the number of files seen so far, every 100 files.

    Raises:
        ValueError: Naming the files (the first ten of them) and what is wrong with each.
    """
    refuse_images(list(find_bad_images(paths, num_threads=num_threads, on_progress=on_progress)))


def refuse_images(bad: Sequence[BadImage], where: str = "") -> None:
    """Raises the ValueError of `check_images`, unless there is nothing bad.

    Args:
        bad: The files.
        where: Where the user finds all of them, if they are more than are named.
    """
    if bad:
        named = ", ".join(f"{printable(image.path)} ({printable(image.reason)})" for image in bad[:_SHOWN])
        more = f", and {len(bad) - _SHOWN} more{where}" if len(bad) > _SHOWN else ""
        raise InvalidValueError(
            f"Every file must be an image that can be decoded. Received: no image: {named}{more}. Remove or replace it "
            '(`keras-sgdr check --quarantine` moves such files away), or call `load_dataset` with on_bad_image="skip".'
        )


def without_bad_images(split: Split, *, num_threads: int | None = None) -> Split:
    """Leaves out the files that are not images, with one warning that names each of them.

    Args:
        split: The images; all of them are decoded once, at the smallest scale.
        num_threads: How many are decoded at once; as many as there are processors if None.

    Returns:
        The split of the others; `split` itself if there is nothing to leave out.
    """
    bad = {image.path: image.reason for image in find_bad_images(split.paths, num_threads=num_threads)}
    if not bad:
        return split
    named = "; ".join(f"{printable(path)} ({printable(reason)})" for path, reason in bad.items())
    warnings.warn(f"Left out {len(bad)} of {len(split)} files that are not images: {named}.", stacklevel=3)
    return split.take([position for position, path in enumerate(split.paths) if path not in bad])


def why_bad(path: str) -> str | None:
    """Says in one line why a file does not decode; None if it does."""
    try:
        encoded = read_image(path)
        _decoder()(encoded)
    except BadImageError as error:
        return str(error)
    except tf.errors.OpError as error:
        return reason_of(error)
    return None


class BadImageError(Exception):
    """A file whose first look says that it does not decode; its text is the reason, in one line."""


def read_image(path: str) -> bytes:
    """Reads a file that looks like an image.

    Raises:
        BadImageError: If it is of another format, empty, or damaged in a way that decoders pass over.
        tf.errors.OpError: If it cannot be read.
    """
    if is_no_file(path):
        raise BadImageError("is a folder, a pipe or a device and no file")
    encoded = tf.io.read_file(as_bytes(path)).numpy() if are_plain([path]) else read_files([path])[0]
    if isinstance(encoded, OSError):
        raise BadImageError(str(encoded))
    reason = why_not_decoded(encoded[:HEAD_LENGTH]) or damage_of(encoded)
    if reason is not None:
        raise BadImageError(reason)
    return bytes(encoded)


def reason_of(error: tf.errors.OpError) -> str:
    """Returns what is wrong, in one line: the last one of a message, without the traceback and the graph's names."""
    message = error.message
    message = re.sub(r"\{\{[^}]*\}\}|\t? ?\[\[.*|\[Op:\w+\].*", "", message, flags=re.DOTALL)
    if "assertion failed: " in message:
        message = re.sub(r"[][]", "", message.partition("assertion failed: ")[2])
    lines = message.split("\n")
    return next((line.strip().rstrip(".") for line in reversed(lines) if line.strip()), "it does not decode")


@lru_cache(maxsize=1)
def _decoder() -> Any:
    # "squish", because "crop" would not look at the edges; small, so that a JPEG is decoded at an eighth.
    def decode(encoded: Any) -> Any:
        return decode_image(encoded, image_size=16, resize="squish")

    return tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])
