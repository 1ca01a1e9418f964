"""The commands `export` and `serve`: a finished run for other programs."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import click

from .inference import RUN


@click.command(
    epilog="\b\nExamples:\n"
    "  keras-sgdr export runs/pets models/pets\n"
    "  keras-sgdr export runs/pets phone --format tflite --precision int8"
)
@RUN
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--version", type=click.IntRange(min=1), help="Defaults to one more than the highest there.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["savedmodel", "tflite", "onnx"]),
    default="savedmodel",
    help="Of TensorFlow Serving, or a file for phones and other runtimes, with a card of how well it does.",
)
@click.option(
    "--precision",
    default="float32",
    help="Of the weights: float32 or float16; of a savedmodel also bfloat16, of a tflite int8.",
)
@click.option("--folder", type=click.Path(), help="The images of RUN, if they are elsewhere now.")
def export(
    run: Path, directory: Path, version: int | None, file_format: str, precision: str, folder: str | None
) -> None:
    """Export the classifier in RUN to DIRECTORY/VERSION, for TensorFlow Serving, or as a file of another format."""
    if file_format == "savedmodel":
        if folder is not None:
            raise click.UsageError("--folder is for --format tflite and onnx")
        from keras_sgdr.recipe.export import export_run

        click.echo(export_run(run, directory, version=version, precision=precision))
        return
    if version is not None:
        raise click.UsageError("--version is for --format savedmodel")
    from keras_sgdr.recipe.portable_export import export_run_as

    path, card = export_run_as(run, directory, file_format, precision=precision, folder=folder)
    about = card["this file"]
    click.echo(path)
    click.echo(
        f"accuracy {about['accuracy']:.4f} on {about['images']} images; names the classifier's class for "
        f"{about['names the same class as the classifier']:.2%} of them; "
        f"probabilities differ by up to {about['largest difference of a probability']:.2g}"
    )


@click.command(
    epilog="\b\nExamples:\n  keras-sgdr serve runs/pets\n  keras-sgdr serve models/pets --host 0.0.0.0 --port 8080"
)
@RUN
@click.option("--host", default="127.0.0.1", help="The address to listen on; 0.0.0.0 for all of this machine's.")
@click.option("--port", type=click.IntRange(0, 65535), default=8501, help="The port; 0 for any that is free.")
@click.option("--max-megabytes", type=click.IntRange(min=1), default=16, help="The longest body of a request.")
def serve(run: Path, host: str, port: int, max_megabytes: int) -> None:
    """Serve RUN, or an export, on this machine, to try it out: a page, and TensorFlow Serving's REST API.

    A newer version in the export's directory takes over by itself. For production there is TensorFlow Serving.
    """
    try:
        import uvicorn

        from keras_sgdr.serving.server import FOR_PRODUCTION, Server, map_maker
    except ImportError as error:
        raise click.ClickException(
            f"`serve` needs further packages: pip install 'keras-sgdr[serve]' ({error})"
        ) from None
    from keras_sgdr.models.classifier import MODEL_FILE, load_classifier

    listening, address = _listening(host, port)  # first, for the model takes seconds
    with contextlib.closing(listening), contextlib.suppress(KeyboardInterrupt):  # as it is ended
        make_map = map_maker(load_classifier(run)) if (run / MODEL_FILE).is_file() else None
        directory = run / "export" if make_map is not None else run
        server = Server(directory, make_map=make_map, max_bytes=max_megabytes << 20)
        config = uvicorn.Config(
            server.app(), log_config=None, access_log=False, limit_concurrency=64, timeout_graceful_shutdown=3
        )
        click.echo(f"{address}/ and {address}/v1/models/{server.name}; Ctrl-C ends it. {FOR_PRODUCTION}")
        uvicorn.Server(config).run([listening])


def _listening(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket that listens, and its address for a browser."""
    if not host:
        raise click.UsageError("--host must be an address or a name: 127.0.0.1, or 0.0.0.0 for all of this machine's")
    try:
        socket.getaddrinfo(host, port)
    except socket.gaierror as error:
        raise click.ClickException(f"{host}: {error.strerror}. Choose another --host.") from None
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise click.ClickException(f"{host}, port {port}: {error.strerror}. Choose another --port.") from None
    # asyncio does it only for sockets that it has made; without it a small answer waits 40 ms for the client's ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening, f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
