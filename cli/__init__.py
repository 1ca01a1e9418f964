"""The command `keras-sgdr`, installed as the package `keras_sgdr_cli`."""
