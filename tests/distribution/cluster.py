"""Runs a test's own program as each of several workers on this machine."""

import json
import os
import socket
import subprocess
import sys


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_workers(commands, *, folder, **environment):
    """Starts `python ARGUMENTS` as each worker, a list of arguments each; one alone has no cluster.

    What they print goes to files in `folder`.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(commands))]
    workers = []
    for index, arguments in enumerate(commands):
        variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
        if len(commands) > 1:
            task = {"type": "worker", "index": index}
            variables["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        with path_of_output(index, folder).open("wb") as output:
            command = [sys.executable, *map(str, arguments)]
            workers.append(subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT))
    return workers


def path_of_output(index, folder):
    return folder / f"worker-{index}.txt"


def run_workers(commands, *, folder, codes=None, timeout=300, **environment):
    """Runs all to their end, with these exit codes or good ones, and returns what each has printed."""
    workers = start_workers(commands, folder=folder, **environment)
    try:
        ended = [worker.wait(timeout) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    printed = [path_of_output(index, folder).read_text(errors="replace") for index in range(len(commands))]
    assert ended == (codes or [0] * len(commands)), "\n".join(text[-3000:] for text in printed)
    return printed
