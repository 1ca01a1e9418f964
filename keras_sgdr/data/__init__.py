"""Folders of images, and what turns them into batches."""
