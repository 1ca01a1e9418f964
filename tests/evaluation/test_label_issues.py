"""Wrong labels: on digits whose labels were swapped on purpose, and against cleanlab's numbers."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from keras_sgdr.evaluation.label_issues import find_label_issues, out_of_fold_probabilities


@pytest.fixture(scope="module")
def noisy():
    """Digits, a tenth of their labels swapped for others: activations, labels, and which were swapped."""
    pixels, labels = load_digits(return_X_y=True)
    draw = np.random.default_rng(0)
    wrong = draw.random(len(labels)) < 0.1
    swapped = np.where(wrong, (labels + draw.integers(1, 10, len(labels))) % 10, labels)
    return (pixels / 16).astype(np.float32), swapped, wrong


@pytest.fixture(scope="module")
def probabilities(noisy):
    return out_of_fold_probabilities(noisy[0], noisy[1], num_classes=10)


def test_swapped_labels_are_found_with_the_class_that_they_were(noisy, probabilities):
    _, labels, wrong = noisy
    issues = find_label_issues(probabilities, labels)
    found = np.isin(np.arange(len(labels)), issues.indices)
    # cleanlab 2.9 finds .899 of them in the same probabilities, with a precision of .890
    assert (found & wrong).sum() / wrong.sum() > 0.85
    assert (found & wrong).sum() / found.sum() > 0.85
    truth = load_digits().target[issues.indices]
    assert np.mean(issues.suggested[wrong[issues.indices]] == truth[wrong[issues.indices]]) > 0.95
    assert np.all(np.diff(issues.margins) >= 0)
    # the surest half are wrong but for a few
    assert wrong[issues.indices[: len(issues) // 2]].mean() > 0.97


def test_predictions_are_as_good_as_scikit_learns_cross_validation(noisy, probabilities):
    pixels, labels, _ = noisy
    theirs = cross_val_predict(LogisticRegression(C=0.05, max_iter=2000), pixels, labels, cv=5, method="predict_proba")
    accuracy, reference = (np.mean(each.argmax(axis=1) == labels) for each in (probabilities, theirs))
    assert accuracy > reference - 0.02
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_no_image_is_predicted_by_a_head_that_has_seen_it():
    draw = np.random.default_rng(0)
    activations = draw.normal(size=(60, 200)).astype(np.float32)  # enough features to know every label by heart
    labels = draw.integers(0, 3, 60)
    found = out_of_fold_probabilities(activations, labels, num_classes=3)
    assert np.mean(found.argmax(axis=1) == labels) < 0.6


def test_issues_are_those_of_the_definition():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.45, 0.55], [0.3, 0.7]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    # Thresholds: (.9 + .7 + .2) / 3 = .6 and (.9 + .55 + .7) / 3 = .717. The fifth and sixth reach none of them, so one
    # of three labels 0 is wrong, and of the labels 1 none.
    issues = find_label_issues(probabilities, labels)
    assert issues.indices.tolist() == [2]
    assert issues.suggested.tolist() == [1]
    assert issues.margins == pytest.approx([-0.6])


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [(np.full((3, 2), 0.5), [0, 1]), (np.full((2, 3), 1 / 3), [0, 1]), (np.full(3, 1 / 3), [0, 1, 2])],
)
def test_shapes_that_do_not_fit_are_refused(probabilities, labels):
    with pytest.raises(ValueError, match="a row for each label, and every class a label"):
        find_label_issues(probabilities, labels)


def test_fewer_images_than_folds_are_predicted_all_the_same():
    activations = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    found = out_of_fold_probabilities(activations, np.array([0, 0, 1, 1]), num_classes=2)
    assert np.allclose(found.sum(axis=1), 1)
