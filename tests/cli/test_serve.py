"""`keras-sgdr serve`, as a process."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.cli.command_line import MAIN, assert_one_line, run


def test_serve_says_where_it_listens_answers_and_ends_with_ctrl_c(trained_run):
    command = [sys.executable, "-c", MAIN, "serve", str(trained_run), "--port", "0", "--max-megabytes", "1"]
    command += ["--host", "localhost"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    try:
        line = process.stdout.readline()
        address, model = re.match(r"(http://localhost:\d+)/ and (http\S+); Ctrl-C ends it", line).groups()
        assert "For production there is TensorFlow Serving" in line
        assert model == f"{address}/v1/models/{trained_run.name}"
        with urllib.request.urlopen(model) as reply:
            assert json.load(reply)["model_version_status"][0]["state"] == "AVAILABLE"
        with urllib.request.urlopen(f"{address}/") as page:
            assert "hasMaps = true" in page.read().decode()
        too_long = urllib.request.Request(f"{model}:predict", data=b" " * (1 << 20 | 1))
        with pytest.raises(urllib.error.HTTPError, match="413") as refused:
            urllib.request.urlopen(too_long)
        refused.value.close()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert (rest, errors) == ("", "")


def test_what_cannot_be_served_is_named(tmp_path, trained_run):
    assert_one_line(run("serve", tmp_path), "must be an export", tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"half")
    assert_one_line(run("serve", tmp_path), "must hold a whole export", tmp_path)


def test_a_port_that_is_taken_is_said(trained_run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve", trained_run / "export", "--port", port, "--host", "127.0.0.1")
    assert_one_line(done, f"127.0.0.1, port {port}", "Choose another --port")
    assert_one_line(run("serve", trained_run / "export", "--host", "no.such.invalid"), "Choose another --host")
    assert run("serve", trained_run / "export", "--host", "").exit_code == 2
