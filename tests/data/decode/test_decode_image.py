"""Images as Pillow wrote them, decoded in the graph and compared with what Pillow reads."""

import io
from functools import lru_cache

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_sgdr.data.decode.corrupt_images import check_images, find_bad_images
from keras_sgdr.data.decode.decode_image import decode_image, decode_pixels, room_for
from keras_sgdr.data.decode.decode_spec import DecodeSpec


def smooth_image(height=40, width=60):
    """Colours that change slowly, so that JPEG keeps them, and differently along each axis."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [255 * x / width, 255 * y / height, 128 + 100 * np.sin(7 * x / width + 8 * y / height)], axis=-1
    ).astype(np.uint8)


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def assert_close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(int) - expected.astype(int)).mean()
    assert difference <= tolerance


@lru_cache
def decoder(size, resize):
    return tf.function(lambda encoded: decode_image(encoded, image_size=size, resize=resize))


def decode(encoded, size=(40, 60), resize="squish"):
    result = decoder(size, resize)(tf.constant(encoded))
    assert result.dtype == tf.uint8
    assert result.shape == (*size, 3)
    return result.numpy()


RGB = Image.fromarray(smooth_image())


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [(f, m) for f in ("PNG", "BMP", "GIF", "WEBP") for m in ("RGB", "L", "P", "1")],
)
def test_formats_and_modes_decode_as_pillow_reads_them(file_format, mode):
    options = {"lossless": True} if file_format == "WEBP" else {}
    encoded = encode(RGB.convert(mode), file_format, **options)
    assert_close(decode(encoded), np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")), 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_decodes_as_pillow_reads_it(mode, progressive):
    encoded = encode(RGB.convert(mode), "JPEG", quality=95, progressive=progressive)
    assert_close(
        decode(encoded), np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")), 0 if mode != "CMYK" else 0.5
    )


def test_16_bit_grey_keeps_its_upper_byte():
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    encoded = encode(Image.fromarray(values), "PNG")
    assert_close(decode(encoded), np.repeat((values >> 8)[..., None], 3, axis=-1), 0.5)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_image_lies_over_white(file_format, mode):
    opacity = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
    image = RGB.copy()
    image.putalpha(Image.fromarray(opacity))
    image = image.convert(mode).convert("RGBA") if file_format == "WEBP" else image.convert(mode)
    over_white = Image.alpha_composite(Image.new("RGBA", (60, 40), "white"), image.convert("RGBA")).convert("RGB")
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    assert_close(decode(encode(image, file_format, **options)), np.asarray(over_white), 0.5)


def test_transparent_palette_lies_over_white():
    image = RGB.convert("P")
    encoded = encode(image, "PNG", transparency=int(np.asarray(image)[0, 0]))
    reread = Image.open(io.BytesIO(encoded)).convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", (60, 40), "white"), reread).convert("RGB")
    assert_close(decode(encoded), np.asarray(expected), 0)


@pytest.mark.parametrize(
    ("file_format", "mode", "options"),
    [
        ("GIF", "P", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGB", {"quality": 90}),
        ("WEBP", "RGBA", {"quality": 90, "exif": b"Exif\0\0" + bytes(33)}),
    ],
)
def test_animated_images_give_their_first_frame(file_format, mode, options):
    frames = [RGB.convert(mode), ImageOps.invert(RGB).convert(mode)]
    encoded = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    over_white = Image.alpha_composite(
        Image.new("RGBA", (60, 40), "white"), Image.open(io.BytesIO(encoded)).convert("RGBA")
    )
    assert_close(decode(encoded), np.asarray(over_white.convert("RGB")), 1.0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("byte_order", [b"II", b"MM"])
def test_exif_orientation_is_undone_as_pillow_does(orientation, byte_order):
    exif = Image.Exif()
    exif.endian = "<" if byte_order == b"II" else ">"
    exif[0x010F], exif[0x0112], exif[0x0131] = "camera", orientation, "software"
    encoded = encode(RGB, "JPEG", quality=95, exif=exif.tobytes())
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    assert_close(decode(encoded, size=expected.shape[:2]), expected, 1.0)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif_orientation_of_other_formats_is_undone_as_pillow_does(file_format, orientation, prefix):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0131] = "camera", orientation, "software"
    note = prefix + exif.tobytes().removeprefix(b"Exif\0\0")
    encoded = encode(RGB, file_format, exif=note, **({"lossless": True} if file_format == "WEBP" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    assert_close(decode(encoded, size=expected.shape[:2]), expected, 0)
    assert (expected.shape == (60, 40, 3)) == (orientation == 6)


@pytest.mark.parametrize("start", [b"eXIf", b"eXIfII*\0", b"eXIfMM\0*\0\0\0\x08"])
def test_exif_that_is_cut_off_counts_as_upright(start):
    encoded = encode(RGB, "PNG")
    assert_close(decode(encoded + start), smooth_image(), 0)


def test_orientation_is_read_behind_other_segments():
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode(RGB, "JPEG", quality=95, exif=exif.tobytes())
    filler = b"\xff\xe2" + (60_000).to_bytes(2, "big") + bytes(59_998)
    moved = encoded[:2] + filler + filler + encoded[2:]
    assert_close(decode(moved, size=(60, 40)), decode(encoded, size=(60, 40)), 0)


@pytest.mark.parametrize("damage", ["cut", "orientation", "directory", "count"])
def test_broken_exif_counts_as_upright(damage):
    exif = Image.Exif()
    exif[0x0112] = 9 if damage == "orientation" else 6
    encoded = bytearray(encode(RGB, "JPEG", quality=95, exif=exif.tobytes()))
    tiff = encoded.index(b"Exif\0\0") + 6
    if damage == "cut":
        encoded[tiff - 8 : tiff - 6] = (8).to_bytes(2, "big")
        del encoded[tiff : tiff + 26]
    elif damage == "directory":
        encoded[tiff + 4 : tiff + 8] = b"\xff\xff\xff\xff"
    elif damage == "count":
        encoded[tiff + 8 : tiff + 10] = b"\0\0"
    assert_close(decode(bytes(encoded)), smooth_image(), 2.0)


@pytest.mark.parametrize(
    ("size", "ratio"), [((304, 400), 1), ((152, 200), 2), ((76, 100), 4), ((38, 50), 8), ((20, 30), 8)]
)
def test_reduced_jpeg_looks_like_the_whole_one_resized(size, ratio):
    # Waves that are eight pixels long in the result, where a shift by half a pixel changes 12 levels on average.
    y, x = np.mgrid[0:304, 0:400] * (2 * np.pi / 8) * np.array([[[size[0] / 304]], [[size[1] / 400]]])
    waves = np.stack([128 + 80 * np.sin(x + y / 3), 128 + 80 * np.sin(y), 128 + 80 * np.cos(x - y)], axis=-1)
    encoded = encode(Image.fromarray(waves.astype(np.uint8)), "JPEG", quality=95, subsampling=0)
    expected = Image.open(io.BytesIO(encoded)).resize(size[::-1], Image.Resampling.BOX)
    assert_close(decode(encoded, size), np.asarray(expected), 1.0)


def resized_by_formula(image, height, width):
    """Bilinear with half-pixel centres, a pixel at a time, in float64."""
    result = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            y = np.clip((row + 0.5) * image.shape[0] / height - 0.5, 0, image.shape[0] - 1)
            x = np.clip((column + 0.5) * image.shape[1] / width - 0.5, 0, image.shape[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (left + 1 - x) + image[top, right] * (x - left)
            lower = image[bottom, left] * (left + 1 - x) + image[bottom, right] * (x - left)
            result[row, column] = upper * (top + 1 - y) + lower * (y - top)
    return np.round(result)


@pytest.mark.parametrize(
    ("size", "window"), [((30, 30), np.s_[:, 10:50]), ((20, 60), np.s_[10:30, :]), ((64, 64), np.s_[:, 10:50])]
)
def test_crop_takes_the_largest_centred_part(size, window):
    image = smooth_image()
    expected = resized_by_formula(image[window].astype(float), *size)
    assert_close(decode(encode(RGB, "PNG"), size, "crop"), expected, 0.01)


def test_pad_keeps_proportions_over_black():
    result = decode(encode(RGB, "PNG"), (44, 45), "pad")
    assert not result[:7].any()
    assert not result[37:].any()
    assert_close(result[7:37], resized_by_formula(smooth_image().astype(float), 30, 45), 0.01)


@pytest.mark.parametrize("resize", ["crop", "squish", "pad"])
@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (1, 1)])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_very_wide_and_tall_images_decode(resize, shape, file_format):
    encoded = encode(Image.new("RGB", shape, "red"), file_format, **({"quality": 95} if file_format == "JPEG" else {}))
    result = decode(encoded, (16, 24), resize)
    assert result[..., 0].max() >= 253


def test_decoding_runs_in_tf_data_and_in_a_function_the_same():
    encoded = encode(RGB, "JPEG")
    eager = decode_image(encoded, image_size=32).numpy()
    dataset = tf.data.Dataset.from_tensors(encoded).map(lambda e: decode_image(e, image_size=(32, 32)))
    np.testing.assert_array_equal(next(iter(dataset)).numpy(), eager)
    np.testing.assert_array_equal(tf.function(lambda e: decode_image(e, image_size=32))(tf.constant(encoded)), eager)


@pytest.mark.parametrize("image_size", [0, -1, 2.5, (3,), (3, 0), (1, 2, 3)])
def test_impossible_size_is_refused(image_size):
    with pytest.raises((ValueError, TypeError), match=r"image_size="):
        decode_image(b"", image_size=image_size)


def test_unknown_resize_is_refused():
    with pytest.raises(ValueError, match=r"Received: resize='stretch'"):
        decode_image(b"", image_size=8, resize="stretch")


def test_bad_files_are_found_in_order_and_named(tmp_path):
    good = encode(RGB, "JPEG")
    contents = {"a.jpg": good, "b.jpg": b"this is text", "c.jpg": b"", "d.jpg": good[: len(good) // 2], "e.png": good}
    contents |= {"f.png": encode(RGB, "PNG")[:80], "g.gif": b"GIF89a", "h.jpg": b"\xff\xd8\xff", "i.bmp": b"BM"}
    paths = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        paths.append(str(tmp_path / name))
    paths.append(str(tmp_path / "missing.jpg"))
    seen = []
    bad = list(find_bad_images(paths, on_progress=seen.append))
    assert [image.path[-5:] for image in bad] == [
        "b.jpg",
        "c.jpg",
        "d.jpg",
        "f.png",
        "g.gif",
        "h.jpg",
        "i.bmp",
        "g.jpg",
    ]
    assert bad[1].reason == "the file is empty"
    assert all(image.reason and "\n" not in image.reason and "{{" not in image.reason for image in bad)
    assert seen == [10]
    with pytest.raises(ValueError, match=r"Received: no image: .*b\.jpg \(it is no image of a known format"):
        check_images(paths)
    check_images(paths[:1])


@pytest.mark.parametrize(
    ("resize", "position"),
    [("crop", None), ("crop", 0.0), ("crop", 0.3), ("crop", 1.0), ("squish", None), ("pad", None)],
)
@pytest.mark.parametrize("size", [(40, 60), (41, 47), (300, 290), (9, 200), (70, 100)])
def test_pixels_to_resample_are_those_of_the_reduced_image(resize, position, size):
    form = DecodeSpec((32, 40), resize, is_cropped_anywhere=position is not None, is_resampled=True)
    encoded = encode(Image.fromarray(smooth_image(*size)), "JPEG", quality=95)
    pixels, frame = decode_pixels(encoded, image_size=(32, 40), resize=resize, crop_position=position)
    assert pixels.shape[0] == 3 * frame[0] * frame[1] <= 3 * room_for((32, 40))
    ((start, height, width, stride),) = form.windows(
        frame[None], tf.constant([0.5 if position is None else position])
    ).numpy()
    rows = start + stride * np.arange(height)[:, None] + np.arange(width)
    part = pixels.numpy().reshape(-1, 3)[rows]
    resized = tf.image.resize(part, (32, 40)).numpy()
    expected = decode_image(encoded, image_size=(32, 40), resize=resize, crop_position=position)
    assert_close(np.round(resized), expected.numpy(), 0.01)


@pytest.mark.parametrize(
    ("size", "is_whole"), [((40, 60), True), ((62, 90), False), ((20, 200), True), ((600, 580), False)]
)
def test_small_image_is_left_whole(size, is_whole):
    encoded = encode(Image.fromarray(smooth_image(*size)), "JPEG")
    _, frame = decode_pixels(encoded, image_size=(32, 32), resize="crop", crop_position=0.5)
    assert frame[2] == (not is_whole)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(40, 60), (62, 90), (600, 580)])
def test_beginning_of_a_jpeg_makes_no_difference(size, mode):
    image, exif = Image.fromarray(smooth_image(*size)).convert(mode), Image.Exif()
    exif[0x0112] = 3  # upside down
    usual, commented, turned = (
        encode(image, "JPEG", **options) for options in ({}, {"comment": b"by hand"}, {"exif": exif})
    )
    assert usual[20:22] == b"\xff\xdb"
    assert b"\xff\xdb" not in (commented[20:22], turned[20:22])
    (pixels, frame), *others = (
        decode_pixels(encoded, image_size=(32, 32), resize="crop", crop_position=position)
        for encoded, position in [(usual, 0.0), (commented, 0.0), (turned, 0.999)]
    )
    upside_down = tf.reverse(tf.reshape(pixels, [-1, 3]), [0])
    for expected, (other, other_frame) in zip((pixels, tf.reshape(upside_down, [-1])), others, strict=True):
        np.testing.assert_array_equal(other, expected)
        np.testing.assert_array_equal(other_frame, frame)


def test_many_bad_files_are_counted(tmp_path):
    paths = [str(tmp_path / f"{number}.jpg") for number in range(52)]
    with pytest.raises(ValueError, match=r"Received: .*49\.jpg .*, and 2 more\. "):
        check_images(paths)


def striped(axis, length=90, width=30):
    """An image whose value tells how far along its long side a pixel is."""
    values = np.broadcast_to(np.arange(length, dtype=np.uint8) * 2, (width, length))
    return Image.fromarray(np.repeat((values if axis == 1 else values.T)[..., None], 3, axis=2))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("axis", [0, 1])
def test_crop_takes_the_part_that_is_asked_for(file_format, axis):
    encoded = encode(striped(axis), file_format, **({"quality": 100} if file_format == "JPEG" else {}))
    for position, first in ((0.0, 0), (0.25, 15), (0.5, 30), (0.9999999, 60), (1.0, 60), (None, 30)):
        part = decode_image(encoded, image_size=30, crop_position=position).numpy()
        assert_close(part, np.asarray(striped(axis)).take(range(first, first + 30), axis=axis), 1.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_crop_counts_along_the_upright_image(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(striped(1), "JPEG", quality=100, exif=exif.tobytes())
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    part = decode_image(encoded, image_size=30, crop_position=0.25).numpy()
    assert_close(part, upright.take(range(15, 45), axis=int(upright.shape[1] > upright.shape[0])), 1.0)
