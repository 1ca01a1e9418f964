"""Pictures a second of `load_dataset` and of fastai's data loader, from the same JPEG files.

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
from typing import Any

SIZE, BATCH = 224, 32


def rate_of_an_epoch(batches: Iterable[Any], count: int) -> float:
    """Gives pictures a second from the first batch on."""
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    for _ in iterator:
        pass
    return (count - BATCH) / (time.perf_counter() - start)


def measure_fastai(folder: Path, count: int, repeats: int) -> float:
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
    return max(rate_of_an_epoch(loaders.train, count) for _ in range(repeats + 1))


def measure_ours(folder: Path, count: int, repeats: int) -> float:
    """Runs where this library is installed."""
    from keras_sgdr.data.augmentation import side_on
    from keras_sgdr.data.dataset import load_dataset
    from keras_sgdr.data.folder import index_folder

    split = index_folder(folder).train
    options: dict[str, Any] = {"image_size": SIZE, "batch_size": BATCH, "shuffle": True}
    dataset = load_dataset(split, augmentation=side_on(max_zoom=1.1), **options)
    return max(rate_of_an_epoch(dataset, count) for _ in range(repeats + 1))


def write_folders(root: Path, count: int, width: int, height: int) -> None:
    """Writes train/ and a valid/ of one batch."""
    from tests.benchmarks.input_pipeline import write_pictures

    write_pictures(root / "train", count, width, height)
    write_pictures(root / "valid", BATCH, width, height)


def main() -> None:
    """Measures both, or, when started by itself, fastai alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastai-python", help="the Python of an environment with fastai")
    parser.add_argument("--pictures", type=int, default=512, help="pictures of 500x375")
    parser.add_argument("--large", type=int, default=128, help="pictures of 4000x3000; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        print(measure_fastai(arguments.folder, arguments.pictures, arguments.repeats))
        return
    sys.path.insert(0, str(Path(__file__).parents[2]))
    for count, width, height in ((arguments.pictures, 500, 375), (arguments.large, 4000, 3000)):
        if not count:
            continue
        with tempfile.TemporaryDirectory() as root:
            write_folders(Path(root), count, width, height)
            options = ["--folder", root, "--pictures", str(count), "--repeats", str(arguments.repeats)]
            command = [arguments.fastai_python, __file__, *options]
            theirs = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
            ours = measure_ours(Path(root), count, arguments.repeats)
        print(f"{width}x{height}: fastai {theirs:.0f} pictures/s, load_dataset {ours:.0f}, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
