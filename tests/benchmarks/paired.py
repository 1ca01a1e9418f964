"""Times of several ways to do one thing, in small blocks by turns, so that a neighbour's load falls on all alike."""

import random
import time
from collections.abc import Callable, Mapping

import numpy as np


def paired_times(ways: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, np.ndarray]:
    """Runs every way once a round, in random order, after one round that is not counted.

    Returns:
        For each way seconds on the wall and of this process's CPU, shape `(rounds, 2)`.
    """
    order, shuffled = list(ways), random.Random(0)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        shuffled.shuffle(order)
        for name in order:
            wall, processor = time.perf_counter(), time.process_time()
            ways[name]()
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: np.array(seconds) for name, seconds in times.items()}


def print_ratios(title: str, times: Mapping[str, np.ndarray], *, steps: int) -> None:
    """Prints each way's time over the first one's of the same round: the median, and the quartiles in brackets."""
    first, base = next(iter(times.items()))
    wall, processor = np.median(base, axis=0) / steps * 1e3
    rounds = len(base)
    print(f"\n{title}: {wall:.2f} ms a step ({processor:.2f} ms of CPU) with {first}; {rounds} rounds of {steps} steps")
    print(f"  {'':32} {'wall':>22}   {'CPU':>22}")
    for name, seconds in times.items():
        low, median, high = np.quantile(seconds / base, [0.25, 0.5, 0.75], axis=0)
        cells = [f"{m:6.3f} ({a:.3f} to {b:.3f})" for a, m, b in zip(low, median, high, strict=True)]
        print(f"  {name:32} {cells[0]:>22}   {cells[1]:>22}", flush=True)
