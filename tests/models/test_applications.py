"""What must hold for every application of Keras: some in every run, all of them in a slow one."""

import keras
import numpy as np
import pytest

from keras_sgdr.models.backbones import BACKBONES
from keras_sgdr.models.classifier import build_classifier
from keras_sgdr.models.frozen_boundary import split_at_frozen_boundary
from keras_sgdr.models.graph import steps_of
from keras_sgdr.models.layer_groups import freeze_to, layer_groups, unfreeze

# Each family's smallest member, with how many arrays are trained after `freeze_to(model, -1)`, after
# `freeze_to(model, -2)` and after `unfreeze`, as recorded. The last is known otherwise: VGG16 has 13 convolutions with
# kernel and bias, MobileNetV2 52 kernels, Inception V3 94, DenseNet121 120; and the head has two arrays.
FAMILIES = {
    "ConvNeXtTiny": (2, 120, 182),
    "DenseNet121": (2, 83, 122),
    "EfficientNetB0": (2, 38, 115),
    "EfficientNetLite0": (2, 18, 51),
    "EfficientNetV2B0": (2, 59, 125),
    "InceptionResNetV2": (2, 194, 286),
    "InceptionV3": (2, 70, 96),
    "MobileNet": (2, 18, 29),
    "MobileNetV2": (2, 36, 54),
    "MobileNetV3Small": (2, 24, 72),
    "NASNetMobile": (2, 179, 358),
    "ResNet50": (2, 60, 108),
    "ResNet50V2": (2, 46, 76),
    "VGG16": (2, 14, 28),
    "Xception": (2, 64, 76),
}


def build(name):
    keras.backend.clear_session()
    size = max(32, BACKBONES[name].min_size)
    return build_classifier(3, backbone=name, weights=None, image_size=size)


def assert_every_trainable_variable_is_in_one_group(model, groups):
    paths = [variable.path for group in groups for layer in group for variable in layer.trainable_variables]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)


def assert_depth_grows_from_group_to_group(model, groups):
    """Depth as the longest path from the input: nothing may read what a later group computes."""
    group_of = {layer.name: number for number, group in enumerate(groups) for layer in group}
    steps = steps_of(model)
    reached = []
    for step in steps:
        before = max((reached[source] for source in step.sources), default=0)
        reached.append(max(before, group_of.get(step.name, before)))
        assert group_of.get(step.name, before) >= before


def assert_groups_are_of_similar_depth(groups):
    depths = [sum(bool(layer.weights) for layer in group) for group in groups[:-1]]
    assert max(depths) <= 1.6 * sum(depths) / len(depths), depths


def assert_cut_computes_the_same(model, group):
    freeze_to(model, group)
    body, rest = split_at_frozen_boundary(model)
    images = np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:])).astype("float32")
    cut, whole = map(keras.ops.convert_to_numpy, (rest(body(images)), model(images)))
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    assert not body.trainable_variables
    assert {v.path for v in rest.trainable_variables} == {v.path for v in model.trainable_variables}


def check(name):
    model = build(name)
    head = model.get_layer("head_predictions").count_params()
    assert model.count_params() - head == BACKBONES[name].parameters
    for num_groups in (2, 3, 4):
        groups = layer_groups(model, num_groups=num_groups)
        assert_every_trainable_variable_is_in_one_group(model, groups)
        assert_depth_grows_from_group_to_group(model, groups)
        assert_groups_are_of_similar_depth(groups)
        assert [layer.name for layer in groups[-1]] == ["head_pool", "head_dropout", "head_predictions"]
    counts = []
    for group in (-1, -2):
        assert_cut_computes_the_same(model, group)
        counts.append(len(model.trainable_variables))
    unfreeze(model)
    counts.append(len(model.trainable_variables))
    if name in FAMILIES:
        assert tuple(counts) == FAMILIES[name]


@pytest.mark.parametrize("name", [pytest.param("MobileNetV3Small", marks=pytest.mark.slow), "VGG16"])
def test_groups_and_cuts_of_a_family(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"MobileNetV3Small", "VGG16"}))
def test_groups_and_cuts_of_every_application(name):
    check(name)
