"""The eight steps to a world-class image classifier, each a named stage that a stopped run resumes after."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sgdr.data.decoding import checked_resize
from keras_sgdr.data.folder import FolderIndex, index_folder
from keras_sgdr.data.listing import is_folder, subfolders
from keras_sgdr.evaluation.interpretation import Interpretation, interpret
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.run_directory import RunDirectory
from keras_sgdr.steps import (
    PRESETS,
    READ_BY,
    STAGES,
    Run,
    compile_all,
    compile_head,
    find_rate,
    make_features,
    make_model,
    set_stage_seed,
)
from keras_sgdr.training.lr_curve import LRCurve
from keras_sgdr.training.lr_finder import lr_find
from keras_sgdr.training.schedules import total_epochs

_LEAST_INTEGERS = {
    **dict.fromkeys(
        ("image_size", "batch_size", "head_epochs", "head_cycles", "n_cycles", "cycle_len", "cycle_mult"), 1
    ),
    "num_groups": 2,  # the head is one
    "head_views": 0,
    "tta_views": 0,
    "seed": 0,
}
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "valid_fraction": ("in (0, 1)", lambda value: 0 < value < 1),
    "max_zoom": ("in [1, 10]", lambda value: 1 <= value <= 10),
    "dropout": ("in [0, 1)", lambda value: 0 <= value < 1),
    "group_factor": ("a finite number >= 1", lambda value: 1 <= value < math.inf),
    "head_learning_rate": ("a finite number > 0", lambda value: 0 < value < math.inf),
    "learning_rate": ("a finite number > 0", lambda value: 0 < value < math.inf),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of the eight steps; the defaults suit photographs of things seen from the side.

    Attributes:
        backbone: A name that `build_classifier` knows.
        weights: `"imagenet"`, the path of a weights file, or `None` for random ones.
        image_size: Height and width of the model's input in pixels, one number for both.
        resize: How a picture is brought to that size: `"crop"`, `"squish"` or `"pad"`.
        batch_size: Pictures per step, >= 1.
        valid_fraction: The share of each class held out, in (0, 1), if the folder has no `valid/`.
        augmentation: `"side_on"` (photographs: flipped left to right), `"top_down"` (satellites, microscopes:
            all eight symmetries) or `"basic"` (no flip: digits, text).
        max_zoom: The largest zoom of the augmentation, >= 1.
        dropout: The share of features dropped before the head, in [0, 1).
        head_epochs: Epochs of the head on precomputed activations (step 3).
        head_cycles: Cycles of one epoch of the head with augmentation (step 4).
        head_views: Augmented views of each picture whose activations step 4 trains on, one of them in each epoch;
            0 puts new views through the frozen backbone in every epoch. Worth it where the views are fewer than the
            cycles, or the run is not the first on these pictures.
        n_cycles: Cycles of the whole network (step 8).
        cycle_len: Epochs of the first of them.
        cycle_mult: Each further cycle is this many times as long.
        num_groups: Layer groups with a learning rate each (step 6).
        group_factor: Each group's rate is the next one's divided by this; the course takes 3 to 10.
        head_learning_rate: The rate of steps 3 and 4. Defaults to the finder's suggestion (step 2).
        learning_rate: The last group's rate in step 8. Defaults to the finder's suggestion (step 7).
        tta_views: Augmented views per picture in the evaluation.
        seed: Seed of the split, the order, the augmentation and the head's first weights.
    """

    backbone: str = "EfficientNetLite0"
    weights: str | None = "imagenet"
    image_size: int = 224
    resize: str = "crop"
    batch_size: int = 32
    valid_fraction: float = 0.2
    augmentation: str = "side_on"
    max_zoom: float = 1.1
    dropout: float = 0.2
    head_epochs: int = 2
    head_cycles: int = 3
    head_views: int = 0
    n_cycles: int = 3
    cycle_len: int = 1
    cycle_mult: int = 2
    num_groups: int = 3
    group_factor: float = 3.0
    head_learning_rate: float | None = None
    learning_rate: float | None = None
    tta_views: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.augmentation not in PRESETS:
            raise ValueError(
                f"`augmentation` must be one of {sorted(PRESETS)}. Received: augmentation={self.augmentation!r}."
            )
        checked_resize(self.resize)
        for name, least in _LEAST_INTEGERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value!r}.")
        for name, (allowed, holds) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}.")

    @property
    def epochs(self) -> int:
        """The epochs of step 8."""
        return total_epochs(self.n_cycles, self.cycle_len, self.cycle_mult)


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a run made.

    Attributes:
        model: The trained classifier.
        class_names: One name per output.
        output: The run directory.
        export: The SavedModel's folder.
        history: One dictionary per epoch: `stage`, `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy`
            and, where a schedule sets it, `learning_rate`, that of the epoch's last batch.
        plain: Accuracy and mistakes on the validation pictures, each seen once.
        tta: The same with test-time augmentation.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    output: Path
    export: Path
    history: list[dict[str, Any]]
    plain: Interpretation
    tta: Interpretation


def train_image_classifier(
    folder: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    recipe: Recipe | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: int = 1,
) -> TrainingResult:
    """Trains a classifier on a folder of pictures by the course's eight steps, evaluates and exports it.

    Sets the global random seeds of Python, NumPy and the backend from `recipe.seed`.

    The run directory receives `model.keras` and `classifier.json`, `run.json` (settings and each stage's results),
    `history.csv`, `predictions.npz` (of the validation pictures, plain and with test-time augmentation), the plots
    `lr_finder_head.png`, `lr_finder_all.png`, `schedule.png`, `history.png`, `confusion_matrix.png` and
    `top_losses.png`, and `export/`, for TensorFlow Serving.

    Args:
        folder: Has `train/` and `valid/`, each with a folder per class; or just a folder per class, of which
            `recipe.valid_fraction` is held out.
        output: The run directory.
        recipe: The settings.
        resume: Go on with an unfinished run in `output`, after the last stage that it finished. Settings that only
            later stages read may be others than before.
        overwrite: Begin again in an `output` that holds a run already.
        verbose: 1 prints a line per stage, a table of epochs and progress bars; 0 nothing.

    Raises:
        FileNotFoundError: If the folder or its pictures are missing.
        ValueError: If the folder, a picture, a setting or the run directory is not usable.

    Example:
        ```python
        result = train_image_classifier("pets", output="runs/pets", recipe=Recipe(image_size=160))
        result.tta.accuracy
        ```
    """
    recipe = recipe or Recipe()
    index = index_for(folder, recipe)
    settings = {
        **dataclasses.asdict(recipe),
        "folder": str(Path(folder).resolve()),
        "classes": list(index.class_names),
        "pictures": digest_of(index),
    }
    keras.utils.set_random_seed(recipe.seed)
    with RunDirectory(output, settings=settings, resume=resume, overwrite=overwrite, read_by=READ_BY) as directory:
        run = Run(recipe, index, directory, verbose)
        for number, (name, stage, trains) in enumerate(STAGES):
            if directory.finished(name) is not None:
                run.say(f"{name}: done before")
                continue
            run.prepare(name)
            # last, so that a resumed run draws what an unbroken one draws
            set_stage_seed(run.model, recipe.seed, number)
            values = stage(run)
            directory.record(name, values, run.model if trains else None)
        return _result(run)


def find_learning_rate(
    folder: str | os.PathLike[str], *, recipe: Recipe | None = None, whole_network: bool = False, num_steps: int = 100
) -> LRCurve:
    """Returns the finder's curve for a folder: of the head on precomputed activations, or of the whole network.

    Args:
        folder: As in `train_image_classifier`.
        recipe: The settings.
        whole_network: Whether nothing is frozen (step 7) instead of everything but the head (step 2).
        num_steps: Batches to try.
    """
    recipe = recipe or Recipe()
    index = index_for(folder, recipe)
    keras.utils.set_random_seed(recipe.seed)
    model = make_model(recipe, len(index.class_names), recipe.weights)
    if whole_network:
        compile_all(model, recipe)
        return find_rate(model, recipe, index.train, num_steps=num_steps)
    freeze_to(model, -1)
    features, head = make_features(recipe, model, index.train)
    compile_head(head)
    return lr_find(head, features, num_steps=num_steps)


def digest_of(index: FolderIndex) -> str:
    """Returns what tells splits apart: a resumed run must not validate on pictures that it was trained on."""
    digest = hashlib.sha256()
    for split in (index.train, index.valid):
        for path in split.paths:
            digest.update(os.path.relpath(path, index.directory).encode(errors="surrogateescape") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()[:16]


def is_split(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is split already: a class may well be called "train", a split holds the classes."""
    splits = [f"{os.fspath(folder)}/{name}" for name in ("train", "valid")]
    return any(is_folder(split) and subfolders(split) for split in splits)


def index_for(folder: str | os.PathLike[str], recipe: Recipe) -> FolderIndex:
    """Returns the pictures of a folder that is split already, or is split here by the recipe's fraction and seed."""
    index = index_folder(folder, valid_fraction=None if is_split(folder) else recipe.valid_fraction, seed=recipe.seed)
    if len(index.class_names) < 2:
        raise ValueError(
            f"`folder` must hold at least two classes. Received: folder={folder} with {', '.join(index.class_names)}."
        )
    return index


def _result(run: Run) -> TrainingResult:
    directory = run.directory
    predictions = np.load(directory.path / "predictions.npz")
    names, labels = run.index.class_names, run.index.valid.labels
    return TrainingResult(
        model=run.model,
        class_names=names,
        output=directory.path,
        export=directory.path / directory.stages["export"]["path"],
        history=run.history,
        plain=interpret(predictions["plain"], labels, names),
        tta=interpret(predictions["tta"], labels, names),
    )
