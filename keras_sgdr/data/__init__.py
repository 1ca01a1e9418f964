"""Folders of pictures, and what turns them into batches."""
