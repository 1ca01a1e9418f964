"""Images a second from JPEG files to augmented batches, as ratios of things measured in the same run.

    python tests/benchmarks/input_pipeline.py [--images 1024] [--large 96] [--repeats 5]

Builds its own JPEGs from scikit-image's photographs: of 500x375 smooth ones, noisy ones (as from a small sensor, with
more to decode) and progressive ones, and smooth ones of 4000x3000. Compares `load_dataset` with
`image_dataset_from_directory` followed by the equivalent KerasCV layers, and with decoding alone, all in turn in each
round: from the first batch of a pass on, and from the start of the pass, when TensorFlow prepares the graph. It asserts
nothing. "To begin" is the time of the call: for a cache, that of decoding everything.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import keras_cv
import numpy as np
import tensorflow as tf
from PIL import Image
from skimage import data

from keras_sgdr.augmentation.random_view import side_on
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.folder import index_folder

SIZE, BATCH = 224, 32
KINDS = ("smooth", "noisy", "progressive")


def write_images(folder: Path, count: int, width: int, height: int, kind: str = "smooth") -> None:
    """Writes crops of real photographs, half of them in each of two classes, none like another."""
    photographs = [Image.fromarray(photograph()) for photograph in (data.astronaut, data.chelsea, data.coffee)]
    rng = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        inset = number // len(photographs) % 60
        box = (inset, inset, photograph.width - inset, photograph.height - inset)
        image = photograph.resize((width, height), Image.Resampling.BICUBIC, box)
        if kind == "noisy":
            noise = rng.normal(0, 15, (height, width, 3))
            image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype("uint8"))
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90, progressive=kind == "progressive")


def keras_loader(folder: Path) -> Any:
    """Gives what Keras users write, without augmentation."""
    return keras.utils.image_dataset_from_directory(
        folder, image_size=(SIZE, SIZE), batch_size=BATCH, crop_to_aspect_ratio=True, verbose=False
    ).prefetch(tf.data.AUTOTUNE)


def kerascv_pipeline(folder: Path) -> Any:
    """Gives the same with KerasCV's layers for what `side_on(max_zoom=1.1)` does."""
    layers = [
        keras_cv.layers.RandomFlip("horizontal"),
        keras_cv.layers.RandomRotation((-10 / 360, 10 / 360), fill_mode="reflect"),
        keras_cv.layers.RandomZoom((-0.1, 0.0), fill_mode="reflect"),
        keras_cv.layers.RandomBrightness((-0.05, 0.05), value_range=(0, 255)),
        keras_cv.layers.RandomContrast(value_range=(0, 255), factor=(0.45, 0.55)),
    ]

    def augment(images: Any, labels: Any) -> tuple[Any, Any]:
        for layer in layers:
            images = layer(images)
        return images, labels

    return keras_loader(folder).map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def decoding_alone(folder: Path) -> Any:
    """Gives the floor: every JPEG decoded whole, and thrown away."""
    files = tf.data.Dataset.list_files(f"{folder}/*/*.jpg", shuffle=False)

    def decode(path: Any) -> Any:
        return tf.shape(tf.io.decode_jpeg(tf.io.read_file(path), channels=3))

    return files.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH)


def our_pipeline(folder: Path, **options: Any) -> Any:
    """Gives the same from this library."""
    split = index_folder(folder, valid_fraction=1e-9).train
    return load_dataset(split, image_size=SIZE, batch_size=BATCH, shuffle=True, **options)


def seconds_of(dataset: Any, passes: int) -> tuple[float, float, float]:
    """Gives the wall seconds of a pass from its start, the same from its first batch on, and its processor seconds."""
    whole = wall = processor = 0.0
    for _ in range(passes):
        whole, processor = whole - time.perf_counter(), processor - time.process_time()
        batches = iter(dataset)
        next(batches)
        wall -= time.perf_counter()
        for _ in batches:
            pass
        end = time.perf_counter()
        whole, wall, processor = whole + end, wall + end, processor + time.process_time()
    return whole / passes, wall / passes, processor / passes


def compare(title: str, folder: Path, count: int, repeats: int) -> None:
    """Measures every pipeline in turn, `repeats` times; prints medians, and of ratios within a round the range too."""
    augmented = {"augmentation": side_on(max_zoom=1.1), "verbose": 0}
    pipelines: dict[str, tuple[Callable[[], Any], int]] = {
        "decoding alone": (lambda: decoding_alone(folder), 1),
        "image_dataset_from_directory": (lambda: keras_loader(folder), 1),
        "  + KerasCV layers": (lambda: kerascv_pipeline(folder), 1),
        "load_dataset": (lambda: our_pipeline(folder), 1),
        "  + side_on(max_zoom=1.1)": (lambda: our_pipeline(folder, **augmented), 1),
        "    + cache=DIRECTORY": (lambda: our_pipeline(folder, cache=folder.with_suffix(".cache"), **augmented), 4),
        '    + cache="memory"': (lambda: our_pipeline(folder, cache="memory", **augmented), 4),
    }
    started = {name: (time.perf_counter(), make(), time.perf_counter()) for name, (make, _) in pipelines.items()}
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in pipelines}
    for _ in range(repeats + 1):  # the first round compiles
        for name, (_, passes) in pipelines.items():
            rounds[name].append(seconds_of(started[name][1], passes))
    print(f"\n{title}, to {SIZE}x{SIZE}, batches of {BATCH}, {os.cpu_count()} processors, {repeats} rounds")
    print(f"{'':32}{'images/s':>9}{'x KerasCV':>20}{'x decoding':>20}{'from start':>12}{'x KerasCV':>20}", end="")
    print(f"{'CPU ms each':>13}{'to begin, s':>13}")
    for name, times in rounds.items():
        whole, wall, processor = (median(parts) for parts in zip(*times[1:], strict=True))
        begun, _, made = started[name]
        print(
            f"{name:32}{(count - BATCH) / wall:9.0f}{_ratios(rounds, '  + KerasCV layers', name, 1):>20}"
            f"{_ratios(rounds, 'decoding alone', name, 1):>20}{count / whole:12.0f}"
            f"{_ratios(rounds, '  + KerasCV layers', name, 0):>20}{1000 * processor / count:13.2f}{made - begun:13.1f}",
            flush=True,
        )


def _ratios(rounds: dict[str, list[tuple[float, float, float]]], peer: str, name: str, part: int) -> str:
    ratios = [other[part] / own[part] for other, own in zip(rounds[peer][1:], rounds[name][1:], strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Runs the comparison for every kind of file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="images of 500x375 of each kind")
    parser.add_argument("--large", type=int, default=96, help="images of 4000x3000; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        for kind, count, width, height in (
            *((kind, arguments.images, 500, 375) for kind in KINDS),
            ("smooth", arguments.large, 4000, 3000),
        ):
            if count:
                folder = Path(root) / f"{kind}-{width}"
                write_images(folder, count, width, height, kind)
                compare(f"{kind} JPEG {width}x{height}", folder, count, arguments.repeats)


if __name__ == "__main__":
    main()
