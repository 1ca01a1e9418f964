"""The commands `backbones`, `cache` and `completion`, for what is on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr backbones\n"
    "  keras-sgdr backbones ResNet50 EfficientNetLite0 --measure --image-size 128"
)
@click.argument("names", nargs=-1)
@click.option("--measure", is_flag=True, help="Time predictions on this machine, a minute or so for a large one.")
@click.option("--image-size", type=click.IntRange(min=1), help="For --measure.  [default: the backbone's own]")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="For --measure.")
def backbones(names: tuple[str, ...], measure: bool, image_size: int | None, batch_size: int) -> None:
    """List the backbones, or those called NAMES: accuracy, parameters, sizes, licence, images per second.

    The accuracy is that on ImageNet, in percent, as it was published.
    """
    from keras_sgdr.models.backbones import describe_backbones, find_backbone

    wanted = [find_backbone(name).name for name in names]
    speed = f" {'images/s':>9}" if measure else ""
    click.echo(
        f"{'name':<18} {'accuracy':>8} {'parameters':>12}{speed} {'size':>5} {'smallest':>8} {'preprocessing':>13} "
        f"{'licence':>12}  weights"
    )
    for row in describe_backbones():
        if wanted and row["name"] not in wanted:
            continue
        speed = f" {_images_per_second(row, image_size, batch_size):>9.1f}" if measure else ""
        click.echo(
            f"{row['name']:<18} {row['accuracy']:>8.1f} {row['parameters']:>12,}{speed} {row['default_size']:>5} "
            f"{row['min_size']:>8} {row['preprocessing']:>13} {row['licence']:>12}  "
            f"{'here' if row['weights_here'] else 'to be downloaded'}"
        )


def _images_per_second(row: dict[str, Any], image_size: int | None, batch_size: int) -> float:
    """Predicts on a few batches; the median, for a machine may have other things to do."""
    import keras
    import numpy as np

    from keras_sgdr.models.classifier import build_classifier

    keras.backend.clear_session()
    size = image_size or row["default_size"]
    model = build_classifier(2, backbone=row["name"], weights=None, image_size=size)
    images = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    model.predict_on_batch(images)  # which compiles
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        model.predict_on_batch(images)
        seconds.append(time.perf_counter() - begun)
    return batch_size / float(np.median(seconds))


@click.group(epilog="\b\nExamples:\n  keras-sgdr cache list\n  keras-sgdr cache clear")
def cache() -> None:
    """List or clear the precomputed features that `train` keeps for later runs."""


_DIRECTORY = click.option(
    "--directory", type=click.Path(path_type=Path), help="Defaults to keras_sgdr in the user's cache directory."
)


def _open(directory: Path | None) -> Any:
    from keras_sgdr.precompute.feature_cache import FeatureCache, default_cache_directory

    return FeatureCache(directory or default_cache_directory())


@cache.command(
    "list", epilog="\b\nExamples:\n  keras-sgdr cache list\n  keras-sgdr cache list --directory /data/features"
)
@_DIRECTORY
def list_entries(directory: Path | None) -> None:
    """List the entries, the most recently used first, with their sizes."""
    opened = _open(directory)
    entries = opened.entries()
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        state = "complete" if entry.complete else "incomplete"
        click.echo(f"{entry.key[:16]}  {entry.num_bytes / 2**20:>9.1f} MiB  {used}  {state}")
    total = sum(entry.num_bytes for entry in entries) / 2**20
    click.echo(f"{len(entries)} entries, {total:.1f} MiB, in {opened.directory}")


@cache.command(epilog="\b\nExample:\n  keras-sgdr cache clear")
@_DIRECTORY
def clear(directory: Path | None) -> None:
    """Remove all entries."""
    opened = _open(directory)
    click.echo(f"freed {opened.clear() / 2**20:.1f} MiB in {opened.directory}")


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr completion bash > ~/.local/share/bash-completion/completions/keras-sgdr\n"
    "  keras-sgdr completion fish > ~/.config/fish/completions/keras-sgdr.fish\n"
    "  keras-sgdr completion zsh > ~/.zfunc/_keras-sgdr"
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script by which SHELL completes commands, options and paths of `keras-sgdr`.

    A new shell reads it from where the examples put it; of zsh, ~/.zfunc must be in its fpath.
    """
    script = _SHELLS[shell](context.find_root().command, {}, "keras-sgdr", "_KERAS_SGDR_COMPLETE")
    click.echo(script.source(), nl=False)
