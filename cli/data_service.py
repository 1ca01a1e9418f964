"""The command `data-service`: a dispatcher and workers that read and augment images for other machines."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path

import click

_EXAMPLES = (
    "\b\nExamples:\n"
    "  keras-sgdr data-service dispatcher --port 5000 --journal /var/lib/dispatcher\n"
    "  keras-sgdr data-service worker --dispatcher host:5000 --host this-machine"
)


@click.group("data-service", epilog=_EXAMPLES)
def data_service() -> None:
    """Read and augment images on other machines, for `load_dataset(service=...)`: one dispatcher, and workers."""


@data_service.command(epilog=_EXAMPLES.rpartition("\n")[0])
@click.option("--port", type=click.IntRange(0, 65535), default=5000, help="Where it listens; 0: any that is free.")
@click.option(
    "--journal",
    type=click.Path(file_okay=False, path_type=Path),
    help="A directory from which a dispatcher that is started again goes on.",
)
def dispatcher(port: int, journal: Path | None) -> None:
    """Tell the workers what to do, on one machine."""
    import tensorflow as tf

    service = tf.data.experimental.service

    config = service.DispatcherConfig(
        port=port,
        work_dir=None if journal is None else str(journal),
        fault_tolerant_mode=journal is not None,
        job_gc_check_interval_ms=5_000,
    )
    server = service.DispatchServer(config)
    click.echo(f"dispatcher at {server.target}; Ctrl-C ends it")
    _wait_for_signal()


@data_service.command(epilog=f"\b\nExample:\n{_EXAMPLES.rpartition(chr(10))[2]}")
@click.option("--dispatcher", "address", required=True, help="host:port of the dispatcher.")
@click.option("--host", default="localhost", help="This machine's name, as those who train reach it.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5001,
    help="Where it listens; one that is started anew after a failure must have the same. 0: any that is free.",
)
def worker(address: str, host: str, port: int) -> None:
    """Read, decode and augment, on as many machines as it takes. Each must see the images under the same paths."""
    import tensorflow as tf

    from keras_sgdr.data.dataset.data_service import require_dispatcher

    service = tf.data.experimental.service

    address = address.removeprefix("grpc://")
    port_there = address.rpartition(":")[2]
    if not port_there.isdecimal() or not 0 < int(port_there) < 65536:
        raise click.UsageError(f"--dispatcher must be like host:5000. Received: {address}")
    require_dispatcher(address)
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # where one has just ended
            probe.bind(("", port))
    except OSError as error:  # gRPC would share it with another worker
        raise click.ClickException(
            f"--port must be one that is free. Received: {port}: {error.strerror}. Of several workers on one machine "
            "each must have its own."
        ) from None
    config = service.WorkerConfig(
        dispatcher_address=address,
        worker_address=f"{host}:%port%",
        port=port,
        dispatcher_timeout_ms=10_000,
        heartbeat_interval_ms=2_000,
    )
    server = service.WorkerServer(config)
    click.echo(f"worker of the dispatcher at {address}; Ctrl-C ends it")
    _wait_for_signal()
    del server  # which stops it


def _wait_for_signal() -> None:
    """Waits for Ctrl-C or SIGTERM, which the servers' own `join` would not see."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
