"""The commands `check`, `show`, `shard` and `relabel`, for a folder that nothing is trained on yet."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

from .options import FOLDER, layout_options, make_recipe, recipe_options


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr check pets\n"
    "  keras-sgdr check pets --format json -o findings.csv\n"
    "  keras-sgdr check pets --labels --changes changes.csv"
)
@FOLDER
@layout_options
@click.option("--format", "output_format", type=click.Choice(["table", "json"]), default="table", help="Of the report.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A CSV file for all findings.")
@click.option("--labels", is_flag=True, help="Look for wrong labels too, by the activations of a backbone.")
@click.option("--backbone", default="EfficientNetLite0", help="For --labels.")
@click.option("--image-size", type=click.IntRange(min=1), default=224, help="For --labels, in pixels.")
@click.option(
    "--changes", type=click.Path(path_type=Path), help="A CSV file for what --labels suggests, for `relabel`."
)
@click.option("--quarantine", type=click.Path(path_type=Path), help="Move what cannot be read to this directory.")
@click.option("--undo", is_flag=True, help="Move what --quarantine moved back, and check nothing.")
def check(
    folder: str,
    output_format: str,
    output: Path | None,
    labels: bool,
    backbone: str,
    image_size: int,
    changes: Path | None,
    quarantine: Path | None,
    undo: bool,
    **layout: Any,
) -> None:
    """Check the images of FOLDER: unreadable files, leaks between splits, copies, imbalance, what is left out.

    With --labels also for images that look like another class than their own.

    The exit code is 1 if something is wrong that spoils a training.
    """
    if undo:
        _undo(quarantine)
        return
    if changes is not None and not labels:
        raise click.UsageError("--changes needs --labels.")
    from keras_sgdr.data.check import quarantine as moves
    from keras_sgdr.data.check.check_folder import check_folder
    from keras_sgdr.data.index.file_names import printable
    from keras_sgdr.precompute.feature_cache import CHECKS, user_cache

    cache = user_cache()
    report = check_folder(
        folder,
        cache=None if cache is None else cache.directory / CHECKS,
        on_progress=_show_progress if sys.stderr.isatty() else None,
        **layout,
    )
    found = _labels_of(folder, layout, report, backbone, image_size) if labels else None
    if found is not None:
        report = dataclasses.replace(report, findings=(*report.findings, *found.findings))
    if output_format == "json":
        click.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
    else:
        click.echo(report.table())
    if found is not None:
        gains = found.curve.of_classes(report.class_names)
        lines = [f"would more images help? {found.curve}", *(["most for"] if gains else []), *gains]
        click.echo("\n  ".join(map(printable, lines)), err=output_format == "json")
        if changes is not None:
            changes.parent.mkdir(parents=True, exist_ok=True)
            found.write_changes(changes)
            click.echo(f"look through {changes}, then: keras-sgdr relabel {folder} {changes}", err=True)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        report.write_csv(output)
        click.echo(f"all findings: {output}", err=True)
    if quarantine is not None:
        moved = moves.quarantine(report, quarantine)
        undo_hint = f" to {quarantine}; --undo moves them back" if moved else ""
        click.echo(f"moved {len(moved)} files{undo_hint}", err=True)
    if report.errors:
        raise SystemExit(1)


def _labels_of(folder: str, layout: dict[str, Any], report: Any, backbone: str, image_size: int) -> Any:
    """Looks for wrong labels, if the folder is one that can be trained on."""
    from keras_sgdr.data.index.folder import index_folder
    from keras_sgdr.recipe.check_labels import check_labels

    if report.refused:
        click.echo("labels were not checked, for a training would refuse the folder", err=True)
        return None
    recipe = make_recipe({"backbone": backbone, "image_size": image_size})
    found = check_labels(index_folder(folder, **layout), recipe=recipe, verbose=int(sys.stderr.isatty()))
    known = {frozenset((each.path, each.other)) for each in report.findings}
    new = [
        each for each in found.findings if each.kind != "lookalike" or frozenset((each.path, each.other)) not in known
    ]
    return dataclasses.replace(found, findings=tuple(new))


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr show pets -o grid.png\n"
    "  keras-sgdr show satellite --augmentation top_down --views 8"
)
@FOLDER
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("grid.png"), help="The image to write.")
@click.option("--views", type=click.IntRange(min=1), default=4, help="Augmented views of each image.")
@click.option(
    "--images", "num_images", type=click.IntRange(min=1), default=4, help="How many images of the training split."
)
@recipe_options
def show(folder: str, output: Path, views: int, num_images: int, **options: Any) -> None:
    """Show images of FOLDER as the model will see them: each as it is, and augmented."""
    import numpy as np

    from keras_sgdr import plots
    from keras_sgdr.recipe.builders import make_augmentation, make_dataset
    from keras_sgdr.recipe.images import index_for

    recipe = make_recipe(options)
    output.parent.mkdir(parents=True, exist_ok=True)
    index = index_for(folder, recipe)
    chosen = np.random.default_rng(recipe.seed).permutation(len(index.train))[:num_images]
    images, labels = next(iter(make_dataset(recipe, index.train.take(chosen)).unbatch().batch(num_images)))
    augment = make_augmentation(recipe).augment
    seeds = [np.stack([np.full(len(chosen), view), np.arange(len(chosen))], 1).astype("int32") for view in range(views)]
    columns = [np.asarray(images), *(np.asarray(augment(images, seed)) for seed in seeds)]
    rows = np.stack(columns, axis=1).reshape(-1, *images.shape[1:])
    figure = plots.show_batch(rows, np.repeat(labels, len(columns)), index.class_names, columns=len(columns))
    plots.save_figure(figure, output)
    click.echo(output)


@click.command(epilog="\b\nExample:\n  keras-sgdr shard pets pets-shards")
@FOLDER
@click.argument("output", type=click.Path(path_type=Path))
@layout_options
@click.option("--shard-megabytes", type=click.IntRange(min=1), default=256, help="How large a file is, at least.")
def shard(folder: str, output: Path, shard_megabytes: int, **layout: Any) -> None:
    """Write the images of FOLDER to OUTPUT as TFRecord shards, which every command takes as it takes FOLDER.

    For millions of images: a few large files instead. What validates is decided here. The same command goes on after
    the last complete shard if it was interrupted.
    """
    from keras_sgdr.data.dataset.write_shards import write_shards
    from keras_sgdr.data.index.folder import describe, index_folder

    options: dict[str, Any] = {"shard_megabytes": shard_megabytes}
    if sys.stderr.isatty():
        options["on_progress"] = _show_progress
    write_shards(index_folder(folder, **layout), output, **options)
    click.echo(describe(index_folder(output)))


def _undo(quarantine: Path | None) -> None:
    from keras_sgdr.data.check.quarantine import restore

    if quarantine is None:
        raise click.UsageError("--undo needs --quarantine, the directory to move the files back from.")
    click.echo(f"moved {len(restore(quarantine))} files back")


def _show_progress(done: int, total: int) -> None:
    click.echo(f"\r{done}/{total} images" + ("\n" if done == total else ""), nl=False, err=True)


@click.command(epilog="\b\nExamples:\n  keras-sgdr relabel pets changes.csv\n  keras-sgdr relabel pets --undo")
@FOLDER
@click.argument("changes", type=click.Path(path_type=Path), required=False)
@layout_options
@click.option("--undo", is_flag=True, help="Move everything back to where it was.")
def relabel(folder: str, changes: Path | None, undo: bool, **layout: Any) -> None:
    """Move images of FOLDER to other classes as CHANGES says, a CSV file with the columns path and label.

    The label is a class of FOLDER, or delete. Deleted images, and the journal for --undo, are in FOLDER/.relabelled.
    """
    from keras_sgdr.data.check.quarantine import restore
    from keras_sgdr.data.check.relabel import JOURNAL
    from keras_sgdr.data.check.relabel import relabel as move
    from keras_sgdr.data.index.folder import index_folder

    if undo:
        click.echo(f"moved {len(restore(Path(folder) / JOURNAL))} images back")
        return
    if changes is None:
        raise click.UsageError("CHANGES must be given, or --undo.")
    moved = move(index_folder(folder, **layout), changes)
    click.echo(f"moved {len(moved)} images; --undo moves them back")
