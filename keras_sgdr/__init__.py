"""The fast.ai workflow for image classifiers, in Keras 3."""

__version__ = "0.1.0"
