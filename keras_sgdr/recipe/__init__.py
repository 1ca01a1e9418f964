"""The eight steps, from a folder to a served model."""
