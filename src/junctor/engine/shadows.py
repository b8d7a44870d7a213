"""Shadow trials: a candidate decides on what was served already. Nobody waits for it, and nobody acts on it.

A thread of its own works through a bounded backlog and rests nine times as long as it works, so that a shadow costs at most a
tenth of a processor. What comes faster than that is not looked at; which requests these are depends on the load, not on what
they ask.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
from msgspec import Struct

from junctor.engine.aliases import Alias, Names, featured
from junctor.engine.ledger import Ledger
from junctor.engine.run import Run
from junctor.errors import JournalError, NoTarget
from junctor.journal import OutcomeRecord, ShadowRecord
from junctor.types import Request

log = logging.getLogger("junctor.engine")
BACKLOG = 256
TEXT_CHARS = 65_536
REST = 9.0
AT_ONCE = 8
TURN_S = 0.01
"""The event loop writes down at the end of its turn what the decision was; what a shadow thinks of it comes after that."""


class Waiting(Struct, frozen=True):
    """A request that a candidate has yet to see: what policies read of it."""

    alias: str
    trial: str
    request: Request


class Shadows:
    """The shadow trials of all aliases. `seen` and `passed_over` count requests per trial (`alias/trial`)."""

    def __init__(
        self,
        aliases: Mapping[str, Alias],
        names: Names,
        ledger: Ledger,
        *,
        seed: int = 0,
        backlog: int = BACKLOG,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._aliases, self._names, self._ledger = aliases, names, ledger
        self._rng = np.random.default_rng([seed, 1])
        self._most = backlog
        self._wall = wall
        self._backlog: deque[Waiting] = deque()
        self._some, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.seen: dict[str, int] = {}
        self.passed_over: dict[str, int] = {}

    def ended(self, run: Run, record: OutcomeRecord) -> None:
        """Hear of the end of a run: its request is shown to the candidates when there is time."""
        alias = self._aliases.get(self._ledger.alias_of(record.id))
        if alias is None or alias.trials is None or not run.attempts:
            return
        for trial in alias.trials.shadows:
            name = f"{alias.name}/{trial.name}"
            if len(self._backlog) >= self._most or len(run.request.text) > TEXT_CHARS:
                self.passed_over[name] = self.passed_over.get(name, 0) + 1
                continue
            self._backlog.append(Waiting(alias.name, trial.name, _slim(run.request)))
            self._wake()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="junctor-shadows", daemon=True)
            self._thread.start()
        if not self._some.is_set():
            self._some.set()

    def _work(self) -> None:
        while not self._closed.is_set():
            self._some.wait()
            self._some.clear()
            self._closed.wait(TURN_S)
            while self._backlog and not self._closed.is_set():
                start = time.perf_counter()
                self.drain(AT_ONCE)
                self._closed.wait((time.perf_counter() - start) * REST)

    def drain(self, most: int = BACKLOG) -> None:
        """Work through some of the backlog now."""
        for _ in range(min(most, len(self._backlog))):
            waiting = self._backlog.popleft()
            made = self._decided(waiting)
            name = f"{waiting.alias}/{waiting.trial}"
            self.seen[name] = self.seen.get(name, 0) + 1
            if self._ledger.journal is not None:
                try:
                    self._ledger.journal.append_now(made)
                except JournalError as problem:
                    log.error("a shadow decision was not written: %s", problem)

    def _decided(self, waiting: Waiting) -> ShadowRecord:
        side = self._aliases[waiting.alias].sides[waiting.trial]
        blank = ShadowRecord(at=self._wall(), id=waiting.request.id, trial=waiting.trial)
        known = self._ledger.remembered(waiting.request.id)
        refusals: Mapping[str, str] = {} if known is None else known.refusals
        open_ = tuple(id_ for id_ in side.targets.ids if id_ not in refusals)
        try:
            targets = self._names.alias_filters[side.name].only(open_ or side.targets.ids)
            decision = side.policy.decide(featured(side, waiting.request), targets, self._rng)
        except NoTarget as refusal:
            return msgspec.structs.replace(blank, why=refusal.message)
        except Exception as error:  # noqa: BLE001 - a candidate is on trial, and must not bring anybody down
            return msgspec.structs.replace(blank, why=f"failed with {type(error).__name__}")
        predicted = next((row.predicted for row in decision.ranked if row.target == decision.target), blank.predicted)
        return msgspec.structs.replace(
            blank,
            target=decision.target,
            propensity=decision.propensity,
            predicted=predicted,
            policy=decision.policy,
            version=decision.version,
        )

    def close(self) -> None:
        """End the thread; what is left of the backlog is not looked at."""
        self._closed.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)


def _slim(request: Request) -> Request:
    """What policies read, without the bodies: a backlog of long conversations must not fill the memory."""
    return Request(
        id=request.id,
        text=request.text,
        labels=request.labels,
        needs=request.needs,
        tenant=request.tenant,
        constraints=request.constraints,
    )
