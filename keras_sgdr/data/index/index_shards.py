"""Indexes a folder of TFRecord shards: its splits, which were made when it was written."""

from collections.abc import Mapping
from typing import Any

from keras_sgdr.data.index.shards import ShardPaths, open_shards
from keras_sgdr.data.index.split import FolderIndex, Split
from keras_sgdr.validation import InvalidValueError


def index_shards(directory: str, layout: Mapping[str, Any] | None = None) -> FolderIndex:
    """Opens shards that `write_shards` has written.

    Args:
        directory: The folder of shards.
        layout: Arguments of `index_folder` that say how a folder is divided, which was done when it was written; none
            of them may be given.

    Returns:
        The index that was written. Its `paths` are made when they are asked for.

    Raises:
        ValueError: If the folder is incomplete, a shard has another size than it was written with, or the division is
            to be another one.
    """
    given = {name: value for name, value in (layout or {}).items() if value}
    if given:
        raise InvalidValueError(
            "Shards are divided and labelled when they are written. Received: "
            f"{', '.join(f'{name}={value!r}' for name, value in given.items())} for {directory}. Leave it out, or give "
            "it to `keras-sgdr shard`."
        )
    shards = open_shards(directory)
    splits = {
        name: Split(
            name,
            ShardPaths(shards, rows),
            shards.labels[rows.start : rows.stop] if is_labelled else None,
            shards.class_names if is_labelled else (),
        )
        for name, rows, is_labelled in shards.splits
    }
    folders = {name: f"{directory}/{name}-*.tfrecord" for name in splits}
    return FolderIndex(directory, shards.class_names, splits["train"], splits["valid"], splits.get("test"), folders)
