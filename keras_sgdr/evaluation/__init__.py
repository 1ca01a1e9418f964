"""Test-time augmentation and the look at mistakes."""
