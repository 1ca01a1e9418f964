"""Checks of a folder before it is trained on."""
