"""Temperature and threshold: against SciPy's optimum, a plain loop, and a model that was made too sure of itself."""

import keras
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from keras_sgdr.evaluation.calibration import at_temperature, divide_logits, fit_temperature, threshold_for
from keras_sgdr.evaluation.interpretation import interpret
from keras_sgdr.validation import InvalidValueError

NAMES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def honest():
    """Logits, and labels that are drawn from them."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 1.5, (4000, 4))
    labels = np.array([draw.choice(4, p=row) for row in softmax(logits, axis=1)])
    return logits, labels


@pytest.mark.parametrize("sureness", [0.4, 1.0, 3.0])
def test_temperature_takes_back_what_made_a_model_too_sure(honest, sureness):
    logits, labels = honest
    temperature = fit_temperature(softmax(sureness * logits, axis=1), labels)

    def loss(logarithm):
        return -np.log(softmax(sureness * logits / np.exp(logarithm), axis=1)[np.arange(4000), labels]).mean()

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).x)
    assert temperature == pytest.approx(expected, rel=1e-4)
    assert temperature == pytest.approx(sureness, rel=0.1)


def test_temperature_of_views_is_that_of_their_weighted_mean(honest):
    logits, labels = honest
    views = np.stack([softmax(3 * logits, axis=1), softmax(3 * np.roll(logits, 1, axis=0), axis=1)])
    # All of the weight on the first view: the second one, which is of other images, has no say.
    assert fit_temperature(views, labels, weights=[1, 0]) == pytest.approx(fit_temperature(views[0], labels), rel=1e-6)

    def loss(logarithm):
        merged = np.mean([softmax(np.log(view) / np.exp(logarithm), axis=1) for view in views], axis=0)
        return -np.log(merged[np.arange(4000), labels]).mean()

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).x)
    assert fit_temperature(views, labels) == pytest.approx(expected, rel=1e-3)


def test_a_model_that_is_never_wrong_gets_the_lowest_temperature():
    assert fit_temperature(np.eye(4) * 0.6 + 0.1, np.arange(4)) == pytest.approx(0.05, rel=1e-3)


def test_dividing_the_logits_gives_the_model_its_temperature():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(3, "softmax")])
    inputs = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    before = model.predict(inputs, verbose=0)
    divide_logits(model, 2.5)
    np.testing.assert_allclose(model.predict(inputs, verbose=0), at_temperature(before, 2.5), atol=1e-6)


def test_logits_are_divided_of_a_softmax_alone():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    with pytest.raises(InvalidValueError, match="softmax"):
        divide_logits(model, 2.0)


@pytest.mark.parametrize("precision", [0.6, 0.8, 0.95])
def test_threshold_answers_as_many_images_as_the_precision_allows(honest, precision):
    logits, labels = honest
    result = interpret(softmax(logits, axis=1).round(2), labels, NAMES)
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


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidValueError, match="row for each label"):
        fit_temperature(np.full((3, 2), 0.5), [0, 1])
