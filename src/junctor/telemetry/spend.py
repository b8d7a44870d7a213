"""What it cost, whom, and what it would have cost otherwise: added up from the journal, which alone is durable.

**Cost.** Every attempt is billed to the target that was called: failed calls, hedges, checks and the earlier stages of a
cascade are in it, so the sum over targets is the bill.

**Savings** compare the bill of each alias with "always the best single target", which is an estimate and says what it rests on.
The best single is the one of the highest mean predicted quality, else of the highest recorded quality, else the dearest by list
price. What it would have cost is, decision by decision: what was billed, where it answered alone; else the cost that the policy
predicted of it, corrected by how the predictions of the alias compare with its bills; else its list price on the tokens that
were used. Decisions of which none of these is known are left out on both sides and counted. Nothing is credited for answers
from a cache. What failed calls cost is charged against the savings, and so is the gateway's own processor time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from junctor.errors import JournalError, RequestError
from junctor.telemetry.tail import Tail
from junctor.types import Outcome, Price, Ranked

DAY_S = 86_400
AXES = ("tenant", "key", "alias", "target", "policy", "day")
MOST_OPEN, MOST_DONE = 20_000, 10_000
"""Decisions without an outcome yet, and answered ones of which a quality may still be told."""
REST_S = 0.001
CACHE = "cache"
# Processor time of one request at one worker, measured (docs/gateway.md): for a reading without a running gateway.
CPU_S_PER_REQUEST = 160e-6


class _Decision(Struct):
    id: str
    target: str
    policy: str
    ranked: tuple[Ranked, ...] = ()


class _Decided(Struct, tag_field="kind", tag="decision"):
    at: float
    decision: _Decision
    alias: str = ""
    tenant: str = ""
    key: str = ""


class _Attempt(Struct):
    target: str
    error: str = ""
    outcome: Outcome = Outcome()


class _Ended(Struct, tag_field="kind", tag="outcome"):
    at: float
    id: str
    target: str = ""
    outcome: Outcome = Outcome()
    attempts: tuple[_Attempt, ...] = ()
    error: str = ""


class _Said(Struct, tag_field="kind", tag="feedback"):
    at: float
    id: str
    outcome: Outcome = Outcome()


_decode = msgspec.json.Decoder(_Decided | _Ended | _Said).decode


class Cell(Struct):
    """One line of the books: what falls under the same labels."""

    decisions: int = 0
    answered: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    unknown_cost: int = 0
    input_tokens: float = 0.0
    output_tokens: float = 0.0

    def add(self, other: Cell) -> None:
        """Take another line in."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Single(Struct):
    """What is known of "always this target", over the decisions of an alias on a day.

    exact, predicted, priced   USD that it would have cost, by what the figure rests on; billed the bill of the same decisions
    """

    count: int = 0
    exact_usd: float = 0.0
    predicted_usd: float = 0.0
    priced_usd: float = 0.0
    billed_usd: float = 0.0
    quality: float = 0.0
    qualities: int = 0
    cost: float = 0.0
    costs: int = 0
    recorded: float = 0.0
    recordings: int = 0
    paid: float = 0.0
    payments: int = 0

    def add(self, other: Single) -> None:
        """Take another day in."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Day(Struct):
    """An alias on a day: its policy's own point, and every target's."""

    singles: dict[str, Single] = {}
    decisions: int = 0
    cached: int = 0
    answered: int = 0
    billed_usd: float = 0.0
    failed_usd: float = 0.0
    predicted_usd: float = 0.0
    predicted_billed_usd: float = 0.0
    quality: float = 0.0
    qualities: int = 0
    recorded: float = 0.0
    recordings: int = 0

    def add(self, other: Day) -> None:
        """Take another day in."""
        for name in self.__struct_fields__[1:]:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for id_, single in list(other.singles.items()):  # a thread may be adding some
            self.singles.setdefault(id_, Single()).add(single)


class Books:
    """Adds up a journal as it grows. `catch_up` blocks on the disk; everything else is quick.

    prices            target -> list price
    usd_per_cpu_hour  what the gateway's own processor time costs
    """

    def __init__(self, path: Path, prices: Mapping[str, Price], usd_per_cpu_hour: float = 0.05) -> None:
        self.tail = Tail(path)
        self.prices = dict(prices)
        self.usd_per_cpu_hour = usd_per_cpu_hour
        self.cells: dict[tuple[str, ...], Cell] = {}
        self.days: dict[tuple[int, str], Day] = {}
        self._open: OrderedDict[str, _Decided] = OrderedDict()
        self._done: OrderedDict[str, tuple[int, str, str]] = OrderedDict()

    def catch_up(self, *, rest: bool = False, most_s: float = float("inf")) -> bool:
        """Read what is new, for at most so many seconds; whether all of it is read.

        With `rest`, pause between pieces so that a busy event loop in this process gets its turns.
        """
        end = time.monotonic() + most_s
        while lines := self.tail.take(1 << 16 if rest else 1 << 20):
            for line in lines:
                self._take(line)
            if time.monotonic() > end:
                return False
            if rest:
                time.sleep(REST_S)
        return True

    def _take(self, line: bytes) -> None:
        try:
            record = _decode(line)
        except (msgspec.DecodeError, ValueError):
            return  # a kind of record that has nothing to do with money
        if isinstance(record, _Decided):
            _keep(self._open, record.decision.id, record, MOST_OPEN)
        elif isinstance(record, _Said):
            self._said(record)
        else:
            decided = self._open.pop(record.id, None)
            if decided is not None:
                self._ended(decided, record)

    def _ended(self, decided: _Decided, ended: _Ended) -> None:
        day = int(decided.at // DAY_S)
        self._bill(decided, ended, day)
        if not decided.alias:
            return
        book = self.days.setdefault((day, decided.alias), Day(singles={}))
        book.decisions += 1
        if decided.decision.policy == CACHE:
            book.cached += 1
            return
        cost = ended.outcome.cost_usd
        if not ended.target or ended.error:
            book.failed_usd += cost or 0.0
            return
        book.answered += 1
        book.billed_usd += cost or 0.0
        self._compare(book, decided.decision, ended)
        done = (day, decided.alias, ended.target)
        _keep(self._done, ended.id, done, MOST_DONE)
        if ended.outcome.quality is not None:
            self._recorded(done, ended.outcome.quality)

    def _bill(self, decided: _Decided, ended: _Ended, day: int) -> None:
        labels = (decided.tenant, decided.key, decided.alias, ended.target, decided.decision.policy, str(day))
        cell = self.cells.setdefault(labels, Cell())
        cell.decisions += 1
        cell.answered += bool(ended.target) and not ended.error
        for attempt in ended.attempts:
            there = self.cells.setdefault((*labels[:3], attempt.target, *labels[4:]), Cell())
            there.calls += 1
            there.input_tokens += attempt.outcome.input_tokens or 0
            there.output_tokens += attempt.outcome.output_tokens or 0
            cost = attempt.outcome.cost_usd
            there.cost_usd += cost or 0.0
            there.unknown_cost += cost is None and not attempt.error

    def _compare(self, book: Day, decision: _Decision, ended: _Ended) -> None:
        """What each target would have cost, and was predicted to be worth."""
        bill = ended.outcome.cost_usd
        rows = {row.target: row.predicted for row in decision.ranked}
        served = rows.get(ended.target)
        if served is not None:
            if served.quality is not None:
                book.quality += served.quality
                book.qualities += 1
            if served.cost_usd is not None and bill is not None and len(ended.attempts) == 1:
                book.predicted_usd += served.cost_usd
                book.predicted_billed_usd += bill
        for id_ in {*rows, ended.target}:
            single = book.singles.setdefault(id_, Single())
            said = rows.get(id_, Outcome())
            if said.quality is not None:
                single.quality += said.quality
                single.qualities += 1
            if said.cost_usd is not None:
                single.cost += said.cost_usd
                single.costs += 1
            if bill is not None:
                self._otherwise(single, id_, said, ended, bill)

    def _otherwise(self, single: Single, id_: str, said: Outcome, ended: _Ended, bill: float) -> None:
        outcome = ended.outcome
        if id_ == ended.target and len(ended.attempts) == 1:
            single.exact_usd += bill
            single.paid += bill
            single.payments += 1
        elif said.cost_usd is not None:
            single.predicted_usd += said.cost_usd
        elif id_ in self.prices and outcome.input_tokens is not None and outcome.output_tokens is not None:
            single.priced_usd += self.prices[id_].cost_usd(outcome.input_tokens, outcome.output_tokens)
        else:
            return
        single.count += 1
        single.billed_usd += bill

    def _said(self, record: _Said) -> None:
        done, quality = self._done.get(record.id), record.outcome.quality
        if done is not None and quality is not None:
            self._recorded(done, quality)

    def _recorded(self, done: tuple[int, str, str], quality: float) -> None:
        day, alias, target = done
        book = self.days[day, alias]
        book.recorded += quality
        book.recordings += 1
        single = book.singles.setdefault(target, Single())
        single.recorded += quality
        single.recordings += 1

    def table(self, by: str, since: float = 0.0) -> list[dict[str, Any]]:
        """The lines of the books under one label (one of AXES), the dearest first; `since` in Unix seconds, by whole days."""
        place = AXES.index(by)
        found: dict[str, Cell] = {}
        for labels, cell in list(self.cells.items()):
            if int(labels[-1]) >= int(since // DAY_S):
                found.setdefault(labels[place], Cell()).add(cell)
        rows = [{by: day_name(name) if by == "day" else name, **msgspec.structs.asdict(cell)} for name, cell in found.items()]
        return sorted(rows, key=lambda row: (-row["cost_usd"], str(row[by])))

    def total(self, since: float = 0.0) -> Cell:
        """Everything."""
        total = Cell()
        for labels, cell in list(self.cells.items()):
            if int(labels[-1]) >= int(since // DAY_S):
                total.add(cell)
        return total

    def alias_days(self, alias: str, since: float = 0.0) -> Day:
        """An alias since a day."""
        book = Day(singles={})
        for (day, name), each in list(self.days.items()):
            if name == alias and day >= int(since // DAY_S):
                book.add(each)
        return book

    def savings(self, since: float = 0.0, cpu_s_per_request: float = CPU_S_PER_REQUEST) -> list[dict[str, Any]]:
        """A line per alias: the bill against "always the best single", see the module."""
        aliases = sorted({alias for _, alias in list(self.days)})
        return [self._saved(alias, self.alias_days(alias, since), cpu_s_per_request) for alias in aliases]

    def _saved(self, alias: str, book: Day, cpu_s_per_request: float) -> dict[str, Any]:
        best, basis = best_single(book, self.prices)
        cpu_usd = book.decisions * cpu_s_per_request / 3600 * self.usd_per_cpu_hour
        found: dict[str, Any] = {
            "alias": alias,
            "best_single": best,
            "basis": basis,
            "decisions": book.decisions,
            "answered": book.answered,
            "from_cache": book.cached,
            "billed_usd": book.billed_usd + book.failed_usd,
            "failed_usd": book.failed_usd,
            "cpu_usd": cpu_usd,
            "compared": 0,
            "single_usd": None,
            "saved_usd": None,
            "saved_share": None,
        }
        single = book.singles.get(best)
        if single is None or not single.count:
            return found
        would = single.exact_usd + single.priced_usd + single.predicted_usd * calibration(book)
        saved = would - single.billed_usd - book.failed_usd - cpu_usd
        return found | {
            "compared": single.count,
            "single_usd": would,
            "predicted_share": single.predicted_usd * calibration(book) / would if would else 0.0,
            "calibration": calibration(book),
            "saved_usd": saved,
            "saved_share": saved / would if would else None,
        }


def calibration(book: Day) -> float:
    """Bills over predictions, where both are known: what a predicted cost must be multiplied with."""
    return book.predicted_billed_usd / book.predicted_usd if book.predicted_usd > 0 else 1.0


def best_single(book: Day, prices: Mapping[str, Price]) -> tuple[str, str]:
    """The target that one would take if there were but one, and what says so; "" when nothing does."""
    half = book.answered / 2
    predicted = {id_: s.quality / s.qualities for id_, s in book.singles.items() if s.qualities and s.qualities >= half}
    if predicted and len(set(predicted.values())) > 1:
        return max(sorted(predicted), key=predicted.__getitem__), "predicted quality"
    recorded = {id_: s.recorded / s.recordings for id_, s in book.singles.items() if s.recordings >= MOST_WANTED}
    if len(recorded) > 1:
        return max(sorted(recorded), key=recorded.__getitem__), "recorded quality"
    listed = {id_: prices[id_].cost_usd(1000, 500) for id_ in book.singles if id_ in prices}
    if any(listed.values()):
        return max(sorted(listed), key=listed.__getitem__), "list price"
    costly = {id_: s.cost / s.costs for id_, s in book.singles.items() if s.costs}
    if any(costly.values()):
        return max(sorted(costly), key=costly.__getitem__), "predicted cost"
    return "", "nothing known"


MOST_WANTED = 20
"""Recorded qualities that a target needs before it may be called the best."""


def _keep(known: OrderedDict[str, Any], id_: str, value: Any, most: int) -> None:
    known[id_] = value
    if len(known) > most:
        known.popitem(last=False)


def day_name(day: str | int) -> str:
    """2026-01-31, in UTC."""
    return datetime.fromtimestamp(int(day) * DAY_S, UTC).strftime("%Y-%m-%d")


def today(wall: Callable[[], float] = time.time) -> float:
    """The first second of the day, in UTC."""
    return wall() // DAY_S * DAY_S


def day_start(day: str, field: str) -> float:
    """The first second of 2026-01-31, "today" or "all", in UTC; raises RequestError that names the field."""
    if day in ("", "today"):
        return today()
    if day == "all":
        return 0.0
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise RequestError("is not a day", field=field, fix="for example 2026-01-31, today or all") from error


def read_books(path: Path, prices: Mapping[str, Price], usd_per_cpu_hour: float = 0.05) -> Books:
    """A whole journal, added up; raises JournalError when it cannot be read."""
    if not path.exists():
        raise JournalError("cannot be read: there is no such file", field=str(path), fix="name the file in [journal] path")
    books = Books(path, prices, usd_per_cpu_hour)
    books.catch_up()
    return books


def by_team(keys: Iterable[Mapping[str, Any]], teams: Mapping[str, str]) -> list[dict[str, Any]]:
    """The table by key, added up by the team of each; "" for calls without a key, or whose key has no team."""
    found: dict[str, Cell] = {}
    for row in keys:
        cell = Cell(**{name: row[name] for name in Cell.__struct_fields__})
        found.setdefault(teams.get(row["key"], ""), Cell()).add(cell)
    rows = [{"team": name, **msgspec.structs.asdict(cell)} for name, cell in found.items()]
    return sorted(rows, key=lambda row: (-row["cost_usd"], row["team"]))


def rows_of(books: Books, axes: Iterable[str], since: float = 0.0) -> dict[str, list[dict[str, Any]]]:
    """Several tables at once."""
    return {by: books.table(by, since) for by in axes}
