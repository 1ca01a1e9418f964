"""An index as a `tf.data.Dataset`."""
