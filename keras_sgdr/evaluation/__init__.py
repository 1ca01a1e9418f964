"""Test-time augmentation, the interpretation of mistakes, and predictions for files."""
