"""The directory of a run: a journal of its stages, the weights after the last of them, and the files for people."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from filelock import FileLock, Timeout

from keras_sgdr._version import __version__
from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.recipe.replaced_run import ReplacedRun, remove
from keras_sgdr.validation import InvalidValueError

# The stages that others ask for, as the journal names them
CHECK, PLAN, FIND_HEAD_RATE = "check", "plan", "find_head_rate"
TRAIN_HEAD, TRAIN_HEAD_AUGMENTED = "train_head", "train_head_augmented"
FIND_RATE, FIT_PLAN, TRAIN_SMALLER, TRAIN_ALL = "find_rate", "fit_plan", "train_smaller", "train_all"
EVALUATE, EXPORT = "evaluate", "export"
JOURNAL = "run.json"
# The settings of a run, for `keras-sgdr train --config`
CONFIG_FILE = "config.toml"
# What a person opens
REPORT_FILE = "report.html"
# One more whenever stages come, go, or leave something else for those after them
_FORMAT = 2
# The errors of a network drive that has no locks; there, two runs at once must not share a directory.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Stage:
    """A stage of a run, as the directory needs to know it.

    Attributes:
        name: Its name in the journal.
        run: Does the work, and returns what later stages need, as JSON values.
        seed: Added to the recipe's for the stage's random numbers; its own, so that a stage that comes or goes changes
            nothing in the others.
        saves_weights: Whether it trains the model, so that the weights after it are kept, and a checkpoint in its
            midst. One that writes the weights itself names their file in its values, under `checkpoint`.
        settings: The settings that it reads. Until a stage that reads it has begun, a resumed run may have another
            value. Settings that are in no stage's list shape the images and the model from the start.
        may_be_given_later: Those that leave it nothing to do if they are given, and that a resumed run may still give
            when it has finished; but not take back.
        artefacts: The files for people that it leaves.
        chief_alone: Whether one worker does it for all, where several train in step.
        prepare: Makes what the stage trains on where an earlier one may have made it, before the stage's random numbers
            begin: so a resumed run draws what an unbroken one draws.
    """

    name: str
    run: Callable[[Any], dict[str, Any]]
    seed: int = 0
    saves_weights: bool = False
    settings: tuple[str, ...] = ()
    may_be_given_later: tuple[str, ...] = ()
    artefacts: tuple[str, ...] = ()
    chief_alone: bool = False
    prepare: Callable[[Any], object] | None = None


class RunDirectory:
    """The directory of one run: its settings, its finished stages, and the weights after the last of them.

    Everything is written beside its place and renamed, the journal last, so that a run killed at any moment goes on
    from the last stage that finished, or in the midst of the one that followed. As a context manager it is this
    process's alone until it is left.

    Args:
        path: The directory; made if it does not exist.
        settings: What the run was asked for, as JSON values.
        resume: Go on with the unfinished run that is there.
        overwrite: Begin again where a run is there already; its files are removed, others stay. Until the plan has
            finished they are kept aside, and an error brings them back.
        may_differ: Settings that may be others than before when the run is resumed.
        stages: All stages, in their order.

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
        may_differ: Sequence[str] = (),
        stages: Sequence[Stage] = (),
    ) -> None:
        if resume and overwrite:
            raise InvalidValueError(
                "Only one of `resume` and `overwrite` may be given. Received: resume=True, overwrite=True."
            )
        self.path = Path(path)
        self._settings = settings
        self._may_differ = may_differ
        self._all_stages = stages
        self._stages: dict[str, dict[str, Any]] = {}
        self._replaced = ReplacedRun(self.path / JOURNAL, self._files)
        if self.path.is_file():
            raise InvalidValueError(f"`output` must be a directory. Received: output={self.path}, a file.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.path)
        try:
            self._settle_replaced(resume)
            if overwrite:
                self._replaced.set_aside()
            previous = read_journal(self.path)
            if previous is not None and previous["stages"]:  # a run of which no stage has finished is none
                self._check_resumable(previous, settings, resume)
                self._stages = previous["stages"]
            # also where a run was killed before its first stage had finished, perhaps in the midst of clearing
            replaces_a_run = (self.path / JOURNAL).is_file() and not self._stages
            # First, so that a kill in the midst of clearing leaves no journal that names what is gone.
            self._write_journal()
            self._clear(replaces_a_run)
        except BaseException:
            if overwrite:
                self._replaced.bring_back()
            self.close()
            raise

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._replaced.forget()
        elif issubclass(kind, Exception):  # After Ctrl-C a run may go on.
            self._replaced.bring_back()
        self.close()

    def close(self) -> None:
        """Lets another process have the directory; without it, the end of this one does."""
        self._lock.release()

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Returns what `record` was given for `stage`, or `None` if the stage has not finished."""
        return self._stages.get(stage)

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The finished stages in their order, each with what was recorded."""
        return dict(self._stages)

    @property
    def seconds(self) -> dict[str, float]:
        """How long each finished stage took."""
        return {name: values["seconds"] for name, values in self._stages.items() if "seconds" in values}

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
        if stage == PLAN:
            self._replaced.forget()

    @property
    def has_weights(self) -> bool:
        """Whether a finished stage left weights."""
        return self._checkpoint() is not None

    def restore(self, model: keras.Model) -> None:
        """Loads the weights of the last stage that left some into `model`; none is no error."""
        checkpoint = self._checkpoint()
        if checkpoint is not None:
            model.load_weights(checkpoint)

    def to_go_on(self) -> dict[str, bytes]:
        """Returns the files from which a run goes on, by their names: journal, weights and what a stage left."""
        checkpoint = self._checkpoint()
        paths = [self.path / JOURNAL, *self.path.glob("*.checkpoint"), *self.path.glob("predictions.npz")]
        paths += [] if checkpoint is None else [checkpoint]
        return {path.name: path.read_bytes() for path in paths}

    def write_json(self, name: str, values: Any) -> None:
        """Writes `values` as the file `name`, whole or not at all."""
        self.write_text(name, json.dumps(values, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes a text as the file `name`, whole or not at all."""
        with atomic_write(self.path / name) as aside:
            aside.write_text(text, encoding="utf-8")

    def _checkpoint(self) -> Path | None:
        names = [values["checkpoint"] for values in self._stages.values() if "checkpoint" in values]
        return self.path / names[-1] if names else None

    def _checkpoints(self, stage: str) -> list[Path]:
        return [self.unfinished(stage), *self.path.glob(f"{stage}.*.checkpoint")]

    def _remove_checkpoints(self, stage: str) -> None:
        for path in self._checkpoints(stage):
            path.unlink(missing_ok=True)

    def _clear(self, replaces_a_run: bool) -> None:
        """Removes what another run has left, or this one where it was killed."""
        for partial in self.path.glob(".partial-*"):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        for stage in self._all_stages:
            if not self._stages or stage.name in self._stages:
                self._remove_checkpoints(stage.name)
            weights = self.path / f"{stage.name}.weights.h5"
            if weights != self._checkpoint():
                weights.unlink(missing_ok=True)
        if replaces_a_run:
            # An old model beside a new journal would be taken for the new run's.
            for path in self._files():
                if path.name != JOURNAL:
                    remove(path)

    def _files(self) -> list[Path]:
        """All that a run may leave, the journal first, but for what its check found, which is of the images."""
        paths = [self.path / name for name in (JOURNAL, CONFIG_FILE, "export", "tensorboard")]
        for stage in self._all_stages:
            artefacts = () if stage.name == CHECK else stage.artefacts
            paths += [self.path / name for name in (f"{stage.name}.weights.h5", *artefacts)]
            paths += self._checkpoints(stage.name)
        return [path for path in paths if path.exists()]

    def _settle_replaced(self, resume: bool) -> None:
        """Ends what an overwriting run that was killed has left open."""
        if self._replaced:
            journal = read_journal(self.path)
            if journal is not None and PLAN in journal["stages"]:
                self._replaced.forget()
            elif journal is None or not resume:
                self._replaced.bring_back()

    def _check_resumable(self, previous: dict[str, Any], settings: dict[str, Any], resume: bool) -> None:
        state = "a finished run" if "export" in previous["stages"] else "an unfinished run"
        if not resume:
            raise InvalidValueError(
                f"`output` must not hold a run already. Received: output={self.path}, which holds {state}. "
                "Choose another directory, go on with it (`resume`), or begin again (`overwrite`)."
            )
        if previous.get("format") != _FORMAT:
            raise InvalidValueError(
                f"a resumed run must have been begun by a version of the package with the same stages. Received: "
                f"{self.path}, by keras-sgdr {previous.get('version', 'before 0.1.0')}; this is {__version__}. "
                "Install that version, or begin again (`overwrite`)."
            )
        begun = [stage for stage in self._all_stages if self._has_begun(stage, previous["stages"])]
        read_later = {name for stage in self._all_stages for name in stage.settings}
        read_later -= {name for stage in begun for name in stage.settings}
        read_later |= set(self._may_differ)
        read_later -= {name for stage in begun for name in stage.may_be_given_later if settings.get(name) is None}
        changed = sorted(
            name
            for name in settings | previous["settings"]
            if settings.get(name) != previous["settings"].get(name) and name not in read_later
        )
        if changed:
            before, now = _shown(previous["settings"], changed), _shown(settings, changed)
            raise InvalidValueError(
                f"a resumed run must have the settings it began with. Received: {now}; it began with {before}. "
                "Give those, or begin again (`overwrite`)."
            )

    def _has_begun(self, stage: Stage, finished: Mapping[str, Any]) -> bool:
        return stage.name in finished or self.unfinished(stage.name).is_file()

    def _write_journal(self) -> None:
        journal = {"format": _FORMAT, "version": __version__, "settings": self._settings, "stages": self._stages}
        self.write_json(JOURNAL, journal)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the settings of the run in `path`, empty if no run is there."""
    journal = read_journal(Path(path))
    return {} if journal is None else dict(journal["settings"])


def _locked(directory: Path) -> FileLock:
    """Takes a directory for this process; the system gives it back even if the process is killed."""
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InvalidValueError(
            f"`output` must not be in use by another run. Received: output={directory}. Wait for that run to end, "
            "or choose another directory."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return lock


def _shown(settings: Mapping[str, Any], names: list[str]) -> str:
    """Returns settings as text; one that is None was, or is, for the run to choose."""
    values = ((name, settings.get(name)) for name in names)
    return ", ".join(f"no {name}" if value is None else f"{name}={value!r}" for name, value in values)


def read_journal(directory: Path) -> dict[str, Any] | None:
    """Returns the settings, and what the finished stages have left, of the run in a directory; None if none is there.

    Raises:
        ValueError: If the file is not as a run writes it.
    """
    path = directory / JOURNAL
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
