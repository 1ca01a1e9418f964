"""Breaks one thing in a copy of the library at a time, and looks whether a test sees it.

    python -m tests.benchmarks.mutants [--count 150] [--seed 0] [--only optimizers/group_rates.py]

Of each module below a like number of places is drawn: a comparison is turned round, a sum made a difference, a number
moved by one, a condition negated, a call of a method left out. Each runs the tests named with its module, until the
first that fails. Prints the survivors, for a person to look at: some change nothing that anybody could see.
"""

from __future__ import annotations

import argparse
import ast
import copy
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
    for number, node in enumerate(ast.walk(tree)):
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


def main() -> None:
    """Draws, breaks, tests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(TESTS))
    arguments = parser.parse_args()
    draw, survivors, done = random.Random(arguments.seed), [], 0
    with tempfile.TemporaryDirectory() as directory:
        copied = Path(directory) / "copy"
        shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns(".git", "__pycache__"))
        for index, module in enumerate(arguments.only):
            path = copied / "keras_sgdr" / module
            source = path.read_text(encoding="utf-8")
            every = list(mutants(ast.parse(source)))
            share = arguments.count * (index + 1) // len(arguments.only) - arguments.count * index // len(
                arguments.only
            )
            for line, before, tree in draw.sample(every, min(share, len(every))):
                path.write_text(ast.unparse(tree), encoding="utf-8")
                command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
                command += [f"tests/{name}" for name in TESTS[module]]
                try:
                    code = subprocess.run(command, cwd=copied, capture_output=True, timeout=600).returncode
                except subprocess.TimeoutExpired:
                    code = 1
                done += 1
                if code == 0:
                    survivors.append(f"{module}:{line}: {before}")
                print(f"{done:>4} {'survived' if code == 0 else 'killed  '} {module}:{line}: {before}", flush=True)
            path.write_text(source, encoding="utf-8")
    print(f"{done - len(survivors)} of {done} killed; survivors:", *survivors, sep="\n")


if __name__ == "__main__":
    main()
