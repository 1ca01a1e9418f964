"""Decides which of a folder's folders are splits and which are classes, and which files are images."""

import posixpath

from keras_sgdr.data.index.files import files_below, head_of, is_folder, subfolders
from keras_sgdr.data.index.formats import DECODED, HEAD_LENGTH, format_of
from keras_sgdr.data.index.split import split_called
from keras_sgdr.validation import InvalidValueError, MissingFileError

# TIFF, HEIC and AVIF cannot be decoded, but an image that is left out in silence is worse than one that is named.
IMAGE_SUFFIXES = frozenset(
    ["avif", "bmp", "dib", "gif", "heic", "heif", "jfif", "jpe", "jpeg", "jpg", "jxl", "png", "tif", "tiff", "webp"]
)


def is_image(path: str) -> bool:
    """Whether a file is called an image or, where its name does not say so, is one that can be decoded."""
    return suffix_of(path) in IMAGE_SUFFIXES or format_of(head_of(path, HEAD_LENGTH)) in DECODED


def suffix_of(path: str) -> str:
    """Returns the suffix of a file's name in small letters, without the dot; "" if it has none."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return suffix.lower() if dot and stem else ""


def find_layout(directory: str, named: dict[str, str | None]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Tells which folder inside `directory` holds which split, and the classes of train.

    Args:
        directory: An existing folder.
        named: For "train", "valid" and "test" the name of the folder, or None to know it by `SPLIT_NAMES`.

    Returns:
        The path of each split that is there; train's is `directory` itself where the class folders lie in it. And the
        names of train's class folders, sorted.

    Raises:
        FileNotFoundError: If a folder is missing.
        ValueError: If it is unclear which folders are splits and which are classes, or there are no class folders.
    """
    _check_directory(directory, "directory", "Check the path.")
    chosen: dict[str, str] = {}
    is_flat = named["train"] == "."
    for split, name in named.items():
        if name is None and not is_flat:
            name = _recognised(directory, split, has_train="train" in chosen)
        elif name is not None:
            name = _checked_name(directory, split, name)
        if name is not None:
            chosen[split] = name
    if "train" not in chosen:
        _check_no_split_among_classes(directory, chosen, named)
        chosen = {"train": ".", **chosen}
    elif set(chosen) == {"train"} and named["train"] is None:
        _check_alone(directory, chosen["train"])
    folders = {split: _inside(directory, name) for split, name in chosen.items()}
    others = [name.partition("/")[0] for split, name in chosen.items() if split != "train"]
    class_names = subfolders(folders["train"], others if chosen["train"] == "." else [])
    if not class_names:
        raise InvalidValueError(
            "`directory` must hold one folder of images for each class. Received: no class folders in "
            f"{folders['train']}."
        )
    if "valid" in folders and not subfolders(folders["valid"]):
        raise InvalidValueError(
            f"Validation images must lie in class folders, as the training images do. Received: {folders['valid']} "
            "without class folders. Sort them, name another folder with `valid`, or rename this one to test/, for "
            "images without labels."
        )
    return folders, class_names


def _checked_name(directory: str, split: str, name: str) -> str:
    """Returns the name of a folder below `directory` as `subfolders` would."""
    clean = posixpath.normpath(name)
    if clean.startswith(("/", "..")) or (clean == "." and split != "train"):
        raise InvalidValueError(f"`{split}` must name a folder inside {directory}. Received: {split}={name!r}.")
    _check_directory(_inside(directory, clean), split, "Check the name.")
    return clean


def _recognised(directory: str, split: str, *, has_train: bool) -> str | None:
    """Returns the name of the folder that is a split by its name and holds class folders; test may have none."""
    names = [name for name in subfolders(directory) if split_called(name) == split]
    found = [name for name in names if subfolders(f"{directory}/{name}")]
    if has_train and not found:
        # Of validation images without class folders it is better to complain than to say nothing.
        found = [name for name in names if _holds_images(f"{directory}/{name}")]
    if len(found) > 1:
        raise InvalidValueError(
            f"One folder must hold the {split} images. Received: {' and '.join(found)} in {directory}. Name the right "
            f"one: {split}={found[0]!r}, on the command line --{split} {found[0]}."
        )
    return found[0] if found else None


def _check_no_split_among_classes(directory: str, chosen: dict[str, str], named: dict[str, str | None]) -> None:
    recognised = [split for split in chosen if named[split] is None]
    names = [name for name in subfolders(directory) if split_called(name) and name not in named.values()]
    if not names:
        return
    others = [name for name in subfolders(directory) if not split_called(name)]
    flat = [name for name in names if not subfolders(f"{directory}/{name}") and split_called(name) != "valid"]
    if flat and not others:
        raise InvalidValueError(
            f"Images must lie in class folders. Received: {' and '.join(flat)} in {directory} without class folders. "
            "Sort the images into a folder for each class, or give a CSV file with their labels."
        )
    if recognised and not others:
        raise MissingFileError(
            f"`train` must be an existing folder. Received: {', '.join(names)} in {directory}, and no folder of "
            "training images. Name it with `train`."
        )
    split = split_called(names[0])
    raise InvalidValueError(
        f"A folder must hold either splits or classes. Received: {names[0]}, the name of a split, beside "
        f"{', '.join(others[:5]) or 'nothing else'} in {directory}. If it is a split, name it: {split}={names[0]!r} "
        f"(--{split} {names[0]}); if it is a class, say that all are: train='.' (--train .)."
    )


def _check_alone(directory: str, train: str) -> None:
    others = [name for name in subfolders(directory) if name != train and _holds_images(f"{directory}/{name}")]
    if others:
        raise InvalidValueError(
            f"A folder must hold either splits or classes. Received: {train}, the name of a split, beside "
            f"{', '.join(others[:5])} in {directory}. If it is the training images, name them and the others: "
            f"train={train!r}, valid={others[0]!r} (--train {train} --valid {others[0]}); if it is a class, say that "
            "all are: train='.' (--train .)."
        )


def _holds_images(folder: str) -> bool:
    return any(is_image(path) for path in files_below(folder))


def _inside(directory: str, name: str) -> str:
    return directory if name == "." else f"{directory}/{name}"


def _check_directory(folder: str, argument: str, remedy: str) -> None:
    if not is_folder(folder):
        raise MissingFileError(f"`{argument}` must be an existing folder. Received: no folder {folder}. {remedy}")
