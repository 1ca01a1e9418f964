"""Each thing that activations depend on, changed alone, must miss the cache."""

import keras
import numpy as np
import pytest

from keras_sgdr.augmentation.random_view import side_on, top_down
from keras_sgdr.data.dataset.load_dataset import load_dataset
from keras_sgdr.data.index.folder import index_folder
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.precompute import precompute as features
from keras_sgdr.precompute.feature_cache import FeatureCache
from keras_sgdr.precompute.precompute import precompute_features


class AskedError(Exception):
    """Carries the key that a cache was asked for."""


class CacheThatIsAsked(FeatureCache):
    """Stops before anything is computed."""

    def read(self, key):
        raise AskedError(key)


def write_image(path, brightness):
    path.parent.mkdir(parents=True, exist_ok=True)
    keras.utils.save_img(path, np.full((8, 8, 3), brightness, "uint8"), scale=False)


def classifier(*, units=4, pooling=keras.layers.GlobalAveragePooling2D, kernel=0.1):
    dense = keras.layers.Dense(units, kernel_initializer=keras.initializers.Constant(kernel))
    head = keras.layers.Dense(2, activation="softmax")
    model = keras.Sequential([keras.Input((None, None, 3)), pooling(), dense, head])
    freeze_to(model, head.name)
    return model


def key_of(folder, *, model=None, dataset=None, **arguments):
    split = index_folder(folder, valid="train").train
    settings = {"image_size": 8, "batch_size": 2} | (dataset or {})
    with pytest.raises(AskedError) as asked:
        precompute_features(
            model or classifier(),
            load_dataset(split, **settings),
            directory=CacheThatIsAsked(folder),
            verbose=0,
            **arguments,
        )
    return str(asked.value)


def write_folder(folder):
    for number in range(4):
        write_image(folder / "train" / "ab"[number % 2] / f"{number}.png", 10 * number)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def key(folder):
    return key_of(folder)


def test_the_same_made_again_has_the_same_key(folder, key):
    assert key_of(folder) == key


def _change(folder):
    write_image(folder / "train" / "a" / "0.png", 200)


def _rename(folder):
    (folder / "train" / "a" / "0.png").rename(folder / "train" / "a" / "1.png")


def _relabel(folder):
    (folder / "train" / "a" / "0.png").rename(folder / "train" / "b" / "0.png")


def _add(folder):
    write_image(folder / "train" / "b" / "4.png", 40)


def _remove(folder):
    (folder / "train" / "b" / "3.png").unlink()


@pytest.mark.parametrize("change", [_change, _rename, _relabel, _add, _remove])
def test_each_change_of_the_files_misses_the_cache(tmp_path, change):
    before = key_of(write_folder(tmp_path))
    change(tmp_path)
    assert key_of(tmp_path) != before


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": {"image_size": 9}},
        {"dataset": {"image_size": (8, 9)}},
        {"dataset": {"resize": "squish"}},
        {"dataset": {"seed": 1}},
        {"dataset": {"shuffle": True}},
        {"dataset": {"batch_size": 3}},
        {"views": 2},
        {"dtype": "float16"},
        {"model": classifier(units=5)},
        {"model": classifier(pooling=keras.layers.GlobalMaxPooling2D)},
        {"model": classifier(kernel=0.2)},
    ],
    ids=str,
)
def test_each_change_of_a_setting_or_of_the_body_misses_the_cache(folder, key, change):
    assert key_of(folder, **change) != key


def test_each_change_of_the_augmentation_misses_the_cache(folder, key):
    augmentations = side_on(max_zoom=1.1), side_on(max_zoom=1.2), top_down(max_zoom=1.1)
    keys = {key_of(folder, dataset={"augmentation": augmentation}) for augmentation in augmentations}
    assert len(keys | {key}) == 4


@pytest.mark.parametrize("module", [keras, features, features.tf], ids=["keras", "keras_sgdr", "tensorflow"])
def test_another_version_misses_the_cache(folder, key, monkeypatch, module):
    monkeypatch.setattr(module, "__version__", "0.0.0")
    assert key_of(folder) != key


def test_what_does_not_matter_finds_the_cache(folder, key):
    """The head may learn; the order of the activations is drawn when they are read."""
    model = classifier()
    model.layers[-1].set_weights([value + 1 for value in model.layers[-1].get_weights()])
    assert key_of(folder, model=model, shuffle=False, seed=7) == key


def test_a_stream_from_the_midst_of_an_epoch_is_refused(folder):
    """It would be kept without the images before."""
    with pytest.raises(ValueError, match="Received: one of `load_dataset` with an `initial_step` in the midst"):
        key_of(folder, dataset={"initial_step": 1})
