"""Images a second of `load_dataset` and of fastai's data loader, from the same JPEG files.

    python -m venv .venv/fastai && .venv/fastai/bin/pip install fastai
    python tests/benchmarks/fastai_pipeline.py --fastai-python .venv/fastai/bin/python

fastai brings its own torch, so another Python measures it, with as many workers as there are processors. Both flip,
rotate by 10 degrees, zoom by 1.1, and change brightness and contrast by 0.05. It asserts nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

SIZE, BATCH = 224, 32


def rate_of_an_epoch(batches: Iterable[Any], count: int) -> tuple[float, float]:
    """Gives images a second from the first batch on, and from the start of the pass."""
    begin = time.perf_counter()
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    for _ in iterator:
        pass
    end = time.perf_counter()
    return (count - BATCH) / (end - start), count / (end - begin)


def median_rates(batches: Iterable[Any], count: int, repeats: int) -> tuple[float, float]:
    """Gives the medians of both over some passes, after one that does not count."""
    rates = [rate_of_an_epoch(batches, count) for _ in range(repeats + 1)][1:]
    return median(rate for rate, _ in rates), median(rate for _, rate in rates)


def measure_fastai(folder: Path, count: int, repeats: int) -> tuple[float, float]:
    """Runs where fastai is installed."""
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms

    loaders = ImageDataLoaders.from_folder(
        folder,
        train="train",
        valid="valid",
        item_tfms=Resize(SIZE),
        batch_tfms=aug_transforms(max_rotate=10.0, max_zoom=1.1, max_lighting=0.05, max_warp=0.0),
        bs=BATCH,
        num_workers=os.cpu_count(),
        device="cpu",
    )
    return median_rates(loaders.train, count, repeats)


def measure_ours(folder: Path, count: int, repeats: int) -> tuple[float, float]:
    """Runs where this library is installed."""
    from keras_sgdr.augmentation.random_view import side_on
    from keras_sgdr.data.dataset.load_dataset import load_dataset
    from keras_sgdr.data.index.folder import index_folder

    split = index_folder(folder).train
    options: dict[str, Any] = {"image_size": SIZE, "batch_size": BATCH, "shuffle": True}
    dataset = load_dataset(split, augmentation=side_on(max_zoom=1.1), **options)
    return median_rates(dataset, count, repeats)


def write_folders(root: Path, count: int, width: int, height: int, kind: str) -> None:
    """Writes train/ and a valid/ of one batch."""
    from tests.benchmarks.input_pipeline import write_images

    write_images(root / "train", count, width, height, kind)
    write_images(root / "valid", BATCH, width, height, kind)


def main() -> None:
    """Measures both, or, when started by itself, fastai alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastai-python", help="the Python of an environment with fastai")
    parser.add_argument("--images", type=int, default=512, help="images of 500x375 of each kind")
    parser.add_argument("--large", type=int, default=128, help="images of 4000x3000; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        print(*measure_fastai(arguments.folder, arguments.images, arguments.repeats))
        return
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.benchmarks.input_pipeline import KINDS

    sizes = [(kind, arguments.images, 500, 375) for kind in KINDS] + [("smooth", arguments.large, 4000, 3000)]
    for kind, count, width, height in sizes:
        if not count:
            continue
        with tempfile.TemporaryDirectory() as root:
            write_folders(Path(root), count, width, height, kind)
            options = ["--folder", root, "--images", str(count), "--repeats", str(arguments.repeats)]
            command = [arguments.fastai_python, __file__, *options]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            theirs = [float(rate) for rate in output.split()[-2:]]
            ours = measure_ours(Path(root), count, arguments.repeats)
        for what, fastai, load_dataset in zip(("first batch", "start of the pass"), theirs, ours, strict=True):
            print(
                f"{kind} {width}x{height}, from the {what} on: fastai {fastai:.0f} images/s, "
                f"load_dataset {load_dataset:.0f}, ratio {load_dataset / fastai:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
