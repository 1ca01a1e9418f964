"""The commands `evaluate`, `report`, `compare` and `predict`, for a finished run."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import click

from .options import FOLDER, name_options

RUN = click.argument("run", type=click.Path(path_type=Path))


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr evaluate runs/pets pets\n"
    "  keras-sgdr evaluate runs/pets new_pets --split all -o mistakes"
)
@RUN
@FOLDER
@click.option("--split", type=click.Choice(["train", "valid", "test", "all"]), help="Which images of FOLDER.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Images per step.")
@click.option("--tta", help="Views to average over, as of `train`.  [default: what RUN has chosen]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A directory for plots of the mistakes, and all predictions as CSV.",
)
@name_options
def evaluate(
    run: Path,
    folder: str,
    split: str | None,
    batch_size: int,
    tta: str | None,
    output: Path | None,
    **layout: Any,
) -> None:
    """Evaluate the classifier in RUN on FOLDER: accuracy, loss, and which classes are confused.

    Of the FOLDER that RUN was trained on, the held-out images; of any other, those in its valid/, else in its test/,
    else all.
    """
    from keras_sgdr.evaluation.interpretation import mcnemar
    from keras_sgdr.recipe.evaluate import evaluate_run

    options: dict[str, Any] = {"split": split, "batch_size": batch_size, "tta": tta, "plots": output}
    results = evaluate_run(run, folder, **options, **layout)
    names = {"plain": "plain", "tta": "with views"}
    plain = results["plain"]
    missing = [name for label, name in enumerate(plain.class_names) if label not in plain.labels]
    if missing:
        click.echo(f"no images of: {', '.join(missing)}")
    for name, result in results.items():
        images = f"{len(result.labels)} images"
        scores = f"accuracy {result.accuracy:.4f}, loss {result.loss:.4f}, calibration error"
        click.echo(f"{names[name]}: {scores} {result.calibration_error:.4f}, {images}")
    if "tta" in results:
        p_value = mcnemar(plain, results["tta"])
        click.echo(
            f"the views change the accuracy by {results['tta'].accuracy - plain.accuracy:+.4f}, p = {p_value:.2g}"
        )
    for actual, predicted, count in list(results.values())[-1].most_confused()[:10]:
        click.echo(f"{count:>6}  {actual} taken for {predicted}")
    if output is not None:
        click.echo(f"plots: {output}")


@click.command(epilog="\b\nExamples:\n  keras-sgdr report runs/pets\n  keras-sgdr report runs/pets --watch")
@RUN
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file.  [default: RUN/report.html]")
@click.option("--watch", is_flag=True, help="Write it again after each stage until the run ends; the page reloads.")
def report(run: Path, output: Path | None, watch: bool) -> None:
    """Write what RUN chose and reached as one HTML file; also of a run that is under way."""
    from keras_sgdr.recipe.report import watch_report, write_report

    for path in watch_report(run, output) if watch else [write_report(run, output)]:
        click.echo(path)


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr compare runs/a runs/b\n"
    "  keras-sgdr compare runs/a/export runs/b/export pets --min-agreement 0.98"
)
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(), required=False)
@click.option("--split", type=click.Choice(["train", "valid", "test", "all"]), help="Which images of FOLDER.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Images per step.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A CSV file for all images on which they differ.")
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Exit with 1 if they agree on a smaller share.")
def compare(
    run_a: Path,
    run_b: Path,
    folder: str | None,
    split: str | None,
    batch_size: int,
    output: Path | None,
    min_agreement: float | None,
) -> None:
    """Compare two runs or exports on FOLDER: settings, accuracy with McNemar's test, agreement, latency.

    FOLDER is the one that RUN_A was trained on if it is left out, of which its held-out images are taken.
    """
    from keras_sgdr.recipe.compare import compare_runs

    comparison = compare_runs(run_a, run_b, folder, split=split, batch_size=batch_size)
    click.echo(comparison.table())
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        comparison.write_csv(output)
        click.echo(f"all of them: {output}")
    if min_agreement is not None and comparison.agreement < min_agreement:
        raise click.ClickException(f"they agree on {comparison.agreement:.4f}, less than {min_agreement}")


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr predict runs/pets rex.jpg holiday/\n"
    "  keras-sgdr predict runs/pets holiday/ -o classes.csv\n"
    "  keras-sgdr predict --url http://localhost:8501/v1/models/pets rex.jpg"
)
@click.argument("paths", nargs=-1, required=True, metavar="[RUN] PATHS...", type=click.Path())
@click.option(
    "--url", help="Of a server to ask instead of RUN: http://HOST:8501/v1/models/NAME, grpc://HOST:8500/NAME."
)
@click.option("--timeout", type=float, default=60.0, help="Seconds for an answer of the server.")
@click.option("--concurrency", type=click.IntRange(min=1), default=2, help="Requests to the server at once.")
@click.option("--format", "output_format", type=click.Choice(["csv", "json"]), default="csv", help="Of the table.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file instead of standard output.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Images per step.")
def predict(
    paths: tuple[str, ...],
    url: str | None,
    timeout: float,
    concurrency: int,
    output_format: str,
    output: Path | None,
    batch_size: int,
) -> None:
    """Predict the class of images, PATHS being files or folders, with the classifier in RUN, or on a server.

    A file that is no image is named on standard error, the others are predicted, and the exit code is 1. Where RUN is
    to answer only above a probability (`train --answer-precision`), the class is empty below it.
    """
    from keras_sgdr.atomic_write import atomic_write
    from keras_sgdr.data.index.file_names import in_utf8, printable

    if url is None and len(paths) == 1:
        raise click.UsageError("Missing argument 'PATHS...': RUN, and then files or folders.")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    verbose = int(output is not None)  # a bar on standard output would stand between the rows
    predictions = _predicted(paths, url, timeout, concurrency, batch_size=batch_size, verbose=verbose)
    text = in_utf8(_csv(predictions) if output_format == "csv" else _json(predictions))
    if output is None:
        click.echo(text, nl=False)
    else:
        with atomic_write(output) as aside:
            aside.write_text(text, encoding="utf-8")
    for path, reason in predictions.rejected:
        click.echo(f"Error: {printable(path)}: {reason}", err=True)
    if predictions.rejected:
        raise SystemExit(1)


def _predicted(paths: tuple[str, ...], url: str | None, timeout: float, concurrency: int, **options: Any) -> Any:
    if url is not None:
        from keras_sgdr.serving.client import predict_files_at

        return predict_files_at(url, paths, timeout=timeout, concurrency=concurrency, **options)
    from keras_sgdr.evaluation.predictions import predict_files
    from keras_sgdr.models.classifier import load_classifier

    run, *images = paths
    return predict_files(load_classifier(run), images, **options)


def _csv(predictions: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "predicted_class", "probability", *predictions.class_names])
    for path, row, name in zip(predictions.paths, predictions.probabilities, predictions.predicted, strict=True):
        cells = [f"{value:.8f}" for value in row]
        writer.writerow([path, name or "", cells[int(row.argmax())], *cells])
    return text.getvalue()


def _json(predictions: Any) -> str:
    rows = []
    for path, row, name in zip(predictions.paths, predictions.probabilities, predictions.predicted, strict=True):
        probabilities = {each: float(value) for each, value in zip(predictions.class_names, row, strict=True)}
        best = float(row.max())
        rows.append({"path": str(path), "predicted_class": name, "probability": best, "probabilities": probabilities})
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
