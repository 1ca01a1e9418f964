"""What `keras-sgdr serve` costs beside its bare SavedModel, and what decoding costs in it.

    python -m tests.benchmarks.serving EXPORT FOLDER [--seconds 120]

EXPORT is one of `keras-sgdr export`, FOLDER holds JPEGs. For batches of 1, 8 and 32, by turns: the SavedModel called in
a loop, and the server asked by one client, over HTTP with JSON; then eight clients at once for `--seconds`. Prints
medians and 99th percentiles in milliseconds, images a second, and the ratio of the medians with its quartiles.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import urllib3

from keras_sgdr.data.decode.decode_image import decode_image
from keras_sgdr.serving.served_model import ServedModel

BATCHES = (1, 8, 32)
_ROUNDS = 60


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def by_turns(*calls: Callable[[], Any]) -> np.ndarray:
    """The times of some calls, taken by turns: a row for each call."""
    for call in calls:
        for _ in range(3):
            call()
    return np.array([[seconds(call) for call in calls] for _ in range(_ROUNDS)]).T


def of_bare(server: ServedModel, files: list[bytes]) -> None:
    """Start-up, warm-up, and the share of decoding."""
    load = "import sys, tensorflow as tf; s = tf.saved_model.load(sys.argv[1]); f = s.signatures['serving_default']"
    loading = seconds(partial(subprocess.run, [sys.executable, "-c", load, server.path]))
    print(f"a process that loads it: {loading:.1f} s")
    for warm in (False, True):
        anew = ServedModel(server.path)
        if warm:
            for number in (1, 8):  # as the warm-up requests
                anew("serving_default", {"image_bytes": files[:number]})
        first = seconds(partial(anew, "serving_default", {"image_bytes": files[:1]}))
        print(f"{'with' if warm else 'without'} warm-up requests the first client waits {1000 * first:.0f} ms")
    preprocessing = server.card["preprocessing"]
    decode = partial(_decode, size=tuple(preprocessing["image_size"]), resize=preprocessing["resize"])
    for batch in BATCHES:
        some = files[:batch]
        decoded = np.stack([decode(each).numpy() for each in some])
        ways = (
            partial(server, "serving_default", {"image_bytes": some}),
            partial(server, "pixels", {"pixels": decoded}),
            lambda some=some: [decode(each) for each in some],
        )
        whole, pixels, alone = (1000 * np.median(times) for times in by_turns(*ways))
        print(f"batch {batch}: serving_default {whole:.1f} ms, pixels {pixels:.1f} ms, decoding alone {alone:.1f} ms")


def of_server(server: ServedModel, files: list[bytes], url: str, duration: float) -> None:
    """The server beside the bare SavedModel, and eight clients at once."""
    pool = urllib3.PoolManager(maxsize=8)
    encoded = [{"b64": base64.b64encode(each).decode()} for each in files]

    def ask(batch: int) -> None:
        body = json.dumps({"instances": encoded[:batch]})
        reply = pool.request("POST", f"{url}:predict", body=body, retries=False)
        assert reply.status == 200, reply.data

    for batch in BATCHES:
        bare, served = by_turns(partial(server, "serving_default", {"image_bytes": files[:batch]}), partial(ask, batch))
        for name, times in (("SavedModel", bare), ("serve", served)):
            p50, p99 = 1000 * np.percentile(times, [50, 99])
            print(
                f"batch {batch}, {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {batch / times.mean():.0f} images a second"
            )
        low, median, high = np.percentile(served / bare, [25, 50, 75])
        print(f"batch {batch}, ratio {median:.3f} ({low:.3f} to {high:.3f})")
    times: list[float] = []
    failures: list[str] = []
    begun = time.monotonic()

    def client() -> None:
        while time.monotonic() < begun + duration:
            try:
                times.append(seconds(partial(ask, 8)))
            except (AssertionError, urllib3.exceptions.HTTPError) as error:
                failures.append(str(error))

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = 1000 * np.percentile(times, [50, 99])
    rate = 8 * len(times) / (time.monotonic() - begun)
    print(
        f"8 clients, batches of 8, {duration:.0f} s: {len(times)} requests, {len(failures)} errors, p50 {p50:.0f} ms, "
        f"p99 {p99:.0f} ms, {rate:.0f} images a second"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    files = [path.read_bytes() for path in sorted(arguments.folder.rglob("*.jpg"))[:32]]
    server = ServedModel(arguments.export)
    of_bare(server, files)
    command = [sys.executable, "-c", "from keras_sgdr_cli.main import main; main()", "serve", str(arguments.export)]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        (url,) = re.findall(r"http\S+/v1/models/[^;\s]+", process.stdout.readline())
        of_server(server, files, url, arguments.seconds)
    finally:
        process.terminate()


@tf.function(reduce_retracing=True)
def _decode(encoded: Any, size: tuple[int, int], resize: str) -> Any:
    return decode_image(encoded, image_size=size, resize=resize)


if __name__ == "__main__":
    main()
