import keras
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from keras_sgdr.augmentation.random_view import side_on
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.folder import index_folder
from keras_sgdr.evaluation.tta import merge_views, predict_tta, view_weights


class MeanColour(keras.layers.Layer):
    """Probabilities that show what an image holds: its mean red, green and blue."""

    def call(self, images):
        means = keras.ops.mean(keras.ops.cast(images, "float32"), axis=(1, 2)) + 1.0
        return means / keras.ops.sum(means, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((8, 8, 3)), MeanColour()])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3)).astype("float32")


class RedShift:
    """An augmentation whose views are told apart: view v of image i gets more red, by its seeds."""

    def __init__(self):
        self.seeds = []

    def augment(self, images, seeds):
        self.seeds.append(np.asarray(seeds))
        shift = (seeds[:, :1] % 50).astype("float32") + seeds[:, 1:] % 7
        return images + shift[:, :, None, None] * np.array([1.0, 0, 0], "float32")


def plain_probabilities(images):
    means = images.mean(axis=(1, 2)) + 1
    return means / means.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def dense_logits():
    """A model whose logits depend on every pixel, so that no two views are alike to it."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Rescaling(1 / 64), keras.layers.Flatten(), keras.layers.Dense(4)]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


def softmax(logits):
    exponentials = np.exp(logits.astype("float64"))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def red_shifts(images, augmentation):
    """The views that `RedShift` made of images, from the seeds that it was given."""
    return [
        images + ((seeds[:, :1] % 50) + seeds[:, 1:] % 7)[:, :, None, None] * np.array([1.0, 0, 0], "float32")
        for seeds in augmentation.seeds
    ]


def test_no_views_give_the_plain_prediction(model, images):
    assert np.allclose(predict_tta(model, images, num_views=0, verbose=0), plain_probabilities(images), atol=1e-6)


def test_four_views_weigh_four_fifths(model, images):
    augmentation = RedShift()
    result = predict_tta(model, images[:10], augmentation=augmentation, verbose=0)
    views = [plain_probabilities(view) for view in red_shifts(images[:10], augmentation)]
    assert len(views) == 4
    assert len({tuple(seeds[:, 0]) for seeds in augmentation.seeds}) == 4
    assert all(seeds[:, 1].tolist() == list(range(10)) for seeds in augmentation.seeds)
    expected = 0.2 * plain_probabilities(images[:10]) + 0.2 * sum(views)
    assert np.allclose(result, expected, atol=1e-6)


# The weights of the plain prediction and of three views; the extremes have none.
WEIGHTS = np.array([0.4, 0.2, 0.2, 0.2])
MERGES = {
    "mean": lambda views: np.average(views, axis=0, weights=WEIGHTS),
    "gmean": lambda views: stats.gmean(views, axis=0, weights=np.broadcast_to(WEIGHTS[:, None, None], views.shape)),
    "max": lambda views: np.max(views, axis=0),
    "min": lambda views: np.min(views, axis=0),
}


@pytest.mark.parametrize("is_of_logits", [False, True])
@pytest.mark.parametrize("merge", MERGES)
def test_every_merge_is_one_of_probabilities(dense_logits, images, merge, is_of_logits):
    images, augmentation = images[:40], RedShift()
    model = dense_logits if is_of_logits else keras.Sequential([dense_logits, keras.layers.Softmax()])
    arguments = {"num_views": 3, "plain_weight": 0.4, "from_logits": is_of_logits, "verbose": 0}
    result = predict_tta(model, images, augmentation=augmentation, merge=merge, **arguments)
    # The views of each batch of 32 come one after the other.
    first, last = RedShift(), RedShift()
    first.seeds, last.seeds = augmentation.seeds[:3], augmentation.seeds[3:]
    views = [
        np.concatenate(parts)
        for parts in zip(red_shifts(images[:32], first), red_shifts(images[32:], last), strict=True)
    ]
    expected = MERGES[merge](np.stack([softmax(dense_logits.predict(view, verbose=0)) for view in (images, *views)]))
    np.testing.assert_allclose(result, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-6)
    assert result.dtype == np.float32


def test_a_view_of_the_whole_image_sees_what_the_crop_cuts_off(model, tmp_path, capsys):
    # Red in the middle, where the crop is, and blue at both ends, which only the whole image shows.
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12, 0], pixels[:, :4, 2], pixels[:, 12:, 2] = 200, 200, 200
    for file in ("train/a/1.png", "train/b/2.png", "valid/a/3.png", "valid/a/4.png", "valid/b/5.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / file)
    valid = index_folder(tmp_path).valid
    crop, squish = (
        load_dataset(valid, image_size=8, batch_size=2, resize=resize, verbose=0) for resize in ("crop", "squish")
    )
    plain, whole = (model.predict(data, verbose=0) for data in (crop, squish))
    assert plain[0, 2] < 0.01
    assert abs(whole[0, 2] - 0.5) < 0.05
    result = predict_tta(model, crop, whole=squish, num_views=0, plain_weight=0.7, verbose=0)
    np.testing.assert_allclose(result, 0.7 * plain + 0.3 * whole, atol=1e-6)
    mirrored = predict_tta(model, crop, whole=squish, num_views=1, augmentation=keras.layers.Identity(), verbose=0)
    np.testing.assert_allclose(mirrored, (2 * plain + whole) / 3, atol=1e-6)  # a plain image to two views: a third each
    assert not capsys.readouterr().out


def test_a_whole_of_other_batches_is_refused(model, images):
    for whole in ([images[:33]], [images[:33], images[33:50]], [images[:33], images[33:], images[:4]]):
        with pytest.raises(ValueError, match="`whole` must have the same images"):
            predict_tta(model, [images[:33], images[33:]], whole=whole, verbose=0)


def test_presets_give_the_same_views_in_each_call(dense_logits, images):
    model = keras.Sequential([dense_logits, keras.layers.Softmax()])
    first, again, other = (
        predict_tta(model, images[:6], augmentation=side_on(), num_views=2, seed=seed, verbose=0) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    default, zero = (
        predict_tta(model, images[:6], augmentation=side_on(), num_views=2, verbose=0, **seed)
        for seed in ({}, {"seed": 0})
    )
    np.testing.assert_array_equal(default, zero)
    assert np.abs(first - other).max() > 1e-3


def test_views_do_not_depend_on_the_batches(model, images):
    whole, parts = RedShift(), RedShift()
    one = predict_tta(model, [images], augmentation=whole, num_views=3, verbose=0)
    other = predict_tta(model, [images[:33], images[33:]], augmentation=parts, num_views=3, verbose=0)
    assert np.allclose(one, other, atol=1e-6)


def test_seed_changes_the_views(model, images):
    first, second = RedShift(), RedShift()
    predict_tta(model, images[:4], augmentation=first, seed=1, verbose=0)
    predict_tta(model, images[:4], augmentation=second, seed=2, verbose=0)
    assert not np.array_equal(np.stack(first.seeds)[..., 0], np.stack(second.seeds)[..., 0])


def test_keras_layer_is_called_as_in_training(model, images):
    class Inverted(keras.layers.Layer):
        def call(self, images, training=False):
            return 255.0 - images if training else images

    result = predict_tta(model, images, augmentation=Inverted(), verbose=0)
    expected = 0.2 * plain_probabilities(images) + 0.8 * plain_probabilities(255 - images)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def enlarged_corner(image, rows, columns, size):
    """Pillow's bilinear enlargement of a part of an image, of numbers with fractions."""
    channels = [
        Image.fromarray(image[rows, columns, channel]).resize((size, size), Image.Resampling.BILINEAR)
        for channel in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


@pytest.mark.parametrize("num_views", [1, 2, 3, 4, 6])
def test_default_views_are_crops_of_the_corners(num_views):
    image = np.random.default_rng(7).uniform(0, 255, (22, 22, 3)).astype("float32")
    keras.utils.set_random_seed(5)
    layers = [keras.layers.Rescaling(1 / 64), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((22, 22, 3)), *layers])
    # 22 / 1.1 = 20 and 22 / 1.2 = 18.3: from the top left over the top right to the bottom right
    low, high = slice(0, 20), slice(2, 22)
    corners = [(low, low), (low, high), (high, low), (high, high), (slice(0, 18), slice(0, 18))]
    corners += [(slice(0, 18), slice(4, 22))]
    views = np.stack([enlarged_corner(image, *corner, 22) for corner in corners[:num_views]])
    result = predict_tta(model, image[None], num_views=num_views, plain_weight=0.0, verbose=0)
    np.testing.assert_allclose(result[0], model.predict(views, verbose=0).mean(axis=0), atol=1e-4)


@pytest.mark.parametrize(
    ("num_views", "plain_weight", "expected"),
    [
        (0, None, [1]),
        (4, None, [0.2] * 5),
        (5, None, [2 / 7] + [1 / 7] * 5),
        (4, 0.25, [0.25] + [0.1875] * 4),
        (8, 0.4, [0.4] + [0.075] * 8),
    ],
)
def test_weights_are_the_peers(num_views, plain_weight, expected):
    assert view_weights(num_views, plain_weight).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("merge", "expected"), [("mean", 0.5), ("gmean", 0.0), ("max", 1.0), ("min", 0.0)])
def test_merges_are_ttachs(merge, expected):
    # ttach's own example, [1, 0, .5], in the first class; the second is the same everywhere
    views = np.array([1.0, 0.0, 0.5])[:, None, None] * [1.0, 0.0] + [0.0, 1.0]
    merged = merge_views(views, np.full(3, 1 / 3), merge)
    assert np.allclose(merged[0, 0] / merged[0, 1], expected, atol=1e-6)


def test_logits_without_a_word_are_refused(images):
    means = [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()]
    for last in ([], [keras.layers.Softmax(), keras.layers.Rescaling(1.5)]):
        with pytest.raises(ValueError, match="pass `from_logits=True`"):
            predict_tta(keras.Sequential([*means, *last]), images, verbose=0)


def test_diverged_model_is_not_taken_for_logits(images):
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    diverged = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    diverged.set_weights([np.full_like(weights, np.nan) for weights in diverged.get_weights()])
    with pytest.raises(ValueError, match=r"Received: a row \[nan.*diverged"):
        predict_tta(diverged, images, verbose=0)


def test_every_kind_of_dataset_gives_the_same(model, images):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return images[i * 30 : (i + 1) * 30], np.zeros(len(images[i * 30 : (i + 1) * 30]))

    expected = predict_tta(model, images, verbose=0)
    generator = (images[i : i + 7] for i in range(0, 70, 7))
    for dataset in (Batches(), generator):
        assert np.allclose(predict_tta(model, dataset, verbose=0), expected, atol=1e-6)


def test_progress_is_shown(model, images, capsys):
    predict_tta(model, images, num_views=1)
    assert "3/3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"num_views": -1}, "num_views=-1"),
        ({"num_views": 1.5}, "num_views=1.5"),
        ({"merge": "median"}, "merge='median'"),
        ({"plain_weight": 1.5}, "plain_weight=1.5"),
        ({"plain_weight": float("nan")}, "plain_weight=nan"),
    ],
)
def test_bad_arguments_are_named(model, images, arguments, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        predict_tta(model, images, verbose=0, **arguments)


def test_empty_dataset_is_refused(model):
    with pytest.raises(ValueError, match=r"at least one batch. Received: dataset="):
        predict_tta(model, iter([]), verbose=0)
