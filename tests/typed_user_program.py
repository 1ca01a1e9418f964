"""A program of a user, for type checkers alone: each public name once, as it is meant to be used.

`.ci/run` checks it with mypy and pyright against the installed wheel. It is never run. The last function holds calls
that a checker must refuse, so that a name whose type has been lost is seen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

import keras

from keras_sgdr import (
    SGDR,
    TTA,
    CycleSnapshots,
    DifferentialLR,
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    FeatureCache,
    FolderIndex,
    LRCurve,
    LRFinder,
    OneCycleScheduler,
    Recipe,
    SGDRScheduler,
    SnapshotEnsemble,
    StopWhenOverfitting,
    TrainingCheckpoint,
    basic,
    build_classifier,
    check_folder,
    distribution_strategy,
    export_savedmodel,
    freeze_to,
    group_summary,
    index_folder,
    interpret,
    layer_groups,
    load_classifier,
    load_dataset,
    lr_find,
    lr_find_groups,
    plan_training,
    precompute_features,
    predict_tta,
    recalibrate_batch_norm,
    side_on,
    top_down,
    total_epochs,
    train_image_classifier,
    unfreeze,
    write_report,
    write_shards,
)


def one_command(folder: Path) -> None:
    recipe = Recipe(image_size=128, learning_rates=(1e-4, 1e-3, 1e-2))
    plan = plan_training(folder, recipe=recipe)
    assert_type(plan, str)
    strategy = distribution_strategy("auto", timeout_seconds=60)
    result = train_image_classifier(folder, output="runs/pets", recipe=recipe, on_event=print, strategy=strategy)
    accuracy: float = result.plain.accuracy
    print(accuracy)
    assert_type(write_report("runs/pets"), Path)
    classifier = load_classifier("runs/pets")
    assert_type(classifier.class_names, tuple[str, ...])


def images(folder: str) -> FolderIndex:
    report = check_folder(folder)
    if report.errors:
        print(report.table())
    index = index_folder(folder, valid_fraction=0.2, seed=1)
    assert_type(index.class_names, tuple[str, ...])
    write_shards(index, "pets-shards")
    for augmentation in (basic(), side_on(max_zoom=1.1), top_down(max_rotate_degrees=45)):
        load_dataset(index.train, image_size=(128, 160), augmentation=augmentation, shuffle=True)
    return index


def eight_steps(index: FolderIndex) -> Path:
    train, valid = load_dataset(index.train, shuffle=True), load_dataset(index.valid)
    model = build_classifier(len(index.class_names), image_size=224)
    freeze_to(model, -1)
    features, head = precompute_features(model, train, directory=FeatureCache("features", max_bytes=1 << 30))
    curve = lr_find(head, features, num_steps=50)
    assert_type(curve, LRCurve)
    rate = curve.suggest("valley")
    assert_type(rate, float)
    unfreeze(model)
    recalibrate_batch_norm(model, train)
    groups = layer_groups(model, num_groups=3)
    optimizer = DifferentialLR(keras.optimizers.AdamW(), groups, [rate / 9, rate / 3, rate])
    rates: Sequence[float] = optimizer.learning_rates
    print(group_summary(model, learning_rates=rates))
    scheduler = SGDRScheduler(rate, cycle_len=1, cycle_mult=2, n_cycles=3, momentum=(0.95, 0.85))
    snapshots = CycleSnapshots(scheduler, restore_best_cycle=True)
    checkpoint = TrainingCheckpoint("run.checkpoint", callbacks=[scheduler])
    start = checkpoint.restore(model)
    callbacks = [scheduler, snapshots, StopWhenOverfitting(scheduler, patience=2), checkpoint]
    model.fit(
        train, validation_data=valid, epochs=total_epochs(3, 1, 2), initial_epoch=start.epoch, callbacks=callbacks
    )
    SnapshotEnsemble(model, snapshots.snapshots, last=3).predict(valid)
    result = interpret(predict_tta(model, valid, augmentation=side_on()), index.valid.labels, index.class_names)
    accuracy: float = result.accuracy
    print(accuracy, result.most_confused()[:3])
    return export_savedmodel(TTA(model, "flip"), "export", class_names=index.class_names, version=1)


def pieces(model: keras.Model, dataset: object) -> None:
    schedule: keras.optimizers.schedules.LearningRateSchedule = SGDR(0.01, steps_per_epoch=100)
    print(schedule)
    with LRFinder(num_steps=20) as finder:
        model.fit(dataset, callbacks=[finder, OneCycleScheduler(0.01, shape="flat_cosine")])
    lr_find_groups(model, dataset).suggest("valley")
    for network in (EfficientNetLite0, EfficientNetLite1, EfficientNetLite2):
        network(include_top=False, weights=None)


def refused(index: FolderIndex) -> None:
    SGDRScheduler("0.01")  # type: ignore[arg-type]
    SGDRScheduler(0.01, 2)  # type: ignore[call-arg]
    Recipe(image_sise=128)  # type: ignore[call-arg]
    total_epochs(3, cycle_len="1")  # type: ignore[arg-type]
    load_dataset(index)  # type: ignore[arg-type]
    index.class_names.append("wolf")  # type: ignore[attr-defined]
    train_image_classifier("pets")  # type: ignore[call-arg]
    wrong: int = plan_training("pets")  # type: ignore[assignment]
    print(wrong)
