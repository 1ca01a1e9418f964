"""What test-time augmentation costs over as many plain predictions as it has views: by turns, in the same process.

Run `python -m tests.benchmarks.tta`; it takes two minutes. The peers: tta_wrapper (Keras) puts all views of a batch
through the network together, which `all views at once` does here; ttach (PyTorch) one after the other, without a
compiled graph, and is timed beside a network of PyTorch's own if both are installed. Resident memory is the highest of
a process that does nothing else.
"""

import argparse
import importlib.util
import resource
import subprocess
import sys

import keras
import numpy as np

from keras_sgdr import TTA, build_classifier
from keras_sgdr.evaluation.tta import predict_tta
from tests.benchmarks.paired import paired_times

VIEWS = ["flip", "zooms"]
SIZE, IMAGES, BATCH = 96, 256, 32


def network(weights=None):
    keras.utils.set_random_seed(0)
    return build_classifier(10, weights=weights, image_size=SIZE)


def images():
    return np.random.default_rng(0).integers(0, 256, (IMAGES, SIZE, SIZE, 3)).astype("float32")


def as_layer(model):
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), TTA(model, VIEWS)])


def all_at_once(model):
    """As tta_wrapper does it: one batch with every view of every image."""
    views = TTA(model, VIEWS)._views
    inputs = keras.Input((SIZE, SIZE, 3))
    stacked = keras.layers.Lambda(lambda x: keras.ops.concatenate([view(x) for view in views]))(inputs)
    rows = model(stacked)
    split = keras.layers.Lambda(lambda y: keras.ops.mean(keras.ops.reshape(y, (len(views), -1, 10)), axis=0))
    return keras.Model(inputs, split(rows))


WAYS = {"layer": as_layer, "all views at once": all_at_once, "plain": lambda model: model}


def ttach_ratio(rounds):
    """ttach's time over views times plain, on a small network of PyTorch."""
    import torch
    import ttach

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 32, 3, 2), torch.nn.ReLU()]
    for _ in range(6):
        layers += [torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10))
    transforms = ttach.Compose([ttach.HorizontalFlip(), ttach.Scale([1, 1.1, 1.2])])
    wrapped = ttach.ClassificationTTAWrapper(net.eval(), transforms)
    batches = torch.split(torch.from_numpy(images()).permute(0, 3, 1, 2), BATCH)
    with torch.no_grad():
        ways = {"plain": lambda: [net(x) for x in batches], "ttach": lambda: [wrapped(x) for x in batches]}
        return paired_times(ways, rounds=rounds), 6


def report(name, times, num_views):
    ratios = times[name] / times["plain"] / num_views
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    print(f"{name:24} {median[0]:.3f} ({low[0]:.3f} to {high[0]:.3f}); CPU {median[1]:.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        WAYS[arguments.memory](network()).predict(images(), batch_size=BATCH, verbose=0)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    model, data = network(), images()
    layer, together = as_layer(model), all_at_once(model)
    num_views = layer.layers[-1].num_views
    ways = {
        "plain": lambda: model.predict(data, batch_size=BATCH, verbose=0),
        "layer": lambda: layer.predict(data, batch_size=BATCH, verbose=0),
        "all views at once": lambda: together.predict(data, batch_size=BATCH, verbose=0),
        "predict_tta, 5 corners": lambda: predict_tta(model, data, num_views=5, verbose=0),
    }
    times = paired_times(ways, rounds=arguments.rounds)
    print(f"Time over {num_views} plain predictions of EfficientNet-Lite0 at {SIZE} px. Aim: 1.05.")
    for name in list(ways)[1:]:
        report(name, times, num_views)
    if importlib.util.find_spec("ttach") and importlib.util.find_spec("torch"):
        report("ttach", *ttach_ratio(arguments.rounds))
    for name in WAYS:
        command = [sys.executable, "-m", "tests.benchmarks.tta", "--memory", name]
        megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        print(f"memory, {name}: {megabytes} MiB")


if __name__ == "__main__":
    main()
