"""What is wrong with a folder of pictures, found before a model learns it."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keras_sgdr.data.bad_pictures import BadPicture
from keras_sgdr.data.file_names import in_utf8, printable
from keras_sgdr.data.fingerprints import Fingerprint, alike, fingerprint
from keras_sgdr.data.folder import index_folder
from keras_sgdr.data.splits import FolderIndex, Split
from keras_sgdr.data.weights import balanced_weights

ERRORS = ("layout", "unreadable", "leak", "two labels")
WARNINGS = ("possible leak", "duplicate", "near duplicate", "wrong suffix", "odd size", "imbalance")

_MAX_ASPECT, _MIN_SIDE, _MAX_IMBALANCE = 4.0, 16, 3.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: one of `ERRORS` or `WARNINGS`.
        path: the file, and of two the one that can go; the folder for a layout and an imbalance.
        detail: what is wrong with it, one line.
        other: the file that it repeats.
    """

    kind: str
    path: str
    detail: str
    other: str | None = None


@dataclass(frozen=True)
class FolderReport:
    """What `check_folder` found.

    Attributes:
        directory: the folder.
        class_names: the sorted names of the classes.
        counts: for each split, the number of pictures of each class.
        class_weights: `balanced_weights` of the training pictures, as `class_weight` of `model.fit` takes them.
        findings: what is wrong, errors first.
    """

    directory: str
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    class_weights: dict[int, float]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that would make a training fail or its result mean nothing."""
        return tuple(finding for finding in self.findings if finding.kind in ERRORS)

    def to_dict(self) -> dict[str, Any]:
        """Gives the report as lists, dictionaries, texts and numbers, for JSON; names in UTF-8 or escaped."""
        report: dict[str, Any] = in_utf8(asdict(self))
        return report

    def table(self) -> str:
        """Gives the report as text: counts and weights of each class, then the findings."""
        names = [printable(name) for name in self.class_names]
        width = max([len(name) for name in names] + [5])
        lines = [f"{'class':{width}}" + "".join(f"{split:>10}" for split in self.counts) + f"{'weight':>10}"]
        for number, name in enumerate(names):
            counts = "".join(f"{counts.get(self.class_names[number], 0):10}" for counts in self.counts.values())
            lines.append(f"{name:{width}}{counts}{self.class_weights.get(number, 0.0):10.3f}")
        lines += [f"{each.kind}: {printable(each.path)}: {printable(each.detail)}" for each in self.findings]
        kinds = Counter(finding.kind for finding in self.findings)
        summary = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return "\n".join([*lines, f"Found: {summary or 'nothing wrong'}."])


def check_folder(
    directory: str | os.PathLike[str] | FolderIndex,
    *,
    num_threads: int | None = None,
    max_difference: float = 5.0,
    on_progress: Callable[[int, int], None] | None = None,
    **layout: Any,
) -> FolderReport:
    """Decodes every picture of a folder, compares all with each other, and says what is wrong.

    Errors are certain: files that do not decode; the same file in train and in valid (a leak), or in two classes; a
    folder that `index_folder` refuses (then nothing else is looked at). Warnings want a look: pictures in train that
    look like one in valid (a possible leak: two frames of a film, or two digits that are alike), copies and near copies
    in one split, suffixes of another format, sides under 16 pixels or more than 4 times the other, classes more than 3
    times as frequent as another.

    Args:
        directory: the folder (or CSV file), or an index of it.
        num_threads: how many pictures are decoded at once; as many as there are processors if None.
        max_difference: how far two thumbnails may differ at most, on average and in levels of 255, to be of one
            picture; where there is little contrast, less is too far.
        on_progress: called with the number of pictures seen and of all, every 100 pictures.
        **layout: further arguments of `index_folder`.

    Returns:
        A `FolderReport`.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    try:
        index = directory if isinstance(directory, FolderIndex) else index_folder(directory, **layout)
    except ValueError as error:
        return FolderReport(str(directory), (), {}, {}, (Finding("layout", str(directory), str(error)),))
    splits = [split for split in (index.train, index.valid, index.test) if split is not None]
    prints, bad = _fingerprints(splits, num_threads, on_progress)
    unreadable = {picture.path for picture in bad}
    # In the order of the prints; by the path would not do, for a CSV may list a file in two splits.
    places = [(split, i) for split in splits for i, path in enumerate(split.paths) if path not in unreadable]
    findings = [Finding("unreadable", picture.path, picture.reason) for picture in bad]
    findings += [*_copies(places, prints, max_difference), *_oddities(prints), *_imbalance(index)]
    findings.sort(key=lambda finding: (ERRORS + WARNINGS).index(finding.kind))
    counts = {split.name: split.counts for split in splits if split.labels is not None}
    return FolderReport(index.directory, index.class_names, counts, balanced_weights(index.train), tuple(findings))


def _fingerprints(
    splits: list[Split], num_threads: int | None, on_progress: Callable[[int, int], None] | None
) -> tuple[list[Fingerprint], list[BadPicture]]:
    paths = [path for split in splits for path in split.paths]
    prints: list[Fingerprint] = []
    bad: list[BadPicture] = []
    with ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:
        for start in range(0, len(paths), 100):
            for result in pool.map(fingerprint, paths[start : start + 100]):
                if isinstance(result, BadPicture):
                    bad.append(result)
                else:
                    prints.append(result)
            if on_progress is not None:
                on_progress(min(start + 100, len(paths)), len(paths))
    return prints, bad


def _copies(places: list[tuple[Split, int]], prints: list[Fingerprint], max_difference: float) -> Iterator[Finding]:
    """Yields a finding for each picture that repeats an earlier one."""
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
    if split is not other_split:
        # Splits come in the order train, valid, test: what can go is the one that is learnt from.
        return Finding("leak" if is_exact else "possible leak", first, f"{words} {second}", second)
    if split.labels is not None and not np.array_equal(split.labels[position], split.labels[other_position]):
        # Digits look alike; only the very same file is certain to have one wrong label.
        return Finding("two labels" if is_exact else "near duplicate", second, f"{words} {first}", first)
    return Finding("duplicate" if is_exact else "near duplicate", second, f"{words} {first}", first)


def _oddities(prints: list[Fingerprint]) -> Iterator[Finding]:
    for each in prints:
        if each.has_wrong_suffix:
            yield Finding("wrong suffix", each.path, f"holds {each.picture_format}")
        if each.size is not None:
            short, long = sorted(each.size)
            if short < _MIN_SIDE or long > _MAX_ASPECT * short:
                yield Finding("odd size", each.path, f"{each.size[1]} x {each.size[0]} pixels")


def _imbalance(index: FolderIndex) -> Iterator[Finding]:
    counts = {name: count for name, count in index.train.counts.items() if count}
    if counts and max(counts.values()) > _MAX_IMBALANCE * min(counts.values()):
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        detail = (
            f"{counts[most]} of {most} and {counts[least]} of {least}; class_weight={balanced_weights(index.train)}"
        )
        yield Finding("imbalance", index.directory, detail)
