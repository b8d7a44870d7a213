"""The admin API: what the dashboard shows, as JSON for whoever has the admin key.

    GET  /admin/overview                 the last minute, today, and the last ten minutes as a series
    GET  /admin/decisions?after=&limit=  decisions as they come, with reasons, scores, attempts; &redacted=1 without prompts
    GET  /admin/frontier?alias=          cost and quality of the alias's targets, and of what its policy made of them today
    GET  /admin/health                   targets: breakers, failures, latency
    GET  /admin/spend?since=DAY          what it cost by every label, and what it would have cost otherwise
    GET  /admin/trials?alias=            policies that watch or share the traffic
    POST /admin/route                    {"text", "model"}: which target would take it and why; nobody is called
    POST /admin/try                      the same, and then it is called like any other request

A prompt is shown only where the journal keeps prompts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

import junctor
from junctor.config import Config
from junctor.engine import Engine
from junctor.engine.buffered import text_of
from junctor.engine.engine import new_id
from junctor.engine.trial_report import TrialReport
from junctor.errors import JunctorError, RequestError
from junctor.gateway.wire import parse_json
from junctor.providers.tracing import CURRENT
from junctor.service import Service
from junctor.telemetry.live import Live, recent_trials
from junctor.telemetry.metrics import CALL_WIDTH, LATENCY_S, STATES, History, Metrics, Snapshot, quantile
from junctor.telemetry.spend import AXES, CPU_S_PER_REQUEST, Books, Day, by_team, calibration, day_start, today
from junctor.tenancy.contracts import Principal
from junctor.tenancy.gate import KeyedTenancy
from junctor.types import Constraints, Message, Request

MOST_ROWS = 200
TEXT_CHARS = 100_000
MINUTE_S = 60.0
ENOUGH_CALLS = 100
FRESH_S = 0.5
PATIENCE_S = 2.0
TRIALS_EVERY_S = 20.0
DASHBOARD = Principal(key="dashboard", name="dashboard", admin=True)
CONSTRAINTS = ("budget_usd", "quality_floor", "deadline_s")
Query = Mapping[str, str]


class Desk:
    """Answers the admin pages. `service` and `config` give those that hold now: a reload exchanges them."""

    def __init__(self, config: Callable[[], Config], service: Callable[[], Service], metrics: Metrics) -> None:
        self.config = config
        self.service = service
        self.metrics = metrics
        self._journal: Path | None = None
        self._live = Live(None, service().engine)
        self._books: Books | None = None
        self._reports: tuple[TrialReport, ...] = ()
        self._fresh: dict[str, float] = {}
        self._locks = {name: asyncio.Lock() for name in ("live", "books", "trials")}
        self._open()

    def _open(self) -> None:
        """Look at the journal of the engine that decides now, and know the prices that hold now."""
        engine = self.engine
        journal = engine.ledger.journal
        path = None if journal is None else journal.path
        if path != self._journal or (path is None and engine is not self._live.engine):
            self._live = Live(path, engine)
            self._books = None if path is None else Books(path, {})
            self._journal = path
            self._fresh.clear()
        if self._books is not None:
            self._books.prices = {target.id: target.price for target in engine.catalogue if target.price is not None}
            self._books.usd_per_cpu_hour = self.config().telemetry.usd_per_cpu_hour

    @property
    def engine(self) -> Engine:
        """The engine that decides now."""
        return self.service().engine

    async def _catch_up(self, name: str) -> None:
        """Read the journal in a thread, once for all who ask at the same time, and no more than twice a second."""
        async with self._locks[name]:
            self._open()
            if time.monotonic() - self._fresh.get(name, float("-inf")) < FRESH_S:
                return
            if name == "live":
                await asyncio.to_thread(self._live.catch_up)
            elif self._books is not None:
                await asyncio.to_thread(self._books.catch_up, rest=True, most_s=PATIENCE_S)
            self._fresh[name] = time.monotonic()

    async def overview(self, query: Query) -> dict[str, Any]:
        """The first page."""
        del query
        await self._catch_up("books")
        shot = self.metrics.read()
        history = self.metrics.history
        recent = _recent(history, MINUTE_S)
        found: dict[str, Any] = {
            "now": shot.at,
            "version": junctor.__version__,
            "workers": shot.workers,
            "aliases": {name: {"policy": a.policy.title, "targets": a.targets.ids} for name, a in self.engine.aliases.items()},
            "targets": self.engine.catalogue.ids,
            "journal": {"kept": self._books is not None, "text": self._text_mode(), "unread": self._unread()},
            "minute": recent,
            "series": _series(history),
            "cpu_s": shot.add_up("cpu", 1)[0],
            "memory_bytes": sum(v for _, labels, v in shot.gauges if labels == ("memory_bytes",)),
            "cooling": sorted({lab[1] for _, lab, v in shot.gauges if lab[0] == "cooling_seconds" and v > 0}),
        }
        return found | self._today(shot)

    def _text_mode(self) -> str:
        """What the journal keeps of prompts."""
        journal = self.engine.ledger.journal
        return "none" if journal is None else journal.text

    def _unread(self) -> int:
        """Bytes of the journal that are not in the books yet: after a start, a long one takes a while."""
        return 0 if self._books is None else self._books.tail.behind

    def _today(self, shot: Snapshot) -> dict[str, Any]:
        if self._books is None:
            return {"today": None}
        since = today()
        savings = self._books.savings(since, cpu_per_request(shot))
        known = [row for row in savings if row["saved_usd"] is not None]
        return {
            "today": {
                **msgspec.structs.asdict(self._books.total(since)),
                "saved_usd": sum(row["saved_usd"] for row in known) if known else None,
                "single_usd": sum(row["single_usd"] for row in known) if known else None,
                "savings": savings,
                "targets": self._books.table("target", since),
            }
        }

    async def decisions(self, query: Query) -> dict[str, Any]:
        """The live tail."""
        await self._catch_up("live")
        after, limit = whole_number(query, "after", 0), whole_number(query, "limit", 50)
        shown = query.get("redacted", "") not in ("1", "true")
        return self._live.after(after, min(limit, MOST_ROWS), text=shown)

    async def frontier(self, query: Query) -> dict[str, Any]:
        """Points of cost and quality."""
        await self._catch_up("books")
        alias = query.get("alias") or next(iter(self.engine.aliases), "")
        if alias not in self.engine.aliases:
            raise RequestError("is no alias", field="alias", fix=f"there are: {', '.join(self.engine.aliases) or 'none'}")
        book = self._books.alias_days(alias, _since(query)) if self._books is not None else Day(singles={})
        points = frontier_points(book, self.engine.aliases[alias].targets.ids)
        return {"alias": alias, "aliases": list(self.engine.aliases), "journal": self._books is not None, **points}

    async def health(self, query: Query) -> dict[str, Any]:
        """Every target."""
        del query
        shot = self.metrics.read()
        places = _places(shot)
        rows = [_target_health(id_, shot, self.metrics.history, places.get(id_, {})) for id_ in self.engine.catalogue.ids]
        workers: dict[str, dict[str, float]] = {}
        for worker, labels, value in shot.gauges:
            if len(labels) == 1:
                workers.setdefault(worker, {})[labels[0]] = value
        return {"targets": rows, "workers": workers, "refused": {labels[0]: values[0] for labels, values in shot.of("refused")}}

    async def spend(self, query: Query) -> dict[str, Any]:
        """The books."""
        if self._books is None:
            return {"journal": False, "tables": {}, "savings": [], "total": None}
        await self._catch_up("books")
        since, shot = _since(query), self.metrics.read()
        tables = {by: self._books.table(by, since)[:MOST_ROWS] for by in AXES}
        tenancy = self.service().tenancy
        if isinstance(tenancy, KeyedTenancy):
            owners = {record.id: record for record in await tenancy.store.keys()}
            tables["team"] = by_team(tables["key"], {id_: record.team for id_, record in owners.items()})
            tables["key"] = [row | {"name": owners[row["key"]].name} if row["key"] in owners else row for row in tables["key"]]
        per_request = cpu_per_request(shot)
        return {
            "journal": True,
            "unread": self._unread(),
            "since": since,
            "total": self._books.total(since),
            "tables": tables,
            "savings": self._books.savings(since, per_request),
            "cpu_s_per_request": per_request,
            "usd_per_cpu_hour": self._books.usd_per_cpu_hour,
        }

    async def trials(self, query: Query) -> dict[str, Any]:
        """Policies beside the alias's own, and what came of them; the reports are made anew every twenty seconds."""
        del query
        configured = [
            {"alias": name, "trial": t.name, "policy": t.policy, "current": section.policy, "share": t.share, "by": t.by}
            for name, section in self.config().aliases.items()
            for t in section.trials
        ]
        self._open()
        path = self._journal
        if path is None:
            return {"journal": False, "trials": configured, "reports": [], "notes": []}
        await self._catch_up("live")
        async with self._locks["trials"]:
            if configured and time.monotonic() - self._fresh.get("trials", float("-inf")) >= TRIALS_EVERY_S:
                self._reports = await asyncio.to_thread(recent_trials, path)
                self._fresh["trials"] = time.monotonic()
        return {"journal": True, "trials": configured, "reports": self._reports, "notes": list(self._live.notes)}

    async def route(self, body: bytes) -> dict[str, Any]:
        """Decide, without calling anybody."""
        request, model = asked(body)
        started = time.perf_counter()
        routed = self.engine.route(request, model)
        took = time.perf_counter() - started
        return {"model": model, "routed": routed, "took_s": took, "targets": self._details(model)}

    def _details(self, model: str) -> dict[str, Any]:
        alias = self.engine.aliases.get(model)
        targets = alias.targets if alias is not None else [t for t in self.engine.catalogue if t.id == model]
        return {t.id: {"price": t.price, "description": t.description, "provider": t.provider} for t in targets}

    async def attempt(self, body: bytes) -> dict[str, Any]:
        """Decide and call, as for anybody else."""
        request, model = asked(body)
        CURRENT.set(None)  # the connection may have carried a traced call before
        answer = await self.service().complete(request, model, DASHBOARD)
        notes = answer.run.context.notes if answer.run.context is not None else None
        return {
            "model": model,
            "decision": answer.decision,
            "target": answer.target.id,
            "attempts": answer.attempts,
            "outcome": answer.outcome,
            "notes": notes or {},
            "text": text_of(answer.reply.body),
        }


def asked(body: bytes) -> tuple[Request, str]:
    """A question of the playground; raises RequestError."""
    found = parse_json(body)
    text, model = found.get("text"), found.get("model")
    if not isinstance(text, str) or not text.strip():
        raise RequestError("is missing", field="text", fix="write what a user would ask")
    if len(text) > TEXT_CHARS:
        raise RequestError(f"is over {TEXT_CHARS} characters", field="text", fix="shorten it")
    if not isinstance(model, str) or not model:
        raise RequestError("is missing", field="model", fix="name an alias or a target")
    labels = found.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise RequestError("is not a table of texts", field="labels", fix='for example {"dataset": "gsm8k"}')
    limits = {name: _limit(name, found[name]) for name in CONSTRAINTS if found.get(name) is not None}
    request = Request(
        id=new_id(),
        text=text,
        messages=(Message("user", text),),
        labels=labels,
        constraints=Constraints(**limits),
        params={"model": model, "messages": [{"role": "user", "content": text}]},
    )
    return request, model


def _limit(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise RequestError("is not a number of 0 or more", field=name, fix="leave it out for no limit")
    return float(value)


def whole_number(query: Query, name: str, default: int) -> int:
    """A number of 0 or more from the query string; raises RequestError."""
    found = query.get(name, "")
    if not found:
        return default
    if not found.isascii() or not found.isdigit() or len(found) > 15:
        raise RequestError("is not a whole number of 0 or more", field=name, fix=f"for example {name}={default}")
    return int(found)


def _since(query: Query) -> float:
    """The first second of `since` (2026-01-31, or "all"), today by default."""
    return day_start(query.get("since", ""), "since")


def cpu_per_request(shot: Snapshot) -> float:
    """Processor seconds of a request, everything included, as this gateway measured them; at first what is usual."""
    calls = shot.add_up("calls", CALL_WIDTH)[0]
    return shot.add_up("cpu", 1)[0] / calls if calls >= ENOUGH_CALLS else CPU_S_PER_REQUEST


def _recent(history: History, seconds: float) -> dict[str, Any]:
    """Rates and quantiles over the last so many seconds."""
    points = list(history.points)
    if len(points) < 2:
        return {"requests_per_s": None, "errors_per_s": None, "p50_s": None, "p95_s": None}
    last = points[-1]
    first = next((p for p in points if p[0] >= last[0] - seconds), points[0])
    if first is last:
        first = points[-2]
    return _between(first, last)


def _between(first: Any, last: Any) -> dict[str, Any]:
    span = max(1e-9, last[0] - first[0])
    buckets = [b - a for a, b in zip(first[2], last[2], strict=True)][:-1]
    return {
        "requests_per_s": (last[1][0] - first[1][0]) / span,
        "errors_per_s": (last[3] - first[3]) / span,
        "p50_s": quantile(buckets, LATENCY_S, 0.5),
        "p95_s": quantile(buckets, LATENCY_S, 0.95),
    }


def _series(history: History, most: int = 100) -> list[dict[str, Any]]:
    """The history as a chart needs it: rates between neighbours."""
    points = list(history.points)
    step = max(1, len(points) // most)
    kept = points[::-1][::step][::-1]
    return [{"at": b[0], **_between(a, b)} for a, b in pairwise(kept)]


def _places(shot: Snapshot) -> dict[str, dict[str, dict[str, float]]]:
    """Target -> deployment -> figures: the worst state that any worker sees, calls on their way added up."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for _, labels, value in shot.gauges:
        if len(labels) == 3:
            name, target, deployment = labels
            figures = found.setdefault(target, {}).setdefault(deployment, {})
            before = figures.get(name, 0.0)
            figures[name] = before + value if name == "outstanding" else max(before, value)
    return found


def _target_health(id_: str, shot: Snapshot, history: History, places: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    latency = history.latency_of(id_, shot)
    rows: list[dict[str, Any]] = [
        {"id": name, "state": STATES[int(p["breaker"])], "cooling_s": p["cooling_seconds"], "outstanding": p["outstanding"]}
        for name, p in sorted(places.items())
    ]
    return {
        "id": id_,
        "state": min((row["state"] for row in rows), key=STATES.index, default="unknown"),
        "cooling_s": min((row["cooling_s"] for row in rows), default=0.0),
        "outstanding": sum(row["outstanding"] for row in rows),
        "deployments": rows,
        "answered": sum(values[0] for labels, values in shot.of("calls") if labels[1] == id_ and not labels[3]),
        "failed": {labels[1]: values[0] for labels, values in shot.of("failed") if labels[0] == id_},
        "recent": sum(latency),
        "p50_s": quantile(latency, LATENCY_S, 0.5),
        "p95_s": quantile(latency, LATENCY_S, 0.95),
    }


def frontier_points(book: Day, ids: tuple[str, ...]) -> dict[str, Any]:
    """Cost (USD a request) and quality of each target and of the policy, from the same decisions."""
    correction = calibration(book)
    predicted = any(single.qualities for single in book.singles.values())
    points = []
    for id_ in ids:
        single = book.singles.get(id_)
        if single is None:
            continue
        would = single.exact_usd + single.priced_usd + single.predicted_usd * correction
        cost = would / single.count if single.count else None
        quality = _mean(single.quality, single.qualities) if predicted else _mean(single.recorded, single.recordings)
        points.append({"id": id_, "cost_usd": cost, "quality": quality, "decisions": single.count})
    quality = _mean(book.quality, book.qualities) if predicted else _mean(book.recorded, book.recordings)
    cost = (book.billed_usd + book.failed_usd) / book.answered if book.answered else None
    policy = {"cost_usd": cost, "quality": quality, "recorded": _mean(book.recorded, book.recordings)}
    basis = "predicted" if predicted else "recorded"
    return {"points": points, "policy": policy, "basis": basis, "decisions": book.decisions, "hull": _hull(points)}


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _hull(points: list[dict[str, Any]]) -> list[str]:
    """The targets that no mixture of others beats: the upper left edge, cheap to dear."""
    known = sorted(
        (p["cost_usd"], -p["quality"], p["id"]) for p in points if p["cost_usd"] is not None and p["quality"] is not None
    )
    hull: list[tuple[float, float, str]] = []
    for cost, negative, id_ in known:
        quality = -negative
        if hull and quality <= hull[-1][1]:
            continue
        while len(hull) > 1 and _below(hull[-2], hull[-1], (cost, quality)):
            hull.pop()
        hull.append((cost, quality, id_))
    return [id_ for _, _, id_ in hull]


def _below(a: tuple[float, float, str], b: tuple[float, float, str], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def error_of(error: JunctorError) -> dict[str, Any]:
    """An error as the dashboard shows it."""
    found: dict[str, Any] = {"message": str(error), "code": error.code}
    refusals = getattr(error, "refusals", None)
    if refusals:
        found["refusals"] = dict(refusals)
    return {"error": found}
