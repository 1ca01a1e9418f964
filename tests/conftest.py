"""What every test module shares."""

import os

# Before TensorFlow is imported: its start-up log lines would hide a failing test's output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
