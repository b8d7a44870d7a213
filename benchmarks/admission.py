"""How much of the possible value each way of admitting calls reaches when there are too many, as JSON.

    python benchmarks/admission.py [--windows 20] [--seed 0] [--json -]

Callers of four priorities ask for two to five times what a limit allows, in windows that slide. `bound` is the value of the
linear program over windows that do not slide, so no way of admitting can reach it: whatever keeps to a sliding limit keeps to
a fixed one too. `exact` is the integer program over the same windows; `first` lets in whoever comes while there is room; `pfar`
asks junctor.tenancy.admission first. Each is a share of the bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from junctor.tenancy.admission import VALUES, WINDOW_S, Admission, bound, exact


class World(NamedTuple):
    """Calls in the order of their arrival: Unix seconds, priorities, loads, and the capacity of a window."""

    at: np.ndarray
    priority: np.ndarray
    load: np.ndarray
    capacity: np.ndarray


def world(name: str, windows: int, seed: int) -> World:
    """One kind of traffic: which resource is short, and how demand moves."""
    rng = np.random.default_rng(seed)
    capacity = np.array(
        {"requests": (300, 9e9, 9e9), "tokens": (9e9, 3e5, 9e9), "money": (9e9, 9e9, 3.0)}.get(name, (300, 3e5, 3.0))
    )
    rate = 4.0 if name == "crowd" else 2.0
    at, priority = [], []
    for second in range(int(windows * WINDOW_S)):
        swing = 1 + 0.8 * np.sin(2 * np.pi * second / 400) if name == "tide" else 1.0
        count = rng.poisson(rate * 5 * swing)
        burst = name == "bursts" and second % 90 < 10
        chances = (0.5, 0.2, 0.2, 0.1) if burst else (0.1, 0.2, 0.3, 0.4)
        at += [second + x for x in np.sort(rng.random(count))]
        priority += list(rng.choice(4, count, p=chances))
    tokens = rng.lognormal(6.5, 0.8, len(at))
    money = tokens * rng.choice([2e-6, 1e-5, 3e-5], len(at))
    return World(np.array(at), np.array(priority), np.column_stack([np.ones(len(at)), tokens, money]), capacity)


def run(w: World, admit: Callable[[int, tuple[float, ...], float, float], bool]) -> tuple[float, float]:
    """The value that was let in through a sliding window, and µs per decision."""
    inside: deque[tuple[float, np.ndarray]] = deque()
    used, worth, spent = np.zeros(3), 0.0, 0
    for at, priority, load in zip(w.at.tolist(), w.priority.tolist(), w.load, strict=True):
        while inside and inside[0][0] <= at - WINDOW_S:
            used -= inside.popleft()[1]
        free = float(np.min(1 - used / w.capacity))
        started = time.perf_counter_ns()
        wanted = admit(priority, tuple(load.tolist()), at, free)
        spent += time.perf_counter_ns() - started
        if wanted and bool((used + load <= w.capacity).all()):
            inside.append((at, load))
            used += load
            worth += VALUES[priority]
    return worth, spent / 1e3 / max(1, len(w.at))


def offline(w: World, solve: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """The value over windows that do not slide, each solved with everything known."""
    total = 0.0
    for window in range(int(w.at[-1] // WINDOW_S) + 1):
        here = (w.at >= window * WINDOW_S) & (w.at < (window + 1) * WINDOW_S)
        total += solve(np.array(VALUES)[w.priority[here]], w.load[here] / w.capacity)
    return total


def measure(name: str, windows: int, seed: int) -> dict[str, float]:
    """The shares of the bound."""
    w = world(name, windows, seed)
    most = offline(w, bound)
    pfar, micros = run(w, Admission(w.capacity.tolist()).admit)
    first, _ = run(w, lambda *_: True)
    asked = float((w.load.sum(axis=0) / w.capacity).max() / windows)
    return {
        "calls": len(w.at),
        "asked_of_capacity": round(asked, 2),
        "exact": round(offline(w, exact) / most, 4),
        "pfar": round(pfar / most, 4),
        "first": round(first / most, 4),
        "pfar_us": round(micros, 2),
    }


KINDS = ("requests", "tokens", "money", "all", "crowd", "tide", "bursts")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="-")
    asked = parser.parse_args()
    found: dict[str, Any] = {name: measure(name, asked.windows, asked.seed) for name in KINDS}
    text = json.dumps(found, indent=2) + "\n"
    if asked.json == "-":
        sys.stdout.write(text)
    else:
        with open(asked.json, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)


if __name__ == "__main__":
    main()
