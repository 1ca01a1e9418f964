"""What each of several JAX processes runs: `python -m tests.distribution.jax_processes N INDEX ADDRESSES OUTPUT`."""

import os
import sys

os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}

import keras
import numpy as np

from keras_sgdr import DifferentialLR, SGDRScheduler, TrainingCheckpoint, lr_find


def main(count, index, addresses, output):
    if count > 1:
        keras.distribution.initialize(job_addresses=addresses, num_processes=count, process_id=index)
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    body, head = keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2, activation="softmax")
    model = keras.Sequential([keras.Input((4,)), body, head])
    inner = keras.optimizers.SGD(momentum=0.9, global_clipnorm=0.05, weight_decay=1e-2)
    model.compile(DifferentialLR(inner, [[body], [head]], [0.01, 0.1]), "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    own = [batch[index * 16 // count : (index + 1) * 16 // count] for batch in x.reshape(4, 16, 4)]
    x = np.concatenate(own)
    dataset = tf.data.Dataset.from_tensor_slices((x, (x.sum(axis=1) > 0).astype("int32"))).batch(16 // count)
    curve = lr_find(model, dataset, num_steps=6, verbose=0)
    checkpoint = TrainingCheckpoint(f"{output}-{index}.checkpoint")
    checkpoint.restore(model)
    schedule = SGDRScheduler(0.1, cycle_len=1, n_cycles=3)
    log = model.fit(dataset, epochs=3, callbacks=[schedule, checkpoint], shuffle=False, verbose=0).history
    weights = {f"weight_{number}": weight for number, weight in enumerate(model.get_weights())}
    np.savez(f"{output}-{index}.npz", curve=curve.losses, loss=log["loss"], rates=log["learning_rate"], **weights)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
