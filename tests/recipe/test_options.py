"""What the options of step 8 and of the split do to a run."""

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_sgdr import Recipe
from keras_sgdr.data.index.folder import index_folder
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.recipe import builders
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.run_directory import RunDirectory
from keras_sgdr.recipe.train import train_image_classifier


@pytest.fixture(scope="module")
def skewed_folder(digits_folder, tmp_path_factory):
    """Of the three classes of digits 40, 12 and 12 images."""
    folder = tmp_path_factory.mktemp("skewed")
    for number, name in enumerate(("one", "seven", "zero")):
        (folder / name).mkdir()
        for path in sorted((digits_folder / name).iterdir())[: 12 if number else 40]:
            (folder / name / path.name).symlink_to(path)
    return folder


def training_data(recipe, folder):
    """One epoch of what step 8 is trained on, as arrays."""
    split = index_folder(folder, valid_fraction=0.2).train
    batches = list(builders.make_training_data(recipe, split).as_numpy_iterator())
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def test_mixed_images_carry_the_labels_of_both(tiny_recipe, digits_folder):
    plain, labels = training_data(tiny_recipe, digits_folder)
    assert labels.dtype == np.int32
    for setting in ({"mixup": 0.4}, {"cutmix": 1.0}):
        images, mixed = training_data(dataclasses.replace(tiny_recipe, **setting), digits_folder)
        assert images.shape == plain.shape
        assert np.allclose(mixed.sum(axis=1), 1)
        assert np.mean(mixed.max(axis=1) < 0.999) > 0.3, setting
        # each label's larger part is that of its own image or of its partner
        assert set(np.count_nonzero(mixed, axis=1)) == {1, 2}


def test_smoothing_spreads_a_share_of_each_label(tiny_recipe, digits_folder):
    _, labels = training_data(tiny_recipe, digits_folder)
    _, smoothed = training_data(dataclasses.replace(tiny_recipe, label_smoothing=0.3), digits_folder)
    assert np.allclose(smoothed, 0.7 * np.eye(3)[labels] + 0.1)


def test_the_optimizer_averages_gradients_and_weights_and_has_the_given_rates(tiny_recipe):
    rates = (1e-4, 1e-3, 1e-2)
    asked = dataclasses.replace(tiny_recipe, accumulate=3, ema=0.9, learning_rate=None, learning_rates=rates)
    model = builders.make_model(asked, 3, None)
    builders.compile_all(model, asked, asked.top_learning_rate)
    assert isinstance(model.optimizer, DifferentialLR)
    assert model.optimizer.learning_rates == pytest.approx(rates)
    assert (model.optimizer.gradient_accumulation_steps, model.optimizer.ema_momentum) == (3, 0.9)
    builders.compile_all(model, asked, 1e-3)  # what an undone step 8 goes on with
    assert model.optimizer.learning_rates == pytest.approx([rate / 10 for rate in rates])


def test_given_rates_grow_with_the_images_of_an_update(tiny_recipe):
    rates = {"learning_rate": None, "learning_rates": (1e-4, 1e-3, 1e-2), "head_learning_rate": 2e-3}
    asked = dataclasses.replace(tiny_recipe, batch_size=64, accumulate=3, rate_batch_size=16, **rates)
    model = builders.make_model(asked, 3, None)
    builders.compile_all(model, asked, asked.top_learning_rate)
    assert model.optimizer.learning_rates == pytest.approx((12e-4, 12e-3, 12e-2))
    assert asked.live_head_rate == pytest.approx(8e-3)
    chosen = dataclasses.replace(asked, learning_rates=None, head_learning_rate=None)
    assert (chosen.top_learning_rate, chosen.live_head_rate) == (None, None)


def test_xla_compiles_the_step_of_the_whole_network(tiny_recipe):
    weights = []
    for xla in ("off", "on"):
        asked = dataclasses.replace(tiny_recipe, xla=xla, dropout=0)  # whose masks are others
        keras.utils.set_random_seed(0)
        model = builders.make_model(asked, 3, None)
        builders.compile_all(model, asked, 1e-3)
        assert model.jit_compile is (xla == "on")
        images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
        model.fit(images, np.arange(8) % 3, batch_size=8, epochs=2, verbose=0)
        weights.append(model.layers[-1].get_weights()[0])
    assert np.allclose(*weights, atol=1e-5)


def test_balanced_weights_and_repeated_images_let_rare_classes_count_as_much(tiny_recipe, skewed_folder, tmp_path):
    _, labels, weights = training_data(dataclasses.replace(tiny_recipe, class_weight="balanced"), skewed_folder)
    totals = [weights[labels == label].sum() for label in range(3)]
    assert np.allclose(totals, totals[0])
    oversampled = dataclasses.replace(tiny_recipe, oversample=True)
    index = index_folder(skewed_folder, valid_fraction=0.2)
    with RunDirectory(tmp_path, settings={}) as directory:
        run = Run(oversampled, index, directory, 0)
        assert list(run.train.counts.values()) == [32, 32, 32]
        assert run.steps_per_epoch == 3
        head = run.precompute()[0]
        assert sum(len(labels) for _, labels in head.as_numpy_iterator()) == 96
        assert len(run.index.valid) == 12


@pytest.mark.parametrize(
    ("policy", "computes"), [("float32", "float32"), ("mixed_bfloat16", "bfloat16"), ("auto", "float32")]
)
def test_precision_is_the_networks_and_stays_its_own(tiny_recipe, policy, computes):
    model = builders.make_model(dataclasses.replace(tiny_recipe, precision=policy), 3, None)
    # The backbone in the file has its own policy: what is ours is the head's dropout.
    assert model.get_layer("head_dropout").compute_dtype == computes
    assert model.layers[-1].compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([], "float32"), ([(6, 1)], "float32"), ([(7, 5)], "mixed_float16"), ([(9, 0), (8, 0)], "mixed_bfloat16")],
)
def test_precision_by_the_gpus_that_are_there(monkeypatch, capabilities, expected):
    monkeypatch.setattr(builders.tf.config, "list_physical_devices", lambda _: capabilities)
    monkeypatch.setattr(builders.tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": gpu})
    assert builders.chosen_precision("auto") == expected
    assert builders.chosen_precision("float32") == "float32"


@pytest.fixture(scope="module")
def mixed_run(tiny_recipe, digits_folder, tmp_path_factory):
    """A run with all that changes step 8 at once, of two sizes of images."""
    output = tmp_path_factory.mktemp("run")
    settings = {"sizes": (24, 32), "mixup": 0.2, "label_smoothing": 0.1, "ema": 0.5, "accumulate": 2, "cycle_len": 4}
    settings |= {"head_cycles": 1, "head_learning_rate": 1e-3}
    settings |= {"image_size": 32, "learning_rate": None, "learning_rates": (1e-3, 3e-3, 1e-2)}
    asked = dataclasses.replace(tiny_recipe, **settings)
    return train_image_classifier(digits_folder, output=output, recipe=asked, verbose=0)


def test_sizes_are_trained_at_one_after_the_other(mixed_run):
    stages = [row["stage"] for row in mixed_run.history]
    assert stages[:4] == ["head", "head, live", *["all, 24 px"] * 2]
    assert {stage.partition(",")[0] for stage in stages[4:]} == {"all"}
    assert mixed_run.model.input_shape == (None, 32, 32, 3)
    recorded = json.loads((mixed_run.output / "run.json").read_text())
    assert recorded["settings"]["sizes"] == [24, 32]
    written = tomllib.loads((mixed_run.output / "config.toml").read_text())
    assert (written["sizes"], written["learning_rates"]) == ([24, 32], [1e-3, 3e-3, 1e-2])
    assert recorded["stages"]["train_all"]["candidates"][0]["name"] == "the network at 24 pixels"


def test_what_validates_is_the_plain_label_also_where_labels_are_mixed(mixed_run):
    last = mixed_run.history[-1]
    assert 0 < last["val_loss"] < last["loss"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rates": (1e-3, 1e-2)}, "3 finite numbers > 0, one for each of `num_groups`"),
        ({"learning_rates": (1e-3, -1e-2, 1.0)}, "3 finite numbers > 0"),
        ({"learning_rates": (1.0, 1.0, 1.0), "learning_rate": 1.0}, "Only one of `learning_rate` and"),
        ({"sizes": (64,)}, "two or more rising sizes"),
        ({"sizes": (128, 64)}, "two or more rising sizes"),
        ({"sizes": 224}, "two or more rising sizes"),
        ({"sizes": (64, 96, 128), "max_epochs": 2}, "`max_epochs` must be at least one for each of `sizes`"),
        ({"sizes": (64, 128), "gradual_unfreezing": True, "n_cycles": 2}, "`gradual_unfreezing` must be off with"),
        ({"learning_rates": 1e-3}, "3 finite numbers > 0"),
        ({"learning_rates": ("1e-3", 1e-3, 1e-3)}, "3 finite numbers > 0"),
        ({"sizes": (64, 0.5)}, "`sizes` must be an integer >= 1"),
        ({"sizes": (64, 128), "image_size": 96}, "be the last of them"),
        ({"oversample": True, "class_weight": "balanced"}, "rare classes would count twice"),
        ({"class_weight": "even"}, "class_weight='even'"),
        ({"precision": "half"}, "precision='half'"),
        ({"group_by": "("}, "`group_by` must be a regular expression"),
        ({"ema": 1.0}, "`ema` must be in"),
        ({"mixup": -0.1}, "`mixup` must be in"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe(**settings)


def test_settings_can_be_written_down_whatever_kind_they_came_as(tmp_path):
    recipe = Recipe(sizes=[96, 128], learning_rates=np.float32([1, 2, 4]).tolist(), image_cache=tmp_path)
    assert recipe.image_size == 128
    rates = Recipe(learning_rates=tuple(np.float32([1, 2, 4]))).learning_rates
    written = json.loads(json.dumps({**dataclasses.asdict(recipe), "rates": rates}))
    assert (written["sizes"], written["rates"], written["image_cache"]) == ([96, 128], [1, 2, 4], str(tmp_path))


@pytest.fixture
def patients(tmp_path):
    """Images of two classes, of 12 patients with 1 to 6 images of each class."""
    draw = np.random.default_rng(0)
    for name in ("ill", "well"):
        for patient in range(12):
            folder = tmp_path / name / f"patient{patient}"
            folder.mkdir(parents=True)
            for number in range(draw.integers(1, 7)):
                (folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path


def patients_of(split) -> set[str]:
    return {Path(path).parent.name for path in split.paths}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pattern", ["patient[0-9]+", "/(p[a-z]+[0-9]+)/"])
def test_a_group_is_never_split(patients, seed, pattern):
    index = index_folder(patients, valid_fraction=0.3, seed=seed, group_by=pattern)
    assert not patients_of(index.train) & patients_of(index.valid)
    total = {name: len(list((patients / name).rglob("*.jpg"))) for name in index.class_names}
    for name, count in index.valid.counts.items():
        assert 0 < count <= round(0.3 * total[name])
    assert sum(index.valid.counts.values()) > 0.6 * 0.3 * sum(total.values())


def test_another_seed_holds_out_other_groups(patients):
    options = {"valid_fraction": 0.3, "group_by": "patient[0-9]+"}
    chosen = {frozenset(patients_of(index_folder(patients, seed=seed, **options).valid)) for seed in range(5)}
    assert len(chosen) > 2


def test_a_class_whose_groups_are_all_large_gives_up_its_smallest(tmp_path):
    for name, group, count in (("a", "x", 8), ("a", "y", 5), ("b", "u", 3), ("b", "v", 9)):
        (tmp_path / name / group).mkdir(parents=True)
        for number in range(count):
            (tmp_path / name / group / f"{number}.jpg").write_bytes(b"\xff\xd8\xff")
    index = index_folder(tmp_path, valid_fraction=0.1, group_by="[ab]/([a-z])/")
    assert index.valid.counts == {"a": 5, "b": 3}


def test_a_group_is_looked_for_within_the_folder_alone(patients):
    study = patients.rename(patients.with_name("patient7 study"))
    index = index_folder(study, valid_fraction=0.3, group_by="patient[0-9]+")
    assert len(patients_of(index.train)) > len(patients_of(index.valid)) > 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("scene[0-9]+", r"finds none in .*\.jpg"), ("ill|well", "images of at least 2 groups .* class 'ill' with 1")],
)
def test_groups_that_cannot_be_split_are_refused(patients, pattern, message):
    with pytest.raises(ValueError, match=message):
        index_folder(patients, valid_fraction=0.3, group_by=pattern)
