"""Views of images, against SciPy in float64, KerasCV's own layers, and the distributions they promise."""

import subprocess
import sys

import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from keras_sgdr.augmentation.random_view import RandomView, basic, side_on, top_down
from keras_sgdr.augmentation.resampling import render
from keras_sgdr.augmentation.stateless_random import epoch_draws
from keras_sgdr.augmentation.transforms import compose, rotation, scaling, symmetry, tilting, zooming

STILL = {"max_rotate_degrees": 0.0, "max_lighting": 0.0}


def smooth_images(count=3, height=32, width=32):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [
            np.stack([128 + 90 * np.sin(x / (4 + n) + c) * np.cos(y / (5 + c) + n) for c in range(3)], axis=-1)
            for n in range(count)
        ]
    ).astype(np.float32)


def seeds_of(count, epoch=0):
    return epoch_draws(count, seed=7, epoch=epoch)[1]


def matrices_of(transform, count):
    return np.array([[np.broadcast_to(value, count) for value in row] for row in transform]).transpose(2, 0, 1)


def resampled_by_scipy(image, matrix, image_size):
    """Looks the result's pixels up in float64; coordinates are measured from the centres."""
    y, x = np.mgrid[0 : image_size[0], 0 : image_size[1]].astype(np.float64)
    centred = np.stack([x - (image_size[1] - 1) / 2, y - (image_size[0] - 1) / 2, np.ones_like(x)])
    source_x, source_y, depth = np.einsum("ij,jhw->ihw", matrix.astype(np.float64), centred)
    rows = source_y / depth + (image.shape[0] - 1) / 2
    columns = source_x / depth + (image.shape[1] - 1) / 2
    channels = np.moveaxis(image.astype(np.float64), -1, 0)
    return np.stack([ndimage.map_coordinates(c, [rows, columns], order=1, mode="reflect") for c in channels], axis=-1)


def rendered(images, transform, image_size=None, brightness=0.0, contrast=1.0):
    count = len(images)
    height, width = images.shape[1:3]
    return render(
        tf.reshape(tf.constant(images), [count, -1]),
        transform,
        tf.fill([count], brightness),
        tf.fill([count], contrast),
        windows=tf.constant([[0, height, width, width]] * count),
        image_size=image_size or images.shape[1:3],
    ).numpy()


def fixed(*values):
    return [tf.constant(np.full(3, value, np.float32)) for value in values]


@pytest.mark.parametrize(
    "layer",
    [
        side_on(max_zoom=1.3, max_lighting=0.0),
        top_down(max_zoom=2.0, max_rotate_degrees=180.0, max_lighting=0.0),
        basic(max_warp=0.3, max_zoom=1.1, max_lighting=0.0),
    ],
)
def test_composed_view_equals_scipy(layer):
    images, seeds = smooth_images(12), seeds_of(12)
    transform, _, _ = layer.draw(seeds, (32, 32))
    expected = [resampled_by_scipy(p, m, (32, 32)) for p, m in zip(images, matrices_of(transform, 12), strict=True)]
    np.testing.assert_allclose(layer.augment(images, seeds), expected, atol=0.05)


def test_far_outside_the_image_is_reflected_again_and_again():
    images = smooth_images()
    transform = compose(zooming(*fixed(0.15, 40.0, -55.0)), rotation(*fixed(0.7)))
    expected = [resampled_by_scipy(p, m, (32, 32)) for p, m in zip(images, matrices_of(transform, 3), strict=True)]
    np.testing.assert_allclose(rendered(images, transform), expected, atol=0.1)


def with_room(images, room):
    """Lays pixels out row by row, one image after the other, each with zeros behind it."""
    pixels = np.zeros((len(images), 3 * room), images[0].dtype)
    for row, image in zip(pixels, images, strict=True):
        row[: image.size] = image.ravel()
    return pixels, np.int32([[0, *image.shape[:2], image.shape[1]] for image in images])


def test_part_of_a_image_is_all_that_is_seen_of_it():
    layer, seeds = side_on(max_zoom=1.3, max_lighting=0.3), seeds_of(3)
    images = smooth_images(3, 40, 50).astype(np.uint8)
    parts = images[:, 7:35, 11:44]
    pixels, _ = with_room(list(images), 2000)
    windows = np.int32([[7 * 50 + 11, 28, 33, 50]] * 3)
    expected = layer.augment_pixels(*with_room(list(parts), 2000), seeds, image_size=(24, 24))
    np.testing.assert_array_equal(layer.augment_pixels(pixels, windows, seeds, image_size=(24, 24)), expected)


def test_images_of_several_sizes_are_resized_in_the_same_resampling():
    layer, seeds = side_on(max_zoom=1.3, max_lighting=0.0), seeds_of(3)
    images = [smooth_images(1, *size)[0].astype(np.uint8) for size in ((40, 30), (17, 48), (48, 48))]
    result = layer.augment_pixels(*with_room(images, 48 * 48), seeds, image_size=(24, 24)).numpy()
    drawn = matrices_of(layer.draw(seeds, (24, 24))[0], 3)
    for image, matrix, view in zip(images, drawn, result, strict=True):
        whole = np.diag([image.shape[1] / 24, image.shape[0] / 24, 1.0]) @ matrix
        np.testing.assert_allclose(view, resampled_by_scipy(image, whole, (24, 24)), atol=0.05)


def test_unaugmented_pixels_equal_a_plain_resize():
    image = smooth_images(1, 40, 30)
    still = RandomView(**STILL)
    result = still.augment_pixels(*with_room(list(image), 2000), seeds_of(1), image_size=(24, 24))
    np.testing.assert_allclose(result, tf.image.resize(image, (24, 24)), atol=1e-3)


def test_composition_is_the_product_of_matrices():
    parts = [
        rotation(*fixed(0.3)),
        scaling(*fixed(2.0, 3.0)),
        tilting(*fixed(0.1, -0.2)),
        zooming(*fixed(1.5, 2.0, 1.0)),
    ]
    expected = np.linalg.multi_dot([matrices_of(part, 3)[0] for part in parts])
    np.testing.assert_allclose(matrices_of(compose(*parts), 3)[0], expected, rtol=1e-5)


def test_flip_equals_kerascv():
    images = smooth_images()
    ours = RandomView(flip="horizontal", flip_probability=1.0, **STILL)(images)
    np.testing.assert_allclose(ours, keras_cv.layers.RandomFlip("horizontal", rate=1.0)(images), atol=1e-4)


@pytest.mark.parametrize("degrees", [-10.0, 7.0, 90.0, 135.0])
def test_rotation_equals_kerascv(degrees):
    images = smooth_images()
    theirs = keras_cv.layers.RandomRotation((degrees / 360, degrees / 360), fill_mode="reflect")(images)
    ours = rendered(images, rotation(*fixed(np.radians(degrees))))
    np.testing.assert_allclose(ours, theirs, atol=0.1)


@pytest.mark.parametrize("zoom", [1.1, 2.0])
def test_zoom_equals_kerascv(zoom):
    images = smooth_images()
    factor = 1 / zoom - 1
    theirs = keras_cv.layers.RandomZoom((factor, factor), fill_mode="reflect")(images)
    np.testing.assert_allclose(rendered(images, zooming(*fixed(zoom, 0.0, 0.0))), theirs, atol=0.1)


def test_brightness_equals_kerascv():
    images = smooth_images()
    theirs = keras_cv.layers.RandomBrightness((0.1, 0.1), value_range=(0, 255))(images)
    identity = compose()
    np.testing.assert_allclose(rendered(images, identity, brightness=25.5), theirs, atol=1e-2)


def test_contrast_turns_about_the_mean_and_stays_in_range():
    images = smooth_images()
    means = images.astype(np.float64).mean(axis=(1, 2, 3), keepdims=True)
    expected = np.clip((images - means) * 1.5 + means, 0, 255)
    np.testing.assert_allclose(rendered(images, compose(), contrast=1.5), expected, atol=1e-2)


def test_mean_of_a_large_image_comes_from_a_grid_of_it():
    images = smooth_images(3, 256, 256)
    means = images.mean(axis=(1, 2, 3), keepdims=True)
    expected = np.clip((images - means) * 1.05 + means, 0, 255)
    np.testing.assert_allclose(rendered(images, compose(), contrast=1.05), expected, atol=0.2)


def test_eight_symmetries_are_those_of_the_square():
    image = smooth_images(1)
    found = {rendered(image, symmetry(tf.constant([n]), is_square=True)).round(2).tobytes() for n in range(8)}
    turned = [np.rot90(image, k, axes=(1, 2)) for k in range(4)]
    expected = {rendered(p.copy(), compose()).round(2).tobytes() for t in turned for p in (t, t[:, :, ::-1])}
    assert found == expected
    assert len(found) == 8


def test_quarter_turn_is_counterclockwise():
    image = smooth_images(1)
    result = rendered(image, rotation(tf.constant([np.pi / 2], tf.float32)))
    np.testing.assert_allclose(result, np.rot90(image, 1, axes=(1, 2)), atol=0.05)


def drawn(layer, count=20_000, image_size=(40, 60)):
    transform, brightness, contrast = layer.draw(seeds_of(count), image_size)
    return matrices_of(transform, count), np.asarray(brightness), np.asarray(contrast)


def test_angles_are_uniform_and_as_frequent_as_asked():
    matrices, _, _ = drawn(RandomView(max_rotate_degrees=12.0, rotate_probability=0.6))
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    turned = angles[angles != 0]
    assert len(turned) / len(angles) == pytest.approx(0.6, abs=0.02)
    quantiles = np.quantile(turned, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(quantiles, [-12, -6, 0, 6, 12], atol=0.5)


def test_zoom_stays_inside_the_image_and_reaches_its_corners():
    matrices, _, _ = drawn(RandomView(max_zoom=1.5, zoom_probability=0.75, **STILL))
    zooms = 1 / matrices[:, 0, 0]
    assert (zooms != 1).mean() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_allclose(np.quantile(zooms[zooms != 1], [0, 0.5, 1]), [1, 1.25, 1.5], atol=0.02)
    for axis, half in ((0, 30), (1, 20)):
        reach = np.abs(matrices[:, axis, 2]) + half / zooms
        assert reach.max() <= half + 1e-3
        assert (reach[zooms > 1.2] > half - 0.5).any()


def test_lighting_stays_in_its_range():
    _, brightness, contrast = drawn(RandomView(max_lighting=0.2, lighting_probability=0.5))
    np.testing.assert_allclose(np.quantile(brightness[brightness != 0], [0, 0.5, 1]), [-51, 0, 51], atol=1.5)
    np.testing.assert_allclose(np.quantile(contrast[contrast != 1], [0, 0.5, 1]), [1 / 1.2, 1, 1.2], atol=0.01)
    assert (contrast != 1).mean() == pytest.approx(0.5, abs=0.02)


def test_flips_are_as_frequent_as_asked():
    matrices, _, _ = drawn(RandomView(flip="horizontal", flip_probability=0.3, **STILL))
    assert (matrices[:, 0, 0] < 0).mean() == pytest.approx(0.3, abs=0.02)
    matrices, _, _ = drawn(top_down(**STILL), image_size=(32, 32))
    _, counts = np.unique(matrices.round().reshape(-1, 9), axis=0, return_counts=True)
    np.testing.assert_allclose(counts / 20_000, [1 / 8] * 8, atol=0.02)


def test_oblong_images_are_not_turned_by_a_quarter():
    matrices, _, _ = drawn(top_down(**STILL))
    assert not matrices[:, 0, 1].any()


def test_basic_does_not_mirror():
    matrices, _, _ = drawn(basic(max_zoom=1.2))
    assert (np.linalg.det(matrices) > 0).all()


def test_view_depends_on_the_seed_and_not_on_the_neighbours():
    layer, images, seeds = side_on(max_zoom=1.2), smooth_images(6), seeds_of(6)
    whole = layer.augment(images, seeds).numpy()
    np.testing.assert_allclose(layer.augment(images[2:4], seeds[2:4]), whole[2:4], atol=1e-3)
    assert np.abs(layer.augment(images, seeds_of(6, epoch=1)) - whole).max() > 1


def test_view_is_the_same_in_tf_data():
    layer, images, seeds = side_on(max_zoom=1.2), smooth_images(4), seeds_of(4)
    dataset = tf.data.Dataset.from_tensors((images, seeds)).map(layer.augment)
    np.testing.assert_allclose(next(iter(dataset)), layer.augment(images, seeds), atol=1e-3)


def test_layer_takes_what_kerascv_layers_take():
    layer, images = side_on(seed=0), smooth_images(4)
    labels = np.eye(4, dtype=np.float32)
    result = layer({"images": images, "labels": labels})
    np.testing.assert_array_equal(result["labels"], labels)
    assert result["images"].shape == (4, 32, 32, 3)
    assert layer(images[0]).shape == (32, 32, 3)
    np.testing.assert_array_equal(layer(images, training=False), images)
    pipeline = keras_cv.layers.Augmenter([layer, keras_cv.layers.RandomFlip()])
    mapped = tf.data.Dataset.from_tensors({"images": images, "labels": labels}).map(pipeline)
    np.testing.assert_array_equal(next(iter(mapped))["labels"], labels)


def test_seeded_layer_repeats_its_calls():
    first, second = (side_on(seed=0)(smooth_images()).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_layer_survives_saving_in_a_new_process(tmp_path):
    import keras

    layer = top_down(max_zoom=1.3, max_warp=0.1, rotate_probability=0.4, seed=3)
    keras.Sequential([keras.Input((8, 8, 3)), layer]).save(tmp_path / "model.keras")
    code = (
        "import keras, keras_sgdr.augmentation.random_view\n"
        f"model = keras.models.load_model({str(tmp_path / 'model.keras')!r})\n"
        "config = model.layers[-1].get_config()\n"
        "print(config['flip'], config['max_zoom'], config['max_warp'], config['rotate_probability'], config['seed'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["dihedral", "1.3", "0.1", "0.4", "3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": "vertical"}, "Received: flip='vertical'"),
        ({"max_rotate_degrees": -1.0}, "Received: max_rotate_degrees=-1.0"),
        ({"max_zoom": 0.9}, "Received: max_zoom=0.9"),
        ({"max_zoom": float("nan")}, "Received: max_zoom=nan"),
        ({"max_warp": 0.6}, "Received: max_warp=0.6"),
        ({"max_lighting": 2.0}, "Received: max_lighting=2.0"),
        ({"zoom_probability": 1.1}, "Received: zoom_probability=1.1"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RandomView(**options)
