"""Saving and restoring the state of a `fit`, in the midst of an epoch too."""
