"""Writes the images of an index as TFRecord shards, from which they can be read in any order."""

import os
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_sgdr.array_store import ArrayWriter, describe_arrays, partial_of, writing_arrays
from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.dataset.free_space import available_disk
from keras_sgdr.data.index.file_names import printable
from keras_sgdr.data.index.files import is_no_file, require_local
from keras_sgdr.data.index.read_files import file_stamps, read_files
from keras_sgdr.data.index.shards import INDEX, shard_name
from keras_sgdr.data.index.split import FolderIndex, Split
from keras_sgdr.validation import FileThereError, InvalidValueError, require_integer

# What the shards of an interrupted call are made of
_SOURCE_FILE = "shards.source"
_AT_ONCE = 64
# A record of a TFRecord file has its length, and a checksum of it, before what it holds.
_RECORD_HEAD, _RECORD_TAIL = 12, 4
_ADVICE = "the shards could not be written. Those that are complete count for the next call. Free some room"


class _Shard(NamedTuple):
    """The images that a shard holds."""

    split: Split
    place: int  # of the split
    number: int  # within the split
    images: range


def write_shards(
    index: FolderIndex,
    directory: str | os.PathLike[str],
    *,
    shard_megabytes: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes all images of an index to a few large files, for where a million small ones are slow to list and to read.

    `index_folder(directory)` gives the same splits then, and `load_dataset` the same batches, bit for bit. Each image
    is copied as it is, with its name and its label, into an example of a TFRecord file, as `image/encoded`,
    `image/filename`, `image/class/label` and `image/class/text`, so that other programs can read them too.

    Shards are written one after the other, each beside its place and then renamed. A call that is interrupted, or
    killed, leaves those that are complete, and the same call goes on after them.

    Args:
        index: From `index_folder`. Its division into splits is kept.
        directory: Where the shards go.
        shard_megabytes: How large a shard is, at least; the last of a split is smaller.
        on_progress: Called with the number of images written so far, and of all, after every shard.

    Returns:
        The directory.

    Raises:
        ValueError: If the directory is a URL, the disk has not the room, or a file cannot be read, or is no file.
        FileExistsError: If the directory holds shards of other images.
    """
    require_integer("shard_megabytes", shard_megabytes)
    require_local("directory", directory)
    target = Path(directory)
    splits = [split for split in (index.train, index.valid, index.test) if split is not None]
    stamps = [np.array(list(file_stamps(split.paths)), np.int64).reshape(-1, 2) for split in splits]
    source = _source_of(index, splits, stamps, shard_megabytes)
    if _are_written(target, source):
        return target
    shards = [
        each for place, split in enumerate(splits) for each in _divided(split, place, stamps[place], shard_megabytes)
    ]
    total = sum(map(len, splits))
    with writing_arrays(target / INDEX, advice=_ADVICE) as writer:
        if describe_arrays(target / INDEX) and _are_written(target, source):  # by another process, meanwhile
            return target
        target.mkdir(parents=True, exist_ok=True)
        begun = target / _SOURCE_FILE
        with atomic_write(begun) as aside:
            aside.write_text(source, encoding="utf-8")
        left = shards[writer.num_batches :]
        _check_room(target, sum(int(stamps[shard.place][shard.images, 0].sum()) for shard in left))
        for shard in left:
            writer.append(_write_shard(target, shard, index, writer))
            if on_progress is not None:
                on_progress(writer.num_rows[0], total)
        divided = [
            {"name": split.name, "images": len(split), "is_labelled": split.labels is not None} for split in splits
        ]
        writer.complete({"source": source, "class_names": list(index.class_names), "splits": divided})
    begun.unlink()
    return target


def _are_written(target: Path, source: str) -> bool:
    """Returns whether a directory has all shards of a source; refuses one that has, or has begun, those of another."""
    described, begun = describe_arrays(target / INDEX), target / _SOURCE_FILE
    is_begun = partial_of(target / INDEX).exists() and begun.exists()
    if described.get("source", begun.read_text(encoding="utf-8") if is_begun else source) != source:
        raise FileThereError(
            f"`directory` must be new, or hold shards of the same images. Received: {target}, with shards of others. "
            "Remove it, or choose another one."
        )
    return bool(described)


def _source_of(index: FolderIndex, splits: list[Split], stamps: list[Any], shard_megabytes: int) -> str:
    """Hashes what the shards are made of."""
    digest, root = sha256(repr((1, index.class_names, shard_megabytes)).encode(errors="surrogateescape")), index.root
    for split, times in zip(splits, stamps, strict=True):
        digest.update(f"{split.name}\0{split.labels is not None}\0".encode())
        for path in split.paths:
            digest.update(_name_of(path, root) + b"\0")
        digest.update(times.tobytes())
        if split.labels is not None:
            digest.update(split.labels.tobytes())
    return digest.hexdigest()


def _name_of(path: str, root: str) -> bytes:
    return os.fsencode(os.path.relpath(path, root))


def _divided(split: Split, place: int, stamps: Any, shard_megabytes: int) -> Iterator[_Shard]:
    """Yields shards that hold so many bytes of images, each one of them."""
    ends = np.cumsum(stamps[:, 0])
    start = number = 0
    while start < len(split):
        before = int(ends[start - 1]) if start else 0
        stop = min(int(np.searchsorted(ends, before + shard_megabytes * 1_000_000)) + 1, len(split))
        yield _Shard(split, place, number, range(start, stop))
        start, number = stop, number + 1


def _check_room(target: Path, needed: int) -> None:
    available = available_disk(target)
    if needed > available:
        raise InvalidValueError(
            f"`directory` must have room for the images. Received: directory={str(target)!r} with "
            f"{available / 1e6:,.0f} MB available and {needed / 1e6:,.0f} MB needed. Give another place."
        )


def _write_shard(target: Path, shard: _Shard, index: FolderIndex, writer: ArrayWriter) -> list[Any]:
    """Writes a shard, and returns what the arrays of the index have to say of it."""
    path = target / shard_name(shard.split.name, shard.number)
    number, name_start = writer.num_batches, writer.num_rows[2] if writer.num_rows else 0
    names, records, offset, root = [], [], 0, index.root
    with atomic_write(path) as aside:
        with tf.io.TFRecordWriter(str(aside)) as file:
            for position, encoded in _contents(shard):
                names.append(_name_of(shard.split.paths[position], root))
                payload = _example(encoded, names[-1], shard.split, position)
                # Any place with the same bytes is as good.
                begins = offset + _RECORD_HEAD + payload.index(encoded)
                records.append((number, begins, len(encoded), zlib.crc32(encoded), name_start, len(names[-1])))
                name_start += len(names[-1])
                offset += _RECORD_HEAD + len(payload) + _RECORD_TAIL
                file.write(payload)
        with aside.open("rb+") as written:
            os.fsync(written.fileno())
    rows, labels = np.array(records, np.int64), _labels_of(shard, index)
    joined = np.frombuffer(b"".join(names), np.uint8)
    digest = sha256(rows[:, 2:4].tobytes() + rows[:, 5].tobytes() + joined.tobytes() + labels.tobytes()).digest()
    sizes = np.array([[shard.place, offset]], np.int64)
    return [rows, labels, joined, sizes, np.frombuffer(digest, np.uint8)[None]]


def _contents(shard: _Shard) -> Iterator[tuple[int, bytes]]:
    """Yields the position of each image in its split, and its bytes."""
    for start in range(shard.images.start, shard.images.stop, _AT_ONCE):
        chunk = range(start, min(start + _AT_ONCE, shard.images.stop))
        paths = [shard.split.paths[position] for position in chunk]
        for path in filter(is_no_file, paths):  # to read it may take for ever
            raise InvalidValueError(f"Every image must be a file. Received: {printable(path)}. Remove it.")
        for position, path, encoded in zip(chunk, paths, read_files(paths), strict=True):
            if isinstance(encoded, OSError):
                raise InvalidValueError(
                    f"Every image must be a file that can be read. Received: {printable(path)}: {encoded}. Remove it."
                ) from encoded
            yield position, encoded


def _example(encoded: bytes, name: bytes, split: Split, position: int) -> bytes:
    labels: list[int] = []
    if split.labels is not None:
        label = split.labels[position]
        labels = np.flatnonzero(label).tolist() if np.ndim(label) else [int(label)]
    classes = [os.fsencode(split.class_names[each]) for each in labels]
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        "image/filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
        "image/class/text": tf.train.Feature(bytes_list=tf.train.BytesList(value=classes)),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized


def _labels_of(shard: _Shard, index: FolderIndex) -> Any:
    """Returns the labels of a shard's images; of those without, zeros of the same kind as train's."""
    labels, of_train = shard.split.labels, index.train.labels
    if labels is not None:
        return labels[shard.images.start : shard.images.stop]
    of_train = np.zeros(0, np.int32) if of_train is None else of_train
    return np.zeros((len(shard.images), *of_train.shape[1:]), of_train.dtype)
