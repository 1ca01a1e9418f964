"""The bytes of an image file as pixels."""
