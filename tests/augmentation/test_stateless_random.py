"""Random numbers, against what others computed and the distributions they promise."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_sgdr.augmentation.stateless_random import crop_position, epoch_draws, threefry, uniforms

VECTORS = json.loads((Path(__file__).parent / "threefry_jax.json").read_text(encoding="utf-8"))["vectors"]


def encrypted(key, counter):
    words = [tuple(tf.constant(word, tf.uint32) for word in pair) for pair in (key, counter)]
    return tuple(int(word) for word in threefry(*words))


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_vectors(key, counter, expected):
    # github.com/DEShawResearch/random123, tests/kat_vectors: the lines "threefry2x32 20", counter before key.
    assert encrypted(key, counter) == expected


@pytest.mark.parametrize("vector", VECTORS)
def test_threefry_gives_what_jax_gives(vector):
    key, counter, expected = (tuple(int(word, 16) for word in vector[name]) for name in ("key", "counter", "expected"))
    assert encrypted(key, counter) == expected


def test_uniform_numbers_are_uniform_and_unrelated():
    draws = uniforms(epoch_draws(20_000, seed=7, epoch=0)[1], 4).numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(np.quantile(draws, [0.1, 0.5, 0.9], axis=1).T, [[0.1, 0.5, 0.9]] * 4, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(draws), np.eye(4), atol=0.03)


def test_each_place_in_the_order_is_as_likely_for_every_image():
    draw = tf.function(lambda epoch: epoch_draws(5, seed=1, epoch=epoch)[0])
    orders = np.array([draw(tf.constant(epoch)) for epoch in range(1000)])
    counts = np.array([np.bincount(places, minlength=5) for places in orders.T])
    np.testing.assert_allclose(counts, np.full((5, 5), 200), atol=60)


def test_crop_positions_are_uniform_and_unrelated_to_the_views():
    seeds = epoch_draws(5000, seed=7, epoch=0)[1]
    of_each = tf.function(lambda: tf.map_fn(crop_position, seeds, fn_output_signature=tf.float32))
    positions = of_each().numpy()
    np.testing.assert_allclose(np.quantile(positions, [0, 0.1, 0.5, 0.9, 1]), [0, 0.1, 0.5, 0.9, 1], atol=0.02)
    assert positions.max() < 1
    related = np.corrcoef(np.concatenate([positions[None], uniforms(seeds, 16).numpy()]))
    np.testing.assert_allclose(related, np.eye(17), atol=0.06)
