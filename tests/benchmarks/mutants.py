"""Breaks one thing in the library at a time, and looks whether a test sees it.

    python -m tests.benchmarks.mutants [--count 150 | --all] [--seed 0] [--jobs 2] [--only optimizers/group_rates.py]

Of each module below a like number of places is drawn, or all are taken: a comparison is turned round, a sum made a
difference, a number moved by one, a condition negated, a call of a method left out; decorators stay as they are. Each
runs the tests named with its module, until the first that fails, in a process that is forked with TensorFlow imported
and imports the changed module in place of the library's. First the tests must pass with nothing changed; those that
take several times as long as that have met a loop without end, and are stopped. Prints the survivors, for a person to
look at: some change nothing that anybody could see. Needs a system that can fork.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = {
    "schedules/cosine_cycles.py": [
        "schedules/test_cosine_cycles.py",
        "schedules/test_sgdr_scheduler.py",
        "schedules/test_momentum.py",
    ],
    "schedules/one_cycle.py": ["schedules/test_one_cycle.py"],
    "lr_finder/suggestions.py": [
        "lr_finder/test_suggestions.py",
        "lr_finder/test_lr_curve.py",
        "recipe/test_rate_choice.py",
    ],
    "lr_finder/lr_curve.py": ["lr_finder/test_lr_curve.py"],
    "optimizers/group_rates.py": ["optimizers/test_group_rates.py", "optimizers/test_differential_lr.py"],
    "evaluation/tta.py": ["evaluation/test_tta.py", "evaluation/test_tta_layer.py"],
    "recipe/stages.py": ["recipe/test_stages.py", "recipe/test_plan.py", "recipe/test_train.py"],
    "recipe/head.py": ["recipe/test_head.py", "recipe/test_stages.py", "recipe/test_train.py", "cli/test_go_on.py"],
    "recipe/whole_network.py": [
        "recipe/test_whole_network.py",
        "recipe/test_options.py",
        "recipe/test_train.py",
        "recipe/test_eight_steps.py",
    ],
    "recipe/candidates.py": ["recipe/test_candidates.py"],
    "recipe/plan.py": ["recipe/test_plan.py"],
    "recipe/rate_choice.py": ["recipe/test_rate_choice.py"],
    "serving/savedmodel.py": ["serving/test_savedmodel.py", "serving/test_signatures.py"],
    "serving/signatures.py": ["serving/test_signatures.py"],
}
TURNED = {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
TURNED |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
TURNED |= {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or, ast.Or: ast.And}


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Yields the line, what was done there, and the changed tree."""
    decorators = [each for node in ast.walk(tree) for each in getattr(node, "decorator_list", [])]
    left_out = {id(node) for decorator in decorators for node in ast.walk(decorator)}
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in left_out:
            continue
        changed = copy.deepcopy(tree)
        twin = list(ast.walk(changed))[number]
        before = ast.unparse(node) if isinstance(node, ast.expr) else ""
        if isinstance(twin, ast.Compare) and type(twin.ops[0]) in TURNED:
            twin.ops[0] = TURNED[type(twin.ops[0])]()
        elif isinstance(twin, (ast.BinOp, ast.BoolOp)) and type(twin.op) in TURNED:
            twin.op = TURNED[type(twin.op)]()
        elif isinstance(twin, ast.Constant) and type(twin.value) in (int, float):
            twin.value += 1
        elif isinstance(twin, ast.Constant) and isinstance(twin.value, bool):
            twin.value = not twin.value
        elif isinstance(twin, (ast.If, ast.IfExp)):
            before, twin.test = ast.unparse(twin.test), ast.UnaryOp(ast.Not(), twin.test)
        elif isinstance(twin, ast.Expr) and isinstance(twin.value, ast.Call):
            before, twin.value = ast.unparse(twin), ast.Constant(None)
        else:
            continue
        yield getattr(node, "lineno", 0), before, ast.fix_missing_locations(changed)


class _Changed(importlib.abc.MetaPathFinder):
    """Imports one module of the library from another file."""

    def __init__(self, module: str, path: Path) -> None:
        self._name, self._path = "keras_sgdr." + module.removesuffix(".py").replace("/", "."), path

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(fullname, self._path) if fullname == self._name else None


def started(module: str, tree: ast.Module, directory: Path, *, seconds: int) -> int:
    """Starts the tests of a module that is changed so, in a process of its own, and returns its number.

    All that they write lies in `directory`; after so many seconds a signal ends them.
    """
    names = [str(ROOT / "tests" / name) for name in TESTS[module]]
    directory.mkdir()
    changed = directory / Path(module).name
    changed.write_text(ast.unparse(tree), encoding="utf-8")
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    signal.alarm(seconds)
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sys.meta_path.insert(0, _Changed(module, changed))
    os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *names]))


def seconds_unchanged(module: str, directory: Path) -> float:
    """Returns how long the tests of a module take with nothing changed, when they must pass."""
    begun = time.monotonic()
    tree = ast.parse((ROOT / "keras_sgdr" / module).read_text(encoding="utf-8"))
    _, status = os.waitpid(started(module, tree, directory, seconds=3600), 0)
    if status:
        sys.exit(f"The tests of {module} fail with nothing changed.")
    return time.monotonic() - begun


def drawn(module: str, share: int | None, draw: random.Random) -> list[tuple[int, str, ast.Module]]:
    """Returns the changes of a module to try, all of them or a share: the line, what was there, the changed tree."""
    every = list(mutants(ast.parse((ROOT / "keras_sgdr" / module).read_text(encoding="utf-8"))))
    return every if share is None else draw.sample(every, min(share, len(every)))


def main() -> None:
    """Draws, breaks, tests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(TESTS), default=list(TESTS))
    arguments = parser.parse_args()
    # As the tests have them, which set them too late for what is imported here once for all
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "1", "MPLBACKEND": "Agg"}
    import keras_cv.layers  # noqa: F401
    import matplotlib.pyplot  # noqa: F401

    draw, scratch = random.Random(arguments.seed), Path(tempfile.mkdtemp(prefix="mutants-"))
    running: dict[int, tuple[str, Path]] = {}
    survivors, done = [], 0

    def wait_for_one() -> None:
        nonlocal done
        process, status = os.wait()
        (what, directory), done = running.pop(process), done + 1
        shutil.rmtree(directory, ignore_errors=True)
        if status == 0:
            survivors.append(what)
        end = "survived" if status == 0 else "too long" if os.WIFSIGNALED(status) else "killed"
        print(f"{done:>4} {end:<8} {what}", flush=True)

    count, only = arguments.count, arguments.only
    try:
        for index, module in enumerate(only):
            while running:
                wait_for_one()
            seconds = seconds_unchanged(module, scratch / f"unchanged-{index}")
            share = None if arguments.all else count * (index + 1) // len(only) - count * index // len(only)
            for number, (line, before, tree) in enumerate(drawn(module, share, draw)):
                if len(running) == arguments.jobs:
                    wait_for_one()
                directory = scratch / f"{index}-{number}"
                process = started(module, tree, directory, seconds=30 + 4 * int(seconds))
                running[process] = f"{module}:{line}: {before}", directory
        while running:
            wait_for_one()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{done - len(survivors)} of {done} killed; survivors:", *survivors, sep="\n")


if __name__ == "__main__":
    main()
