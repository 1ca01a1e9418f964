"""The learning-rate finder: `lr_find`, which leaves no trace, and `LRFinder`, its callback."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_sgdr.checkpoint.training_state import TrainingState
from keras_sgdr.lr_finder.data_faults import fault_in
from keras_sgdr.lr_finder.dataset_guard import check_data, peek_as_keras_does, probe_arguments, reordered
from keras_sgdr.lr_finder.lr_curve import LRCurve, mean_curve
from keras_sgdr.lr_finder.lr_finder import LRFinder
from keras_sgdr.optimizers.access import accumulation_steps
from keras_sgdr.validation import InvalidValueError, NotReadyError, require_integer

__all__ = ["LRFinder", "lr_find"]


def lr_find(
    model: Any,
    dataset: Any,
    *,
    start_lr: float = 1e-7,
    end_lr: float = 10.0,
    num_steps: int = 100,
    mode: str = "exponential",
    smoothing: float = 0.98,
    stop_factor: float = 4.0,
    class_weight: dict[int, float] | None = None,
    validation_batch: tuple[Any, Any] | None = None,
    repeats: int = 1,
    verify: bool = False,
    verbose: int = 1,
) -> LRCurve:
    """Runs the learning-rate finder and leaves no trace of it.

    Model, optimizer, metrics and global random generators are restored as by `LRFinder`, whatever ends it: the last
    step, a loss that explodes, an error, Ctrl-C. The data is begun anew until there are `num_steps` batches of it, and
    its order afterwards is as it was:

    - A `tf.data` pipeline is copied, shuffles, captured variables and all; where TensorFlow cannot, a warning says so.
      Large arrays in a pipeline that shuffles are copied several times over: give them as a tuple, or a function.
      A cache in files that are not there yet is left to the training.
    - Arrays are shuffled by the random generators, which are restored. A `PyDataset` is copied, whatever it holds;
      where it holds what Python cannot copy, a lock for instance, a warning says so.
    - Of a torch `DataLoader`, the generator is restored; what its dataset draws in workers is not.
    - Draws of TensorFlow's stateful operations (`tf.random.normal` without a seed of its own) go on by the finder's.
    - A function without arguments that makes any of these is called once, and its result is used here only.

    Args:
        model: A compiled and built Keras model. A schedule as its optimizer's rate is put aside and back; with
            `steps_per_execution` above 1 the finder trains batch by batch all the same.
        dataset: What `model.fit` takes, arrays as a tuple `(x, y)`, or a function that makes it.
        start_lr: See `LRFinder`, also for what follows.
        end_lr: The rate toward which it goes.
        num_steps: Number of updates.
        mode: "exponential" or "linear".
        smoothing: Weight of the past in the smoothed losses.
        stop_factor: Multiple of the best smoothed loss at which to stop.
        class_weight: As in `model.fit`.
        validation_batch: Arrays `(x, y)`, the loss on which is noted too, after each update.
        repeats: Number of probes, each from the same state over another order of the data (if the data has one). The
            curve is their mean, over the rates that all reached; `curve.suggest` gives the median of theirs.
        verify: Whether to compare every variable with its copy afterwards, bit by bit; `curve.state_digest` is then the
            SHA-256 of all of them, before and after.
        verbose: 1 shows a progress bar, 0 nothing.

    Returns:
        The `LRCurve`, of at most `num_steps` points.

    Raises:
        ValueError: If an argument is out of its range, the model is not built or all frozen, or the data cannot be
            trained on: empty, with NaN, of another shape, with labels outside the classes.
        TypeError: If an argument is no number, or `dataset` an iterator, which could not be put back.
        RuntimeError: If `verify` finds that a variable was not put back.

    Example:
        ```python
        curve = lr_find(model, dataset)
        model.optimizer.learning_rate = curve.suggest("valley")
        ```
    """
    check_data(dataset)
    require_integer("repeats", repeats)
    finder = LRFinder(
        start_lr=start_lr,
        end_lr=end_lr,
        num_steps=num_steps,
        mode=mode,
        smoothing=smoothing,
        stop_factor=stop_factor,
        validation_batch=validation_batch,
    )
    with _kept_history(model):
        peek_as_keras_does(model, dataset)
        state = finder.keep(model)
        try:
            with probe_arguments(dataset) as arguments:
                with _data_faults_named(model, arguments):
                    curves = [
                        _probe(model, finder, reordered(arguments, order), class_weight=class_weight, verbose=verbose)
                        for order in range(repeats)
                    ]
                if not all(math.isfinite(curve.losses[-1]) for curve in curves):
                    _refuse_fault(model, arguments)  # or it diverges, as it may
        finally:
            state.generators.restore()
    curve = curves[0] if repeats == 1 else mean_curve(curves)
    return dataclasses.replace(curve, state_digest=_verified(state)) if verify else curve


@contextmanager
def _data_faults_named(model: Any, arguments: dict[str, Any]) -> Iterator[None]:
    """Turns an error caused by the data into a ValueError that names the fault."""
    try:
        with warnings.catch_warnings():
            # The finder starts the data again, and raises an error of its own if there is none.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            yield
    except OSError:  # a missing file: the error names it
        raise
    except Exception as error:
        _refuse_fault(model, arguments, cause=error)
        raise


def _refuse_fault(model: Any, arguments: dict[str, Any], *, cause: Exception | None = None) -> None:
    """Raises a ValueError that names what is wrong with the data, if anything is."""
    fault = None if isinstance(arguments["x"], Iterator) else fault_in(model, arguments)
    if fault is not None:
        raise InvalidValueError(f"`dataset` must be what the model can be trained on. Received: {fault}.") from cause


def _probe(model: Any, finder: LRFinder, arguments: dict[str, Any], *, class_weight: Any, verbose: int) -> LRCurve:
    """One pass over the range."""
    with finder:
        finder.keep(model)
        if model.steps_per_execution != 1:
            model.steps_per_execution, model.train_function = 1, None
        epochs = len(finder.rates) * accumulation_steps(model.optimizer)
        callbacks = [finder, *([_ProgressBar(epochs)] if verbose else [])]
        model.fit(**arguments, epochs=epochs, class_weight=class_weight, callbacks=callbacks, verbose=0)
        if not finder.is_over:
            raise finder.error_of_missing_batches()
    return finder.curve


class _ProgressBar(keras.callbacks.Callback):
    """A bar over the batches of a probe, which may end before the bar is full."""

    def __init__(self, num_batches: int) -> None:
        super().__init__()
        self._bar = keras.utils.Progbar(num_batches, unit_name="batch")
        self._done = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        self._done += 1
        self._bar.update(self._done, finalize=False)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        self._bar.update(self._done, finalize=True)


def _verified(state: TrainingState) -> str:
    differing = state.differing()
    if differing:
        raise NotReadyError(
            f"Every variable must be as it was before the finder. Received: other values in {differing}. Please report "
            "this with the model."
        )
    return state.digest()


@contextmanager
def _kept_history(model: Any) -> Iterator[None]:
    """Puts back `model.history` when `fit` has returned, which reads it last."""
    history = getattr(model, "history", None)
    try:
        yield
    finally:
        model.history = history
