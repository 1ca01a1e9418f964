import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from keras_sgdr.models.softmax_regression import fit_softmax_regression


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x, y = (x / 5).astype("float32"), y.astype("int32")
    return (x[:900], y[:900]), (x[900:], y[900:])


@pytest.mark.parametrize("weight_decay", [0.3, 0.01])
def test_optimum_is_that_of_scikit_learn(digits, weight_decay):
    (x, y), valid = digits
    found = fit_softmax_regression((x, y), valid, num_classes=10, weight_decays=[weight_decay])
    # Its penalty is half the sum of squares, and its loss a sum over the images times C.
    reference = LogisticRegression(C=1 / (weight_decay * len(x)), max_iter=5000, tol=1e-8).fit(x / x.std(), y)
    theirs = reference.predict_proba(valid[0] / x.std())
    logits = valid[0] @ found.kernel + found.bias
    ours = np.exp(logits - logits.max(1, keepdims=True))
    ours /= ours.sum(1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=0.03)
    assert found.loss == pytest.approx(log_loss(valid[1], theirs), abs=2e-3)
    assert found.accuracy == pytest.approx(reference.score(valid[0] / x.std(), valid[1]), abs=3e-3)
    assert found.train_accuracy == pytest.approx(reference.score(x / x.std(), y), abs=3e-3)


def test_weight_decay_is_the_one_with_the_lowest_validation_loss(digits):
    (x, y), valid = digits
    few = x[:60], np.where(np.arange(60) % 4, y[:60], 0).astype("int32")  # some labels are wrong
    each = {
        decay: fit_softmax_regression(few, valid, num_classes=10, weight_decays=[decay]) for decay in (30, 0.3, 1e-4)
    }
    found = fit_softmax_regression(few, valid, num_classes=10, weight_decays=list(each))
    assert found.weight_decay == min(each, key=lambda decay: each[decay].loss) == 0.3
    assert found.loss == pytest.approx(each[0.3].loss, rel=0.02)


def test_weaker_decays_are_left_out_after_two_without_a_lower_loss(digits):
    (x, y), valid = digits
    few = x[:60], y[:60]
    each = {
        decay: fit_softmax_regression(few, valid, num_classes=10, weight_decays=[decay]).loss
        for decay in (3, 0.3, 30, 10, 0.1, 1e-3)  # better, worse twice; what comes then is not looked at
    }
    tried = []
    found = fit_softmax_regression(
        few, valid, num_classes=10, weight_decays=(tried.append(decay) or decay for decay in each)
    )
    assert each[0.3] < each[3] < min(each[30], each[10])
    assert tried == [3, 0.3, 30, 10]
    assert found.weight_decay == 0.3


def test_an_image_with_a_weight_counts_as_often(digits):
    (x, y), valid = digits
    weights = np.where(y == 3, 3, 1).astype("float32")
    options = {"num_classes": 10, "weight_decays": [0.1]}
    rows = np.repeat(np.arange(len(y)), weights.astype(int))
    weighted = fit_softmax_regression((x, y, weights / 7), valid, **options)
    repeated = fit_softmax_regression((x[rows], y[rows]), valid, **options)
    plain = fit_softmax_regression((x, y), valid, **options)
    distance = np.abs(weighted.kernel - repeated.kernel).max()
    assert distance < 0.1 * np.abs(plain.kernel - repeated.kernel).max()
    assert weighted.train_loss == pytest.approx(repeated.train_loss, rel=1e-3)


def test_class_without_images_becomes_improbable(digits):
    (x, y), valid = digits
    found = fit_softmax_regression((x[y != 3], y[y != 3]), valid, num_classes=10)
    predicted = np.argmax(valid[0] @ found.kernel + found.bias, axis=1)
    assert 3 not in predicted


def test_activations_that_are_all_alike_give_the_shares_of_the_classes():
    ones, labels = np.ones((8, 3), "float32"), np.array([0, 0, 0, 0, 0, 0, 1, 1], "int32")
    found = fit_softmax_regression((ones, labels), (ones, labels), num_classes=2)
    assert found.loss == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), abs=1e-3)


def test_no_weight_decay_to_try_is_named(digits):
    with pytest.raises(ValueError, match=r"Received: weight_decays=\[\]"):
        fit_softmax_regression(*digits, num_classes=10, weight_decays=[])
