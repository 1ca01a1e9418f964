"""Runs a piece of code under another Keras backend, in a process of its own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# For a machine where the other backends live in an environment of their own.
PYTHON = os.environ.get("KERAS_SGDR_BACKENDS_PYTHON", sys.executable)

BACKENDS = ("jax", "torch")
"""The backends beside TensorFlow, under which the rest of the suite runs."""


def run_under(backend: str, code: str, *, timeout: float = 300) -> str:
    """Runs `code` with KERAS_BACKEND=`backend` and returns what it printed; it fails the test if the code raises.

    Skips the test if the backend is not installed (`pip install "keras-sgdr[backends]"`). The code can import
    `keras_sgdr` and `tests.…`; warnings are errors there too, but for those of other people's imports.
    """
    if not is_installed(backend):
        pytest.skip(f"{backend} is not installed: pip install 'keras-sgdr[backends]'")
    environment = dict(os.environ, KERAS_BACKEND=backend, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
    environment |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "MPLBACKEND": "Agg"}
    code = "import keras\nimport warnings\nwarnings.simplefilter('error', UserWarning)\n" + textwrap.dedent(code)
    done = subprocess.run([PYTHON, "-c", code], env=environment, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        pytest.fail(f"under KERAS_BACKEND={backend}:\n{done.stdout}\n{done.stderr}", pytrace=False)
    return done.stdout


@functools.cache
def is_installed(backend: str) -> bool:
    """Whether the backend can be imported, without importing it."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{backend}') is None)"
    return subprocess.run([PYTHON, "-c", code], check=False).returncode == 0
