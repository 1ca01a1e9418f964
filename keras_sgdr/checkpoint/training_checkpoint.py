"""`TrainingCheckpoint`: writes everything that a resumed training needs to one file, and restores it."""

from __future__ import annotations

import contextlib
import glob
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sgdr.checkpoint.callback_state import check_has_state, get_state, set_state
from keras_sgdr.checkpoint.checkpoint_file import read_tree, write_tree
from keras_sgdr.checkpoint.same_model import description_of, lasting_variables, require_same_model
from keras_sgdr.checkpoint.tensorflow_workers import require_same_place, trains_with_others
from keras_sgdr.checkpoint.training_state import require_built, to_numpy
from keras_sgdr.optimizers.access import sync_variables
from keras_sgdr.validation import InvalidValueError, require, require_integer

# The value of `model.stop_training` that ends the resumed epoch. Keras runs as many batches in every epoch and knows no
# other way to end one. It counts as True and can yet be told from the True of another callback, such as EarlyStopping
# after this same epoch, which must end the training.
_RESUMED_EPOCH_IS_OVER = "the resumed epoch is over"


@dataclass(frozen=True)
class TrainingPosition:
    """Where a training goes on.

    Attributes:
        epoch: The epoch to go on with, from 0: `fit`'s `initial_epoch`.
        batch: The batches of that epoch that are done.
        steps_per_epoch: Batches in an epoch; None where no epoch of unknown length has ended yet.
        stopped: Whether a callback had ended the training there.
    """

    epoch: int = 0
    batch: int = 0
    steps_per_epoch: int | None = None
    stopped: bool = False

    @property
    def step(self) -> int:
        """The batches done since the first epoch began: `load_dataset`'s `initial_step`."""
        return self.epoch * (self.steps_per_epoch or 0) + self.batch


class TrainingCheckpoint(keras.callbacks.Callback):
    """Writes everything that a resumed run needs to one file, so that a run killed at any moment can go on.

    That is every variable of the model (weights, batch-norm statistics, the seed generators of dropout) and of the
    optimizer (slots, iterations, rate, accumulated gradients, loss scale), the epoch, the batch, the running metrics,
    the history, and what `callbacks` remember. A run that goes on from it ends bit for bit where an unbroken one
    does, on a machine that repeats itself; `fit` returns the history of all epochs. On PyTorch that holds for models
    without random layers: there Keras draws dropout from PyTorch's global generator, whose state is not in the file, so
    that a resumed run draws other masks. Keras's `BackupAndRestore` keeps neither callbacks nor history, and
    begins the epoch again with the weights of its middle.

    It must be the last of `fit`'s callbacks: it writes what the others have done. Schedulers of this package learn by
    themselves where the training goes on, and need not be in `callbacks`. Of Keras's, `EarlyStopping`,
    `ReduceLROnPlateau`, `ModelCheckpoint` and `SwapEMAWeights` are known.

    The data must be brought to the same place. At the beginning of an epoch, that matters where one epoch differs from
    the next. In the midst of one, give `fit` `steps_per_epoch` and data without end from batch `position.step` on:
    `load_dataset(..., initial_step=position.step).repeat()`, `dataset.repeat().skip(position.step)`, or a generator;
    the first epoch then ends where it would have. The file is replaced by renaming, and stays when training has ended.

    Args:
        path: The file.
        save_every: "epoch" writes after each epoch and its validation; a number, >= 1, after so many batches too.
        callbacks: Those of the same `fit` that must remember something: `StopWhenOverfitting`, `CycleSnapshots`,
            Keras's named above, or any with `get_state()`, which returns dictionaries, lists, numbers, strings and
            arrays, and `set_state(state)`. Always the same ones in the same order.

    Raises:
        TypeError: If `callbacks` holds one of which it is not known what to remember.
        ValueError: If `save_every` is out of range or `path` no file; when training begins, if the file is there but
            was not restored, if `fit` begins elsewhere than restored, if the number of batches is another, or one of
            `callbacks` does not come before it in `fit`'s.

    Example:
        ```python
        checkpoint = TrainingCheckpoint("run.checkpoint", callbacks=[stop])
        start = checkpoint.restore(model)  # the beginning, if there is no file
        data = load_dataset(split, shuffle=True, initial_step=start.step)
        epochs = start.epoch if start.stopped else 7
        callbacks = [scheduler, stop, checkpoint]
        model.fit(data, validation_data=valid, initial_epoch=start.epoch, epochs=epochs, callbacks=callbacks)
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        save_every: str | int = "epoch",
        callbacks: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        if save_every != "epoch":
            require_integer("save_every", save_every)
        callbacks = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks)
        for callback in callbacks:
            check_has_state(callback)
        self.path = Path(path)
        is_free = self.path.is_file() or not self.path.exists()
        require(is_free, "`path` must be a file, or free for one", path=str(self.path))
        self.save_every = save_every
        self.callbacks = callbacks
        self._start = TrainingPosition()
        self._restored: dict[str, Any] = {}
        self._may_overwrite = False

    def restore(self, model: Any) -> TrainingPosition:
        """Restores a model and its optimizer from the file, and returns where to go on.

        Args:
            model: A compiled and built model, made as the one that was trained.

        Returns:
            The position; the beginning of the first epoch if there is no file.

        Raises:
            ValueError: If the file is no checkpoint, or its variables or optimizer are not those of the model; or one
                of several workers would go on elsewhere.
        """
        self._may_overwrite = True
        self._start, self._restored = TrainingPosition(), {}
        for leftover in self.path.parent.glob(f".partial-*-{glob.escape(self.path.name)}"):
            leftover.unlink()
        if self.path.is_file() or trains_with_others(model):  # which must build their optimizers together
            require_built(model)
        if self.path.is_file():
            saved = self._read(model)
            sync_variables(model)
            for variable, value in zip(lasting_variables(model), saved.pop("values"), strict=True):
                variable.assign(value)
            self._start, self._restored = TrainingPosition(**saved["position"]), saved
        if trains_with_others(model):
            require_same_place(model, self._start)
        return self._start

    def _read(self, model: Any) -> dict[str, Any]:
        """Reads the file; if that fails, the other workers are told."""
        try:
            saved = read_tree(self.path)
            self._check(saved, model)
        except Exception:
            if trains_with_others(model):
                with contextlib.suppress(InvalidValueError):
                    require_same_place(model, None)
            raise
        return saved

    def set_params(self, params: dict[str, Any]) -> None:
        """Tells the other callbacks, which share `params`, where the training goes on."""
        # Keras gives the same `params` to one callback after the other. It gives a callback no other way to those of
        # the same `fit`.
        late = [
            type(callback).__name__ for callback in self.callbacks if getattr(callback, "params", params) is not params
        ]
        must = "`fit`'s callbacks must hold the TrainingCheckpoint after all of its `callbacks`"
        require(not late, must, not_before_it=late)
        super().set_params(params)
        start, steps = self._start, params.get("steps")
        if self._restored:
            if steps != start.steps_per_epoch and (steps is not None or start.batch):
                raise InvalidValueError(
                    f"An epoch must have the {start.steps_per_epoch} batches that it had for the checkpoint. Received: "
                    f"steps={steps}. Give `fit` the same data; in the midst of an epoch, with `steps_per_epoch`."
                )
            params.update(steps=start.steps_per_epoch, resumed_at=start)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks what can be checked before the first batch, and lets the callbacks remember."""
        super().on_train_begin(logs)
        must = "`path` must not hold a checkpoint that was not restored; call `restore` first, or remove it"
        require(self._may_overwrite or not self.path.exists(), must, path=str(self.path))
        self._may_overwrite = False  # a second `fit` after an interrupted one must restore again
        steps, at_once = self.params.get("steps"), self.model.steps_per_execution
        must = "`save_every` must be 'epoch' unless an epoch has a known number of batches, n * `steps_per_execution`"
        in_step = self.save_every == "epoch" or (steps is not None and steps % at_once == 0)
        require(in_step, must, save_every=self.save_every, steps=steps, steps_per_execution=at_once)
        self._epochs: list[int] = list(self._restored.get("epochs", []))
        self._history = {name: list(values) for name, values in self._restored.get("history", {}).items()}
        for callback, state in zip(self.callbacks, self._restored.get("callbacks", []), strict=False):
            set_state(callback, state)
        self._begun = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks that the first epoch is the one to go on with."""
        super().on_epoch_begin(epoch, logs)
        resumes = bool(self._restored) and not self._begun
        must = f"`initial_epoch` must be {self._start.epoch}, where the checkpoint was written"
        require(not resumes or epoch == self._start.epoch, must, initial_epoch=epoch)
        self._epoch, self._begun = epoch, True
        self._first = self._done = self._written = self._start.batch if resumes else 0
        self._is_cut_short = False

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes in the midst of an epoch, if asked to, and ends the first one where it has been begun before."""
        super().on_train_batch_end(batch, logs)
        if self._first and self._done == self._first:
            self._go_on_with_metrics()
        self._done = self._first + batch + 1
        if self._first and self._done == self.params["steps"] and not self.model.stop_training:
            self.model.stop_training = _RESUMED_EPOCH_IS_OVER
        self._is_cut_short = self.model.stop_training and self._done != self.params["steps"]
        if self._is_due():
            self._save(TrainingPosition(self._epoch, self._done, self.params["steps"]))
            self._written = self._done

    def save(self) -> bool:
        """Writes where the training is, after a batch, so that another callback may end it there.

        Returns:
            Whether it was written. After an epoch's last batch it is not, for the end of the epoch writes.
        """
        is_within = self._done < (self.params["steps"] or math.inf)
        if is_within:
            self._save(TrainingPosition(self._epoch, self._done, self.params["steps"]))
        return is_within

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes after the epoch, unless another callback has stopped it in its midst."""
        super().on_epoch_end(epoch, logs)
        if self.model.stop_training is _RESUMED_EPOCH_IS_OVER:
            self.model.stop_training = False
        if self._is_cut_short:
            return
        self._epochs.append(epoch)
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(np.asarray(value).tolist())
        self._save(TrainingPosition(epoch + 1, 0, self.params["steps"] or self._done, bool(self.model.stop_training)))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the epochs before into the history that `fit` returns."""
        super().on_train_end(logs)
        history = self.model.history
        for name, before in self._restored.get("history", {}).items():
            history.history[name] = [*before, *history.history.get(name, [])]
        history.epoch = [*self._restored.get("epochs", []), *history.epoch]
        self._start, self._restored = TrainingPosition(), {}
        self._may_overwrite = True

    def _is_due(self) -> bool:
        if self.save_every == "epoch" or self._done == self.params["steps"]:
            return False
        return self._is_cut_short or self._done - self._written >= int(self.save_every)

    def _save(self, position: TrainingPosition) -> None:
        sync_variables(self.model)
        tree = {
            "position": asdict(position),
            **description_of(self.model),
            "values": [to_numpy(variable) for variable in lasting_variables(self.model)],
            "metrics": [to_numpy(variable) for variable in self.model.metrics_variables] if position.batch else [],
            "callbacks": [get_state(callback) for callback in self.callbacks],
            "epochs": self._epochs,
            "history": self._history,
        }
        write_tree(self.path, tree)

    def _go_on_with_metrics(self) -> None:
        # Keras empties them when an epoch begins, and on TensorFlow makes them in the first batch only. All of its
        # metrics add up, so what the batches before gave may as well be added after that one.
        sync_variables(self.model)
        for variable, value in zip(self.model.metrics_variables, self._restored["metrics"], strict=True):
            variable.assign_add(value)

    def _check(self, saved: Any, model: Any) -> None:
        require_same_model(saved, model)
        count = len(saved["callbacks"])
        must = f"`callbacks` must be those of the checkpoint, {count}"
        require(count == len(self.callbacks), must, callbacks=self.callbacks)
