"""The suite: every experiment on every set for every policy, one unit at a time, in many processes, kept and resumed.

A unit that fails is recorded with its error and stops nobody. Nothing of a unit's figures depends on which others run, in what
order or where: one job and two give the same board.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from junctor.bench import store
from junctor.bench.experiments import EXPERIMENTS, experiment, participants
from junctor.bench.prepare import Setup
from junctor.bench.prepared import Run, ready
from junctor.bench.sets import PublishedSet
from junctor.bench.store import Record, Unit
from junctor.errors import JunctorError, MissingExtra, UnknownName, UserError
from junctor.outcomes.files import near

Progress = Callable[[str, int, int], None]
AGAIN = 2
"""How often a unit is started whose worker dies."""
DEAR = {"neural": 8.0}
"""Guess of how much longer parts take that need this extra to be fitted, before anything was measured."""


@dataclass(frozen=True)
class Planned:
    """What is to be done: units with their keys, what is known of sets, and what is left out and why."""

    run: Run
    sets: Mapping[str, PublishedSet]
    setups: Mapping[str, Setup]
    units: tuple[Unit, ...]
    keys: Mapping[Unit, str]
    absent: Mapping[str, str] = field(default_factory=dict)
    unloaded: Mapping[str, str] = field(default_factory=dict)


def plan(
    run: Run,
    sets: Sequence[PublishedSet],
    experiments: Sequence[str] | None = None,
    policies: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Planned:
    """Read and encode the sets, and list the units.

    Raises UserError for an unknown experiment or policy, or when no set is there.
    """
    names = list(EXPERIMENTS if experiments is None else dict.fromkeys(experiments))
    loaded, unloaded = _loaded(names, asked=experiments is not None)
    setups, absent = _set_up(run, sets, progress)
    present = {one.name: one for one in sets if one.name in setups}
    units = [
        Unit(name, one.name, policy)
        for one in present.values()
        for name in loaded
        if name in (one.experiments or loaded)
        for policy in experiment(name).policies(setups[one.name])
    ]
    kept = _only(units, policies)
    folder = Path(run.data) if run.data else Path()
    digests = {name: one.digest(folder) for name, one in present.items()}
    keys = {unit: store.key_of(run, unit, digests[unit.set]) for unit in kept}
    return Planned(run, present, setups, tuple(kept), keys, absent, unloaded)


def _loaded(names: Sequence[str], *, asked: bool) -> tuple[list[str], dict[str, str]]:
    """Experiments that can be loaded, and why the others cannot; one that was asked for by a wrong name is an error."""
    good, bad = [], {}
    for name in names:
        try:
            experiment(name)
            good.append(name)
        except UnknownName as error:
            if asked and name not in EXPERIMENTS:
                raise
            bad[name] = error.message
    return good, bad


def _set_up(run: Run, sets: Sequence[PublishedSet], progress: Progress | None) -> tuple[dict[str, Setup], dict[str, str]]:
    setups, absent = {}, {}
    for done, one in enumerate(sets):
        if progress is not None:
            progress(f"reading {one.name}", done, len(sets))
        gone = one.missing(Path(run.data) if run.data else None)
        try:
            if gone:
                absent[one.name] = f"{one.title}: {', '.join(gone)} is not in the data folder"
            else:
                setups[one.name] = ready(run, one)
        except UserError as error:
            absent[one.name] = f"{one.title}: {error}"
    if not setups:
        why = next(iter(absent.values()), "none was named")
        raise UserError(
            f"no set can be used ({why})", field="sets", fix="name the folder of the sets by --data or JUNCTOR_DATA"
        )
    return setups, absent


def _only(units: Sequence[Unit], policies: Sequence[str] | None) -> list[Unit]:
    """The units of the policies that were asked for, and of the bars that they are compared with."""
    if policies is None:
        return list(units)
    known = {unit.policy for unit in units} | set(participants().needs)
    for name in policies:
        if name not in known:
            why = participants().left_out.get(name, "no policy or estimator is called so")
            raise UnknownName(why, field=f"policies: {name}", fix=near(name, sorted(known)))
    wanted = set(policies)
    return [unit for unit in units if unit.policy in wanted or unit.policy in _references(unit.experiment)]


def _references(name: str) -> frozenset[str]:
    return frozenset((*experiment(name).bars, "oracle"))


def missing_units(planned: Planned) -> list[Unit]:
    """Those that have no result of their key yet, longest first, so that none starts last that all must wait for.

    The units of one experiment on one set follow each other: what they share is made once in a process.
    """
    out = Path(planned.run.out)
    left = [unit for unit in planned.units if _kept(out, unit, planned.keys[unit]) is None]
    guess = {unit: guessed_seconds(planned, unit) for unit in left}
    together: dict[tuple[str, str], float] = {}
    for unit, seconds in guess.items():
        together[unit.experiment, unit.set] = together.get((unit.experiment, unit.set), 0.0) + seconds
    return sorted(left, key=lambda u: (-together[u.experiment, u.set], u.experiment, u.set, -guess[u]))


def _kept(out: Path, unit: Unit, key: str) -> Record | None:
    """A result that need not be made again: failures are tried anew."""
    record = store.find(out, unit, key)
    return None if record is None or record.status == store.FAILED else record


def guessed_seconds(planned: Planned, unit: Unit) -> float:
    """What the unit took last time, or a guess from the table's size."""
    took = store.before(Path(planned.run.out), unit)
    if took is not None:
        return took
    table = planned.setups[unit.set].table
    extra = next((entry.extra for entry in _entries() if entry.name == unit.policy), "")
    size = min(len(table), 8000) / 8000 * (1 + len(table.targets) / 20)
    return 0.05 + 2.0 * size * DEAR.get(extra, 1.0) * planned.run.seeds / 5


def _entries() -> Iterator[Any]:
    from junctor import registry

    for kind in ("estimator", "policy"):
        yield from registry.entries(kind)


def run_suite(planned: Planned, *, jobs: int = 2, engine: str = "local", progress: Progress | None = None) -> list[Record]:
    """Do what is not done yet, and give the records of all units, in the order of the plan.

    jobs     processes; 1 works in this one
    engine   "local", or "ray": the same units as Ray tasks, on the cluster of RAY_ADDRESS or on a local one of `jobs` cpus
    """
    left = missing_units(planned)
    clock = _Clock(planned, left, progress)
    if engine == "ray":
        _with_ray(planned, left, jobs, clock)
    elif jobs == 1:
        for unit in left:
            clock.done(run_unit(planned.run, planned.sets[unit.set], unit, planned.keys[unit]))
    else:
        _with_processes(planned, left, jobs, clock)
    out = Path(planned.run.out)
    found = [store.find(out, unit, planned.keys[unit]) for unit in planned.units]
    return [record for record in found if record is not None]


class _Clock:
    """Tells the progress bar what is done and about how long the rest takes."""

    def __init__(self, planned: Planned, left: Sequence[Unit], progress: Progress | None) -> None:
        self.progress, self.total, self.count = progress, len(planned.units), len(planned.units) - len(left)
        self.guesses = {unit: guessed_seconds(planned, unit) for unit in left}
        self.work, self.worked, self.started = sum(self.guesses.values()), 0.0, time.monotonic()
        self._say("starting")

    def done(self, record: Record) -> None:
        self.count += 1
        self.worked += self.guesses[record.unit]
        spent = time.monotonic() - self.started
        left = spent * (self.work - self.worked) / self.worked if self.worked else 0.0
        mark = "" if record.status == store.DONE else f" ({record.status})"
        self._say(
            f"{record.unit.name}{mark}, about {left / 60:.0f} min left"
            if left > 90
            else f"{record.unit.name}{mark}, about {left:.0f} s left"
        )

    def _say(self, what: str) -> None:
        if self.progress is not None:
            self.progress(what, self.count, self.total)


def run_unit(run: Run, one: PublishedSet, unit: Unit, key: str) -> Record:
    """One unit from the data to its files; whatever goes wrong is in the record."""
    from threadpoolctl import threadpool_limits

    started = time.perf_counter()
    figures: Mapping[str, Any] = {}
    try:
        with threadpool_limits(1), _limited(run.limit_s):
            setup = ready(run, one)
            asked = experiment(unit.experiment)
            result = asked.run(setup, unit.policy, seeds=run.seeds, resamples=run.resamples)
            headline = asked.ranked_by(setup)
        record = store.record_of(unit, key, result, headline, time.perf_counter() - started)
        figures = result.figures
    except MissingExtra as error:
        record = _broken(unit, key, store.SKIPPED, str(error), started)
    except Exception as error:  # noqa: BLE001  the edge to plug-ins: whatever they raise is a result
        last = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        record = _broken(unit, key, store.FAILED, why, started)
    store.save(Path(run.out), record, figures)
    return record


def _broken(unit: Unit, key: str, status: str, why: str, started: float) -> Record:
    return Record(unit=unit, key=key, status=status, why=why, seconds=round(time.perf_counter() - started, 3))


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Give up after so long; only where signals can be had: on a process's main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"it took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _with_processes(planned: Planned, left: Sequence[Unit], jobs: int, clock: _Clock) -> None:
    """A pool of workers; when one dies, the pool is made anew and the units that were lost are tried once more."""
    starts = dict.fromkeys(left, 0)
    waiting = list(left)
    while waiting:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting = _round(planned, pool, waiting, starts, jobs, clock)


def _round(
    planned: Planned, pool: ProcessPoolExecutor, waiting: list[Unit], starts: dict[Unit, int], jobs: int, clock: _Clock
) -> list[Unit]:
    """Feed the pool until nothing waits or it breaks; gives what is still to do. Few units are out at a time: few are lost."""
    queue = list(reversed(waiting))
    out: dict[Future[Record], Unit] = {}
    while queue or out:
        try:
            while queue and len(out) < jobs:
                unit = queue[-1]
                out[pool.submit(run_unit, planned.run, planned.sets[unit.set], unit, planned.keys[unit])] = unit
                queue.pop()
                starts[unit] += 1
            finished, _ = wait(out, return_when=FIRST_COMPLETED)
            for future in finished:
                clock.done(future.result())
                del out[future]
        except BrokenProcessPool:
            return [*_given_up(planned, [*out.values()], starts, clock), *reversed(queue)]
    return []


def _given_up(planned: Planned, lost: Sequence[Unit], starts: Mapping[Unit, int], clock: _Clock) -> list[Unit]:
    """Units whose worker died: recorded as failed when it was the second time, else to be tried again."""
    again = []
    for unit in lost:
        if store.find(Path(planned.run.out), unit, planned.keys[unit]) is not None:
            continue
        if starts[unit] < AGAIN:
            again.append(unit)
            continue
        why = "its worker process died, twice: out of memory, or killed"
        record = Record(unit=unit, key=planned.keys[unit], status=store.FAILED, why=why)
        store.save(Path(planned.run.out), record, {})
        clock.done(record)
    return again


def _with_ray(planned: Planned, left: Sequence[Unit], jobs: int, clock: _Clock) -> None:
    """The same units as Ray tasks. `out` must be a folder that all nodes share."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtra("needs the package ray", field="engine", fix="pip install 'junctor[ray]'") from error
    import os

    mine = not ray.is_initialized()
    if mine:
        where: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": jobs, "include_dashboard": False}
        ray.init(**where, logging_level=logging.WARNING, log_to_driver=False)
    try:
        task = ray.remote(num_cpus=1, max_retries=1)(run_unit)
        out = {task.remote(planned.run, planned.sets[u.set], u, planned.keys[u]): u for u in left}
        while out:
            (first,), _ = ray.wait(list(out), num_returns=1)
            unit = out.pop(first)
            clock.done(_ray_result(ray, first, unit, planned))
    finally:
        if mine:
            ray.shutdown()


def _ray_result(ray: Any, reference: Any, unit: Unit, planned: Planned) -> Record:
    try:
        found: Record = ray.get(reference)
    except (ray.exceptions.RayError, JunctorError) as error:
        found = Record(unit=unit, key=planned.keys[unit], status=store.FAILED, why=f"its Ray task was lost: {error}"[:500])
        store.save(Path(planned.run.out), found, {})
    return found
