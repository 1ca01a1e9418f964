"""What a model sees of a file, wherever it gets it from, is what Pillow makes of it by the documented formula."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.split import Split
from keras_sgdr.evaluation.predictions import predict_files
from keras_sgdr.models.classifier import load_classifier, save_classifier
from keras_sgdr.recipe.evaluate import evaluate_run
from keras_sgdr.serving.savedmodel import export_savedmodel

# Upright, the images are 15 high and 26 wide. Every way of resizing makes them larger, as Pillow does it without a
# filter of its own, and the three ways differ; so do height and width, and so does what is cut off on each side.
SHAPE, SIZE = (15, 26), (24, 32)
CROP = (3, 0, 23, 15)  # the largest centred part of the proportions 32 : 24, as left, top, right and bottom
PADDED, MARGIN = (32, 18), (0, 3)  # 26 x 15 times 32 / 26, and half of what is left
# Orientation -> what a camera held that way stores.
STORED = {
    1: lambda upright: upright,
    3: lambda upright: np.rot90(upright, 2),
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: lambda upright: np.rot90(upright, 1),
    8: lambda upright: np.rot90(upright, -1),
}
CLASS_NAMES = [f"{number:04}" for number in range(3 * SIZE[0] * SIZE[1])]


def smooth(shape=SHAPE):
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    channels = [250 * x / shape[1], 250 * y / shape[0], 128 + 90 * np.sin(5 * x / shape[1] + 3 * y / shape[0])]
    return np.stack(channels, axis=-1).astype(np.uint8)


def encoded(stored, file_format, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation != 1:
        options["exif"] = exif.tobytes()
    file = io.BytesIO()
    stored.save(file, file_format, **options)
    return file.getvalue()


def as_pillow_reads(content):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


def images():
    """Name -> the file, and the upright image in RGB: what was saved, or what Pillow reads where that is lossy."""
    rgb, grey16 = smooth(), (smooth()[..., 0].astype(np.uint16) << 8) + 77
    opacity = np.linspace(60, 255, SHAPE[1]).astype(np.uint8) * np.ones((SHAPE[0], 1), np.uint8)
    rgba = np.dstack([rgb, opacity])
    over_white = np.round(rgb * (opacity / 255)[..., None] + 255 * (1 - opacity / 255)[..., None]).astype(np.uint8)

    def stored(array, orientation):
        return Image.fromarray(np.ascontiguousarray(STORED[orientation](array)))

    jpeg = encoded(stored(rgb, 6), "JPEG", 6, quality=95, subsampling=0)
    cmyk = encoded(stored(rgb, 8).convert("CMYK"), "JPEG", 8, quality=95, subsampling=0)
    yield "0_turned.jpg", jpeg, as_pillow_reads(jpeg)
    yield "1_cmyk.jpg", cmyk, as_pillow_reads(cmyk)
    yield "2_alpha.png", encoded(stored(rgba, 6), "PNG", 6), over_white
    yield "3_deep.png", encoded(stored(grey16, 8), "PNG", 8), np.repeat(rgb[..., :1], 3, axis=-1)
    yield "4_turned.webp", encoded(stored(rgb, 5), "WEBP", 5, lossless=True), rgb
    yield "5_on_its_head.png", encoded(stored(rgb, 3), "PNG", 3), rgb
    paletted = stored(rgb, 1).convert("P")
    yield "6_palette.gif", encoded(paletted, "GIF", 1), np.asarray(paletted.convert("RGB"))
    yield "7_plain.bmp", encoded(stored(rgb, 1), "BMP", 1), rgb


def resized_by_pillow(image, resize):
    image, size = Image.fromarray(image), SIZE[::-1]
    if resize == "crop":
        return np.asarray(image.crop(CROP).resize(size, Image.Resampling.BILINEAR))
    if resize == "squish":
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    padded = Image.new("RGB", size)
    padded.paste(image.resize(PADDED, Image.Resampling.BILINEAR), MARGIN)
    return np.asarray(padded)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "valid" / CLASS_NAMES[0]
    folder.mkdir(parents=True)
    for name, content, _ in images():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module", params=["crop", "squish", "pad"])
def resize(request):
    return request.param


@pytest.fixture(scope="module")
def run(resize, tmp_path_factory):
    """A classifier that says its pixels: the logarithms of its probabilities differ as they do."""
    inputs = keras.Input((*SIZE, 3))
    outputs = keras.layers.Softmax()(keras.layers.Rescaling(1 / 255)(keras.layers.Flatten()(inputs)))
    run = tmp_path_factory.mktemp("run")
    save_classifier(keras.Model(inputs, outputs), run, class_names=CLASS_NAMES, resize=resize)
    return run


def assert_seen(seen, resize, *, are_probabilities=True):
    """Compares pixels, or probabilities, which tell pixels up to a constant."""
    assert len(seen) == 8
    for (name, _, upright), row in zip(images(), seen, strict=True):
        expected = resized_by_pillow(upright, resize).reshape(-1).astype(float)
        pixels = np.reshape(row, -1).astype(float)
        if are_probabilities:
            pixels = 255 * np.log(pixels)
            pixels += np.median(expected - pixels)
        # Pillow rounds after each axis, and CMYK once more. To the next pixel it is 8 levels in one channel or other.
        tolerance = 3 if "cmyk" in name else 1.6
        assert np.abs(pixels - expected).max() <= tolerance, name


def test_loader_gives_what_pillow_makes(folder, resize):
    paths = tuple(map(str, sorted(folder.iterdir())))
    split = Split("valid", paths, np.zeros(len(paths), np.int32), ("a",))
    (batch,) = load_dataset(split, image_size=SIZE, resize=resize).as_numpy_iterator()
    assert_seen(batch[0], resize, are_probabilities=False)


def test_predict_sees_what_pillow_makes(folder, run, resize):
    predictions = predict_files(load_classifier(run), [folder], batch_size=3)
    assert predictions.rejected == ()
    assert_seen(predictions.probabilities, resize)


def test_evaluate_sees_what_pillow_makes(folder, run, resize):
    results = evaluate_run(run, folder.parent, tta="off", verbose=0)
    assert_seen(results["plain"].probabilities, resize)


def test_export_sees_what_pillow_makes(run, resize, tmp_path):
    classifier = load_classifier(run)
    path = export_savedmodel(classifier.model, tmp_path, class_names=classifier.class_names, resize=classifier.resize)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    files = tf.constant([content for _, content, _ in images()])
    assert_seen(serve(image_bytes=files)["probabilities"].numpy(), resize)
