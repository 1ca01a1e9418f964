"""Pictures a second from JPEG files to augmented batches, as ratios of things measured in the same run.

    python tests/benchmarks/input_pipeline.py [--pictures 256] [--large 16] [--repeats 3]

Builds its own JPEGs of 500x375 and 4000x3000 from scikit-image's photographs, and compares `load_dataset` with
`image_dataset_from_directory` followed by the equivalent KerasCV layers, and with decoding alone. It asserts nothing.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_cv
import tensorflow as tf
from PIL import Image
from skimage import data

from keras_sgdr.data.augmentation import side_on
from keras_sgdr.data.dataset import load_dataset
from keras_sgdr.data.folder import index_folder

SIZE, BATCH = 224, 32


def write_pictures(folder: Path, count: int, width: int, height: int) -> None:
    """Writes crops of real photographs, half of them in each of two classes, none like another."""
    photographs = [Image.fromarray(photograph()) for photograph in (data.astronaut, data.chelsea, data.coffee)]
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        inset = number // len(photographs) % 60
        box = (inset, inset, photograph.width - inset, photograph.height - inset)
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph.resize((width, height), Image.Resampling.BICUBIC, box).save(path, quality=90)


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


def seconds_of_an_epoch(dataset: Any) -> tuple[float, float]:
    """Gives the wall and the processor seconds of a pass, from its first batch on."""
    batches = iter(dataset)
    next(batches)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in batches:
        pass
    return time.perf_counter() - wall, time.process_time() - processor


def compare(title: str, folder: Path, count: int, repeats: int) -> None:
    """Measures every pipeline in turn, `repeats` times, and prints the best of each."""
    pipelines: dict[str, Callable[[], Any]] = {
        "decoding alone": lambda: decoding_alone(folder),
        "image_dataset_from_directory": lambda: keras_loader(folder),
        "  + KerasCV layers": lambda: kerascv_pipeline(folder),
        "load_dataset": lambda: our_pipeline(folder),
        "  + side_on(max_zoom=1.1)": lambda: our_pipeline(folder, augmentation=side_on(max_zoom=1.1)),
    }
    datasets = {name: make() for name, make in pipelines.items()}
    best = dict.fromkeys(datasets, (float("inf"), float("inf")))
    for _ in range(repeats + 1):  # the first round compiles
        for name, dataset in datasets.items():
            best[name] = min(best[name], seconds_of_an_epoch(dataset))
    measured = count - BATCH
    floor, peer = best["decoding alone"], best["  + KerasCV layers"]
    print(f"\n{title}, to {SIZE}x{SIZE}, batches of {BATCH}, {os.cpu_count()} processors")
    print(f"{'':32}{'pictures/s':>12}{'x KerasCV':>11}{'x decoding':>12}{'CPU ms each':>13}")
    for name, (wall, processor) in best.items():
        print(
            f"{name:32}{measured / wall:12.0f}{peer[0] / wall:11.2f}{floor[0] / wall:12.2f}"
            f"{1000 * processor / measured:13.2f}"
        )


def main() -> None:
    """Runs the comparison at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=512, help="pictures of 500x375")
    parser.add_argument("--large", type=int, default=96, help="pictures of 4000x3000; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        for title, count, width, height in (
            ("JPEG 500x375", arguments.pictures, 500, 375),
            ("JPEG 4000x3000", arguments.large, 4000, 3000),
        ):
            if count:
                write_pictures(Path(root) / title, count, width, height)
                compare(title, Path(root) / title, count, arguments.repeats)


if __name__ == "__main__":
    main()
