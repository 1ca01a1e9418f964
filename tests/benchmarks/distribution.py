"""What a `tf.distribute` strategy costs and brings: images per second in training and in precomputing activations.

Run `python -m tests.benchmarks.distribution FOLDER` on a machine with two cores or more and nothing else to do; it
takes ten minutes. FOLDER has images, a folder per class. Each way is a process of its own, or two, pinned to a core
each, by turns; EfficientNet-Lite0 at 96 px with random weights, batches of 32 of all processes together.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time

import numpy as np

from tests.distribution.cluster import free_ports

SIZE, BATCH, WARM_UP, STEPS, IMAGES = 96, 32, 4, 20, 1536
WAYS = ("no strategy", "mirrored", "one worker", "two workers")


def strategy_of(way):
    import tensorflow as tf

    from keras_sgdr import distribution_strategy
    from keras_sgdr.distribution.keras_corrections import correct_keras

    if way == "two workers":
        return distribution_strategy("multi_worker")
    if way == "no strategy":
        return None
    # `distribution_strategy` gives none for one worker alone, for the reason that this measures.
    made = (
        tf.distribute.MirroredStrategy(["CPU:0"]) if way == "mirrored" else tf.distribute.MultiWorkerMirroredStrategy()
    )
    correct_keras(made)
    return made


def measure(way, folder):
    """Prints images per second, of all workers, in training and in precomputing."""
    strategy = strategy_of(way)
    import keras

    from keras_sgdr import index_folder
    from keras_sgdr.distribution.workers import Workers
    from keras_sgdr.recipe.builders import compile_all, make_features, make_model, make_training_data
    from keras_sgdr.recipe.recipe import Recipe

    recipe = Recipe(image_size=SIZE, batch_size=BATCH, weights=None)
    split = index_folder(folder, valid_fraction=0.2).train
    split = split.take(np.random.default_rng(0).permutation(len(split))[:IMAGES])
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make_model(recipe, len(split.class_names), None)
    compile_all(model, recipe)
    times = []
    each = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: times.append(time.perf_counter()))
    data = make_training_data(recipe, split, strategy=strategy, verbose=0)
    steps = WARM_UP + STEPS
    model.fit(data.repeat(), steps_per_epoch=steps, callbacks=[each], shuffle=False, verbose=0)
    training = STEPS * BATCH / (times[-1] - times[WARM_UP - 1])

    alone = make_model(recipe, len(split.class_names), None)
    for layer in alone.layers[:-1]:
        layer.trainable = False
    workers = Workers(strategy)
    workers.all_of(0)
    begun = time.perf_counter()
    os.environ["KERAS_SGDR_CACHE"] = "off"
    share = strategy if workers.count > 1 else None
    make_features(recipe, alone, split, strategy=share, verbose=0)
    workers.all_of(0)
    print(json.dumps({"training": training, "precompute": len(split) / (time.perf_counter() - begun)}))


def run(way, folder):
    """Runs a way in its processes, and returns what the first has measured."""
    count = 2 if way == "two workers" else 1
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    processes = []
    for index in range(count):
        environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
        environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}
        if "worker" in way:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = ["taskset", "-c", str(index), sys.executable, "-m", __spec__.name, folder, "--way", way]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
    outputs = [process.communicate()[0] for process in processes]
    return json.loads(outputs[0].splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        measure(arguments.way, arguments.folder)
        return
    results = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way in WAYS:
            results[way].append(run(way, arguments.folder))
            print(way, results[way][-1], flush=True)
    for way in WAYS:
        for kind in ("training", "precompute"):
            ratios = [ours[kind] / base[kind] for ours, base in zip(results[way], results["no strategy"], strict=True)]
            speed = np.median([each[kind] for each in results[way]])
            ratio = f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{way:12} {kind:10} {speed:6.1f} images a second, {ratio} of no strategy")


if __name__ == "__main__":
    main()
