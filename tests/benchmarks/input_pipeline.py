"""Pictures a second from JPEG files to augmented batches, as ratios of things measured in the same run.

    python tests/benchmarks/input_pipeline.py [--pictures 2048] [--large 96] [--repeats 5]

Builds its own JPEGs of 500x375 and 4000x3000 from scikit-image's photographs, and compares `load_dataset` with
`image_dataset_from_directory` followed by the equivalent KerasCV layers, and with decoding alone, all in turn in each
round. It asserts nothing. "To begin" is the time of the call: for a cache, that of decoding everything.
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


def seconds_of(dataset: Any, passes: int) -> tuple[float, float]:
    """Gives the wall and the processor seconds of passes, each from its first batch on."""
    wall = processor = 0.0
    for _ in range(passes):
        batches = iter(dataset)
        next(batches)
        wall, processor = wall - time.perf_counter(), processor - time.process_time()
        for _ in batches:
            pass
        wall, processor = wall + time.perf_counter(), processor + time.process_time()
    return wall / passes, processor / passes


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
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
    for _ in range(repeats + 1):  # the first round compiles
        for name, (_, passes) in pipelines.items():
            rounds[name].append(seconds_of(started[name][1], passes))
    measured = count - BATCH
    print(f"\n{title}, to {SIZE}x{SIZE}, batches of {BATCH}, {os.cpu_count()} processors, {repeats} rounds")
    print(f"{'':32}{'pictures/s':>12}{'x KerasCV':>20}{'x decoding':>20}{'CPU ms each':>13}{'to begin, s':>13}")
    for name, times in rounds.items():
        walls = [wall for wall, _ in times[1:]]
        ratios = [
            _spread([other / wall for (other, _), wall in zip(rounds[peer][1:], walls, strict=True)])
            for peer in ("  + KerasCV layers", "decoding alone")
        ]
        processor = median(processor for _, processor in times[1:])
        begun, _, made = started[name]
        print(
            f"{name:32}{measured / median(walls):12.0f}{ratios[0]:>20}{ratios[1]:>20}"
            f"{1000 * processor / measured:13.2f}{made - begun:13.1f}"
        )


def _spread(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Runs the comparison at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2048, help="pictures of 500x375")
    parser.add_argument("--large", type=int, default=96, help="pictures of 4000x3000; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=5)
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
