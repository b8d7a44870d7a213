"""What is counted: accounts of keys and teams, money as whole nano-dollars, budget periods of the calendar (UTC)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, NamedTuple

from msgspec import Struct

NANO = 1_000_000_000
NONE = -1
"""In place of a limit or a budget: there is none."""
NO_END = 1 << 62
PLENTY = 64
"""Where so many times the most that a call may cost is left, that much is set aside before it is decided."""
WINDOW_S = 60
PERIODS = ("day", "week", "month", "total")
DAY_S = 86_400
Period = Literal["day", "week", "month", "total"]


def nano(usd: float) -> int:
    """US dollars as whole nano-dollars, to the nearest."""
    return round(usd * NANO)


def usd(amount: int) -> float:
    """Nano-dollars as US dollars."""
    return amount / NANO


class Account(Struct, frozen=True, gc=False, kw_only=True):
    """What one key or one team may use. Limits per minute, budget in nano-dollars per `period` (a place in PERIODS).

    `cell` is where a store keeps it, if it keeps it in a place.
    """

    name: str
    cell: int = 0
    requests: int = NONE
    tokens: int = NONE
    budget: int = NONE
    soft: int = NONE
    period: int = 2

    @property
    def shown(self) -> str:
        """As an error message names it: a key's own id is known to its holder, so it is not repeated."""
        kind, _, name = self.name.partition(":")
        return "this key" if kind == "key" else f"team {name!r}"


def account(
    name: str,
    *,
    requests: int | None = None,
    tokens: int | None = None,
    budget_usd: float | None = None,
    soft_usd: float | None = None,
    period: str = "month",
    cell: int = 0,
) -> Account:
    """From what people write: None is no limit."""
    return Account(
        name=name,
        cell=cell,
        requests=NONE if requests is None else requests,
        tokens=NONE if tokens is None else tokens,
        budget=NONE if budget_usd is None else nano(budget_usd),
        soft=NONE if soft_usd is None else nano(soft_usd),
        period=PERIODS.index(period),
    )


class Room(NamedTuple):
    """What is left after a call was counted, the least over its accounts; NO_END where nothing bounds it.

    `budget` is before anything was set aside for this call, and below zero when more was booked than there was.
    """

    requests: int = NO_END
    tokens: int = NO_END
    budget: int = NO_END
    soft: bool = False


class Refusal(NamedTuple):
    """Why a call was not counted or nothing was set aside. `kind` is "requests", "tokens" or "budget".

    `wait_s` is when there will be room; `left` is what is left, in requests, tokens or nano-dollars.
    """

    kind: str
    account: str
    wait_s: float
    left: int


class Crossing(NamedTuple):
    """A budget was crossed for the first time in its period: "soft" or "hard"; told once over all workers."""

    kind: str
    account: str
    spent: int


class Spent(NamedTuple):
    """What an account has spent in a period, in nano-dollars, and what is set aside on top."""

    account: str
    period: int
    spent: int
    reserved: int = 0


def period_ids(at: float) -> tuple[int, int, int, int]:
    """The number of the day, week (from Monday), month and of everything at this Unix time, as PERIODS has them.

    No two kinds share a number, so that one column holds them all.
    """
    date = datetime.fromtimestamp(at, UTC)
    day = date.toordinal()
    return day, (day - 1) // 7, date.year * 12 + date.month - 1, 1


class Calendar:
    """The current periods, worked out once a day."""

    __slots__ = ("_from", "_ids", "_until")

    def __init__(self) -> None:
        self._from = self._until = 0.0
        self._ids = (0, 0, 0, 0)

    def ids(self, at: float) -> tuple[int, int, int, int]:
        """The numbers of the periods at this Unix time."""
        if not self._from <= at < self._until:
            self._ids = period_ids(at)
            self._from = at // DAY_S * DAY_S
            self._until = self._from + DAY_S
        return self._ids


def oversize(limit: int, asked: int) -> bool:
    """Whether a call asks for more tokens than a whole minute has: then no wait helps."""
    return asked > limit


def wait_for(buckets: list[tuple[int, int]], limit: int, asked: int, now: float) -> float:
    """Seconds until `asked` more fit, given (second, count) oldest first: a second leaves the window 61 s after it began."""
    total = sum(count for _, count in buckets)
    for second, count in buckets:
        total -= count
        if total + asked <= limit:
            return max(0.05, second + WINDOW_S + 1 - now)
    return float(WINDOW_S)
