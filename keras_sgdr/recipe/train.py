"""The eight steps to a world-class image classifier, each a named stage that a stopped run resumes after."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr._version import __version__
from keras_sgdr.data.dataset.worker_share import WorkerShare
from keras_sgdr.data.index.files import is_remote, require_local
from keras_sgdr.data.index.folder import FolderIndex, describe
from keras_sgdr.distribution.workers import Workers
from keras_sgdr.evaluation.interpretation import Interpretation, interpret
from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.lr_finder.lr_find import lr_find
from keras_sgdr.models.layer_groups import freeze_to
from keras_sgdr.recipe.builders import (
    chosen_precision,
    compile_all,
    compile_head,
    count_images,
    find_rate,
    make_features,
    make_model,
    set_stage_seed,
    take_over,
    training_split,
)
from keras_sgdr.recipe.costs import measure
from keras_sgdr.recipe.images import digest_of, index_for, place_of
from keras_sgdr.recipe.plan import PlannedStage, disk, plan, planned_cycles, table, within
from keras_sgdr.recipe.recipe import Recipe
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.run_directory import CONFIG_FILE, EVALUATE, FIT_PLAN, RunDirectory, read_settings
from keras_sgdr.recipe.settings import as_json, as_toml
from keras_sgdr.recipe.stages import STAGES
from keras_sgdr.validation import InvalidValueError, require


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a run made.

    Attributes:
        model: The trained classifier.
        class_names: One name per output.
        output: The run directory.
        export: The SavedModel's folder.
        history: One dictionary per epoch, and one for each optimum of the head: `stage`, `epoch`, `loss`, `accuracy`,
            `val_loss`, `val_accuracy` and, where a schedule sets it, `learning_rate`, that of the epoch's last batch.
        plain: Accuracy and mistakes on the validation images, each seen once.
        tta: The same, averaged over views; the plain ones where there are none.
        test: Accuracy and mistakes on test images with labels, if there are any, as the classifier predicts from then
            on.
        views: The kinds of views over which the classifier averages from then on; none for the plain image.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    output: Path
    export: Path
    history: list[dict[str, Any]]
    plain: Interpretation
    tta: Interpretation
    test: Interpretation | None = None
    views: tuple[str, ...] = ()


def train_image_classifier(
    folder: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    recipe: Recipe | None = None,
    resume: bool = False,
    moved: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    on_event: Callable[[dict[str, Any]], None] | None = None,
    strategy: tf.distribute.Strategy | None = None,
    verbose: int = 1,
) -> TrainingResult:
    """Trains a classifier on a folder of images by the course's eight steps, evaluates and exports it.

    Sets the global random seeds of Python, NumPy and the backend from `recipe.seed`.

    The run directory receives `model.keras` and `classifier.json`, `run.json` (settings and each stage's results),
    `config.toml` (the settings, for the command line), `history.csv`, `predictions.npz` (of the validation images,
    plain and with test-time augmentation), the plots `lr_finder_head.png`, `lr_finder_all.png`, `schedule.png`,
    `history.png`, `confusion_matrix.png` and `top_losses.png`, both finders' curves as `.csv`, and `export/`, for
    TensorFlow Serving.

    Args:
        folder: Has `train/` and `valid/` (and `test/`), each with a folder per class; or just a folder per class, of
            which `recipe.valid_fraction` is held out; or is a CSV file. See `index_folder`.
        output: The run directory.
        recipe: The settings.
        resume: Go on with an unfinished run in `output`, after the last stage that it finished. Settings that only
            later stages read may be others than before.
        moved: The folder of a resumed run has another path now; names and sizes of its images must be the same.
        overwrite: Begin again in an `output` that holds a run already. Its files are kept until the images have been
            checked and the run is planned; an error before then brings them back.
        callbacks: Keras callbacks of yours, for each `fit` of the run: that of step 8, and of `head_cycles`. Those with
            `get_state` and `set_state` go on where they were when a run is resumed.
        on_event: Is called with a dictionary of JSON values whose `"event"` is `"message"` (with `text`), `"epoch"`
            (with `stage`, `epoch` from 1, and Keras's logs) or `"stage"`, one that has ended (with `name`, `seconds`).
        strategy: From `distribution_strategy`, for several devices or machines. All workers call this with the same
            arguments; each must see all of the images, and the first one alone, the chief, writes `output` and prints.
            `recipe.batch_size` is that of all together. A worker that is lost ends the others; `resume` goes on.
        verbose: 1 prints a line per stage, a table of epochs and progress bars; 0 nothing.

    Raises:
        FileNotFoundError: If the folder or its images are missing.
        ValueError: If the folder, an image, a setting or the run directory is not usable, or workers differ in images,
            settings or versions.
        ConnectionError: If another worker is lost.

    Example:
        ```python
        result = train_image_classifier("pets", output="runs/pets", recipe=Recipe(image_size=160))
        result.tta.accuracy
        ```
    """
    require(
        keras.backend.backend() == "tensorflow",
        "Keras must have the TensorFlow backend for `train_image_classifier`, which reads images by it; set "
        "KERAS_BACKEND=tensorflow before Keras is imported",
        backend=keras.backend.backend(),
    )
    require_local("output", output)
    asked = recipe or Recipe()
    workers = Workers(strategy)
    handling: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "stages": STAGES}
    # What lies elsewhere on another worker is that worker's own business.
    handling["may_differ"] = ["folder"] if moved or not workers.is_chief else []
    with workers.watched():
        asked = recipe or Recipe()
        # Of a run that goes on on another machine, what the first one has chosen
        before = read_settings(output).get("precision") if resume and asked.precision == "auto" else None
        recipe = dataclasses.replace(asked, precision=workers.from_chief(before or chosen_precision(asked.precision)))
        index = index_for(folder, recipe)
        _check_output(output, index, recipe)
        if strategy is not None:
            _check_replicas(recipe, index, WorkerShare.of(strategy))
        settings = _settings_of_run(folder, recipe, index, workers)
        keras.utils.set_random_seed(recipe.seed)
        with _run_directory(workers, output, settings=settings, **handling) as directory:
            directory.write_text(CONFIG_FILE, as_toml(vars(asked)))
            if not workers.is_chief:
                verbose, on_event = 0, None
            run = Run(recipe, index, directory, verbose, callbacks, on_event, workers)
            run.say(describe(index))
            if resume and not directory.stages:
                run.say(f"there is no run to go on with in {output}: begin a new one")
            with run.interruption.handled():
                _run_stages(run)
            planned = directory.stages[FIT_PLAN].get("stages")
            if planned is not None:
                run.say(table([PlannedStage(**stage) for stage in planned], directory.seconds))
            return _result(run, Path(output))


def _check_output(output: str | os.PathLike[str], index: FolderIndex, recipe: Recipe) -> None:
    """Refuses a directory that the next run would take for a class, and one that holds what the run starts from."""
    place = Path(output).resolve()
    for folder in index.folders.values():
        if not is_remote(folder) and Path(folder).resolve() in (place, *place.parents):
            raise InvalidValueError(
                "`output` must lie outside the folder that has the classes, of which it would be one. Received: "
                f"output={output}, in {folder}."
            )
    if recipe.start_from is not None and Path(recipe.start_from).resolve() == place:
        raise InvalidValueError(
            f"`output` must not be the run to start from. Received: output={output}, start_from={recipe.start_from}."
        )


def _check_replicas(recipe: Recipe, index: FolderIndex, share: WorkerShare) -> None:
    """Refuses at once what cannot be trained under a strategy, and not in step 7, when the head is trained."""
    for split in (index.train, index.valid):
        share.checked_batch_size(recipe.batch_size, len(split), is_training=True)
    require(
        recipe.xla != "on" or share.num_replicas == 1,
        "`xla` must be off with several replicas, which XLA does not let exchange gradients",
        xla=recipe.xla,
        replicas=share.num_replicas,
    )
    require(
        recipe.accumulate == 1,
        "`accumulate` must be 1 with a strategy, under which Keras cannot accumulate gradients; a larger `batch_size` "
        "is divided among the replicas",
        accumulate=recipe.accumulate,
    )


def _settings_of_run(
    folder: str | os.PathLike[str], recipe: Recipe, index: FolderIndex, workers: Workers
) -> dict[str, Any]:
    """Returns what a run that is resumed must have again, and refuses what is not the same on all workers."""
    settings = as_json(vars(recipe))
    del settings["image_cache"]  # which changes the time alone
    settings |= {"classes": list(index.class_names), "images": digest_of(index)}
    workers.check_same(version_of_keras_sgdr=__version__, version_of_keras=keras.__version__, **settings)
    return {**settings, "folder": place_of(folder)}


@contextlib.contextmanager
def _run_directory(
    workers: Workers, output: str | os.PathLike[str], *, resume: bool, **options: Any
) -> Iterator[RunDirectory]:
    """Opens the directory of a run; of workers that are not the chief a copy of their own, removed at the end.

    So each of them goes on where the chief goes on, and finds what an earlier stage has left.
    """
    if workers.is_chief:
        with RunDirectory(output, resume=resume, **options) as directory:
            workers.from_chief(directory.to_go_on() if workers.count > 1 else None)
            yield directory
        return
    with tempfile.TemporaryDirectory(prefix="keras_sgdr-") as scratch:
        for name, content in workers.from_chief(None).items():
            (Path(scratch) / name).write_bytes(content)
        with RunDirectory(scratch, **options | {"resume": True, "overwrite": False}) as directory:
            yield directory


def _run_stages(run: Run) -> None:
    directory = run.directory
    for stage in STAGES:
        if directory.finished(stage.name) is not None:
            run.say(f"{stage.name}: done before")
            continue
        begun, begun_cpu = time.monotonic(), time.process_time()
        if stage.prepare is not None:
            # The order of activations is drawn from the global seed too, which the stage before has set, if it ran.
            keras.utils.set_random_seed(run.recipe.seed)
            stage.prepare(run)
        # last, so that a resumed run draws what an unbroken one draws
        set_stage_seed(run.model, run.recipe.seed, stage.seed)
        is_mine = run.workers.is_chief or not stage.chief_alone
        values = run.workers.from_chief(stage.run(run) if is_mine else None)
        if stage.saves_weights and run.workers.count > 1:
            # Two machines need not agree on the last bit of what each has computed alone.
            run.model.set_weights(run.workers.from_chief(run.model.get_weights()))
        values["seconds"] = round(time.monotonic() - begun, 2)
        values["cpu_seconds"] = round(time.process_time() - begun_cpu, 2)
        saves = stage.saves_weights and "checkpoint" not in values
        directory.record(stage.name, values, run.model if saves else None)
        run.tell("stage", name=stage.name, seconds=values["seconds"])


def plan_training(folder: str | os.PathLike[str], *, recipe: Recipe | None = None) -> str:
    """Returns what `train_image_classifier` would do, stage by stage, and how long it would take: a table as text.

    Times a few images and batches on a network with random weights; writes nothing.

    Args:
        folder: As in `train_image_classifier`.
        recipe: The settings.

    Raises:
        FileNotFoundError: If the folder or its images are missing.
        ValueError: If the folder, an image or a setting is not usable, or `recipe.max_minutes` are too few.
    """
    recipe = recipe or Recipe()
    index = index_for(folder, recipe)
    num_images, costs = count_images(recipe, index), measure(recipe, index)
    if recipe.max_minutes is not None:
        *_, stages = within(recipe, num_images, costs, 60 * recipe.max_minutes)
    else:
        stages = plan(recipe, num_images, costs, planned_cycles(recipe, num_images["train"]))
    return f"{describe(index)}\n{table(stages)}\n{disk(recipe, num_images, costs)}"


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
    model = make_model(recipe, len(index.class_names), None if recipe.start_from else recipe.weights)
    if recipe.start_from:
        take_over(model, recipe.start_from, index.class_names)
    train = training_split(recipe, index)
    if whole_network:
        compile_all(model, recipe)
        return find_rate(model, recipe, train, num_steps=num_steps)
    freeze_to(model, -1)
    features, head = make_features(recipe, model, train, class_weight=recipe.class_weight)
    compile_head(head)
    return lr_find(head, features, num_steps=num_steps)


def _result(run: Run, output: Path) -> TrainingResult:
    directory = run.directory
    with np.load(directory.path / "predictions.npz") as file:
        predictions = dict(file)
    names, labels, test = run.index.class_names, run.index.valid.labels, run.index.test
    return TrainingResult(
        model=run.model,
        class_names=names,
        output=output,
        export=output / directory.stages["export"]["path"],
        history=run.history,
        plain=interpret(predictions["plain"], labels, names),
        tta=interpret(predictions["tta"], labels, names),
        test=interpret(predictions["test"], test.labels, names) if test and "test" in predictions else None,
        views=tuple(directory.stages[EVALUATE]["views"]),
    )
