"""Measures the one command against plain Keras, on many folders.

    python -m tests.benchmarks.recipe --data DIR --work DIR [--seeds 3] [--conditions NAME ...] [--jobs 2]
    python -m tests.benchmarks.recipe --data DIR --work DIR --ablation [--conditions NAME ...]
    python -m tests.benchmarks.recipe --data DIR --work DIR --options [--conditions NAME ...]
    python -m tests.benchmarks.recipe --work DIR --table

`--data` holds `sign_digits/` and `flowers/`, each with `train/CLASS` and `valid/CLASS`. Plain Keras has the same
backbone, images, augmentation, batches and dropout: two epochs of the head at 1e-3, then everything with batch norms
frozen and as many epochs as the one command took, AdamW, cosine to zero, at four rates. Its best rate is chosen for
each condition afterwards, by the mean over the seeds; after the first seed, rates more than .02 below the best one
are left out. `--ablation` runs the one command with one thing changed in step 8, of the same number of epochs, and
`--options` with one option more. Each training is a process of its own, on one processor. What is done is kept in
`runs.jsonl`, and a second call goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from tests.benchmarks.recipe_conditions import CONDITIONS, Condition

RATES = (3e-5, 1e-4, 3e-4, 1e-3)
HOPELESS = 0.02
ABLATIONS = ("one rate for all groups", "cycles of 1, 2 and 4 parts", "batch norms trained")
# Of the command line, as settings of the recipe
OPTIONS: dict[str, dict[str, Any]] = {
    "sizes 48,64": {"sizes": (48, 64)},
    "class-weight balanced": {"class_weight": "balanced"},
    "oversample": {"oversample": True},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 1": {"cutmix": 1.0},
    "label-smoothing 0.1": {"label_smoothing": 0.1},
    "ema 0.98": {"ema": 0.98},
    "accumulate 2": {"accumulate": 2},
    "n-cycles 2": {"n_cycles": 2},
}
BATCH_SIZE, DROPOUT, MAX_ZOOM = 32, 0.2, 1.1


def train_ours(
    condition: Condition, folder: Path, seed: int, output: Path, ablation: str | None = None
) -> dict[str, Any]:
    """The one command with its defaults, or with one thing changed in step 8."""
    from keras_sgdr.recipe import builders
    from keras_sgdr.recipe.candidates import Candidate
    from keras_sgdr.recipe.recipe import Recipe
    from keras_sgdr.recipe.run import Run
    from keras_sgdr.recipe.train import train_image_classifier

    looks: list[tuple[float, float]] = []
    look = Run.candidate

    def timed(self: Run, name: str) -> Candidate:
        found = look(self, name)
        looks.append((time.process_time(), found.accuracy))
        return found

    Run.candidate = timed  # type: ignore[method-assign]
    settings: dict[str, Any] = {"image_size": condition.image_size, "augmentation": condition.augmentation}
    settings |= {"backbone": condition.backbone, "resize": "squish", "seed": seed}
    settings |= OPTIONS.get(ablation or "", {})
    if "sizes" in settings:  # three quarters of the condition's own, and then that
        settings["sizes"] = (settings.pop("image_size") * 3 // 4, condition.image_size)
    if ablation == "one rate for all groups":
        settings |= {"group_factor": 1.0}
    elif ablation == "cycles of 1, 2 and 4 parts":
        epochs = read_runs(output.parents[1])[condition.name, "ours", seed]["epochs"]
        settings |= {"n_cycles": 3, "cycle_len": max(1, round(epochs / 7))}
    elif ablation == "batch norms trained":
        builders.unfreeze = functools.partial(builders.unfreeze, batch_norm="train")
    recipe = Recipe(**settings)
    result = train_image_classifier(folder, output=output, recipe=recipe, overwrite=True, verbose=0)
    stages = json.loads((output / "run.json").read_text())["stages"]
    heads = [row for row in result.history if row["stage"].startswith("head")]
    return {
        **scores(result.plain.probabilities, result.plain.labels),
        "tta": scores((result.tta if result.views else result.plain).probabilities, result.plain.labels),
        "head": min(heads, key=lambda row: row["val_loss"]),
        "epochs": sum(row["stage"].startswith("all") for row in result.history),
        "looks": looks,
        "rate": stages["find_rate"],
        "best": stages["train_all"]["best"],
        "verdict": stages["train_all"]["verdict"],
    }


def train_plain(condition: Condition, folder: Path, seed: int, rate: float, epochs: int) -> dict[str, Any]:
    """What a Keras user writes without us; our loader, so that the images are the same."""
    import keras

    from keras_sgdr import build_classifier, freeze_to, index_folder, load_dataset, unfreeze
    from keras_sgdr.augmentation import random_view

    keras.utils.set_random_seed(seed)
    index = index_folder(folder)
    shape = {"image_size": condition.image_size, "batch_size": BATCH_SIZE, "resize": "squish"}
    augmentation = getattr(random_view, condition.augmentation)(max_zoom=MAX_ZOOM)
    train = load_dataset(index.train, **shape, augmentation=augmentation, shuffle=True, seed=seed)
    valid = load_dataset(index.valid, **shape)
    model = build_classifier(
        len(index.class_names), backbone=condition.backbone, image_size=condition.image_size, dropout=DROPOUT
    )
    lengths = {"steps_per_epoch": len(train), "validation_steps": len(valid), "shuffle": False, "verbose": 0}

    def fit(optimizer: Any, epochs: int) -> None:
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(train.repeat(), validation_data=valid.repeat(), epochs=epochs, **lengths)

    freeze_to(model, -1)
    fit(keras.optimizers.AdamW(1e-3), 2)
    unfreeze(model)
    fit(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(rate, epochs * len(train))), epochs)
    return {**scores(model.predict(valid, verbose=0), index.valid.labels), "epochs": epochs}


def scores(probabilities: Any, labels: Any) -> dict[str, Any]:
    """Accuracy, log-loss, and which images were right."""
    of_label = np.clip(np.nan_to_num(probabilities)[np.arange(len(labels)), labels], 1e-7, 1)
    hits = np.argmax(np.nan_to_num(probabilities), axis=1) == labels
    return {
        "accuracy": float(hits.mean()),
        "loss": float(-np.log(of_label).mean()),
        "hits": "".join("01"[int(hit)] for hit in hits),
    }


def read_runs(work: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What is done, by condition, method ("ours" or a rate) and seed."""
    path = work / "runs.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return {(run["condition"], run["method"], run["seed"]): run for run in map(json.loads, lines)}


def chains(names: list[str], seeds: int) -> Iterator[tuple[Condition, int]]:
    """What is to be done, seed by seed, so that a call that is broken off has something of everything."""
    for seed in range(seeds):
        yield from ((condition, seed) for condition in CONDITIONS if condition.name in names)


def run_chain(condition: Condition, seed: int, arguments: argparse.Namespace, free: SimpleQueue[int]) -> None:
    """Ours, then plain Keras at each rate that has a chance, or ours with one thing changed, on a free processor."""
    processor = free.get()
    try:
        run_methods(condition, seed, arguments, processor)
    finally:
        free.put(processor)


def run_methods(condition: Condition, seed: int, arguments: argparse.Namespace, processor: int) -> None:
    """What a chain does."""
    key = (condition.name, seed)
    run_one(*key, "ours", arguments, processor)
    if arguments.ablation or arguments.options:
        for method in ABLATIONS if arguments.ablation else OPTIONS:
            run_one(*key, method, arguments, processor)
        return
    for rate in RATES:
        done = read_runs(arguments.work)
        first = {r: done[condition.name, str(r), 0]["accuracy"] for r in RATES if (condition.name, str(r), 0) in done}
        if seed == 0 or first.get(rate, 0) >= max(first.values(), default=0) - HOPELESS:
            run_one(*key, str(rate), arguments, processor)


def run_one(name: str, seed: int, method: str, arguments: argparse.Namespace, processor: int) -> None:
    """One training in a process of its own, unless it is done, with as many epochs as ours."""
    done = read_runs(arguments.work)
    is_plain = method in map(str, RATES)
    if _is_comparable(done, name, float(method), seed) if is_plain else (name, method, seed) in done:
        return
    command = [sys.executable, "-m", "tests.benchmarks.recipe", "--data", arguments.data, "--work", arguments.work]
    command += ["--one", name, method, str(seed)]
    pin = ["taskset", "-c", str(processor)] if shutil.which("taskset") and arguments.jobs > 1 else []
    environment = os.environ | {"KERAS_SGDR_CACHE": "off", "TF_NUM_INTRAOP_THREADS": "1" if arguments.jobs > 1 else "0"}
    ended = subprocess.run([*pin, *map(str, command)], env=environment, capture_output=True, text=True)
    if ended.returncode:
        print(f"{name}, {method}, seed {seed} failed:\n{ended.stderr[-3000:]}", flush=True)
    else:
        print(ended.stdout.strip().splitlines()[-1], flush=True)


def train_one(name: str, method: str, seed: int, data: Path, work: Path) -> None:
    """What such a process does."""
    condition = next(each for each in CONDITIONS if each.name == name)
    folder = condition.folder(data, work)
    if method == "ours":
        result = train_ours(condition, folder, seed, work / "runs" / f"{name}-{seed}")
    elif method in (*ABLATIONS, *OPTIONS):
        result = train_ours(condition, folder, seed, work / "runs" / f"{name}-{seed}-ablation", method)
    else:
        epochs = read_runs(work)[name, "ours", seed]["epochs"]
        result = train_plain(condition, folder, seed, float(method), epochs)
    result = {"condition": name, "method": method, "seed": seed, "cpu_seconds": time.process_time(), **result}
    with (work / "runs.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(f"{name}, {method}, seed {seed}: accuracy {result['accuracy']:.4f}, loss {result['loss']:.4f}")


def print_table(work: Path) -> None:
    """One line for each condition: ours, plain Keras at its best rate, and their difference."""
    runs = read_runs(work)
    print("| folder | seeds | head | ours (TTA) | plain, best rate | difference ± 2 SE | loss | CPU | to accuracy |")
    print("|---|---|---|---|---|---|---|---|---|")
    differences = []
    for condition in CONDITIONS:
        seeds = sorted(
            seed
            for name, method, seed in runs
            if (name, method) == (condition.name, "ours")
            and any(_is_comparable(runs, condition.name, rate, seed) for rate in RATES)
        )
        means = {
            rate: np.mean([runs[condition.name, str(rate), seed]["accuracy"] for seed in seeds])
            for rate in RATES
            if all(_is_comparable(runs, condition.name, rate, seed) for seed in seeds)
        }
        if not means or not seeds:
            continue
        best = max(means, key=lambda rate: means[rate])
        ours = [runs[condition.name, "ours", seed] for seed in seeds]
        plain = [runs[condition.name, str(best), seed] for seed in seeds]
        paired = np.mean([_hits(a) - _hits(b) for a, b in zip(ours, plain, strict=True)], axis=0)
        differences.append(paired.mean())
        accuracies = [run["accuracy"] for run in ours]
        print(
            f"| {condition.name} ({condition.what}) | {len(seeds)} "
            f"| {np.mean([run['head']['val_accuracy'] for run in ours]):.3f} "
            f"| {np.mean(accuracies):.3f} ({np.mean([run['tta']['accuracy'] for run in ours]):.3f}), "
            f"{min(accuracies):.3f} to {max(accuracies):.3f} "
            f"| {means[best]:.3f} at {best:g}, {min(r['accuracy'] for r in plain):.3f} to "
            f"{max(r['accuracy'] for r in plain):.3f} "
            f"| {paired.mean():+.3f} ± {2 * paired.std() / np.sqrt(len(paired)):.3f} "
            f"| {np.mean([r['loss'] for r in ours]):.3f}, {np.mean([r['loss'] for r in plain]):.3f} "
            f"| {_ratio(ours, plain, 'cpu_seconds'):.2f} | {_time_to_accuracy(ours, plain)} |"
        )
    if differences:
        print(
            f"\nmean difference {np.mean(differences):+.4f}, worst {min(differences):+.4f}, {len(differences)} folders"
        )


def print_ablation(work: Path) -> None:
    """With one thing changed, and less the defaults, for each folder where it was measured."""
    runs = read_runs(work)
    print("\n| changed | folder | seeds | accuracy | difference ± 2 SE | with TTA | loss | CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for method in (*ABLATIONS, *OPTIONS):
        pairs = [(name, run, runs[name, "ours", seed]) for (name, of, seed), run in runs.items() if of == method]
        for name in sorted({name for name, _, _ in pairs}):
            changed, ours = zip(*((one, other) for each, one, other in pairs if each == name), strict=True)
            paired = np.mean([_hits(one) - _hits(other) for one, other in zip(changed, ours, strict=True)], axis=0)
            accuracy, tta, loss = (
                [np.mean([of(run) for run in runs_of]) for runs_of in (changed, ours)]
                for of in (lambda run: run["accuracy"], lambda run: run["tta"]["accuracy"], lambda run: run["loss"])
            )
            print(
                f"| {method} | {name} | {len(ours)} | {accuracy[0]:.3f} "
                f"| {paired.mean():+.3f} ± {2 * paired.std() / np.sqrt(len(paired)):.3f} "
                f"| {tta[0]:.3f}, {tta[0] - tta[1]:+.3f} | {loss[0]:.3f}, {loss[0] - loss[1]:+.3f} "
                f"| {_ratio(list(changed), list(ours), 'cpu_seconds'):.2f} |"
            )


def _is_comparable(runs: dict[tuple[str, str, int], Any], name: str, rate: float, seed: int) -> bool:
    """Whether plain Keras was trained at a rate, for as many epochs as ours."""
    plain = runs.get((name, str(rate), seed))
    return plain is not None and plain["epochs"] == runs[name, "ours", seed]["epochs"]


def _hits(run: dict[str, Any]) -> Any:
    return np.array([int(hit) for hit in run["hits"]])


def _ratio(ours: list[Any], plain: list[Any], name: str) -> float:
    return float(np.mean([run[name] for run in ours]) / np.mean([run[name] for run in plain]))


def _time_to_accuracy(ours: list[Any], plain: list[Any]) -> str:
    """CPU seconds until ours has plain Keras's last accuracy, over all of plain Keras's; "-" where it never has."""
    shares = []
    for mine, theirs in zip(ours, plain, strict=True):
        reached = [seconds for seconds, accuracy in mine["looks"] if accuracy >= theirs["accuracy"]]
        shares.append(f"{reached[0] / theirs['cpu_seconds']:.2f}" if reached else "-")
    return ", ".join(shares)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--conditions", nargs="+", default=[condition.name for condition in CONDITIONS])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--options", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    (arguments.work / "folders").mkdir(parents=True, exist_ok=True)
    if arguments.one:
        name, method, seed = arguments.one
        train_one(name, method, int(seed), arguments.data, arguments.work)
        return
    if not arguments.table:
        free: SimpleQueue[int] = SimpleQueue()
        for processor in range(arguments.jobs):
            free.put(processor)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [
                pool.submit(run_chain, condition, seed, arguments, free)
                for condition, seed in chains(arguments.conditions, arguments.seeds)
            ]
            for job in jobs:
                job.result()
    print_table(arguments.work)
    print_ablation(arguments.work)


if __name__ == "__main__":
    main()
