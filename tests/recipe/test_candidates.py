import numpy as np
import pytest

from keras_sgdr.recipe.candidates import (
    Candidate,
    best_of,
    guessing_loss,
    is_no_better_than_guessing,
    largest_share,
)


def candidate(name, of_label, hits):
    return Candidate(name, -np.log(np.array(of_label)), np.array(hits, bool))


def test_candidate_is_read_off_probabilities():
    found = Candidate.of("head", [[0.5, 0.5], [0.2, 0.8], [np.nan, np.nan]], [0, 0, 1])
    # wrong where it is sure: at the highest temperature its logits, 0 and log 4, are a tenth
    np.testing.assert_allclose(found.losses, [np.log(2), np.log(1 + 4**0.1), np.log(1e7)], rtol=1e-5)
    assert found.hits.tolist() == [True, False, False]
    assert str(Candidate.of("head", [[0.25, 0.75]], [1])) == "head (loss 0.2877, accuracy 1.0000)"


def test_temperature_brings_back_the_probabilities_that_were_sharpened():
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.ones(5), size=20_000)
    labels = (true.cumsum(axis=1) > rng.uniform(size=(len(true), 1))).argmax(axis=1)
    sharpened = true**3 / (true**3).sum(axis=1, keepdims=True)
    found = Candidate.of("sharp", sharpened, labels)
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.loss == pytest.approx(-np.log(true[np.arange(len(true)), labels]).mean(), rel=0.01)


def test_no_model_is_made_surer_than_it_is():
    right = Candidate.of("right", [[0.6, 0.4]] * 3, [0, 0, 0])
    assert right.temperature == 1
    np.testing.assert_allclose(right.losses, -np.log(0.6))
    # right on eight of ten and sure by .7: a little surer would be best, and would be too sure at twice the logits
    assert Candidate.of("nearly", [[0.7, 0.3]] * 10, [0] * 8 + [1] * 2).temperature == 1


def test_a_model_that_has_diverged_has_the_highest_loss():
    lost = Candidate.of("lost", np.full((3, 2), np.nan), [0, 0, 1])
    np.testing.assert_allclose(lost.losses, np.log(1e7))
    assert lost.temperature == 1


def test_late_model_that_is_too_sure_and_more_often_right_is_best():
    labels = np.zeros(100, int)
    early = np.where(np.arange(100)[:, None] < 76, [[0.75, 0.25]], [[0.4, 0.6]])
    late = np.where(np.arange(100)[:, None] < 90, [[1 - 1e-6, 1e-6]], [[1e-6, 1 - 1e-6]])
    candidates = [Candidate.of("early", early, labels), Candidate.of("late", late, labels)]
    assert best_of(candidates) == 1


def test_lowest_loss_is_best_where_the_difference_is_certain():
    sure = candidate("sure", [0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0])
    unsure = candidate("unsure", [0.6, 0.61, 0.6, 0.61], [1, 1, 1, 1])
    assert best_of([unsure, sure]) == 1


def test_accuracy_does_not_decide_beyond_the_error_of_the_mean():
    # .2 by .1 of 16 images, whose mean has an error of .025
    lower = Candidate("lower", np.full(16, 0.3), np.full(16, False))
    righter = Candidate("righter", np.tile([0.4, 0.6], 8), np.full(16, True))
    assert best_of([righter, lower]) == 1


def test_accuracy_decides_within_a_standard_error():
    # Losses .1, .1, .1, 1.3 against .42 four times: .4 against .42, and differences that scatter by more
    lower = Candidate("lower", np.array([0.1, 0.1, 0.1, 1.3]), np.array([True, True, True, False]))
    righter = Candidate("righter", np.full(4, 0.42), np.full(4, True))
    assert best_of([lower, righter]) == 1
    assert best_of([lower, Candidate("as right", np.full(4, 0.42), lower.hits)]) == 0


def test_guessing_the_shares_costs_their_entropy():
    assert guessing_loss([0, 0, 0, 1]) == pytest.approx(0.5623, abs=1e-4)
    assert guessing_loss([0, 2, 0, 2]) == pytest.approx(np.log(2))
    assert largest_share([0, 0, 0, 1]) == 0.75


def test_perfect_model_of_one_class_does_not_guess():
    assert not is_no_better_than_guessing(1.0, [1, 1, 1])


@pytest.mark.parametrize(("right", "no_better"), [(75, True), (79, True), (80, False)])
def test_model_within_a_standard_error_of_the_largest_class_is_no_better(right, no_better):
    # 100 images, 75 of one class: the standard error is 4.3 images
    labels = np.arange(100) >= 75
    assert is_no_better_than_guessing(right / 100, labels.astype(int)) == no_better
