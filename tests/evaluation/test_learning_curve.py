"""Whether more images would help: on curves of a known law, and on digits of which half were kept back."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_sgdr.evaluation.learning_curve import LearningCurve, learning_curve


def curve_of(law, noise=0.0):
    counts = np.array([100, 200, 350, 600, 1000])
    draw = np.random.default_rng(0)
    errors = law(counts)[:, None] + noise * draw.normal(size=(5, 3))
    return LearningCurve(counts, errors, errors[:, :, None])


@pytest.mark.parametrize(
    "law",
    [lambda n: 0.1 + 2 * n**-0.5, lambda n: 3 * n**-0.6, lambda n: np.full(len(n) if np.ndim(n) else 1, 0.3)],
    ids=["with a limit", "to nothing", "flat"],
)
def test_a_power_law_is_found_again(law):
    expected, low, high = curve_of(law).expected(2000)
    true = float(np.ravel(law(np.array([2000.0])))[0])
    assert expected == pytest.approx(true, rel=0.03)
    assert low == pytest.approx(high)
    expected, low, high = curve_of(law, noise=0.01).expected(2000)
    assert low - 0.02 < true < high + 0.02
    assert 0.001 < high - low < 0.1


def test_a_rising_curve_promises_nothing():
    expected, _, _ = curve_of(lambda n: 0.2 + n / 10_000).expected(2000)
    assert expected == pytest.approx(0.245, abs=0.01)


@pytest.fixture(scope="module")
def digits():
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(labels))
    pixels, labels = (pixels[order] / 16).astype(np.float32), labels[order].astype(np.int32)
    return (pixels[:1000], labels[:1000]), (pixels[1000:], labels[1000:])


def test_what_half_of_the_images_promise_of_all_comes_true(digits):
    (pixels, labels), valid = digits
    half = learning_curve((pixels[:500], labels[:500]), valid, num_classes=10)
    whole = learning_curve((pixels, labels), valid, num_classes=10, shares=(0.1, 0.5, 1.0))
    promised, low, high = half.expected(1000)
    true = whole.errors[-1].mean()
    assert half.errors[0].mean() > 1.5 * half.errors[-1].mean()
    assert abs(promised - true) < 0.02
    assert low <= promised <= high
    assert half.num_images.tolist() == sorted(half.num_images)
    assert abs(half.num_images[-1] - 500) == 0
    hardest = int(np.argmax(half.class_errors[-1].mean(axis=0)))
    assert half.expected(1000, label=hardest)[0] > promised


@pytest.mark.parametrize("shares", [(0.5, 1.0), (0.5, 0.2, 1.0), (0.0, 0.5, 1.0), (0.2, 0.5, 1.5)])
def test_shares_that_are_no_curve_are_refused(digits, shares):
    with pytest.raises(ValueError, match="at least three, rising, in"):
        learning_curve(*digits, num_classes=10, shares=shares)


def test_the_classes_that_would_gain_most_come_first():
    """One class falls with the images, one hardly, one not at all, and one has no validation images."""
    sizes = np.array([100, 200, 350, 600, 1000])
    laws = [lambda n: 0.02 + 3 * n**-0.5, lambda n: 0.3 + 0.5 * n**-0.5, lambda n: 0.25 + 0 * n, lambda n: np.nan * n]
    each = np.repeat(np.stack([law(sizes.astype(float)) for law in laws], axis=1)[:, None], 3, axis=1)
    curve = LearningCurve(sizes, np.nanmean(each, axis=2), each)
    lines = curve.of_classes(["steep", "flat", "level", "unknown"])
    assert [line.split(":")[0] for line in lines] == ["steep", "flat"]
    assert lines[0].startswith(f"steep: from {laws[0](1000.0):.1%} to {laws[0](2000.0):.1%} (")
    assert len(curve.of_classes(["steep", "flat", "level", "unknown"], most=1)) == 1
