"""What an index of many rows in shards costs: memory, seconds to open it, to begin an epoch, and to read an image.

`python -m tests.benchmarks.shards` makes a few images and an index that names each of them many times. Memory is that
of a new process: when it has indexed, and at most until the first batch of a shuffled epoch is there.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from keras_sgdr import load_dataset, side_on
from keras_sgdr.array_store import open_arrays, writing_arrays
from keras_sgdr.data.dataset.write_shards import write_shards
from keras_sgdr.data.index.folder import index_folder
from keras_sgdr.data.index.shards import INDEX
from tests.benchmarks.paired import paired_times, print_ratios

_IMAGES, _ROWS_AT_ONCE = 1000, 1_000_000
_TRIED = """
import sys, time
import numpy as np

def memory(kind):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(kind))

from keras_sgdr.data.index.folder import index_folder
begun, before = time.monotonic(), memory("VmRSS")
index = index_folder(sys.argv[1])
print(f"index of {len(index.train):,} rows: {time.monotonic() - begun:.2f} s, {memory('VmRSS') - before:.0f} MB")
begun, rows = time.monotonic(), np.random.default_rng(0).integers(len(index.train), size=10_000)
sizes = [len(each) for each in index.train.paths.shards.read(rows)]
print(f"reading 10,000 images of {np.mean(sizes):,.0f} bytes in any order: {time.monotonic() - begun:.2f} s")
from keras_sgdr import load_dataset, side_on
before = memory("VmRSS")
print(f"with TensorFlow: {before:.0f} MB")
begun = time.monotonic()
dataset = load_dataset(index.train, image_size=64, augmentation=side_on(max_zoom=1.1), shuffle=True)
batches = iter(dataset)
next(batches)
print(f"to the first batch of an epoch: {time.monotonic() - begun:.1f} s, {memory('VmHWM') - before:.0f} MB at most")
for _ in range(20):
    next(batches)
print(f"then: {memory('VmRSS') - before:.0f} MB more than before, {memory('VmRSS'):.0f} MB in all")
"""


def make(folder: Path, num_rows: int) -> Path:
    """Writes a thousand images as shards, and an index of them in which each stands `num_rows / 1000` times."""
    rng, images = np.random.default_rng(0), folder / "images"
    for number in range(_IMAGES):
        path = images / f"class {number % 10}" / f"an image with a name of usual length {number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        pixels.save(path, quality=90)
    shards = write_shards(index_folder(images, valid_fraction=0.2), folder / "shards")
    many = shutil.copytree(shards, folder / "many", ignore=shutil.ignore_patterns(INDEX))
    records, labels, names, sizes, digests = (array[:] for array in open_arrays(shards / INDEX))
    num_train = _IMAGES * 8 // 10
    with writing_arrays(many / INDEX, advice="no room") as writer:
        for start in range(0, num_rows, _ROWS_AT_ONCE):
            rows = np.arange(min(_ROWS_AT_ONCE, num_rows - start)) % num_train
            columns = [records[rows], labels[rows]]
            writer.append(
                [*columns, names, sizes, digests]
                if start == 0
                else [*columns, *([each[:0] for each in (names, sizes, digests)])]
            )
        writer.append([records[num_train:], labels[num_train:], names[:0], sizes[:0], digests[:0]])
        splits = [
            {"name": "train", "images": num_rows, "is_labelled": True},
            {"name": "valid", "images": _IMAGES - num_train, "is_labelled": True},
        ]
        classes = sorted(path.name for path in images.iterdir())
        writer.complete({"source": "", "class_names": classes, "splits": splits})
    return many


def compare(folder: Path, rounds: int) -> None:
    """Prints the time of an epoch from shards over that from files."""
    options = {"image_size": 224, "augmentation": side_on(max_zoom=1.1), "shuffle": True}
    files = load_dataset(index_folder(folder / "images", valid_fraction=0.2).train, **options)
    shards = load_dataset(index_folder(folder / "shards").train, **options)
    ways = {"files": lambda: [None for _ in files], "shards": lambda: [None for _ in shards]}
    print_ratios("An epoch of 800 JPEGs of 500x375, at 224 px", paired_times(ways, rounds=rounds), steps=800)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        begun = time.monotonic()
        many = make(Path(directory), arguments.rows)
        size = sum(path.stat().st_size for path in (many / INDEX).iterdir())
        print(f"an index of {size / 1e6:,.0f} MB on the disk, made in {time.monotonic() - begun:.0f} s")
        subprocess.run([sys.executable, "-c", _TRIED, str(many)], check=True)
        compare(Path(directory), arguments.rounds)


if __name__ == "__main__":
    main()
