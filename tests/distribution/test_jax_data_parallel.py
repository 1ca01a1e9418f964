"""What needs only Keras, on four logical processors under `keras.distribution.DataParallel` on JAX."""

from tests.backends import run_under

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
    import numpy as np

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
