"""A learner that serves a finished version while the next one is made beside it.

    outcomes -> queue -> a copy learns -> judged on those held back -> saved -> serves, on probation -> stays, or is taken back

The version that serves never changes: a request meets one or the next. A share of the outcomes is held back, judges the
candidate first, and is learned from when it is old. A version that serves is on probation until as many outcomes have come
as an update needs; one that earns less than the one before it did is taken back by itself.

One worker learns from what it has served itself. Several workers save into one folder, each under numbers of its own.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from junctor.artefact import Provenance, load_policy, save_policy
from junctor.engine.proving import AT_ONCE, Mean, Tried, Verdict, copy_of, fallen, judged, without_rest
from junctor.engine.wrapped import Wrapped
from junctor.errors import ArtefactError, ConfigError, JournalError
from junctor.journal import Journal, NoteRecord
from junctor.policy import Learner, Policy
from junctor.sections import LearnSection
from junctor.types import Catalogue, Decision, Outcome, Request

log = logging.getLogger("junctor.engine")
ASKED = 4096
QUEUE = 8192
HELD = 2000
LEAST_HELD = 10
REST_S = 0.002
TEXT_CHARS = 4096
"""So much of a prompt is kept until its outcome is known; an embedding is of all of it."""
SERVING = "serving.json"
Asked = tuple[Request, Catalogue]


class Pointer(Struct, frozen=True):
    """Which saved version serves, and the version of the fit that it goes back to."""

    base: str
    number: int


class Store:
    """The folder of an alias's versions: v000001, v000002, … and which of them serves."""

    def __init__(self, folder: Path, targets: Catalogue, *, encoder: str = "", digest: str = "", keep: int = 10) -> None:
        self.folder, self.targets, self.encoder, self.digest, self.keep = folder, targets, encoder, digest, keep

    def place(self, number: int) -> Path:
        """Where a version lies."""
        return self.folder / f"v{number:06d}"

    def numbers(self) -> list[int]:
        """Of the versions that are there, in order."""
        found = self.folder.glob("v[0-9]*") if self.folder.is_dir() else ()
        return sorted(int(path.name[1:]) for path in found if path.name[1:].isdigit())

    def take_number(self) -> int:
        """The next number, for nobody else: making its folder is what claims it."""
        number = max(self.numbers(), default=0) + 1
        while True:
            try:
                self.place(number).mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return number

    def save(self, policy: Policy, number: int, learned: int) -> None:
        """Write a version, and drop the oldest ones that do not serve. Raises ArtefactError."""
        save_policy(
            policy,
            self.place(number),
            targets=self.targets,
            provenance=Provenance(source="outcomes of the gateway", rows=learned),
            encoder=self.encoder if "embedding" in policy.needs else "",
            encoder_digest=self.digest if "embedding" in policy.needs else "",
        )
        pointer = self.pointer()
        for old in self.numbers()[: -self.keep]:
            if pointer is None or old != pointer.number:
                shutil.rmtree(self.place(old), ignore_errors=True)

    def pointer(self) -> Pointer | None:
        """What serves; None when nothing was ever taken over. Raises ArtefactError when it cannot be read."""
        path = self.folder / SERVING
        try:
            return msgspec.json.decode(path.read_bytes(), type=Pointer)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise ArtefactError("is damaged", field=str(path), fix="delete it to begin anew from the fitted policy") from error

    def point(self, pointer: Pointer) -> None:
        """Say what serves from now on."""
        fresh = self.folder / f".{SERVING}.{threading.get_native_id()}"
        fresh.write_bytes(msgspec.json.encode(pointer))
        fresh.replace(self.folder / SERVING)

    def resumed(self, base: Policy) -> tuple[Policy, int]:
        """The version that served last, or the fitted policy, when that is another fit by now. Raises ArtefactError."""
        pointer = self.pointer()
        if pointer is None or pointer.base != base.version or pointer.number == 0:
            return copy_of(base), 0
        found = load_policy(self.place(pointer.number)).policy
        if type(found) is not type(base):
            raise ArtefactError(
                "is another policy", field=str(self.place(pointer.number)), fix="delete the folder to begin anew"
            )
        return found, pointer.number


class Served(Struct):
    """A version that serves or has served: its policy, its number (0: as it was fitted) and what it earns."""

    policy: Policy
    number: int
    earned: Mean


class Learning(Wrapped):
    """The policy of an alias that learns beside the traffic. Raises ConfigError for a policy that does not learn."""

    def __init__(
        self, policy: Policy, section: LearnSection, store: Store, *, path: str = "learn", wall: Callable[[], float] = time.time
    ) -> None:
        _check(section, policy, path)
        self.section, self.store, self._path, self._wall = section, store, path, wall
        self._base = policy.version
        made, number = store.resumed(policy)
        super().__init__(made)
        self.serving = Served(made, number, Mean())
        self.before: Served | None = None
        self.verdict: Verdict | None = None
        self._asked: OrderedDict[str, Asked] = OrderedDict()
        self._queue: deque[tuple[Asked | None, Decision, Outcome]] = deque(maxlen=QUEUE)
        self._ready: deque[tuple[Decision, Outcome]] = deque(maxlen=QUEUE)
        self._fresh = 0
        self._held: deque[Tried] = deque()
        self._journal: Journal | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._users = 0

    def attach(self, journal: Journal | None) -> None:
        """Serve one more engine, and note what happens in its journal; it ends with the last engine that closes it."""
        self._journal = journal
        self._users += 1

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """As the version that serves."""
        decision = self.inner.decide(request, targets, rng)
        self._asked[decision.id] = _slim(request), targets
        if len(self._asked) > ASKED:
            self._asked.popitem(last=False)
        return decision

    def learn(self, decision: Decision, outcome: Outcome) -> None:
        """Queue a result; nothing is learned here."""
        asked = None if outcome.quality is None else self._asked.pop(decision.id, None)
        self._queue.append((asked, decision, outcome))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="junctor-learning", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while not self._closed.wait(self.section.every_s):
            try:
                self.update(self._rest)
            except Exception as error:  # noqa: BLE001 - the version that serves goes on serving
                log.error("%s: an update failed with %s", self._path, type(error).__name__)
                self._note("failed", f"an update failed with {type(error).__name__}")

    def _rest(self) -> None:
        """Let the event loop go on: it and this thread share one interpreter."""
        self._closed.wait(REST_S)

    def update(self, rest: Callable[[], object] = without_rest) -> None:
        """Take in what is queued; take a version back, or make the next one, where there is reason to.

        `rest` is called now and then, so that the work does not come in one piece.
        """
        self._sort()
        if self._on_probation() or self._fresh < self.section.at_least:
            return
        if len(self._held) < max(LEAST_HELD, round(self.section.at_least * self.section.hold_out)):
            return
        candidate = copy_of(self.serving.policy)
        assert isinstance(candidate, Learner)
        learned = len(self._ready)
        for place, (decision, outcome) in enumerate(list(self._ready)):
            if place % AT_ONCE == 0:
                rest()
            candidate.learn(decision, outcome)
        self._fresh = 0
        verdict = self.verdict = judged(candidate, copy_of(self.serving.policy), list(self._held), rest=rest)
        number = self.store.take_number()
        candidate.version = f"{self._base}+{number}"
        self.store.save(candidate, number, learned)
        figures = {
            "number": number,
            "outcomes": learned,
            "held_out": verdict.rows,
            "gain": verdict.gain,
            "low": verdict.low,
            "agreement": verdict.agreement,
        }
        if verdict.low < -self.section.tolerance:
            self._note("refused", f"version {number} may be worse than the one that serves", figures)
            return
        self._ready.clear()
        self._switch(Served(candidate, number, Mean()))
        self._note("took over", f"version {number} serves", figures)

    def _sort(self) -> None:
        """Queue -> what is learned next, and what is held back to judge it first."""
        while self._queue:
            asked, decision, outcome = self._queue.popleft()
            if outcome.quality is None:
                self._ready.append((decision, outcome))
                continue
            self._fresh += 1
            one = None if asked is None else self._tried(asked, decision, outcome)
            if one is not None:
                self._count(one)
            if one is not None and _share(decision.id) < self.section.hold_out:
                self._held.append(one)
                if len(self._held) > HELD:
                    old = self._held.popleft()
                    self._ready.append((old.decision, old.outcome))
            else:
                self._ready.append((decision, outcome))

    def _tried(self, asked: Asked, decision: Decision, outcome: Outcome) -> Tried:
        request, targets = asked
        return Tried(request, targets, decision, outcome, self.serving.policy.worth_usd(targets))

    def _count(self, one: Tried) -> None:
        for served in (self.serving, self.before):
            if served is not None and one.decision.version == served.policy.version:
                served.earned.add(one.reward)
                return

    def _on_probation(self) -> bool:
        """Whether the version that serves has yet to prove itself; where it has failed to, the one before it is back."""
        before, now = self.before, self.serving
        if before is None:
            return False
        if now.earned.count < self.section.at_least:
            return True
        figures = {
            "number": now.number,
            "earned": now.earned.value,
            "before": before.earned.value,
            "outcomes": now.earned.count,
        }
        self.before = None
        if not fallen(now.earned, before.earned):
            self._note("proved", f"version {now.number} stays", figures)
            return False
        self._switch(before)
        self.before = None
        self._ready.clear()
        self._note("taken back", f"version {now.number} earned less than version {before.number}, which serves again", figures)
        return True

    def _switch(self, served: Served) -> None:
        self.before, self.serving = self.serving, served
        self.inner = served.policy
        self.store.point(Pointer(self._base, served.number))

    def _note(self, event: str, text: str, figures: dict[str, float] | None = None) -> None:
        log.info("%s: %s: %s", self._path, event, text)
        if self._journal is not None:
            try:
                self._journal.append_now(
                    NoteRecord(at=self._wall(), about=self._path, event=event, text=text, figures=figures or {})
                )
            except JournalError as problem:
                log.error("%s: a note was not written: %s", self._path, problem)

    def same(self, policy: Policy, section: LearnSection, store: Store) -> bool:
        """Whether another one made from these would begin where this one began."""
        return self.section == section and self.store.folder == store.folder and self._base == policy.version != ""

    def close(self) -> None:
        """End the thread; what is queued is lost, and is in the journal."""
        self._users -= 1
        if self._users > 0:
            return
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)


def _check(section: LearnSection, policy: Policy, path: str) -> None:
    if not isinstance(policy, Learner):
        raise ConfigError(f"its policy {policy.title} does not learn", field=path, fix="leave it out, or use a learner")
    for name, low, high in (
        ("every_s", 1e-3, 1e9),
        ("at_least", 2, 1e9),
        ("hold_out", 0.01, 0.9),
        ("tolerance", 0, 1),
        ("keep", 2, 1e6),
    ):
        if not low <= getattr(section, name) <= high:
            raise ConfigError(f"is not in {low:g} to {high:g}", field=f"{path}.{name}", fix="leave it out for the default")


def _share(id_: str) -> float:
    """Where in [0, 1) an outcome lies: the same one is held back every time."""
    return zlib.crc32(id_.encode("utf-8", "surrogatepass")) / 2**32


def _slim(request: Request) -> Request:
    """What policies read of a request."""
    return Request(
        id=request.id,
        text=request.text[:TEXT_CHARS],
        labels=request.labels,
        needs=request.needs,
        tenant=request.tenant,
        constraints=request.constraints,
        features=request.features,
    )
