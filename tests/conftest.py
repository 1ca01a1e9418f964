"""What every test module shares."""

import atexit
import os
import shutil
import tempfile

# Before TensorFlow is imported: its start-up log lines would hide a failing test's output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Features of the tests' images are no one's to keep.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="keras-sgdr-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
