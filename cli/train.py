"""The commands `train` and `lr-find`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import click

from .options import FOLDER, RATE, make_recipe, numbers, read_config, read_start, recipe_options


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr train pets -o runs/pets\n"
    "  keras-sgdr train pets -o runs/pets --image-size 128 --max-minutes 30\n"
    "  keras-sgdr train digits -o runs/digits --augmentation basic\n"
    "  keras-sgdr train pets -o runs/pets --resume"
)
@FOLDER
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The run directory.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="A TOML file of these options, such as a run leaves; those given here come first.",
)
@recipe_options
@click.option(
    "--from",
    "start_from",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=read_start,
    help="A finished run to go on from, with more images or other classes.",
)
@click.option("--image-cache", default="auto", help="Where decoded images are kept: auto, memory, off or a directory.")
@click.option("--head-views", type=click.IntRange(min=0), default=2, help="Step 4: augmented views for the head.")
@click.option("--head-cycles", type=click.IntRange(min=0), default=0, help="Step 4: epochs of the head on new views.")
@click.option("--n-cycles", type=click.IntRange(min=1), default=1, help="Step 8: cycles of the whole network, at most.")
@click.option("--cycle-len", type=click.IntRange(min=1), help="Epochs of the first of them.  [default: by the images]")
@click.option("--cycle-mult", type=click.IntRange(min=1), default=2, help="How much longer each further one is.")
@click.option("--gradual-unfreezing", is_flag=True, help="Step 8: a layer group more in each of --n-cycles.")
@click.option("--num-groups", type=click.IntRange(min=2), default=3, help="Layer groups with a rate each.")
@click.option("--group-factor", type=click.FloatRange(min=1), default=1.75, help="From one group's rate to the next.")
@click.option("--head-learning-rate", type=RATE, help="Of --head-cycles, instead of step 2's suggestion.")
@click.option("--learning-rate", type=RATE, help="Of step 8, instead of what step 7 chooses.")
@click.option(
    "--learning-rates",
    type=click.UNPROCESSED,
    callback=numbers(RATE),
    metavar="RATE,…",
    help="One for each layer group: 1e-4,1e-3,1e-2.",
)
@click.option(
    "--rate-batch-size",
    type=click.IntRange(min=1),
    help="Of the rates given: scale them to --batch-size.",
)
@click.option(
    "--sizes",
    type=click.UNPROCESSED,
    callback=numbers(click.IntRange(min=1)),
    metavar="SIZE,…",
    help="Step 8: image sizes, one after the other: 128,224.",
)
@click.option("--class-weight", type=click.Choice(["balanced"]), help="Let each class count as much in training.")
@click.option("--oversample", is_flag=True, help="Repeat images of rare classes in training.")
@click.option("--mixup", type=click.FloatRange(0, 10), default=0.0, help="Step 8: strength (alpha) of MixUp.")
@click.option("--cutmix", type=click.FloatRange(0, 10), default=0.0, help="Step 8: strength (alpha) of CutMix.")
@click.option(
    "--label-smoothing", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Step 8: share of each label."
)
@click.option(
    "--ema", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Step 8: momentum of the weights' average."
)
@click.option("--accumulate", type=click.IntRange(min=1), default=1, help="Step 8: batches per update.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "mixed_bfloat16", "mixed_float16"]),
    default="auto",
    help="Numbers the network computes in; auto takes mixed ones on a GPU that gains by it.",
)
@click.option(
    "--xla",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    help="Steps 7 and 8: compile the training step by XLA; auto: where there is one GPU.",
)
@click.option("--tta", default="auto", help="Views to average over: auto, off, or kinds such as flip,zoom.")
@click.option(
    "--answer-precision",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of answers that is to be right; below the probability for it: don't know.",
)
@click.option("--max-epochs", type=click.IntRange(min=1), help="Step 8: epochs at most.")
@click.option("--max-minutes", type=RATE, help="Plan the run so that it ends within this time.")
@click.option("--upload", metavar="URL", help="Copy OUTPUT there too whenever a stage has ended: s3://bucket/run.")
@click.option("--dry-run", is_flag=True, help="Print the plan with its times, and train nothing.")
@click.option("--resume", is_flag=True, help="Go on with the unfinished run in OUTPUT.")
@click.option("--moved", is_flag=True, help="With --resume: FOLDER has another path than before, and the same images.")
@click.option("--overwrite", is_flag=True, help="Begin again in OUTPUT.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="json: one object in a line.")
@click.option(
    "--strategy",
    type=click.Choice(["auto", "mirrored", "multi_worker", "none"]),
    default="auto",
    help="Several devices or machines; auto: those that TF_CONFIG or Slurm name, or all GPUs.",
)
@click.option("--csv-log", is_flag=True, help="Write each epoch to OUTPUT/log.csv as it ends, by Keras's CSVLogger.")
@click.option("--tensorboard", is_flag=True, help="Write to OUTPUT/tensorboard, by Keras's TensorBoard.")
def train(
    folder: str,
    output: Path,
    upload: str | None,
    dry_run: bool,
    quiet: bool,
    log_format: str,
    strategy: str,
    csv_log: bool,
    tensorboard: bool,
    **options: Any,
) -> None:
    """Train a classifier on FOLDER by the eight steps.

    FOLDER has train/ and valid/, and perhaps test/, each with a folder per class; or just a folder per class; or it is
    a CSV file.
    """
    from keras_sgdr.distribution.strategy import distribution_strategy
    from keras_sgdr.distribution.workers import Workers
    from keras_sgdr.recipe.report import write_report
    from keras_sgdr.recipe.train import plan_training, train_image_classifier
    from keras_sgdr.recipe.upload import RunUpload

    handling = {name: options.pop(name) for name in ("resume", "moved", "overwrite")}
    if handling["moved"] and not handling["resume"]:
        raise click.UsageError("--moved needs --resume.")
    if dry_run:
        click.echo(plan_training(folder, recipe=make_recipe(options)))
        return
    is_text = log_format == "text"
    chosen = distribution_strategy(None if strategy == "none" else strategy)
    is_chief = Workers(chosen).is_chief
    copy = RunUpload(output, upload) if upload is not None and is_chief else None

    def on_event(event: dict[str, Any]) -> None:
        if not (quiet or is_text):
            click.echo(json.dumps(event, ensure_ascii=False))
        if copy is not None:
            copy(event)

    train_image_classifier(
        folder,
        output=output,
        recipe=make_recipe(options),
        callbacks=_loggers(output, csv_log=csv_log, tensorboard=tensorboard) if is_chief else [],
        on_event=on_event,
        strategy=chosen,
        verbose=int(is_text and not quiet),
        **handling,
    )
    if not is_chief:
        return
    report = write_report(output)
    if copy is not None:
        copy.copy()
    if not quiet:
        click.echo(f"report: {report}" if is_text else json.dumps({"event": "report", "path": str(report)}))


def _loggers(output: Path, *, csv_log: bool, tensorboard: bool) -> list[Any]:
    """Keras's own callbacks that write down what happens."""
    import keras

    loggers: list[Any] = []
    if csv_log:
        loggers.append(keras.callbacks.CSVLogger(output / "log.csv", append=True))
    if tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise click.UsageError("--tensorboard needs the package tensorboard: pip install tensorboard")
        loggers.append(keras.callbacks.TensorBoard(output / "tensorboard"))
    return loggers


@click.command(
    "lr-find", epilog="\b\nExamples:\n  keras-sgdr lr-find pets\n  keras-sgdr lr-find pets --unfreeze -o curve.png"
)
@FOLDER
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("lr_finder.png"), help="The plot.")
@recipe_options
@click.option("--unfreeze", is_flag=True, help="For the whole network instead of the head alone.")
@click.option("--num-steps", type=click.IntRange(min=10), default=100, help="Batches to try.")
def lr_find(folder: str, output: Path, unfreeze: bool, num_steps: int, **options: Any) -> None:
    """Find the learning rate for FOLDER: prints the suggestions, plots the curve."""
    from keras_sgdr import plots
    from keras_sgdr.recipe.train import find_learning_rate

    output.parent.mkdir(parents=True, exist_ok=True)
    curve = find_learning_rate(folder, recipe=make_recipe(options), whole_network=unfreeze, num_steps=num_steps)
    suggestions = curve.suggestions()
    for method, rate in suggestions.items():
        click.echo(f"{method:>10}  {rate:.2e}")
    plots.save_figure(curve.plot(), output)
    click.echo(f"plot: {output}")
    if not suggestions:
        curve.suggest()  # raises, and says what to try
