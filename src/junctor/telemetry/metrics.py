"""What happened, counted: once at the end of every run, a few additions into memory that all workers' figures are summed from.

    metrics = Metrics(folder, worker_id)
    engine.listen(metrics)                 # every run that was decided
    metrics.refused("rate_limit_exceeded") # every call that was turned away before

Labels are bounded: aliases, targets and error codes by the configuration and by errors.py, tenants by `MOST_TENANTS`; those
beyond share the tenant "other".
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from junctor.engine import Engine
from junctor.engine.engine import GIVEN
from junctor.engine.hedging import HEDGE, LOST
from junctor.engine.run import Run
from junctor.journal import OutcomeRecord
from junctor.telemetry.slots import CAPACITY, Key, Slots, Workers, summed

MOST_TENANTS = 64
OTHER = "other"
TICK_S = 2.0
TOUCH_EVERY = 1800
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
DECISION_S = (25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25)
# A histogram's numbers: one per bucket, one for what is over the last, their sum.
LATENCY_WIDTH = len(LATENCY_S) + 2
DECISION_WIDTH = len(DECISION_S) + 2
CALL_WIDTH = 4
STATES = ("closed", "half-open", "open", "ejected")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
Gauges = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Metrics:
    """Counts. Call it from one event loop.

    folder     where the workers of one gateway keep their figures; None: this is the only worker
    worker_id  stays the same when a worker is restarted, so that it goes on counting where it was
    """

    def __init__(self, folder: Path | None = None, worker_id: int | str = 0) -> None:
        self.slots = Slots(folder, str(worker_id))
        self.workers = Workers(self.slots)
        self._values = self.slots.values
        self._series: dict[tuple[str, str, str, str], tuple[int, int, int]] = {}
        self._tenants: dict[str, str] = {"": ""}
        self._engine: Engine | None = None
        self._sources: list[Gauges] = []
        self._closed = False
        self._cpu_seen_s: float | None = None
        self._cpu_at = self._place("cpu", (), 1)
        self.slots.clear("gauge")
        self.history = History()

    def attach(self, engine: Engine) -> None:
        """Listen to an engine; a later one takes its place in what is said of health."""
        self._engine = engine
        engine.listen(self)

    def watch(self, gauges: Gauges) -> None:
        """Ask this for (name, labels …) and a number, every two seconds and when the figures are read."""
        self._sources.append(gauges)

    def __call__(self, run: Run, record: OutcomeRecord) -> None:
        """The end of a run."""
        books: Any = run.books
        alias = books.alias_of(record.id)
        key = (alias, record.target, run.request.tenant, record.error)
        places = self._series.get(key)
        if places is None:
            places = self._new(key)
        calls, latency, decision = places
        values, outcome, attempts = self._values, record.outcome, record.attempts
        values[calls] += 1.0
        if outcome.input_tokens is not None:
            values[calls + 1] += outcome.input_tokens
        if outcome.output_tokens is not None:
            values[calls + 2] += outcome.output_tokens
        if outcome.cost_usd is not None:
            values[calls + 3] += outcome.cost_usd
        if not attempts:
            if run.decision.policy == GIVEN:
                self._given(run, alias)
            return
        last, first = attempts[-1], attempts[0]
        seconds = last.ended_s
        values[latency + bisect_left(LATENCY_S, seconds)] += 1.0
        values[latency + LATENCY_WIDTH - 1] += seconds
        seconds = first.started_s
        values[decision + bisect_left(DECISION_S, seconds)] += 1.0
        values[decision + DECISION_WIDTH - 1] += seconds
        if last.first_byte_s is not None:
            self._first_byte(alias, record.target, last.first_byte_s)
        if len(attempts) > 1 or first.error:
            self._several(attempts)

    def _given(self, run: Run, alias: str) -> None:
        notes = run.context.notes if run.context is not None else None
        self.add("cache_hits", (alias, (notes or {}).get("cache", "")))

    def _new(self, key: tuple[str, str, str, str]) -> tuple[int, int, int]:
        alias, target, tenant, error = key
        if len(self._series) > 16 * MOST_TENANTS * 16:
            self._series.clear()  # a cache only: the places are kept by name
        named = self.tenant(tenant)
        places = (
            self._place("calls", (alias, target, named, error), CALL_WIDTH),
            self._place("latency", (alias, target), LATENCY_WIDTH),
            self._place("decision", (alias,), DECISION_WIDTH),
        )
        self._series[key] = places
        return places

    def tenant(self, name: str) -> str:
        """The name under which a tenant is counted."""
        known = self._tenants.get(name)
        if known is None:
            if len(self._tenants) > MOST_TENANTS:
                return OTHER
            known = self._tenants[name] = name
        return known

    def _place(self, kind: str, labels: tuple[str, ...], width: int) -> int:
        found = self.slots.take(kind, labels, width)
        if found is None:  # full: what is new shares one place of its kind, which was taken first
            found = self.slots.take(kind, (OTHER,) * len(labels), width)
        return 0 if found is None else found

    def _first_byte(self, alias: str, target: str, seconds: float) -> None:
        place = self._place("first_byte", (alias, target), LATENCY_WIDTH)
        self._values[place + bisect_left(LATENCY_S, seconds)] += 1.0
        self._values[place + LATENCY_WIDTH - 1] += seconds

    def _several(self, attempts: Iterable[Any]) -> None:
        """Failed attempts, and why there was more than one. Who was only too late did not fail."""
        seen: set[str] = set()
        for attempt in attempts:
            if attempt.error and attempt.detail != LOST:
                self.add("failed", (attempt.target, attempt.error))
            if attempt.role == HEDGE:
                self.add("again", ("hedge",))
            elif seen:
                self.add("again", ("plan" if attempt.role else "retry" if attempt.target in seen else "next",))
            seen.add(attempt.target)

    def add(self, kind: str, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Count something rare."""
        self._values[self._place(kind, labels, 1)] += amount

    def refused(self, code: str) -> None:
        """A call was turned away before anything was decided."""
        self.add("refused", (code,))

    def tick(self) -> None:
        """Write the gauges and the processor time of this worker."""
        used = time.process_time()
        if self._cpu_seen_s is not None:  # what it took to start is not counted
            self._values[self._cpu_at] += used - self._cpu_seen_s
        self._cpu_seen_s = used
        self._gauge(("memory_bytes",), memory_bytes())
        for labels, number in self._gauges():
            self._gauge(labels, number)

    def _gauges(self) -> Iterable[tuple[tuple[str, ...], float]]:
        for place in self._engine.health.snapshot() if self._engine is not None else ():
            labels = (place.target, place.deployment)
            yield ("cooling_seconds", *labels), place.cooling_s
            yield ("breaker", *labels), STATES.index(place.state)
            yield ("outstanding", *labels), place.outstanding
            yield ("failures", *labels), place.failures
        for source in self._sources:
            yield from source()

    def _gauge(self, labels: tuple[str, ...], number: float) -> None:
        place = self.slots.take("gauge", labels, 1)
        if place is not None:
            self._values[place] = number

    def read(self) -> Snapshot:
        """The figures of all workers, now."""
        self.tick()
        files = self.workers.read()
        gauges = [
            (worker, key[1], values[0])
            for worker, lives, numbers in files
            if lives
            for key, values in numbers.items()
            if key[0] == "gauge"
        ]
        return Snapshot(time.time(), summed(files), gauges, sum(lives for _, lives, _ in files))

    async def keep(self) -> None:
        """Write gauges and remember a history, every two seconds, until cancelled."""
        ticks = 0
        while True:
            self.history.add(self.read())
            ticks += 1
            if ticks % TOUCH_EVERY == 0:
                self.slots.touch()
            await asyncio.sleep(TICK_S)

    def close(self) -> None:
        """Write the last figures and let go of the files; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self.tick()
            self._values = memoryview(bytearray(CAPACITY * 8)).cast("d")  # what still comes is counted nowhere
            self.workers.close()
            self.slots.close()


class Snapshot:
    """All figures at one moment: `totals` by kind and labels, gauges by worker and labels."""

    __slots__ = ("at", "gauges", "totals", "workers")

    def __init__(
        self, at: float, totals: Mapping[Key, list[float]], gauges: list[tuple[str, tuple[str, ...], float]], workers: int
    ) -> None:
        self.at = at
        self.totals = totals
        self.gauges = gauges
        self.workers = workers

    def of(self, kind: str) -> Iterable[tuple[tuple[str, ...], list[float]]]:
        """Labels and numbers of one kind."""
        return ((key[1], values) for key, values in self.totals.items() if key[0] == kind)

    def add_up(self, kind: str, width: int) -> list[float]:
        """The sum over all labels of one kind."""
        total = [0.0] * width
        for _, values in self.of(kind):
            total = [a + b for a, b in zip(total, values, strict=True)]
        return total


class History:
    """What a chart needs of the snapshots of the last ten minutes, and the targets' latencies of every twenty seconds."""

    MOST = 300
    EVERY = 10

    def __init__(self) -> None:
        self.points: list[tuple[float, list[float], list[float], float]] = []
        self._targets: list[dict[str, list[float]]] = []
        self._count = 0

    def add(self, snapshot: Snapshot) -> None:
        """Remember (time, calls, latency buckets, errors)."""
        calls = snapshot.add_up("calls", CALL_WIDTH)
        errors = sum(values[0] for labels, values in snapshot.of("calls") if labels[3])
        errors += sum(values[0] for _, values in snapshot.of("refused"))
        self.points.append((snapshot.at, calls, snapshot.add_up("latency", LATENCY_WIDTH), errors))
        del self.points[: -self.MOST]
        if self._count % self.EVERY == 0:
            self._targets.append(_by_target(snapshot))
            del self._targets[: -self.MOST // self.EVERY]
        self._count += 1

    def latency_of(self, target: str, now: Snapshot) -> list[float]:
        """The buckets of a target over the last ten minutes."""
        latest = _by_target(now).get(target, [0.0] * LATENCY_WIDTH)
        before = self._targets[0].get(target) if len(self._targets) > 1 else None
        return latest[:-1] if before is None else [b - a for a, b in zip(before, latest, strict=True)][:-1]


def _by_target(snapshot: Snapshot) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for (_, target), values in snapshot.of("latency"):
        known = found.get(target)
        found[target] = values if known is None else [a + b for a, b in zip(known, values, strict=True)]
    return found


def quantile(buckets: list[float], bounds: tuple[float, ...], q: float) -> float | None:
    """A quantile of a histogram in seconds, straight within its bucket; None of nothing."""
    total = sum(buckets)
    if total <= 0:
        return None
    wanted, below = q * total, 0.0
    for place, count in enumerate(buckets[: len(bounds)]):
        if count and below + count >= wanted:
            low = bounds[place - 1] if place else 0.0
            return low + (bounds[place] - low) * (wanted - below) / count
        below += count
    return bounds[-1]


def memory_bytes() -> float:
    """What this process holds in memory now; where the system does not say, the most that it held."""
    try:
        return float(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
