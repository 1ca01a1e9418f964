"""Backbones, classifiers and their layer groups."""
