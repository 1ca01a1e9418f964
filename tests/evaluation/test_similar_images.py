"""Neighbours by activations: against scikit-learn's, and copies that were put in."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from keras_sgdr.evaluation import similar_images
from keras_sgdr.evaluation.similar_images import find_neighbours
from keras_sgdr.validation import InvalidValueError


@pytest.fixture
def activations():
    """Six crowds of 40 images each."""
    draw = np.random.default_rng(0)
    return np.repeat(draw.normal(size=(6, 32)), 40, axis=0) + 0.4 * draw.normal(size=(240, 32))


def test_neighbours_are_scikit_learns(activations, monkeypatch):
    monkeypatch.setattr(similar_images, "_ROWS", 50)
    found = find_neighbours(activations, k=7)
    centred = activations - activations.mean(axis=0)
    distances, indices = NearestNeighbors(n_neighbors=8, metric="cosine").fit(centred).kneighbors(centred)
    np.testing.assert_array_equal(found.indices, indices[:, 1:])
    np.testing.assert_allclose(found.similarities, 1 - distances[:, 1:], atol=1e-5)


def test_a_copy_is_found_once_and_the_most_similar_pair_comes_first(activations):
    activations[100] = activations[3] + 0.01 * activations[4]
    activations[200] = activations[50] + 0.05 * activations[51]
    found = find_neighbours(activations)
    pairs = found.alike(0.98)
    assert [pair[:2] for pair in pairs] == [(3, 100), (50, 200)]
    assert pairs[0][2] > pairs[1][2] > 0.98


def test_where_all_are_alike_none_is_a_copy():
    """Six crowds, each of images that hardly differ: nobody's nearest is much nearer than the tenth."""
    draw = np.random.default_rng(0)
    crowds = np.repeat(draw.normal(size=(6, 128)), 40, axis=0) + 0.05 * draw.normal(size=(240, 128))
    found = find_neighbours(crowds)
    assert found.similarities.min() > 0.98
    assert found.alike(0.98) == []
    crowds[100] = crowds[90] + 0.005 * draw.normal(size=128)
    assert [pair[:2] for pair in find_neighbours(crowds).alike(0.98)] == [(90, 100)]


def test_two_images_are_neighbours_and_one_has_none():
    found = find_neighbours([[1.0, 0.0], [0.0, 1.0]])
    assert found.indices.tolist() == [[1], [0]]
    with pytest.raises(InvalidValueError, match="at least two images"):
        find_neighbours([[1.0, 0.0]])
