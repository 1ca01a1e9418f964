"""What a run leaves behind, and what it needs to go on: a journal, a checkpoint, and the files for people."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.validation import InvalidValueError

_JOURNAL = "run.json"
# The stages that leave weights, and in their midst a checkpoint
_TRAINING_STAGES = ("train_head", "train_head_augmented", "train_all")
# What a run leaves beside its journal, its checkpoint and its export
ARTEFACTS = (
    "model.keras",
    "classifier.json",
    "findings.csv",
    "history.csv",
    "predictions.npz",
    "lr_finder_head.png",
    "lr_finder_head.csv",
    "lr_finder_all.png",
    "lr_finder_all.csv",
    "schedule.png",
    "history.png",
    "confusion_matrix.png",
    "top_losses.png",
)


class RunDirectory:
    """The directory of one run: its settings, its finished stages, and the weights after the last of them.

    Everything is written beside its place and renamed, the journal last, so that a run killed at any moment goes on
    from the last stage that finished, or in the midst of the one that followed. As a context manager it is this
    process's alone until it is left.

    Args:
        path: The directory; made if it does not exist.
        settings: What the run was asked for, as JSON values.
        resume: Go on with the unfinished run that is there.
        overwrite: Begin again where a run is there already; its files are removed, others stay.
        read_by: For a setting, the first stage that reads it. A resumed run may have another value as long as
            that stage has not begun to train; settings without a stage must be the same.

    Raises:
        ValueError: If both `resume` and `overwrite` are given, if a run is there and neither is, if the settings of the
            run to resume are others, or if another process is at work in the directory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        settings: dict[str, Any],
        resume: bool = False,
        overwrite: bool = False,
        read_by: Mapping[str, str] | None = None,
    ) -> None:
        if resume and overwrite:
            raise InvalidValueError(
                "Only one of `resume` and `overwrite` may be given. Received: resume=True, overwrite=True."
            )
        self.path = Path(path)
        self._settings = settings
        self._stages: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            raise InvalidValueError(f"`output` must be a directory. Received: output={self.path}, a file.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        try:
            previous = None if overwrite else _read_journal(self.path / _JOURNAL)
            if previous is not None and previous["stages"]:  # a run of which no stage has finished is none
                self._check_resumable(previous, settings, resume, read_by or {})
                self._stages = previous["stages"]
            replaces_a_run = overwrite and (self.path / _JOURNAL).is_file()
            # First, so that a kill in the midst of clearing leaves no journal that names what is gone.
            self._write_journal()
            self._clear(replaces_a_run)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process have the directory; without it, the end of this one does."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Returns what `record` was given for `stage`, or `None` if the stage has not finished."""
        return self._stages.get(stage)

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The finished stages in their order, each with what was recorded."""
        return dict(self._stages)

    def unfinished(self, stage: str, attempt: int = 1) -> Path:
        """Where an attempt at a stage may keep what it needs to go on in its midst; removed when it has finished."""
        return self.path / (f"{stage}.checkpoint" if attempt == 1 else f"{stage}.{attempt}.checkpoint")

    def record(self, stage: str, values: dict[str, Any], model: keras.Model | None = None) -> None:
        """Writes down that `stage` has finished, with the weights that it left.

        Args:
            stage: The stage's name.
            values: Whatever later stages need, as JSON values. A stage that wrote its weights itself names
                their file under `checkpoint`.
            model: The model whose weights the stage changed and did not write.
        """
        stale = self._checkpoint()
        if model is not None:
            name = f"{stage}.weights.h5"
            with atomic_write(self.path / name) as aside:
                model.save_weights(aside)
            values = {**values, "checkpoint": name}
        self._stages[stage] = values
        self._write_journal()
        if stale is not None and stale != self._checkpoint():
            stale.unlink(missing_ok=True)
        self._remove_checkpoints(stage)

    @property
    def has_weights(self) -> bool:
        """Whether a finished stage left weights."""
        return self._checkpoint() is not None

    def restore(self, model: keras.Model) -> None:
        """Loads the weights of the last stage that left some into `model`; none is no error."""
        checkpoint = self._checkpoint()
        if checkpoint is not None:
            model.load_weights(checkpoint)

    def write_json(self, name: str, values: Any) -> None:
        """Writes `values` as the file `name`, whole or not at all."""
        with atomic_write(self.path / name) as aside:
            aside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def _checkpoint(self) -> Path | None:
        names = [values["checkpoint"] for values in self._stages.values() if "checkpoint" in values]
        return self.path / names[-1] if names else None

    def _remove_checkpoints(self, stage: str) -> None:
        for path in (self.unfinished(stage), *self.path.glob(f"{stage}.*.checkpoint")):
            path.unlink(missing_ok=True)

    def _clear(self, replaces_a_run: bool) -> None:
        """Removes what another run has left, or this one where it was killed."""
        for partial in self.path.glob(".partial-*"):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        for stage in _TRAINING_STAGES:
            if not self._stages or stage in self._stages:
                self._remove_checkpoints(stage)
            weights = self.path / f"{stage}.weights.h5"
            if weights != self._checkpoint():
                weights.unlink(missing_ok=True)
        if replaces_a_run:
            # An old model beside a new journal would be taken for the new run's.
            for name in ARTEFACTS:
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.path / "export", ignore_errors=True)

    def _check_resumable(
        self, previous: dict[str, Any], settings: dict[str, Any], resume: bool, read_by: Mapping[str, str]
    ) -> None:
        state = "a finished run" if "export" in previous["stages"] else "an unfinished run"
        if not resume:
            raise InvalidValueError(
                f"`output` must not hold a run already. Received: output={self.path}, which holds {state}. "
                "Choose another directory, go on with it (`resume`), or begin again (`overwrite`)."
            )
        changed = sorted(
            key
            for key in settings | previous["settings"]
            if settings.get(key) != previous["settings"].get(key)
            and (key not in read_by or read_by[key] in previous["stages"] or self.unfinished(read_by[key]).is_file())
        )
        if changed:
            before = {k: previous["settings"].get(k) for k in changed}
            now = {k: settings.get(k) for k in changed}
            raise InvalidValueError(
                f"a resumed run must have the settings it began with. Received: {now}; it began with {before}. "
                "Give those, or begin again (`overwrite`)."
            )

    def _write_journal(self) -> None:
        self.write_json(_JOURNAL, {"settings": self._settings, "stages": self._stages})


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the settings of the run in `path`, empty if no run is there."""
    journal = _read_journal(Path(path) / _JOURNAL)
    return {} if journal is None else dict(journal["settings"])


def _lock(directory: Path) -> int | None:
    """Takes a directory for this process; the system gives it back even if the process is killed."""
    try:
        import fcntl
    except ImportError:
        return None  # Windows has no such locks: there, two runs at once must not share a directory.
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InvalidValueError(
            f"`output` must not be in use by another run. Received: output={directory}. Wait for that run to end, "
            "or choose another directory."
        ) from error
    except OSError:  # a network drive without locks
        os.close(descriptor)
        return None
    return descriptor


def _read_journal(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        journal: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        journal["settings"], journal["stages"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(
            f"the journal of a run must be JSON as the run wrote it. Received: {path} ({error!r}). "
            "Remove it to begin again."
        ) from error
    return journal
