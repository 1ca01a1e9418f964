"""Activations of the frozen layers, computed once."""
