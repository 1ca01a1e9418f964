import csv

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from keras_sgdr.evaluation.interpretation import interpret, mcnemar, threshold_for, wilson_interval
from keras_sgdr.validation import InvalidValueError

NAMES = ("cat", "dog", "<script>")


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(3), 50)
    return probabilities, rng.integers(0, 3, 50)


def test_numbers_are_scikit_learns(sample):
    probabilities, labels = sample
    result = interpret(probabilities, labels, NAMES)
    predictions = probabilities.argmax(axis=1)
    assert result.accuracy == metrics.accuracy_score(labels, predictions)
    assert np.isclose(result.loss, metrics.log_loss(labels, probabilities))
    assert np.array_equal(result.confusion, metrics.confusion_matrix(labels, predictions))


def test_top_losses_are_the_least_likely_labels(sample):
    probabilities, labels = sample
    worst = interpret(probabilities, labels, NAMES).top_losses(5)
    chosen = [float(row[label]) for row, label in zip(probabilities, labels, strict=True)]
    assert [chosen[i] for i in worst] == sorted(chosen)[:5]


def test_most_confused_counts_pairs():
    probabilities = np.eye(3)[[1, 1, 0, 0, 2]]
    result = interpret(probabilities, np.array([0, 0, 2, 0, 2]), NAMES)
    assert result.most_confused() == [("cat", "dog", 2), ("<script>", "cat", 1)]
    assert result.most_confused(min_count=2) == [("cat", "dog", 2)]


def test_certain_mistake_has_a_finite_loss():
    assert np.isfinite(interpret([[1.0, 0.0, 0.0]], np.array([1]), NAMES).losses).all()


@pytest.mark.parametrize(
    ("probabilities", "labels", "received"),
    [
        (np.ones((2, 3)), np.array([0]), r"probabilities.shape=\(2, 3\), labels.shape=\(1,\)"),
        (np.ones((1, 2)), np.array([0]), r"probabilities.shape=\(1, 2\)"),
        (np.ones((0, 3)), np.array([], int), r"labels.shape=\(0,\)"),
        (np.ones((1, 3)), np.array([3]), "from 3 to 3"),
        (np.ones((1, 3)), np.array([0.5]), "dtype float64"),
    ],
)
def test_what_does_not_fit_is_refused(probabilities, labels, received):
    with pytest.raises(ValueError, match=f"Received: .*{received}"):
        interpret(probabilities, labels, NAMES)


def test_calibration_error_is_that_of_the_definition():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.95, 0.05], [0.4, 0.6]])
    result = interpret(probabilities, [0, 0, 1, 1], ["a", "b"])
    # three images near .95, of which two thirds are right; one at .6, which is
    assert result.calibration_error == pytest.approx((3 * (0.95 - 2 / 3) + (1 - 0.6)) / 4)
    sure = interpret(np.eye(2)[[0, 1, 1]], [0, 1, 1], ["a", "b"])
    assert sure.calibration_error == 0


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 1), (0, 9), (20, 45), (300, 301)])
def test_mcnemar_is_the_binomial_test_of_the_images_that_differ(won, lost):
    both = np.ones(10)
    one = np.concatenate([both, np.ones(won), np.zeros(lost)])
    other = np.concatenate([both, np.zeros(won), np.ones(lost)])
    labels = np.ones(len(one), int)
    results = [interpret(np.stack([1 - hits, hits], axis=1), labels, ["a", "b"]) for hits in (one, other)]
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(*results) == pytest.approx(expected)
    with pytest.raises(ValueError, match="`other` must be of the same images"):
        mcnemar(results[0], interpret([[1.0, 0.0]], [0], ["a", "b"]))


@pytest.mark.parametrize("precision", [0.6, 0.8, 0.95])
def test_threshold_answers_as_many_images_as_the_precision_allows(precision):
    draw = np.random.default_rng(0)
    # of two decimals, so that many images have the same probability
    probabilities = draw.dirichlet(np.full(4, 0.4), 2000).round(2)
    labels = np.array([draw.choice(4, p=row / row.sum()) for row in probabilities])
    result = interpret(probabilities, labels, ("one", "two", "three", "four"))
    found = threshold_for(result, precision)
    confidence, hits = result.probabilities.max(axis=1), result.predictions == labels
    reached = {value: hits[confidence >= value].mean() for value in set(confidence)}
    assert found.probability == min(value for value, share in reached.items() if share >= precision)
    assert found.precision == pytest.approx(reached[found.probability])
    assert found.answered == pytest.approx((confidence >= found.probability).mean())


def test_a_precision_that_no_threshold_has_is_refused_with_the_highest():
    # the two most certain are wrong and right, with the same probability
    result = interpret([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], [0, 1, 0], ("a", "b"))
    with pytest.raises(InvalidValueError, match=r"0\.500"):
        threshold_for(result, 0.9)


@pytest.mark.parametrize(("hits", "total"), [(0, 5), (5, 5), (3, 9), (90, 100)])
def test_interval_is_wilsons(hits, total):
    expected = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits, total) == pytest.approx(tuple(expected), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_scores_of_classes_are_scikit_learns(sample):
    probabilities, labels = sample
    result = interpret(probabilities, labels, NAMES)
    precision, recall, f1, images = metrics.precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
    rows = result.per_class()
    np.testing.assert_allclose([row.precision for row in rows], precision)
    np.testing.assert_allclose([row.recall for row in rows], recall)
    np.testing.assert_allclose([row.f1 for row in rows], f1)
    assert [row.images for row in rows] == list(images)
    for row in rows:
        assert row.low < row.recall < row.high


def test_a_class_without_images_has_no_recall_and_one_that_nothing_is_taken_for_no_precision():
    cat, dog, script = interpret([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]], [0, 1], NAMES).per_class()
    assert (cat.precision, cat.recall, cat.f1) == (0.5, 1.0, pytest.approx(2 / 3))
    assert (dog.precision, dog.recall, dog.f1) == (None, 0.0, 0.0)
    assert (script.precision, script.recall, script.f1, script.low, script.high) == (None, None, None, 0.0, 1.0)


def test_table_has_a_row_for_each_image_the_worst_first(sample, tmp_path):
    probabilities, labels = sample
    result = interpret(probabilities, labels, NAMES)
    paths = [f"{i}, a.png" for i in range(50)]
    result.write_csv(tmp_path / "predictions.csv", paths)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    for row in rows:
        image = paths.index(row["path"])
        assert (row["label"], row["predicted"]) == (NAMES[labels[image]], NAMES[probabilities[image].argmax()])
        assert float(row["loss"]) == pytest.approx(-np.log(probabilities[image, labels[image]]), abs=1e-5)
    with pytest.raises(InvalidValueError, match="one for each image"):
        result.write_csv(tmp_path / "predictions.csv", paths[1:])
