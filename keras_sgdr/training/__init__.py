"""Schedules, finder, optimizer wrapper and precomputed features."""
