"""S3 on this machine: moto's server as a process of its own, and what a client has to know of it."""

import contextlib
import os
import subprocess
import sys

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def s3_server():
    """The environment of a client."""
    code = "from moto.moto_server.threaded_moto_server import ThreadedMotoServer as Server; import sys; "
    code += "server = Server('127.0.0.1', 0); server.start(); print(*server.get_host_and_port(), flush=True); "
    code += "sys.stdin.read(); server.stop()"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean,
    ) as server:
        server.stdout.readline()  # what moto says
        host, port = server.stdout.readline().split()
        yield CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        server.stdin.close()
