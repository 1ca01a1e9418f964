"""What needs only Keras, on four logical processors under `keras.distribution.DataParallel` on JAX."""

import numpy as np
import pytest

from tests.backends import is_installed, run_under
from tests.distribution.cluster import free_ports, run_workers

TRAIN = """
import os
import numpy as np

from keras_sgdr import DifferentialLR, SGDRScheduler, TrainingCheckpoint, lr_find

if PARALLEL:
    assert len(keras.distribution.list_devices()) == 4
    keras.distribution.set_distribution(keras.distribution.DataParallel())

keras.utils.set_random_seed(1)
layers = keras.layers
body, head = layers.Dense(8, activation="relu"), layers.Dense(2, activation="softmax")
model = keras.Sequential([layers.Input((4,)), body, head])
inner = keras.optimizers.SGD(momentum=0.9, global_clipnorm=1.0, weight_decay=1e-2)
optimizer = DifferentialLR(inner, [[body], [head]], [0.01, 0.1])
model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
y = (x.sum(axis=1) > 0).astype("int32")
curve = lr_find(model, (x, y), num_steps=8, verbose=0)
schedule = SGDRScheduler(0.1, cycle_len=1, cycle_mult=2, n_cycles=2)
checkpoint = TrainingCheckpoint("training.checkpoint")
checkpoint.restore(model)
log = model.fit(x, y, validation_data=(x, y), batch_size=16, epochs=3, shuffle=False, verbose=0,
                callbacks=[schedule, checkpoint]).history
start = checkpoint.restore(model)
assert (start.epoch, start.step) == (3, 12), start
np.savez("result.npz", curve=curve.losses, rates=log["learning_rate"], val_loss=log["val_loss"],
         **{f"weight_{n}": weight for n, weight in enumerate(model.get_weights())})
"""


def test_four_devices_train_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    results = []
    for parallel in (False, True):
        folder = tmp_path / str(parallel)
        folder.mkdir()
        run_under("jax", f"PARALLEL = {parallel}\nimport os; os.chdir({str(folder)!r})\n{TRAIN}")
        results.append(np.load(folder / "result.npz"))
    alone, together = results
    for name in alone.files:
        np.testing.assert_allclose(together[name], alone[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    if not is_installed("jax"):
        pytest.skip("jax is not installed: pip install 'keras-sgdr[backends]'")
    addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    program = ["-m", "tests.distribution.jax_processes"]
    run_workers([[*program, 1, 0, addresses, tmp_path / "alone"]], folder=tmp_path)
    run_workers([[*program, 2, index, addresses, tmp_path / "two"] for index in range(2)], folder=tmp_path)
    alone = np.load(tmp_path / "alone-0.npz")
    for index in range(2):
        together = np.load(tmp_path / f"two-{index}.npz")
        for name in alone.files:
            np.testing.assert_allclose(together[name], alone[name], atol=1e-5, err_msg=name)
