import keras
import numpy as np
import pytest

from keras_sgdr.precompute.verify import check_against_live

IMAGES = np.eye(3, dtype="float32")
LABELS = np.array([0, 1, 2])


def model_of(*weights, activation=None):
    """A layer per kernel, all on the same three numbers."""
    inputs = keras.Input((3,))
    layers = [keras.layers.Dense(3, activation, use_bias=False, name=f"out{n}") for n in range(len(weights))]
    outputs = [layer(inputs) for layer in layers]
    for layer, kernel in zip(layers, weights, strict=True):
        layer.set_weights([kernel])
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0])


def sure_and_wrong():
    """Gives the true class a probability of about exp(-15): its logarithm moves where the probability hardly does."""
    return model_of(-15 * np.eye(3), activation="softmax")


def check(model, *, kept, live=(IMAGES, LABELS), body=None):
    """With a body that gives what is kept, unless one is given: of the rest of the model alone."""
    body = body or (lambda _, training: kept[0])
    check_against_live(model, body, model, live=live, kept=kept, tolerance=1e-4)


def test_other_activations_are_refused_where_a_head_that_is_sure_of_itself_has_the_same_outputs():
    # The first number decides everything, by far.
    model = model_of(np.array([[1e3, 0, 0], [0, 0, 0], [0, 0, 0]], "float32"), activation="softmax")
    live, kept = np.array([[1, 2, 3]], "float32"), np.array([[1, 5, 7]], "float32")
    check(model, live=(live,), kept=(kept,))
    body = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    check(model, live=(live,), kept=(live,), body=body)
    with pytest.raises(RuntimeError, match=r"the activations .*Received: a difference of"):
        check(model, live=(live,), kept=(kept,), body=body)


def test_a_loss_that_differs_is_refused_where_the_outputs_hardly_do():
    model, kept = sure_and_wrong(), (IMAGES * 1.01, LABELS)
    check(model, kept=kept)
    model.compile("sgd", "sparse_categorical_crossentropy")
    # -log of the probability: 15 times .01, of 15.7
    with pytest.raises(RuntimeError, match=r"the loss .*Received: a difference of 0\.009.* on the first batch"):
        check(model, kept=kept)
    check(model, kept=(IMAGES * (1 + 1e-5), LABELS))


def test_a_model_compiled_without_a_loss_is_compared_by_its_outputs():
    model = sure_and_wrong()
    model.compile("sgd")
    check(model, kept=(IMAGES * 1.01, LABELS))
    with pytest.raises(RuntimeError, match=r"the outputs .*Received: a difference of"):
        check(model, kept=(np.roll(IMAGES, 1, axis=0), LABELS))


@pytest.mark.parametrize("kept", [(IMAGES, LABELS[::-1]), (IMAGES, LABELS, np.ones(3))])
def test_other_labels_or_weights_are_refused(kept):
    live = (IMAGES, LABELS, np.array([1.0, 1.0, 2.0]))[: len(kept)]
    with pytest.raises(RuntimeError, match=r"the targets .*Received: a difference of"):
        check(sure_and_wrong(), live=live, kept=kept)


def test_weights_count_in_the_loss():
    model, kept = sure_and_wrong(), IMAGES * [[1], [1], [1.01]]
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(RuntimeError, match="the loss"):
        check(model, live=(IMAGES, LABELS, np.ones(3)), kept=(kept, LABELS, np.ones(3)))
    without_the_third = np.array([1.0, 1.0, 0.0])
    check(model, live=(IMAGES, LABELS, without_the_third), kept=(kept, LABELS, without_the_third))


def test_large_outputs_may_differ_in_proportion():
    model = model_of(1e6 * np.eye(3))
    check(model, live=(IMAGES,), kept=(IMAGES * (1 + 1e-5),))
    with pytest.raises(RuntimeError, match=r"Received: a difference of 0\.001"):
        check(model, live=(IMAGES,), kept=(IMAGES * 1.001,))


def test_not_a_number_is_refused():
    with pytest.raises(RuntimeError, match="Received: a difference of nan"):
        check(sure_and_wrong(), kept=(np.full((3, 3), np.nan, "float32"), LABELS))


def test_several_outputs_are_compared_and_leave_no_trace_in_the_metrics():
    model = model_of(np.eye(3), 2 * np.eye(3))
    model.compile("sgd", ["mse", "mse"])
    targets = (np.zeros((3, 3)), np.zeros((3, 3)))
    check(model, live=(IMAGES, targets), kept=(IMAGES, targets))
    assert all(float(metric.result()) == 0 for metric in model.metrics)
    with pytest.raises(RuntimeError, match="the outputs"):
        check(model, live=(IMAGES, targets), kept=(IMAGES[::-1], targets))
