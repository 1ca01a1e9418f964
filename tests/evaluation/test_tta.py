import keras
import numpy as np
import pytest

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


def test_no_views_give_the_plain_prediction(model, images):
    assert np.allclose(predict_tta(model, images, num_views=0, verbose=0), plain_probabilities(images), atol=1e-6)


def test_four_views_weigh_four_fifths(model, images):
    augmentation = RedShift()
    result = predict_tta(model, images[:10], augmentation=augmentation, verbose=0)
    views = [
        plain_probabilities(images[:10] + ((s[:, :1] % 50) + s[:, 1:] % 7)[:, :, None, None] * [1.0, 0, 0])
        for s in augmentation.seeds
    ]
    assert len(views) == 4
    expected = 0.2 * plain_probabilities(images[:10]) + 0.2 * sum(views)
    assert np.allclose(result, expected, atol=1e-6)


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
    flip = keras.layers.RandomBrightness(0.3, seed=3)
    result = predict_tta(model, images, augmentation=flip, verbose=0)
    assert result.shape == (70, 3)
    assert not np.allclose(result, plain_probabilities(images), atol=1e-4)


def test_default_views_are_the_four_corners(model):
    image = np.zeros((1, 11, 11, 3), "float32")
    image[0, 0, 0, 0] = 100  # red in the top left corner alone: one of the four crops of 10 x 10 has it whole
    colours = keras.Sequential([keras.Input((11, 11, 3)), MeanColour()])
    only_views = predict_tta(colours, image, plain_weight=0.0, verbose=0)
    seen = plain_probabilities(np.array([[[[1.0, 0, 0]]]]))  # mean red is about 1 in the one crop that holds the corner
    unseen = plain_probabilities(np.zeros((1, 1, 1, 3)))
    assert np.allclose(only_views, (seen + 3 * unseen) / 4, atol=0.02)


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
    assert np.allclose(view_weights(num_views, plain_weight), expected)


@pytest.mark.parametrize(("merge", "expected"), [("mean", 0.5), ("gmean", 0.0), ("max", 1.0), ("min", 0.0)])
def test_merges_are_ttachs(merge, expected):
    # ttach's own example, [1, 0, .5], in the first class; the second is the same everywhere
    views = np.array([1.0, 0.0, 0.5])[:, None, None] * [1.0, 0.0] + [0.0, 1.0]
    merged = merge_views(views, np.full(3, 1 / 3), merge)
    assert np.allclose(merged[0, 0] / merged[0, 1], expected, atol=1e-6)


def test_logits_are_averaged_as_probabilities(images):
    logits = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    result = predict_tta(logits, images, num_views=0, from_logits=True, verbose=0)
    shifted = images.mean(axis=(1, 2)) - images.mean(axis=(1, 2)).max(axis=1, keepdims=True)
    assert np.allclose(result, np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True), atol=1e-4)


def test_logits_without_a_word_are_refused(images):
    logits = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match="pass `from_logits=True`"):
        predict_tta(logits, images, verbose=0)


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
