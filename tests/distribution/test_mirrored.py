"""`load_dataset` and the recipe under `MirroredStrategy`; `python -m` this module trains on two logical CPUs."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.two_cpus import run_module, two_cpus


def trained(folder, strategy):
    import contextlib

    import keras

    from keras_sgdr import basic, index_folder, load_dataset
    from tests.distribution.train_in_step import make_model

    index = index_folder(folder, valid_fraction=0.2)
    options = {"image_size": 32, "batch_size": 42, "strategy": strategy, "verbose": 0}
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make_model()
    train = load_dataset(index.train.take(range(143)), shuffle=True, augmentation=basic(), **options)
    valid = load_dataset(index.valid.take(range(35)), **options)
    log = model.fit(train, validation_data=valid, epochs=2, shuffle=False, verbose=0)
    keras.backend.clear_session()
    return [*model.get_weights(), log.history["val_loss"], log.history["val_accuracy"]]


def main(folder):
    from keras_sgdr import index_folder, load_dataset, lr_find
    from keras_sgdr.distribution.keras_corrections import correct_keras
    from tests.distribution.train_in_step import make_model

    strategy = two_cpus()
    correct_keras(strategy)
    for together, alone in zip(trained(folder, strategy), trained(folder, None), strict=True):
        np.testing.assert_allclose(together, alone, atol=1e-5)

    split = index_folder(folder, valid_fraction=0.2).train.take(range(143))
    options = {"image_size": 32, "batch_size": 42, "shuffle": True, "verbose": 0}
    # Begun in the midst of an epoch, and gone through into the next one
    parts = iter(load_dataset(split, initial_step=2, strategy=strategy, **options).repeat())
    whole = load_dataset(split, initial_step=2, **options).repeat()
    for batch, _ in zip(whole, range(7), strict=False):
        both = [strategy.experimental_local_results(part) for part in next(parts)]
        for expected, part in zip(batch, both, strict=False):
            np.testing.assert_array_equal(np.concatenate(part), expected)

    # A finder whose loss has become NaN looks for a fault in the data, and finds none
    with strategy.scope():
        model = make_model()
        model.compile("sgd", "sparse_categorical_crossentropy")
    curve = lr_find(model, load_dataset(split, strategy=strategy, **options), start_lr=1e30, end_lr=1e38, num_steps=5)
    assert not np.isfinite(curve.losses[-1])
    sys.stdout.write("held\n")


@pytest.mark.slow
def test_two_replicas_see_the_batches_of_one_and_train_as_one(digits_folder):
    assert run_module(__name__, digits_folder).endswith("held\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
