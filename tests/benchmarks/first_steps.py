"""What steps 1 to 4 cost, beside the same steps with the frozen network in every batch: processor seconds.

    python -m tests.benchmarks.first_steps FOLDER [--image-size 96] [--rounds 3]

Live, step 2 has its 100 batches, step 3 two epochs of the plain images, and step 4 three of augmented ones, the most
that the course takes, each with its validation; images are kept decoded in memory, as a run keeps them. Each is a
process of its own, one after the other, and what comes before the first step, importing and making the network, is not
counted. "Kept" is a second run that finds the activations of the first one in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keras_sgdr import Recipe, train_image_classifier

STEPS = ("find_head_rate", "train_head", "train_head_augmented")


class _EnoughError(Exception):
    """Step 4 is done."""


def ours(folder: str, image_size: int) -> tuple[float, float]:
    """Returns the processor seconds of steps 1 to 4, as a run counts them, and the accuracy of step 4's head."""

    def end_after_step_4(event: dict[str, object]) -> None:
        if event["event"] == "stage" and event["name"] == STEPS[-1]:
            raise _EnoughError

    with tempfile.TemporaryDirectory() as output:
        try:
            recipe = Recipe(image_size=image_size)
            train_image_classifier(folder, output=output, recipe=recipe, on_event=end_after_step_4, verbose=0)
        except _EnoughError:
            stages = json.loads((Path(output) / "run.json").read_text(encoding="utf-8"))["stages"]
        accuracies = [row["val_accuracy"] for name in STEPS for row in stages[name].get("history", [])]
    return sum(stages[name]["cpu_seconds"] for name in STEPS), accuracies[-1]


def live(folder: str, image_size: int) -> tuple[float, float]:
    """The same, with the frozen network in every batch."""
    import keras

    from keras_sgdr import SGDRScheduler, freeze_to, lr_find
    from keras_sgdr.recipe.builders import compile_head, image_cache, make_dataset, make_model, make_training_data
    from keras_sgdr.recipe.head import HEAD_RATE, SUGGESTION
    from keras_sgdr.recipe.images import index_for

    recipe = Recipe(image_size=image_size)
    index = index_for(folder, recipe)
    keras.utils.set_random_seed(recipe.seed)
    model = make_model(recipe, len(index.class_names), recipe.weights)
    begun = time.process_time()
    freeze_to(model, -1)
    compile_head(model)
    kept = {"cache": image_cache(recipe.image_cache), "verbose": 0}
    plain = make_dataset(recipe, index.train, shuffle=True, **kept).repeat()
    valid = make_dataset(recipe, index.valid, **kept)
    try:
        rate = lr_find(model, plain, verbose=0).suggest(SUGGESTION)
    except ValueError:
        rate = HEAD_RATE
    for data, epochs in ((plain, 2), (make_training_data(recipe, index.train, **kept).repeat(), 3)):
        log = model.fit(
            data,
            validation_data=valid.repeat(),
            steps_per_epoch=-(-len(index.train) // recipe.batch_size),
            validation_steps=valid.num_steps,
            epochs=epochs,
            callbacks=[SGDRScheduler(rate, cycle_len=1, n_cycles=epochs)],
            shuffle=False,
            verbose=0,
        ).history
    return time.process_time() - begun, log["val_accuracy"][-1]


def main() -> None:
    """Runs all by turns, each in a process, and prints the ratios of each round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["ours", "live"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        seconds, accuracy = {"ours": ours, "live": live}[arguments.side](arguments.folder, arguments.image_size)
        print(f"{seconds} {accuracy}")
        return
    ratios: dict[str, list[float]] = {"new views": [], "kept": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            took = {}
            for name, side in (("live", "live"), ("new views", "ours"), ("kept", "ours")):
                command = [sys.executable, "-m", "tests.benchmarks.first_steps", arguments.folder, "--side", side]
                command += ["--image-size", str(arguments.image_size)]
                done = subprocess.run(
                    command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"KERAS_SGDR_CACHE": cache}
                )
                took[name], accuracy = map(float, done.stdout.split()[-2:])
                print(f"{name:<10} {took[name]:6.1f} s of processor, accuracy {accuracy:.4f}", flush=True)
            for name, each in ratios.items():
                each.append(took[name] / took["live"])
    for name, each in ratios.items():
        print(f"{name} / live: {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})")


if __name__ == "__main__":
    main()
