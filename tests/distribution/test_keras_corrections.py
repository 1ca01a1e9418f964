"""Keras's two faults on several workers: that they are there, and are gone when corrected.

`python -m` this module is one of two workers. When a Keras without the faults comes, `FAULTS` shrinks, and what is no
longer at fault can go from `keras_corrections`.
"""

import sys

from tests.distribution.cluster import run_workers

FAULTS = ["reduce_per_replica", "_maybe_symbolic_build"]


def main():
    import tensorflow as tf

    from keras_sgdr.distribution.keras_corrections import correct_keras

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert correct_keras(strategy) == FAULTS
    assert correct_keras(strategy) == []
    sys.stdout.write("held\n")


def test_keras_has_the_faults_until_they_are_corrected(tmp_path):
    assert all(printed.endswith("held\n") for printed in run_workers([["-m", __name__]] * 2, folder=tmp_path))


if __name__ == "__main__":
    main()
