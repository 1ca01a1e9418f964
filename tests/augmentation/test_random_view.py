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


# Three round spots, one in each channel, off the centre so that no symmetry leaves them where they are: what moves the
# pixels of a view is told from where they are in it, and not from what the layer says that it has drawn.
SIDE, GREY, HEIGHT_OF_SPOTS, WIDTH_OF_SPOTS = 48, 100.0, 100.0, 2.5
SPOTS = np.array([[9.0, -3.0], [-7.0, -8.0], [1.0, 10.0]])  # x and y from the centre


def spotted_image():
    y, x = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    spots = [np.exp(-((x - right) ** 2 + (y - down) ** 2) / (2 * WIDTH_OF_SPOTS**2)) for right, down in SPOTS]
    return (GREY + HEIGHT_OF_SPOTS * np.stack(spots, axis=-1)).astype(np.float32)


class Measured:
    """What happened to the spots in each of many views.

    Attributes:
        inverses: the matrices that lead from a view's pixels to the image's, from the centres, `(n, 2, 3)`.
        is_mirrored, degrees, zooms, shifts: the parts of their inverses.
        greys: the level between the spots; gains: how much higher the spots are than in the image.
    """

    def __init__(self, views):
        views = np.asarray(views, np.float64)
        y, x = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
        self.greys = np.median(views, axis=(1, 2, 3))
        heights = views - self.greys[:, None, None, None]
        heights[heights < 0.02 * HEIGHT_OF_SPOTS] = 0  # rounding, and what lies far from the spots
        masses = heights.sum(axis=(1, 2))
        found = np.stack([(heights * axis[..., None]).sum(axis=(1, 2)) / masses for axis in (x, y)], axis=-1)
        corners = np.concatenate([SPOTS.T, np.ones((1, 3))])
        forward = found.transpose(0, 2, 1) @ np.linalg.inv(corners)
        linear = forward[:, :, :2]
        self.is_mirrored = np.linalg.det(linear) < 0
        self.zooms = np.sqrt(np.abs(np.linalg.det(linear)))
        sign = np.where(self.is_mirrored, -1, 1)
        self.degrees = np.degrees(np.arctan2(linear[:, 0, 1], sign * linear[:, 0, 0]))
        self.shifts = forward[:, :, 2]
        # A zoom makes spots larger, and light makes them higher. What lies below 2 % is 2 % of a Gaussian's volume.
        volume = 0.98 * 2 * np.pi * WIDTH_OF_SPOTS**2 * HEIGHT_OF_SPOTS
        self.gains = masses.mean(axis=1) / volume / self.zooms**2
        wholes = np.concatenate([forward, np.tile([[[0.0, 0.0, 1.0]]], (len(views), 1, 1))], axis=1)
        self.inverses = np.linalg.inv(wholes)


@pytest.fixture(scope="module", params=["basic", "side_on", "top_down"])
def preset(request):
    """The name, 2,000 views of the spots as the preset has it by default but for the zoom, and what is seen there."""
    layer = {"basic": basic, "side_on": side_on, "top_down": top_down}[request.param](max_zoom=1.2)
    image = spotted_image()
    views = layer.augment(np.broadcast_to(image, (2000, *image.shape)), seeds_of(2000)).numpy()
    return request.param, views, Measured(views)


def test_a_preset_s_views_are_affine_warps_of_the_image(preset):
    _, views, measured = preset
    image = spotted_image()
    for number in range(0, 2000, 100):
        expected = resampled_by_scipy(image, measured.inverses[number], (SIDE, SIDE))
        expected = (expected - GREY) * measured.gains[number] + measured.greys[number]
        np.testing.assert_allclose(views[number], expected, atol=3)


def test_a_preset_mirrors_as_often_as_it_says(preset):
    name, _, measured = preset
    expected = {"basic": 0.0, "side_on": 0.5, "top_down": 0.5}[name]
    assert measured.is_mirrored.mean() == pytest.approx(expected, abs=4 * 0.5 / 2000**0.5 * (expected > 0))


def test_a_preset_turns_three_in_four_by_up_to_ten_degrees(preset):
    name, _, measured = preset
    # Of top_down's, the nearest of the quarter turns is that of its symmetry, each as likely.
    quarters = np.rint(measured.degrees / 90)
    if name == "top_down":
        symmetries = 4 * measured.is_mirrored + quarters % 4
        counts = np.unique(symmetries, return_counts=True)[1]
        np.testing.assert_allclose(counts / 2000, [1 / 8] * 8, atol=0.03)
    else:
        assert not quarters.any()
    degrees = measured.degrees - 90 * quarters
    assert (np.abs(degrees) > 0.1).mean() == pytest.approx(0.75 * 0.99, abs=0.04)
    turned = degrees[np.abs(degrees) > 0.1]
    np.testing.assert_allclose(np.quantile(turned, [0, 0.25, 0.5, 0.75, 1]), [-10, -5, 0, 5, 10], atol=0.8)


def test_a_preset_zooms_three_in_four_and_stays_inside(preset):
    _, _, measured = preset
    assert (measured.zooms > 1.002).mean() == pytest.approx(0.75 * 0.99, abs=0.04)
    zoomed = measured.zooms[measured.zooms > 1.002]
    np.testing.assert_allclose(np.quantile(zoomed, [0, 0.5, 1]), [1, 1.1, 1.2], atol=0.012)
    # The part that is shown may lie anywhere within the image, and does.
    room = (measured.zooms - 1) * SIDE / 2
    reach = np.abs(measured.shifts).max(axis=1)
    assert (reach <= room + 0.3).all()
    assert np.quantile(reach[room > 2] / room[room > 2], 0.95) > 0.9


def test_a_preset_s_light_stays_within_five_in_a_hundred(preset):
    _, _, measured = preset
    np.testing.assert_allclose(np.quantile(measured.gains, [0.002, 0.5, 0.998]), [1 / 1.05, 1, 1.05], atol=0.015)
    np.testing.assert_allclose(
        np.quantile(measured.greys - GREY, [0, 0.25, 0.5, 0.75, 1]),
        255 * 0.05 * np.array([-1, -0.5, 0, 0.5, 1]),
        atol=1.2,
    )


def test_perspective_equals_scipy():
    images = smooth_images()
    expected = [resampled_by_scipy(p, np.array([[1, 0, 0], [0, 1, 0], [0.01, -0.004, 1]]), (32, 32)) for p in images]
    np.testing.assert_allclose(rendered(images, tilting(*fixed(0.01, -0.004))), expected, atol=0.1)


def test_perspective_moves_the_edges_as_far_as_asked():
    matrices, _, _ = drawn(RandomView(max_warp=0.2, warp_probability=0.75, **STILL))
    assert (matrices[:, 2, 0] != 0).mean() == pytest.approx(0.75, abs=0.02)
    for axis, half in ((0, 30), (1, 20)):
        moved = matrices[:, 2, axis] * half  # how much nearer, or farther, that edge's middle is
        np.testing.assert_allclose(np.quantile(moved[moved != 0], [0, 0.25, 0.5, 1]), [-0.2, -0.1, 0, 0.2], atol=0.01)


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
    """The view of a resized image, and the resized view, are the same warp: told from images of x and of y alone."""
    layer, seeds = side_on(max_zoom=1.2, max_warp=0.1, max_lighting=0.0), seeds_of(6)
    for height, width in ((40, 30), (17, 48), (48, 48)):
        x = np.broadcast_to(np.linspace(0, 255, width), (height, width))
        y = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
        images = [np.stack([x, y, (x + y) / 2], axis=-1).astype(np.float32)] * 6
        result = layer.augment_pixels(*with_room(images, 48 * 48), seeds, image_size=(24, 24)).numpy()
        resized = np.stack([np.asarray(tf.image.resize(image, (24, 24))) for image in images])
        expected = layer.augment(resized, seeds).numpy()
        # Not at the borders, where what is reflected is half a pixel wide, and half one of the larger image.
        np.testing.assert_allclose(result[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], atol=3)


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


@pytest.mark.slow
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
