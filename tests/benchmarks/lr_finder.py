"""What a learning-rate finder costs over as many plain steps: ratios of times measured in the same run, by turns.

Run `python -m tests.benchmarks.lr_finder`; it takes about two minutes.
"""

import argparse

import tensorflow as tf

from keras_sgdr.lr_finder.lr_find import lr_find
from tests.benchmarks.differential_lr import bare, efficientnet, prepared, two_layers
from tests.benchmarks.paired import paired_times, print_ratios

RANGE = {"start_lr": 1e-9, "end_lr": 1e-7, "stop_factor": float("inf"), "verbose": 0}


def compare(title, make_model, *, steps, rounds, batch_size):
    model, _, batch = prepared(make_model, bare, batch_size)
    dataset = tf.data.Dataset.from_tensors(batch).repeat(steps)
    # Of which a finder must make a copy, if their order is to be as it was.
    shuffling = dataset.shuffle(2)
    ways = {
        "plain steps": lambda: model.fit(dataset, shuffle=False, verbose=0),
        "lr_find": lambda: lr_find(model, dataset, num_steps=steps, **RANGE),
        "lr_find, verify": lambda: lr_find(model, dataset, num_steps=steps, verify=True, **RANGE),
        "lr_find, data that shuffles": lambda: lr_find(model, shuffling, num_steps=steps, **RANGE),
    }
    print_ratios(title, paired_times(ways, rounds=rounds), steps=steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8, help="of EfficientNetLite0")
    arguments = parser.parse_args()
    print("Time of a finder, copies and restoring included, over that of as many plain steps. Aim: 1.1.")
    compare("Two hidden layers", two_layers, steps=100, rounds=arguments.rounds, batch_size=32)
    few = {"rounds": max(1, arguments.rounds // 15), "batch_size": arguments.batch_size}
    compare("EfficientNetLite0 at 96 pixels", efficientnet, steps=20, **few)


if __name__ == "__main__":
    main()
