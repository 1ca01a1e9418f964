"""`FileDecoder`: decodes files for a cache, if there is the room."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from hashlib import sha256
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_sgdr.data.dataset.encoded_files import EncodedFiles
from keras_sgdr.data.decode.corrupt_images import check_images
from keras_sgdr.data.decode.decode_spec import DecodeSpec
from keras_sgdr.data.index.file_names import printable
from keras_sgdr.data.index.files import is_remote
from keras_sgdr.data.index.read_files import file_stamps
from keras_sgdr.data.index.shards import ShardPaths
from keras_sgdr.validation import InvalidValueError

Pixels: TypeAlias = npt.NDArray[np.uint8]

# Counts up whenever the same file would be decoded to other pixels, or be written in another way.
_VERSION = 2
_NUM_SAMPLED = 64


class FileDecoder:
    """Decodes files in their order.

    Args:
        paths: The files, each once.
        decode_spec: What to make of them.
        verbose: Whether to say how much room they take, and to show the progress (1), or nothing (0).
    """

    def __init__(self, paths: Sequence[str], decode_spec: DecodeSpec, verbose: int) -> None:
        self.paths = paths
        self.decode_spec = decode_spec
        self.verbose = verbose

    def key(self) -> str:
        """Hashes all that the pixels depend on."""
        digest = sha256(repr((_VERSION, tf.__version__, astuple(self.decode_spec))).encode())
        if isinstance(self.paths, ShardPaths):
            digest.update(self.paths.digest())
            return digest.hexdigest()[:32]
        for path, stamp in zip(self.paths, file_stamps(self.paths), strict=True):
            name = path if is_remote(path) else os.path.abspath(path)  # noqa: PTH100 (a link is another file)
            digest.update(f"{name}\0{stamp}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()[:32]

    def check_room(self, where: str, available: int | None, *, done: int) -> None:
        """Says how much room the images take, less what is `done`, and refuses if there is not as much."""
        needed = max(self.num_bytes() - done, 0)
        if available is not None and needed > available:
            raise InvalidValueError(
                f"`cache` must have room for the decoded images. Received: cache={where!r} with "
                f"{_megabytes(available)} available and {_megabytes(needed)} needed. Give another place, or a smaller "
                "`image_size`."
            )
        known = "" if available is None else f" of {_megabytes(available)} available"
        self.say(f"Caching {len(self.paths)} images in {where}: {_megabytes(needed)}{known}")

    def say(self, text: str) -> None:
        """Prints a line, if it is to print at all."""
        if self.verbose:
            sys.stdout.write(f"{text}\n")

    def num_bytes(self, *, at_most: int = 0) -> int:
        """Returns how much all images take: known if they have one size, and else judged by some of them.

        Args:
            at_most: None of them is looked at if they cannot take more than this, but for long ones that are cropped.
        """
        height, width = self.decode_spec.image_size
        count = len(self.paths)
        if not (self.decode_spec.is_cropped_anywhere or self.decode_spec.is_resampled):
            return 3 * height * width * count
        if 12 * height * width * count <= at_most:
            return 12 * height * width * count
        sampled = np.unique(np.linspace(0, count - 1, min(count, _NUM_SAMPLED)).astype(np.int64))
        lengths = [image.nbytes for _, image in self._decoded(sampled)]
        return int(np.mean(lengths) * count) if lengths else 0

    def images(self, *, first: int) -> Iterator[Pixels]:
        """Yields the images from the one at `first` on.

        Raises:
            ValueError: If files are not images, naming them; all that follow the first such file are tried before.
        """
        progress = keras.utils.Progbar(len(self.paths), verbose=self.verbose, unit_name="image", interval=0.5)
        expected = first
        bad: list[int] = []
        for position, image in self._decoded(np.arange(first, len(self.paths))):
            bad += range(expected, position)
            expected = position + 1
            if not bad:
                yield image
            progress.update(expected)
        bad += range(expected, len(self.paths))
        if bad:
            self._refuse([self.paths[position] for position in bad])

    def _decoded(self, positions: npt.NDArray[np.int64]) -> Iterator[tuple[int, Pixels]]:
        """Yields the position of each file that can be decoded, and its image."""

        @tf.autograph.experimental.do_not_convert
        def decode(position: Any, encoded: Any) -> Any:
            return position, self.decode_spec.decode_kept(encoded)

        dataset = EncodedFiles(self.paths).map(
            tf.data.Dataset.from_tensor_slices(positions), tf.identity, decode, num_parallel=tf.data.AUTOTUNE
        )
        yield from dataset.ignore_errors().prefetch(tf.data.AUTOTUNE).as_numpy_iterator()

    @staticmethod
    def _refuse(bad: Sequence[str]) -> None:
        check_images(bad)
        # They fail at their full size alone.
        named = ", ".join(map(printable, bad[:10]))
        raise InvalidValueError(
            f"Every file must be an image that can be decoded. Received: {len(bad)} that cannot at their full size, "
            f"such as {named}. Remove them, or let no cache keep the decoded images."
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
