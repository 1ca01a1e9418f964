"""The stages of a run: what each of the eight steps does, and the table of all."""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np

from keras_sgdr import plots
from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.check.check_folder import check_folder
from keras_sgdr.data.decode.corrupt_images import BadImage, refuse_images
from keras_sgdr.data.index.file_names import in_utf8
from keras_sgdr.evaluation.interpretation import Interpretation, interpret, mcnemar, plot_mistakes, threshold_for
from keras_sgdr.evaluation.tta import check_finite, predict_tta
from keras_sgdr.evaluation.tta_layer import with_views
from keras_sgdr.models.classifier import CLASSIFIER_FILE, MODEL_FILE, Classifier, describe_classifier
from keras_sgdr.precompute.feature_cache import CHECKS, user_cache
from keras_sgdr.recipe.builders import (
    compile_all,
    count_images,
    find_rate,
    make_dataset,
)
from keras_sgdr.recipe.candidates import is_no_better_than_guessing, largest_share
from keras_sgdr.recipe.costs import Costs, measure
from keras_sgdr.recipe.export import export_classifier
from keras_sgdr.recipe.head import find_head_rate, precompute_all, train_head, train_head_augmented
from keras_sgdr.recipe.plan import PlannedStage, replanned, table, within
from keras_sgdr.recipe.rate_choice import choose_rate
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.run_directory import (
    CHECK,
    EVALUATE,
    EXPORT,
    FIND_HEAD_RATE,
    FIND_RATE,
    FIT_PLAN,
    PLAN,
    REPORT_FILE,
    TRAIN_ALL,
    TRAIN_HEAD,
    TRAIN_HEAD_AUGMENTED,
    TRAIN_SMALLER,
    Stage,
)
from keras_sgdr.recipe.whole_network import train_all, train_smaller
from keras_sgdr.validation import InvalidValueError


def _check(run: Run) -> dict[str, Any]:
    splits = [split for split in (run.index.train, run.index.valid, run.index.test) if split is not None]
    total = sum(map(len, splits))
    run.say(f"check {total} images")
    bar = keras.utils.Progbar(total, verbose=run.verbose, unit_name="image")
    cache = user_cache()
    report = check_folder(
        run.index,
        cache=None if cache is None else cache.directory / CHECKS,
        on_progress=lambda done, _: bar.update(done),
    )
    findings = run.directory.path / "findings.csv"
    if report.findings:
        report.write_csv(findings)
        run.say(report.summary())
        run.say(f"all of them: {findings}")
    else:
        findings.unlink(missing_ok=True)
    if report.refused:
        refuse_images([BadImage(each.path, each.detail) for each in report.refused], f", all in {findings}")
    kinds = Counter(finding.kind for finding in report.findings)
    return {"images": total, "findings": dict(kinds)}


def _plan(run: Run) -> dict[str, Any]:
    """Fits the run to the minutes that it may take, if it has a limit."""
    if run.asked.max_minutes is None:
        return {}
    run.say("plan: time a few batches")
    costs = measure(run.asked, run.index)
    recipe, _, stages = within(
        run.asked, count_images(run.asked, run.index), costs, 60 * run.asked.max_minutes - run.elapsed
    )
    run.say(table(stages))
    return {"costs": asdict(costs), "head_views": recipe.head_views, "stages": [asdict(stage) for stage in stages]}


def _fit_plan(run: Run) -> dict[str, Any]:
    """Fits step 8 to the minutes that are left."""
    if run.asked.max_minutes is None:
        return {"cycles": asdict(run.cycles)}
    before = run.directory.stages[PLAN]
    left = 60 * run.asked.max_minutes - run.elapsed
    cycles, stages = replanned(
        run.asked,
        count_images(run.asked, run.index),
        Costs(**before["costs"]),
        [PlannedStage(**stage) for stage in before["stages"]],
        run.directory.seconds,
        left,
    )
    run.say(f"{left / 60:.1f} minutes are left: {cycles.epochs} epochs of everything")
    return {"cycles": asdict(cycles), "stages": [asdict(stage) for stage in stages]}


def _find_rate(run: Run) -> dict[str, Any]:
    given = run.recipe.top_learning_rate
    if given is not None:
        return {"learning_rate": given, "why": "given"}
    compile_all(run.model, run.recipe)
    run.say("step 7: find the whole network's learning rate")
    curve = find_rate(run.model, run.recipe, run.train, strategy=run.strategy, **run.kept)
    run.keep_curve(curve, "lr_finder_all")
    rate, why = choose_rate(curve)
    run.say(f"the rate of the last layer group: {rate:.1e}, {why}; see {run.directory.path / 'lr_finder_all.png'}")
    return {"learning_rate": rate, "why": why}


def _evaluate(run: Run) -> dict[str, Any]:
    recipe, names, labels = run.recipe, run.index.class_names, run.index.valid.labels
    run.say(f"evaluate, with {recipe.num_views} views of each image too" if recipe.views else "evaluate")
    plain, *averaged = run.predict((), *([recipe.views] if recipe.views else []))
    predictions = {"plain": plain, "tta": averaged[0] if averaged else plain}
    for each in predictions.values():
        check_finite(each)
    results = [interpret(predictions[each], labels, names) for each in ("plain", "tta")]
    views = _choose_views(run, results)
    kept = results[1] if views else results[0]
    test = run.index.test if run.index.test is not None and run.index.test.labels is not None else None
    if test is not None:
        tested = make_dataset(recipe, test)
        predictions["test"] = predict_tta(with_views(run.predictor, views), tested, num_views=0, verbose=0)
    predictions["labels"] = labels
    predictions["paths"] = [in_utf8(os.path.relpath(path, run.index.root)) for path in run.index.valid.paths]
    with atomic_write(run.directory.path / "predictions.npz") as aside:
        np.savez_compressed(aside, **predictions)
    _write_history(run)
    if run.workers.is_chief and is_no_better_than_guessing(results[0].accuracy, labels):
        warnings.warn(
            f"This model is no better than guessing. It is right on {results[0].accuracy:.4f} of the "
            f"validation images, and always naming the largest class would be on {largest_share(labels):.4f}. "
            "Check the labels, and look at the images with `keras-sgdr show`.",
            stacklevel=2,
        )
    plots.save_figure(plots.plot_history(run.history), run.directory.path / "history.png")
    plot_mistakes(kept, run.valid_images_at(kept.top_losses(9)), run.directory.path)
    threshold = _choose_threshold(run, kept)
    describe_classifier(
        run.model, run.directory.path, class_names=names, resize=recipe.resize, views=views, threshold=threshold
    )
    values: dict[str, Any] = {"accuracy": results[0].accuracy, "views": list(views), "threshold": threshold}
    values["tta_accuracy"] = results[1].accuracy
    if test is not None:
        result = interpret(predictions["test"], test.labels, names)
        run.say(f"on the {len(test)} test images, by which nothing was chosen: accuracy {result.accuracy:.4f}")
        values |= {"test_accuracy": result.accuracy, "test_images": len(test)}
    return values


def _choose_views(run: Run, results: Sequence[Interpretation]) -> tuple[str, ...]:
    """Returns the views that the classifier goes on with: those of the recipe, or none where they are of no use."""
    plain, averaged = results
    run.say(_scores("plain", plain))
    views = run.recipe.views
    if not views:
        return ()
    run.say(f"{_scores('with views', averaged)}; p = {mcnemar(plain, averaged):.2g} (McNemar)")
    gains = plain.losses - averaged.losses
    is_gain = len(gains) > 1 and float(gains.mean()) > float(gains.std(ddof=1)) / math.sqrt(len(gains))
    names = f"{run.recipe.num_views} views of each image ({', '.join(views)})"
    if run.recipe.tta != "auto":
        run.say(f"from now on the classifier averages over {names}, as it was told")
        return views
    gain = "lowers the log-loss by more than a standard error"
    if is_gain:
        run.say(f"from now on the classifier averages over {names}, which {gain}")
        return views
    run.say(f"from now on the classifier looks at the plain image alone: no average over {names} {gain}")
    return ()


def _choose_threshold(run: Run, result: Interpretation) -> float | None:
    """Returns the probability from which on the classifier answers, if it is to be right so often."""
    wanted = run.recipe.answer_precision
    if wanted is None:
        return None
    try:
        found = threshold_for(result, wanted)
    except InvalidValueError as error:
        run.say(f"WARNING: the classifier answers always. {error}")
        return None
    run.say(
        f"it answers from a probability of {found.probability:.3f} on: {found.answered:.1%} of the validation images, "
        f"of which {found.precision:.1%} rightly"
    )
    return found.probability


def _scores(name: str, result: Interpretation) -> str:
    return (
        f"{name}: accuracy {result.accuracy:.4f}, loss {result.loss:.4f}, "
        f"calibration error {result.calibration_error:.4f}"
    )


def _export(run: Run) -> dict[str, Any]:
    directory = run.directory.path
    chosen = run.directory.stages[EVALUATE]
    served = Classifier(
        run.model,
        tuple(run.index.class_names),
        run.model.input_shape[1:3],
        run.recipe.resize,
        tuple(chosen["views"]),
        chosen["threshold"],
    )
    path = export_classifier(served, directory, directory / "export")
    run.say(f"saved {directory / 'model.keras'}, exported {path}")
    return {"path": str(path.relative_to(directory))}


def _write_history(run: Run) -> None:
    path = run.directory.path / "history.csv"
    with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        # A head at its optimum has no rate: not every row has every column.
        writer = csv.DictWriter(file, list({name: None for row in run.history for name in row}), lineterminator="\n")
        writer.writeheader()
        writer.writerows(run.history)


_VIEWS = ("augmentation", "max_zoom")
_GROUPS = ("num_groups", "group_factor")
_RATES = ("learning_rate", "learning_rates", "rate_batch_size")
_MIXES = ("mixup", "cutmix", "label_smoothing")
_UPDATES = (*_MIXES, "ema", "accumulate", "xla")
_LIMITS = ("max_epochs", "max_minutes")
_CYCLES = ("n_cycles", "cycle_len", "cycle_mult", *_LIMITS)

STAGES = (
    Stage(CHECK, _check, seed=0, artefacts=("findings.csv",), chief_alone=True),
    Stage(PLAN, _plan, seed=8, settings=("max_minutes",), chief_alone=True),
    Stage(
        FIND_HEAD_RATE,
        find_head_rate,
        seed=1,
        may_be_given_later=("head_learning_rate", "rate_batch_size"),
        artefacts=("lr_finder_head.png", "lr_finder_head.csv"),
        chief_alone=True,
        prepare=Run.precompute,
    ),
    Stage(TRAIN_HEAD, train_head, seed=2, saves_weights=True, prepare=Run.precompute),
    Stage(
        TRAIN_HEAD_AUGMENTED,
        train_head_augmented,
        seed=3,
        saves_weights=True,
        settings=("head_learning_rate", "rate_batch_size", "head_cycles", "head_views", *_VIEWS, *_MIXES),
        prepare=precompute_all,
    ),
    Stage(
        FIND_RATE,
        _find_rate,
        seed=4,
        settings=(*_GROUPS, *_VIEWS, *_UPDATES),
        may_be_given_later=_RATES,
        artefacts=("lr_finder_all.png", "lr_finder_all.csv"),
        prepare=Run.train_in_step,
    ),
    Stage(FIT_PLAN, _fit_plan, seed=9, settings=_CYCLES, chief_alone=True),
    Stage(
        TRAIN_SMALLER,
        train_smaller,
        seed=10,
        saves_weights=True,
        settings=(*_RATES, *_GROUPS, *_VIEWS, *_UPDATES),
        prepare=Run.train_in_step,
    ),
    Stage(
        TRAIN_ALL,
        train_all,
        seed=5,
        saves_weights=True,
        settings=(*_RATES, "gradual_unfreezing", *_LIMITS, *_GROUPS, *_VIEWS, *_UPDATES),
        artefacts=("schedule.png", "log.csv", MODEL_FILE, CLASSIFIER_FILE),
        prepare=Run.train_in_step,
    ),
    Stage(
        EVALUATE,
        _evaluate,
        seed=6,
        settings=("tta", "answer_precision", "augmentation"),
        artefacts=("predictions.npz", "history.csv", "history.png", "confusion_matrix.png", "top_losses.png"),
        prepare=Run.end_in_step,
    ),
    Stage(EXPORT, _export, seed=7, artefacts=(REPORT_FILE,), chief_alone=True, prepare=Run.end_in_step),
)
