"""Backbones of KerasHub: `pip install "keras-sgdr[hub]"`, and `pytest -m slow`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.models.classifier import build_classifier, load_classifier, save_classifier
from keras_sgdr.models.frozen_boundary import split_at_frozen_boundary
from keras_sgdr.models.layer_groups import freeze_to, layer_groups
from keras_sgdr.precompute.precompute import precompute_features

# Slow to import; the warnings of KerasHub itself are not errors here.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

IMAGES = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def keras_hub():
    return pytest.importorskip("keras_hub", reason="not installed: pip install 'keras-sgdr[hub]'")


def efficient_net(keras_hub):
    return keras_hub.models.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[16, 16],
        stackwise_output_filters=[16, 24],
        stackwise_expansion_ratios=[1, 6],
        stackwise_strides=[1, 2],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_block_types=["v1", "v1"],
        stackwise_force_input_filters=[0, 0],
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_shape=(None, None, 3),
    )


def vision_transformer(keras_hub):
    return keras_hub.models.ViTDetBackbone(
        hidden_size=16,
        num_layers=2,
        intermediate_dim=32,
        num_heads=2,
        global_attention_layer_indices=[0, 1],
        image_shape=(32, 32, 3),
        patch_size=8,
        num_output_channels=8,
        window_size=2,
    )


@pytest.mark.parametrize("make", [efficient_net, vision_transformer])
def test_a_backbone_becomes_a_classifier_that_is_frozen_precomputed_and_saved(keras_hub, make, tmp_path):
    backbone = make(keras_hub)
    model = build_classifier(3, backbone=backbone, image_size=32)
    copied = keras.Model(model.input, model.get_layer("head_pool").input)
    np.testing.assert_allclose(copied.predict(IMAGES, verbose=0), backbone.predict(IMAGES, verbose=0), atol=1e-5)
    groups = layer_groups(model)
    assert len(groups) == 3
    paths = [variable.path for group in groups for layer in group for variable in layer.trainable_variables]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)
    freeze_to(model, -2)
    body, rest = split_at_frozen_boundary(model)
    outputs = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(rest.predict(body.predict(IMAGES, verbose=0), verbose=0), outputs, atol=1e-5)
    freeze_to(model, -1)
    images = tf.data.Dataset.from_tensor_slices((IMAGES, np.arange(6) % 3)).batch(4)
    features, head = precompute_features(model, images, directory=tmp_path, shuffle=False, verbose=0)
    np.testing.assert_allclose(head.predict(features, verbose=0), outputs, atol=1e-5)
    save_classifier(model, tmp_path / "saved", class_names="abc")
    np.testing.assert_allclose(load_classifier(tmp_path / "saved").model.predict(IMAGES, verbose=0), outputs, atol=1e-5)


def test_a_backbone_whose_layers_do_not_describe_themselves_is_refused(keras_hub):
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    with pytest.raises(ValueError, match=r"ViTPatchingAndEmbedding.*Received: backbone=<ViTBackbone"):
        build_classifier(3, backbone=backbone, image_size=32)
