"""A learning rate per layer group."""
