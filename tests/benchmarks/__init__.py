"""Programs that measure; each prints ratios of things measured in the same run, and asserts nothing."""

import os

# Before TensorFlow is imported. oneDNN is off by default on processors without VNNI, as PyTorch's never is.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
