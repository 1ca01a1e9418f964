"""Every format with every oddity, as Pillow shows it: through the loader, its cache and the export."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_sgdr.data.check.duplicates import fingerprint
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.decode.corrupt_images import why_bad
from keras_sgdr.data.decode.decode_image import decode_image
from keras_sgdr.data.index.split import Split
from keras_sgdr.serving.savedmodel import export_savedmodel
from tests.data.decode.odd_images import FILES, HEIGHT, OVER_SPREAD_KEY, REFUSED, RGB, WIDTH

# Chromaticities of JPEG and WebP are spread in another way, and CMYK is rounded twice.
TOLERANCE = {"jpg": 3, "webp": 3}


def as_pillow_shows_it(encoded):
    """Upright, over white: uint8 of shape (height, width, 3)."""
    image = Image.open(io.BytesIO(encoded))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def worst(actual, expected):
    return int(np.abs(np.asarray(actual).astype(int) - expected).max())


@pytest.mark.parametrize("name", FILES)
def test_image_is_what_pillow_shows(name):
    expected = as_pillow_shows_it(FILES[name])
    decoded = decode_image(FILES[name], image_size=expected.shape[:2], resize="squish")
    assert worst(decoded, expected) <= TOLERANCE.get(name.rpartition(".")[2], 1)


@pytest.mark.parametrize("name", OVER_SPREAD_KEY)
def test_transparent_colour_is_white_at_every_depth(name):
    encoded, expected = OVER_SPREAD_KEY[name]
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=-1)
    assert worst(decode_image(encoded, image_size=(HEIGHT, WIDTH), resize="squish"), expected) <= 1


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for name, encoded in FILES.items():
        (folder / name).write_bytes(encoded)
    paths = tuple(str(folder / name) for name in FILES)
    split = Split("valid", paths, np.zeros(len(paths), np.int32), ("a",))
    images = [decode_image(encoded, image_size=(HEIGHT, WIDTH), resize="squish").numpy() for encoded in FILES.values()]
    return split, np.stack(images)


@pytest.mark.parametrize("cached", [False, True])
def test_loader_and_its_cache_give_the_same(written, cached, tmp_path):
    split, expected = written
    options = {"cache": tmp_path / "cache"} if cached else {}
    data = load_dataset(split, image_size=(HEIGHT, WIDTH), resize="squish", **options)
    for _ in range(2):
        images = np.concatenate([images for images, _ in data.as_numpy_iterator()])
        np.testing.assert_array_equal(images, expected)


def test_export_sees_the_same(written, tmp_path):
    """A model that says its pixels: the logarithms of its probabilities differ as they do."""
    _, expected = written
    inputs = keras.Input((HEIGHT, WIDTH, 3))
    outputs = keras.layers.Softmax()(keras.layers.Rescaling(1 / 255)(keras.layers.Flatten()(inputs)))
    names = [str(number) for number in range(3 * HEIGHT * WIDTH)]
    path = export_savedmodel(keras.Model(inputs, outputs), tmp_path, class_names=names, resize="squish")
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    for encoded, image in zip(FILES.values(), expected, strict=True):
        logits = np.log(serve(image_bytes=tf.constant([encoded]))["probabilities"].numpy()[0]) * 255
        pixels = image.ravel().astype(float)
        np.testing.assert_allclose(logits - logits.mean(), pixels - pixels.mean(), atol=0.05)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_decoded_is_named_by_what_it_is(name, tmp_path):
    encoded, words = REFUSED[name]
    (tmp_path / name).write_bytes(encoded)
    reason = why_bad(str(tmp_path / name))
    assert words in reason
    assert "\n" not in reason
    assert fingerprint(str(tmp_path / name)).reason == reason


@pytest.mark.parametrize("name", FILES)
def test_what_can_be_decoded_is_not_refused(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    assert why_bad(str(tmp_path / name)) is None


def test_only_the_first_image_of_a_gif_counts_and_the_walk_to_it_ends(tmp_path):
    first, second = RGB.quantize(16), RGB.quantize(8)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=[second])
    encoded = file.getvalue()
    place = encoded.rindex(b"\x2c\0\0\0\0") + 5
    later_is_huge = encoded[:place] + b"\xff\xff\xff\xff" + encoded[place + 4 :]
    images = [decode_image(each, image_size=(HEIGHT, WIDTH), resize="squish") for each in (encoded, later_is_huge)]
    np.testing.assert_array_equal(*images)
    before = encoded.index(b"\x2c\0\0\0\0")
    comments = b"\x21\xfe" + b"\1a" * 100_001 + b"\0"
    (tmp_path / "long.gif").write_bytes(encoded[:before] + comments + encoded[before:])
    assert "within its first 100000 blocks" in why_bad(str(tmp_path / "long.gif"))
