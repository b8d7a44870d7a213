"""Traces with the GenAI semantic conventions of OpenTelemetry: a span per request, a child per call of an upstream.

    tracer = Tracer(HttpExporter("http://127.0.0.1:4318/v1/traces"))
    tracer.begin(request, headers)    # once it was parsed: which trace it belongs to, and whether it is kept
    engine.listen(tracer.ended)       # at its end: what is needed of it is put aside
    await tracer.keep()               # beside the server: spans are made and sent, a batch at a time, by a thread

Nothing waits for the export: what a collector does not take in time is dropped and counted. No span holds a prompt, an answer
or a secret; tenants, keys (their ids) and decisions are names.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from junctor.engine.run import Run
from junctor.errors import ConfigError
from junctor.journal import OutcomeRecord
from junctor.providers.tracing import CURRENT, Place, parse_parent, place_of
from junctor.telemetry.otlp import CLIENT, SERVER, Span, Value
from junctor.types import Attempt, Decision, Request, Target

log = logging.getLogger("junctor.telemetry")
BACKLOG = 8192
BATCH = 512
EVERY_S = 1.0
COMPLAIN_EVERY_S = 60.0
STEP = 0x9E3779B97F4A7C15
NOTHING: Mapping[str, str] = {}


class Exporter(Protocol):
    """Takes spans away, in a thread; raises OSError when it could not."""

    def export(self, spans: Sequence[Span]) -> None:
        """Once for every batch."""


class Ended(Struct, frozen=True):
    """What spans are made of: nothing of it holds a text of the caller's."""

    place: Place
    decision: Decision
    record: OutcomeRecord
    asked: str
    operation: str
    names: tuple[str, str, str, str]
    notes: Mapping[str, str]


class Tracer:
    """Decides what is traced, remembers what ended, and hands it to an exporter.

    sample   share of requests that are kept, of those whose caller has not decided it already
    target   gives the target of an id
    systems  provider name -> what gen_ai.provider.name calls it; its own name otherwise
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        sample: float = 1.0,
        target: Callable[[str], Target | None] = lambda _: None,
        systems: Mapping[str, str] = NOTHING,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not 0 <= sample <= 1:
            raise ConfigError(f"{sample} is not a share", field="telemetry.sample", fix="use 0 to 1")
        self.exporter = exporter
        self.sample = sample
        self.target = target
        self.systems = systems
        self.sent = 0
        self.dropped = 0
        self._draw = draw
        self._waiting: deque[Ended] = deque()
        self._complained = float("-inf")

    def begin(self, request: Request, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Find the place of a request in a trace; upstreams are told of it."""
        given, state = None, b""
        for name, value in headers:
            if name == b"traceparent":
                given = parse_parent(value)
            elif name == b"tracestate":
                state = value
        CURRENT.set(place_of(request.id, given, state, kept=self._kept()))

    def _kept(self) -> bool:
        return self.sample >= 1 or self._draw() < self.sample

    def ended(self, run: Run, record: OutcomeRecord) -> None:
        """The end of a run."""
        place = CURRENT.get()
        if place is None or place.request != record.id:  # nobody began it: a program that calls the engine itself
            place = place_of(record.id, None, b"", kept=self._kept())
        if not place.kept:
            return
        if len(self._waiting) >= BACKLOG:
            self.dropped += 1
            return
        request, context = run.request, run.context
        principal = None if context is None else context.principal
        books: Any = run.books
        team = "" if principal is None else principal.team
        names = (books.alias_of(record.id), request.tenant, "" if context is None else context.key, team)
        asked = request.params.get("model", "")
        operation = "chat" if request.messages else "embeddings" if "input" in request.params else "generate_content"
        notes = NOTHING if context is None or context.notes is None else context.notes
        self._waiting.append(Ended(place, run.decision, record, asked, operation, names, notes))

    async def keep(self) -> None:
        """Send what has ended, once a second, until cancelled; then the rest."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                while self._waiting:
                    await asyncio.to_thread(self.flush, BATCH)
        finally:
            await asyncio.to_thread(self.flush)

    def flush(self, most: int = BACKLOG) -> None:
        """Make spans of up to `most` requests and export them. Blocks; never raises for a collector that is not there."""
        taken: list[Ended] = []
        while self._waiting and len(taken) < most:
            taken.append(self._waiting.popleft())
        if not taken:
            return
        spans = [span for ended in taken for span in self.spans(ended)]
        try:
            self.exporter.export(spans)
            self.sent += len(taken)
        except OSError as error:
            self.dropped += len(taken)
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAIN_EVERY_S:
            self._complained = now
            log.error("the collector does not take traces (%s); %d were dropped so far", type(error).__name__, self.dropped)

    def spans(self, ended: Ended) -> Iterator[Span]:
        """The spans of one request: its own, then one per call."""
        record, place = ended.record, ended.place
        took = max((call.ended_s for call in record.attempts), default=record.outcome.latency_s or 0.0)
        start = int((record.at - took) * 1e9)
        trace, own = bytes.fromhex(place.trace), bytes.fromhex(place.own)
        title = f"{ended.operation} {ended.asked or ended.decision.target}"
        yield Span(
            trace,
            own,
            bytes.fromhex(place.above),
            title,
            SERVER,
            start,
            start + int(took * 1e9),
            _of_request(ended),
            record.error,
            place.state,
        )
        for number, call in enumerate(record.attempts, 1):
            id_ = (int.from_bytes(own, "big") ^ (number * STEP & 0xFFFFFFFFFFFFFFFF)).to_bytes(8, "big")
            about = self._of_call(call, ended.operation)
            title = f"{ended.operation} {about['gen_ai.request.model']}"
            began, done = start + int(call.started_s * 1e9), start + int(call.ended_s * 1e9)
            yield Span(trace, id_, own, title, CLIENT, began, max(began, done), about, call.error, place.state)

    def _of_call(self, call: Attempt, operation: str) -> dict[str, Value]:
        target, outcome = self.target(call.target), call.outcome
        provider = "" if target is None else target.provider
        found: dict[str, Value] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": self.systems.get(provider, provider) or "unknown",
            "gen_ai.request.model": call.target if target is None else target.upstream_model,
            "junctor.target": call.target,
        }
        _tell(found, "junctor.deployment", call.deployment)
        _tell(found, "junctor.role", call.role)
        _tell(found, "error.type", call.error)
        _count(found, "gen_ai.usage.input_tokens", outcome.input_tokens)
        _count(found, "gen_ai.usage.output_tokens", outcome.output_tokens)
        if outcome.cost_usd is not None:
            found["junctor.cost_usd"] = outcome.cost_usd
        if call.first_byte_s is not None:
            found["junctor.first_byte_s"] = call.first_byte_s - call.started_s
        return found


def _of_request(ended: Ended) -> dict[str, Value]:
    record, decision, outcome = ended.record, ended.decision, ended.record.outcome
    found: dict[str, Value] = {
        "gen_ai.operation.name": ended.operation,
        "gen_ai.provider.name": "junctor",
        "gen_ai.request.model": ended.asked or decision.target,
        "junctor.decision": decision.id,
        "junctor.policy": decision.policy,
        "junctor.target": decision.target,
        "junctor.propensity": float(decision.propensity),
        "junctor.attempts": len(record.attempts),
    }
    _tell(found, "gen_ai.response.model", record.target)
    _tell(found, "error.type", record.error)
    for name, value in zip(("alias", "tenant", "key", "team"), ended.names, strict=True):
        _tell(found, f"junctor.{name}", value)
    _count(found, "gen_ai.usage.input_tokens", outcome.input_tokens)
    _count(found, "gen_ai.usage.output_tokens", outcome.output_tokens)
    if outcome.cost_usd is not None:
        found["junctor.cost_usd"] = outcome.cost_usd
    if decision.reasons:
        found["junctor.reasons"] = decision.reasons
    for name, words in ended.notes.items():
        found[f"junctor.note.{name}"] = words
    return found


def _tell(found: dict[str, Value], name: str, value: str) -> None:
    if value:
        found[name] = value


def _count(found: dict[str, Value], name: str, value: float | None) -> None:
    if value is not None:
        found[name] = int(value)
