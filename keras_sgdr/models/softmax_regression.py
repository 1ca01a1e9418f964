"""Multinomial logistic regression: a classifier's head at its optimum on fixed activations, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sgdr.validation import InvalidValueError

Floats = NDArray[np.float32]

# From strong to weak, so that each fit starts near its optimum; for activations of unit variance.
WEIGHT_DECAYS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)
# So many in a row without a lower validation loss are enough: on five folders it fell to one lowest point and then
# rose, and the weakest, which overfit, can take half of the time.
_FRUITLESS = 2
_PAIRS_KEPT = 10
_MAX_ITERATIONS = 200
_GRADIENT_TOLERANCE = 1e-5
_LOSS_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class SoftmaxRegression:
    """A dense layer with a softmax, at the optimum of its regularised loss.

    Attributes:
        kernel: Shape `(num_features, num_classes)`, float32.
        bias: Shape `(num_classes,)`, float32.
        weight_decay: What the kernel was penalised with.
        loss: Mean log-loss on the validation activations.
        accuracy: Share of them whose most probable class is that of the label.
        train_loss: The same log-loss on the training activations.
        train_accuracy: The same share of them.
    """

    kernel: Floats
    bias: Floats
    weight_decay: float
    loss: float
    accuracy: float
    train_loss: float
    train_accuracy: float


def fit_softmax_regression(
    train: tuple[NDArray[Any], ...],
    valid: tuple[NDArray[Any], ...],
    *,
    num_classes: int,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
) -> SoftmaxRegression:
    """Returns the optimum for the weight decay that has the lowest log-loss on the validation activations.

    Each weight decay's optimum is that of

        mean(-log(softmax(x @ kernel + bias)[label])) + weight_decay / 2 * sum(kernel**2)

    with the activations divided by their standard deviation, one number for all of them; the kernel that is returned
    takes the activations as they are.

    Args:
        train: Activations, shape `(n, num_features)`, labels, integers of shape `(n,)`, and perhaps weights, shape
            `(n,)`, with which the mean is a weighted one.
        valid: Activations and labels of the validation images.
        num_classes: The number of classes, >= 2; a class may have no activations.
        weight_decays: What to try, > 0, from strong to weak, until two in a row have brought no lower log-loss.

    Reference: L-BFGS, Nocedal and Wright, Numerical Optimization, algorithms 7.4 and 3.1.
    """
    shares = _shares(*train[1:])
    scale = _deviation(train[0], shares) or 1.0
    inputs: Floats = np.asarray(train[0] / scale, np.float32)
    labels = train[1]
    shape = (inputs.shape[1] + 1, num_classes)
    parameters, best, fruitless = np.zeros(shape[0] * shape[1], np.float32), None, 0
    for weight_decay in weight_decays:
        objective = _objective(inputs, labels, shares, shape, weight_decay)
        parameters = _minimise(objective, parameters)
        weights = parameters.reshape(shape)
        kernel, bias = (weights[:-1] / scale).astype(np.float32), weights[-1]
        found = SoftmaxRegression(
            kernel, bias, weight_decay, *_scores(kernel, bias, *valid), *_scores(kernel, bias, *train)
        )
        if best is None or found.loss < best.loss:
            best, fruitless = found, 0
            continue
        fruitless += 1
        if fruitless == _FRUITLESS:
            break
    if best is None:
        raise InvalidValueError(f"`weight_decays` must not be empty. Received: weight_decays={weight_decays!r}.")
    return best


def log_loss(log_probabilities: Floats, labels: NDArray[np.int32], shares: Floats) -> float:
    """Returns the mean negative log-probability of the labels' classes, weighted by shares whose sum is 1."""
    return float(-(shares @ log_probabilities[np.arange(len(labels)), labels]))


def _shares(labels: NDArray[np.int32], weights: Floats | None = None) -> Floats:
    """What each image counts, of 1 in all."""
    counted = np.ones(len(labels), np.float32) if weights is None else weights
    return np.asarray(counted / counted.sum(dtype=np.float64), np.float32)


def _deviation(inputs: Floats, shares: Floats) -> float:
    """The standard deviation of all numbers, each row counted by its share."""
    mean = shares @ inputs.mean(axis=1)
    return float(np.sqrt(shares @ np.square(inputs - mean).mean(axis=1)))


def _scores(
    kernel: Floats, bias: Floats, inputs: Floats, labels: NDArray[np.int32], weights: Floats | None = None
) -> tuple[float, float]:
    """Log-loss and accuracy."""
    log_probabilities = _log_softmax(inputs @ kernel + bias)
    hits = np.argmax(log_probabilities, axis=1) == labels
    return log_loss(log_probabilities, labels, _shares(labels, weights)), float(np.mean(hits))


def _log_softmax(logits: Floats) -> Floats:
    logits = logits - np.max(logits, axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True)))


def _objective(
    inputs: Floats, labels: NDArray[np.int32], shares: Floats, shape: tuple[int, int], weight_decay: float
) -> Callable[[Floats], tuple[float, Floats]]:
    rows = np.arange(len(labels))

    def loss_and_gradient(parameters: Floats) -> tuple[float, Floats]:
        kernel, bias = parameters.reshape(shape)[:-1], parameters.reshape(shape)[-1]
        log_probabilities = _log_softmax(inputs @ kernel + bias)
        loss = log_loss(log_probabilities, labels, shares) + weight_decay / 2 * float(np.sum(kernel**2))
        errors = np.exp(log_probabilities)
        errors[rows, labels] -= 1
        errors *= shares[:, None]
        gradient = np.concatenate([inputs.T @ errors + np.float32(weight_decay) * kernel, errors.sum(axis=0)[None]])
        return loss, gradient.ravel()

    return loss_and_gradient


def _minimise(objective: Callable[[Floats], tuple[float, Floats]], parameters: Floats) -> Floats:
    """L-BFGS with halved steps: the newest pairs of step and change of gradient stand for the curvature."""
    loss, gradient = objective(parameters)
    pairs: list[tuple[Floats, Floats]] = []
    for _ in range(_MAX_ITERATIONS):
        if np.abs(gradient).max() < _GRADIENT_TOLERANCE:
            break
        direction = _direction(gradient, pairs)
        step, descent = np.float32(1), float(gradient @ direction)
        while True:
            candidate = parameters - step * direction
            new_loss, new_gradient = objective(candidate)
            # float32 does not resolve a smaller step than a millionth
            if new_loss <= loss - 1e-4 * step * descent or step < 1e-6:
                break
            step /= 2
        if not new_loss < loss:
            break
        moved, bent = candidate - parameters, new_gradient - gradient
        if moved @ bent > 0:
            pairs = [*pairs, (moved, bent)][-_PAIRS_KEPT:]
        fall, parameters, gradient, loss = loss - new_loss, candidate, new_gradient, new_loss
        if fall < _LOSS_TOLERANCE * max(1.0, loss):
            break
    return parameters


def _direction(gradient: Floats, pairs: Sequence[tuple[Floats, Floats]]) -> Floats:
    """The inverse of the curvature, as far as the pairs show it, times the gradient."""
    direction, shares = gradient.copy(), []
    for moved, bent in reversed(pairs):
        share = (moved @ direction) / (moved @ bent)
        direction -= share * bent
        shares.append(share)
    if pairs:
        moved, bent = pairs[-1]
        direction *= (moved @ bent) / (bent @ bent)
    else:
        direction /= np.linalg.norm(gradient)
    for (moved, bent), share in zip(pairs, reversed(shares), strict=True):
        direction += (share - (bent @ direction) / (moved @ bent)) * moved
    return direction
