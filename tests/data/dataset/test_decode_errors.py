"""Good files with bytes flipped and ends cut off: each is decoded or named, and the process lives."""

import io

import numpy as np
from PIL import Image

from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.decode.corrupt_images import find_bad_images
from keras_sgdr.data.index.split import Split

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


def damaged(encoded: bytes, rng: np.random.Generator) -> bytes:
    """Flips a few bytes, half of the time near the start, where the lengths are; cuts every third file."""
    content = bytearray(encoded)
    reach = 64 if rng.random() < 0.5 else len(content)
    for position in rng.integers(0, min(reach, len(content)), rng.integers(1, 8)):
        content[position] = rng.integers(256)
    return bytes(content[: rng.integers(len(content))] if rng.random() < 1 / 3 else content)


def test_five_hundred_damaged_files_are_decoded_or_named(tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((32, 24))
    animation = io.BytesIO()
    noise.save(animation, "WEBP", save_all=True, append_images=[noise.rotate(90)])
    originals = [animation.getvalue()]
    turned = Image.Exif()
    turned[0x0112] = 6
    for file_format in FORMATS:
        file = io.BytesIO()
        noise.save(file, file_format, **({} if file_format in ("GIF", "BMP") else {"exif": turned}))
        originals.append(file.getvalue())
    paths = []
    for number in range(500):
        path = tmp_path / f"{number:03}.jpg"
        path.write_bytes(damaged(originals[number % len(originals)], rng))
        paths.append(str(path))
    bad = {image.path: image.reason for image in find_bad_images(paths)}
    assert 100 < len(bad) < 500
    assert all(reason and "\n" not in reason for reason in bad.values())
    good = [path for path in paths if path not in bad]
    batches = load_dataset(Split("train", good, None, ()), image_size=16, batch_size=64)
    assert sum(len(images) for images in batches) == len(good)
