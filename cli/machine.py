"""The commands `backbones` and `cache`, for what is on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click


@click.command()
def backbones() -> None:
    """List the backbones: parameters, default size, preprocessing, licence, and whether the weights are here."""
    from keras_sgdr.models.backbones import describe_backbones

    click.echo(
        f"{'name':<18} {'parameters':>12} {'size':>5} {'smallest':>8} {'preprocessing':>13} {'licence':>12}  weights"
    )
    for row in describe_backbones():
        click.echo(
            f"{row['name']:<18} {row['parameters']:>12,} {row['default_size']:>5} {row['min_size']:>8} "
            f"{row['preprocessing']:>13} {row['licence']:>12}  {'here' if row['weights_here'] else 'to be downloaded'}"
        )


@click.group()
def cache() -> None:
    """List or clear the precomputed features that `train` keeps for later runs."""


_DIRECTORY = click.option(
    "--directory", type=click.Path(path_type=Path), help="Defaults to keras_sgdr in the user's cache directory."
)


def _open(directory: Path | None) -> Any:
    from keras_sgdr.precompute.feature_cache import FeatureCache, default_cache_directory

    return FeatureCache(directory or default_cache_directory())


@cache.command("list")
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


@cache.command()
@_DIRECTORY
def clear(directory: Path | None) -> None:
    """Remove all entries."""
    opened = _open(directory)
    click.echo(f"freed {opened.clear() / 2**20:.1f} MiB in {opened.directory}")
