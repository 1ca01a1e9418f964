"""Breaks one thing in the library at a time, and looks whether a test sees it.

    python -m tests.benchmarks.mutants [--count 150 | --all] [--seed 0] [--jobs 2] [--only optimizers/group_rates.py]

Of each module below a like number of places is drawn, or all are taken: a comparison is turned round, a sum made a
difference, a number moved by one, a condition negated, a call of a method left out; decorators stay as they are. Each
runs the tests named with its module, until the first that fails, in a process that is forked with TensorFlow imported
and imports the changed module in place of the file: nothing is written. Prints the survivors, for a person to look at:
some change nothing that anybody could see. Needs a system that can fork.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 120  # seconds that the tests of one change may take: a loop without end is seen too
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
    "recipe/stages.py": ["recipe/test_train.py", "recipe/test_plan.py"],
    "recipe/head.py": ["recipe/test_head.py", "recipe/test_train.py", "cli/test_go_on.py"],
    "recipe/whole_network.py": ["recipe/test_train.py", "recipe/test_options.py", "recipe/test_eight_steps.py"],
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


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self._name = "keras_sgdr." + module.removesuffix(".py").replace("/", ".")
        self._path = str(ROOT / "keras_sgdr" / module)
        self._tree = tree

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        is_it = fullname == self._name
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self) if is_it else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leaves it to Python."""

    def exec_module(self, module: types.ModuleType) -> None:
        exec(compile(self._tree, self._path, "exec"), module.__dict__)


def started(module: str, tree: ast.Module) -> int:
    """Starts the tests of a module that is changed so, in a process of its own, and returns its number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    signal.alarm(LONGEST)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sys.meta_path.insert(0, _Changed(module, tree))
    names = [str(ROOT / "tests" / name) for name in TESTS[module]]
    os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *names]))


def drawn(arguments: argparse.Namespace) -> Iterator[tuple[str, int, str, ast.Module]]:
    """Yields the changes to try: the module, the line, what was there, and the changed tree."""
    draw, only = random.Random(arguments.seed), arguments.only
    for index, module in enumerate(only):
        every = list(mutants(ast.parse((ROOT / "keras_sgdr" / module).read_text(encoding="utf-8"))))
        share = arguments.count * (index + 1) // len(only) - arguments.count * index // len(only)
        for each in every if arguments.all else draw.sample(every, min(share, len(every))):
            yield module, *each


def main() -> None:
    """Draws, breaks, tests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=list(TESTS))
    arguments = parser.parse_args()
    import keras_cv.layers  # noqa: F401  what takes long to import, and is not looked at, once for all
    import matplotlib.pyplot  # noqa: F401

    running: dict[int, str] = {}
    survivors, done = [], 0

    def wait_for_one() -> None:
        nonlocal done
        process, status = os.wait()
        what, done = running.pop(process), done + 1
        if status == 0:
            survivors.append(what)
        print(f"{done:>4} {'survived' if status == 0 else 'killed  '} {what}", flush=True)

    for module, line, before, tree in drawn(arguments):
        if len(running) == arguments.jobs:
            wait_for_one()
        running[started(module, tree)] = f"{module}:{line}: {before}"
    while running:
        wait_for_one()
    print(f"{done - len(survivors)} of {done} killed; survivors:", *survivors, sep="\n")


if __name__ == "__main__":
    main()
