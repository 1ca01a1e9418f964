"""The command `doctor`: what this machine has, and whether training, saving and serving work on it."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from .startup import import_keras, keras_home

_PACKAGES = ("keras-sgdr", "keras", "tensorflow", "keras-cv", "numpy")
# Extras for those who work on the package itself
_OF_DEVELOPERS = {"test", "dev", "browser", "backends"}


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr doctor\n"
    "  keras-sgdr doctor --no-self-test\n"
    "  KERAS_HOME=other-settings keras-sgdr doctor"
)
@click.option("--no-self-test", is_flag=True, help="Leave out the self-test, which takes half a minute.")
def doctor(no_self_test: bool) -> None:
    """Check this installation: versions, devices, caches, and a self-test on drawn images.

    It ends in "all well", or says what is wrong and what to do about it; the exit code is then 1.
    """
    problems = [
        *_section("packages", _packages),
        *_section("extras", _extras),
        *_section("Keras", _keras),
    ]
    if not problems:  # the others need Keras
        problems += _section("machine", _machine)
        problems += _section("caches", _caches)
        problems += _section("ImageNet weights", _weights)
    if not no_self_test and not problems:
        from .self_test import STEPS

        with tempfile.TemporaryDirectory() as directory:
            problems += _section("self-test", lambda: _run(STEPS, Path(directory)))
    if problems:
        click.secho(f"{len(problems)} of these are wrong:" if len(problems) > 1 else "one of these is wrong:", fg="red")
        for problem in problems:
            click.echo(f"  {problem}")
        raise SystemExit(1)
    click.secho("all well, as far as can be said without the self-test" if no_self_test else "all well", fg="green")


def _section(title: str, lines: Callable[[], Iterator[str]]) -> list[str]:
    """Prints the lines of a section under its title, and returns what is wrong: nothing, or one thing."""
    click.secho(title, bold=True)
    try:
        for line in lines():
            click.echo(f"  {line}")
        return []
    except click.ClickException as error:
        problem = error.message
    except Exception as error:  # noqa: BLE001  whatever a broken installation may raise
        # Where it comes from tells those who are asked for help more than the message does.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
    click.secho(f"  {problem}", fg="red")
    return [f"{title}: {problem}"]


def _packages() -> Iterator[str]:
    yield f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}"
    missing = []
    for name in _PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise click.ClickException(
            f"not installed: {', '.join(missing)}. Install with: pip install {' '.join(missing)}"
        )


def _extras() -> Iterator[str]:
    """Says of each extra whether its packages are here; none of them is needed to train."""
    needed: dict[str, list[str]] = {}
    for requirement in metadata.requires("keras-sgdr") or []:
        match = re.match(r"([\w.-]+).*;\s*extra\s*==\s*[\"'](\w+)[\"']", requirement)
        if match and match[2] not in _OF_DEVELOPERS:
            needed.setdefault(match[2], []).append(match[1])
    for extra, names in needed.items():
        missing = [name for name in names if not _is_installed(name)]
        hint = f"without {', '.join(missing)}; pip install 'keras-sgdr[{extra}]'" if missing else "here"
        yield f"{extra}: {hint}"


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _keras() -> Iterator[str]:
    import_keras()
    import keras

    yield f"backend: {keras.config.backend()}; numbers: {keras.config.floatx()}, {keras.config.image_data_format()}"


def _machine() -> Iterator[str]:
    import tensorflow as tf

    from keras_sgdr.data.dataset.free_space import available_cores, available_memory

    yield f"processor cores: {available_cores():g} of {os.cpu_count()}"
    memory = available_memory()
    yield f"memory: {'unknown' if memory is None else _size(memory)} can be had"
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    names = [details.get("device_name", "of unknown name") for details in gpus]
    yield f"GPUs: {', '.join(names) or 'none; TensorFlow computes on the processor'}"
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    if onednn == "0":
        yield "oneDNN: off (TF_ENABLE_ONEDNN_OPTS=0); on many processors training takes 1.7 times as long without it"
    else:
        yield "oneDNN: on, which makes training faster; Python programs set TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow"


def _caches() -> Iterator[str]:
    from keras_sgdr.precompute.feature_cache import CACHE_VARIABLE, FeatureCache, default_cache_directory

    models = keras_home() / "models"
    downloaded = sum(path.stat().st_size for path in models.glob("*") if path.is_file())
    yield f"weights that Keras has downloaded: {_size(downloaded)} in {models}"
    if os.environ.get(CACHE_VARIABLE) == "off":
        yield f"precomputed features: in memory ({CACHE_VARIABLE}=off)"
        return
    directory = default_cache_directory()
    entries = FeatureCache(directory).entries()
    yield f"precomputed features: {_size(sum(each.num_bytes for each in entries))} in {directory}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        reason = f"nothing can be written to {directory} ({error.strerror})"
        raise click.ClickException(f"{reason}. Set {CACHE_VARIABLE} to another directory, or to 'off'.") from error


def _weights() -> Iterator[str]:
    from keras_sgdr.models.backbones import describe_backbones

    here = [row["name"] for row in describe_backbones() if row["weights_here"]]
    yield f"here: {', '.join(here) or 'none'}"
    yield "`keras-sgdr backbones` lists those that are downloaded when they are first used"


def _run(steps: dict[str, Callable[[Path, dict[str, Any]], str]], directory: Path) -> Iterator[str]:
    state: dict[str, Any] = {}
    for name, step in steps.items():
        yield f"{name}: {step(directory, state)}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
