"""The TensorFlow Serving export."""
