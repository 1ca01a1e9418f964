"""Finds what is wrong with a folder of images before a model is trained on it."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.check.duplicates import Fingerprint, alike, fingerprint
from keras_sgdr.data.check.fingerprint_store import FingerprintStore
from keras_sgdr.data.decode.corrupt_images import BadImage
from keras_sgdr.data.index.class_weights import balanced_weights
from keras_sgdr.data.index.csv import MISSING_LABELS
from keras_sgdr.data.index.file_names import in_utf8, printable
from keras_sgdr.data.index.files import head_of, is_there
from keras_sgdr.data.index.folder import check_trainable, describe, index_folder
from keras_sgdr.data.index.formats import HEAD_LENGTH, why_not_decoded
from keras_sgdr.data.index.layout import is_image
from keras_sgdr.data.index.read_files import file_stamps
from keras_sgdr.data.index.split import FolderIndex, Split
from keras_sgdr.validation import InvalidValueError, MissingFileError

# What a training refuses
REFUSED = ("layout", "unreadable")
ERRORS = (*REFUSED, "leak", "two labels")
WARNINGS = (
    "left out",
    "possible leak",
    "duplicate",
    "near duplicate",
    "wrong suffix",
    "odd label",
    "odd size",
    "imbalance",
    "wrong label",
    "lookalike",
)

_MAX_ASPECT, _MIN_SIDE, _MAX_IMBALANCE = 4.0, 16, 3.0
_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: One of `ERRORS` or `WARNINGS`; the last two are found by `keras_sgdr.recipe.check_labels` alone.
        path: The file, and of two the one that can go; the folder for a layout and an imbalance.
        detail: What is wrong with it, one line.
        other: The file that it repeats.
    """

    kind: str
    path: str
    detail: str
    other: str | None = None


@dataclass(frozen=True)
class FolderReport:
    """What `check_folder` found.

    Attributes:
        directory: The folder.
        class_names: The sorted names of the classes.
        counts: For each split, the number of images of each class.
        class_weights: `balanced_weights` of the training images, as `class_weight` of `model.fit` takes them.
        findings: What is wrong, errors first.
        layout: What was taken for what, as text.
    """

    directory: str
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    class_weights: dict[int, float]
    findings: tuple[Finding, ...]
    layout: str = ""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that would make a training fail or its result mean nothing."""
        return tuple(finding for finding in self.findings if finding.kind in ERRORS)

    @property
    def refused(self) -> tuple[Finding, ...]:
        """The findings for which a training does not begin."""
        return tuple(finding for finding in self.findings if finding.kind in REFUSED)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as lists, dictionaries, texts and numbers, for JSON; names in UTF-8 or escaped."""
        report: dict[str, Any] = in_utf8(asdict(self))
        return report

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes all findings as a CSV file with the columns kind, path, detail and other; names as in `to_dict`."""
        with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["kind", "path", "detail", "other"])
            writer.writerows(in_utf8([each.kind, each.path, each.detail, each.other or ""]) for each in self.findings)

    def summary(self, examples: int = _EXAMPLES) -> str:
        """Returns the findings as text: how many of each kind, errors first, and a few of them."""
        kinds = Counter(finding.kind for finding in self.findings)
        if not kinds:
            return "Found: nothing wrong."
        lines = [f"Found: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}."]
        for kind, count in kinds.items():
            chosen = [finding for finding in self.findings if finding.kind == kind][:examples]
            lines += [f"{kind}: {printable(each.path)}: {printable(each.detail)}" for each in chosen]
            if count > examples:
                lines.append(f"{kind}: and {count - examples} more")
        return "\n".join(lines)

    def table(self) -> str:
        """Returns the report as text: findings in short, what was taken for what, counts and weights of each class."""
        names = [printable(name) for name in self.class_names]
        width = max([len(name) for name in names] + [5])
        lines = [self.summary()]
        if names:
            lines += [self.layout, f"{'class':{width}}" + "".join(f"{split:>10}" for split in self.counts)]
            lines[-1] += f"{'weight':>10}"
        for number, name in enumerate(names):
            counts = "".join(f"{counts.get(self.class_names[number], 0):10}" for counts in self.counts.values())
            lines.append(f"{name:{width}}{counts}{self.class_weights.get(number, 0.0):10.3f}")
        return "\n".join(lines)


def check_folder(
    directory: str | os.PathLike[str] | FolderIndex,
    *,
    num_threads: int | None = None,
    max_difference: float = 5.0,
    cache: str | os.PathLike[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **layout: Any,
) -> FolderReport:
    """Decodes every image of a folder, compares all with each other, and says what is wrong.

    Errors are certain. A training refuses files that do not decode, and a folder that `index_folder` refuses or that
    does not have two classes (then nothing else is looked at). It takes, and its result means little with, the same
    file in train and in valid (a leak), or in two classes.

    Warnings want a look: files and folders that are left out; images in train that look like one in valid (a possible
    leak: two frames of a film, or two digits that are alike), copies and near copies in one split, suffixes of another
    format, classes called "nan" or like another but for the case of letters, sides under 16 pixels or more than 4
    times the other, classes more than 3 times as frequent as another.

    Args:
        directory: The folder (or CSV file), or an index of it.
        num_threads: How many images are decoded at once; as many as there are processors if None.
        max_difference: How far two thumbnails may differ at most, on average and in levels of 255, to be of one
            image; where there is little contrast, less is too far.
        cache: A directory that keeps what was seen of files, so that a second check decodes only those that changed.
        on_progress: Called with the number of images seen and of all, every 100 images.
        **layout: Further arguments of `index_folder`.

    Returns:
        A `FolderReport`.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    try:
        index = check_trainable(directory if isinstance(directory, FolderIndex) else index_folder(directory, **layout))
    except (InvalidValueError, MissingFileError) as error:
        name = directory.directory if isinstance(directory, FolderIndex) else os.fspath(directory)
        if isinstance(error, MissingFileError) and not is_there(name):
            raise
        return FolderReport(name, (), {}, {}, (Finding("layout", name, str(error)),))
    splits = [split for split in (index.train, index.valid, index.test) if split is not None]
    prints, bad = _fingerprints(index.directory, splits, num_threads, cache, on_progress)
    unreadable = {image.path for image in bad}
    # In the order of the prints; by the path would not do, for a CSV may list a file in two splits.
    places = [(split, i) for split in splits for i, path in enumerate(split.paths) if path not in unreadable]
    findings = [Finding("unreadable", image.path, image.reason) for image in bad]
    findings += [*_copies(places, prints, max_difference), *_oddities(prints), *_left_out(index.left_out)]
    findings += [*_odd_labels(index), *_imbalance(index)]
    findings.sort(key=lambda finding: (ERRORS + WARNINGS).index(finding.kind))
    counts = {split.name: split.counts for split in splits if split.labels is not None}
    weights = balanced_weights(index.train)
    return FolderReport(index.directory, index.class_names, counts, weights, tuple(findings), describe(index))


def _fingerprints(
    directory: str,
    splits: list[Split],
    num_threads: int | None,
    cache: str | os.PathLike[str] | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[Fingerprint], list[BadImage]]:
    paths = [path for split in splits for path in split.paths]
    stamps = {} if cache is None else dict(zip(paths, file_stamps(paths, missing=(-1, -1)), strict=True))
    store = FingerprintStore(cache, directory)
    known = store.load(stamps)
    seen: list[Fingerprint | BadImage] = []
    with ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:
        for start in range(0, len(paths), 100):
            chunk = paths[start : start + 100]
            missing = [path for path in chunk if path not in known]
            found = dict(zip(missing, pool.map(fingerprint, missing), strict=True))
            seen += [known[path] if path in known else found[path] for path in chunk]
            if on_progress is not None:
                on_progress(min(start + 100, len(paths)), len(paths))
    if len(known) < len(set(paths)):
        store.save(seen, stamps)
    bad = {each.path: each for each in seen if isinstance(each, BadImage)}
    return [each for each in seen if isinstance(each, Fingerprint)], list(bad.values())


def _copies(places: list[tuple[Split, int]], prints: list[Fingerprint], max_difference: float) -> Iterator[Finding]:
    """Yields a finding for each image that repeats an earlier one."""
    firsts: dict[bytes, int] = {}
    pairs = {}
    for later, each in enumerate(prints):
        earlier = firsts.setdefault(each.digest, later)
        if earlier != later:
            pairs[later] = (earlier, "the same file as")
    for earlier, later in alike(prints, max_difference=max_difference):
        pairs.setdefault(later, (earlier, "looks the same as"))
    for later, (earlier, words) in sorted(pairs.items()):
        yield _copy(places[earlier], places[later], words)


def _copy(earlier: tuple[Split, int], later: tuple[Split, int], words: str) -> Finding:
    (split, position), (other_split, other_position) = earlier, later
    first, second = split.paths[position], other_split.paths[other_position]
    is_exact = words.startswith("the same")
    if first == second:
        return _listed_twice(earlier, later, first)
    if split is not other_split:
        # Splits come in the order train, valid, test: what can go is the one that is learnt from.
        return Finding("leak" if is_exact else "possible leak", first, f"{words} {second}", second)
    if split.labels is not None and not np.array_equal(split.labels[position], split.labels[other_position]):
        # Digits look alike; only the very same file is certain to have one wrong label.
        return Finding("two labels" if is_exact else "near duplicate", second, f"{words} {first}", first)
    return Finding("duplicate" if is_exact else "near duplicate", second, f"{words} {first}", first)


def _listed_twice(earlier: tuple[Split, int], later: tuple[Split, int], path: str) -> Finding:
    """Returns the finding for a file that two rows of a CSV name."""
    (split, position), (other_split, other_position) = earlier, later
    if split is not other_split:
        return Finding("leak", path, f"listed twice, in {split.name} and in {other_split.name}", path)
    if split.labels is None or split.labels[position] == split.labels[other_position]:
        return Finding("duplicate", path, "listed twice", path)
    one, other = (split.class_names[split.labels[each]] for each in (position, other_position))
    return Finding("two labels", path, f"listed twice, as {one} and as {other}", path)


def _oddities(prints: list[Fingerprint]) -> Iterator[Finding]:
    for each in prints:
        if each.has_wrong_suffix:
            yield Finding("wrong suffix", each.path, f"holds {each.image_format}")
        if each.size is not None:
            short, long = sorted(each.size)
            if short < _MIN_SIDE or long > _MAX_ASPECT * short:
                yield Finding("odd size", each.path, f"{each.size[1]} x {each.size[0]} pixels")


def _left_out(paths: Sequence[str]) -> Iterator[Finding]:
    for path in paths:
        if path.endswith("/"):
            yield Finding("left out", path, "neither a split nor a class")
        elif path.lower().endswith(".csv"):
            yield Finding("left out", path, "a CSV file: pass it in place of the folder to take the labels in it")
        elif is_image(path):
            yield Finding("left out", path, "outside the class folders")
        else:
            yield Finding("left out", path, why_not_decoded(head_of(path, HEAD_LENGTH)) or "no image")


def _odd_labels(index: FolderIndex) -> Iterator[Finding]:
    by_case: dict[str, str] = {}
    for name in index.class_names:
        if name.lower() in MISSING_LABELS:
            yield Finding("odd label", index.directory, f"a class is called {name!r}: perhaps labels are missing")
        other = by_case.setdefault(name.strip().lower(), name)
        if other != name:
            yield Finding("odd label", index.directory, f"the classes {other!r} and {name!r} differ only in their case")


def _imbalance(index: FolderIndex) -> Iterator[Finding]:
    counts = {name: count for name, count in index.train.counts.items() if count}
    if counts and max(counts.values()) > _MAX_IMBALANCE * min(counts.values()):
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        detail = (
            f"{counts[most]} of {most} and {counts[least]} of {least}; class_weight={balanced_weights(index.train)}"
        )
        yield Finding("imbalance", index.directory, detail)
