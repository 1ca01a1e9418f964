"""What our optimizer, callbacks and finder cost on the backend that KERAS_BACKEND names, on a GPU where there is one.

    KERAS_BACKEND=jax python -m tests.benchmarks.other_backends [--image-size 224] [--batch-size 64] [--rounds 8]
        [--steps 20]

Whole passes of `fit` over so many batches in memory, of ResNet50 with random weights, by turns; TensorFlow is not
needed.
"""

import argparse

import keras
import numpy as np

from keras_sgdr import SGDR, DifferentialLR, SGDRScheduler, layer_groups, lr_find
from tests.benchmarks.paired import paired_times, print_ratios

NUM_CLASSES = 100


class Batches(keras.utils.PyDataset):
    """Batches of random images, made beforehand."""

    def __init__(self, steps, batch_size, image_size):
        super().__init__()
        shape = (steps, batch_size, image_size, image_size, 3)
        self._images = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
        self._labels = np.arange(batch_size) % NUM_CLASSES

    def __deepcopy__(self, memo):
        """Itself, for the finder takes a copy, which is no business of a step."""
        return self

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index], self._labels


def compiled(image_size, make_optimizer):
    model = keras.applications.ResNet50(weights=None, classes=NUM_CLASSES, input_shape=(image_size, image_size, 3))
    model.compile(make_optimizer(model), "sparse_categorical_crossentropy")
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    steps = arguments.steps
    batches = Batches(steps, arguments.batch_size, arguments.image_size)

    def grouped(model):
        groups = layer_groups(model, num_groups=3)
        return DifferentialLR(keras.optimizers.AdamW(1e-4), groups, [1e-5, 3e-5, 1e-4])

    plain = compiled(arguments.image_size, lambda _: keras.optimizers.AdamW(1e-4))
    differential = compiled(arguments.image_size, grouped)
    schedule = SGDR(1e-4, steps_per_epoch=steps)
    scheduled = compiled(arguments.image_size, lambda _: keras.optimizers.AdamW(schedule))
    finder = {"start_lr": 1e-9, "end_lr": 1e-7, "stop_factor": float("inf"), "verbose": 0}

    def fit(model, *callbacks):
        model.fit(batches, shuffle=False, verbose=0, callbacks=list(callbacks))

    ways = {
        "AdamW": lambda: fit(plain),
        "DifferentialLR(AdamW)": lambda: fit(differential),
        "the same, SGDRScheduler": lambda: fit(differential, SGDRScheduler(1e-4)),
        "AdamW(SGDR)": lambda: fit(scheduled),
        "lr_find": lambda: lr_find(plain, batches, num_steps=steps, **finder),
    }
    print_ratios(keras.backend.backend(), paired_times(ways, rounds=arguments.rounds), steps=steps)


if __name__ == "__main__":
    main()
