"""Keys, budgets and limits over any store: who calls, what is counted, set aside and booked."""

from __future__ import annotations

import hmac
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from junctor.engine.filters import characters
from junctor.engine.run import Run
from junctor.errors import OverBudget, RateLimited, Unauthorised
from junctor.journal import OutcomeRecord
from junctor.sections import TeamSection
from junctor.tenancy.accounts import NANO, NO_END, Account, Crossing, Refusal, Room, account, usd
from junctor.tenancy.admission import HEADROOM, Admission
from junctor.tenancy.contracts import ANYONE, Headers, Hold, Principal, Tenancy
from junctor.tenancy.estimates import Tariffs, asked_output, choices, input_bytes
from junctor.tenancy.keys import LONGEST_KEY, PREFIX, KeyRecord, digest_of, key_in
from junctor.tenancy.stores import Accounts, Entry, Store, Ticket
from junctor.types import Request

log = logging.getLogger("junctor.tenancy")
REMEMBERED = 65_536
UNKNOWN_REMEMBERED = 4096
RESERVED_FOR_S = 60.0
LONGEST_HOLD_S = 7 * 86_400.0
KEPT_FOR_S = 5.0
ADMIN = Principal(key="admin", name="admin", admin=True, priority=0)
HEADER = b"x-junctor-budget-left-usd"


class Caller(Principal, frozen=True, kw_only=True):
    """A principal with its accounts, its key's, then its team's; `limits` are the headers that say what they allow.

    `door` chooses who comes in when the team's limits are short.
    """

    accounts: Accounts = ()
    door: Admission | None = None
    limits: tuple[tuple[bytes, bytes], ...] = ()


class Known(Struct, frozen=True, gc=False):
    """A key that was looked up: good while the store's version is this one and until this time."""

    principal: Principal | None
    version: int
    until: float


class KeyedTenancy(Tenancy):
    """Takes callers in by key.

    store     keys and counters
    teams     [teams.NAME] of the configuration
    tariffs   what calls may cost
    required  whether a call without a key is refused
    admin     digest of the admin key; empty for none
    workers   processes that share the limits, each with its part of the calls
    hold_s    seconds after which what was set aside is given up if nobody settled it
    """

    def __init__(
        self,
        store: Store,
        teams: Mapping[str, TeamSection],
        tariffs: Tariffs,
        *,
        required: bool = True,
        admin: bytes = b"",
        hold_s: float = 60.0,
        workers: int = 1,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.teams = dict(teams)
        self.tariffs = tariffs
        self.required = required
        self._admin = admin
        self._hold_s = hold_s + RESERVED_FOR_S
        self._wall = wall
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._unknown: OrderedDict[bytes, Known] = OrderedDict()
        self._team_accounts = {name: self._team(name, team) for name, team in self.teams.items()}
        self._doors = {name: door for name, team in self.teams.items() if (door := _door(team, workers)) is not None}
        store.on_crossing = self._crossed

    def _team(self, name: str, team: TeamSection) -> Account:
        return account(
            f"team:{name}",
            requests=team.requests_per_minute,
            tokens=team.tokens_per_minute,
            budget_usd=team.budget_usd,
            soft_usd=team.soft_budget_usd,
            period=team.period,
            cell=self.store.place(f"team:{name}"),
        )

    # who calls

    def identify(self, headers: Headers) -> Principal | Awaitable[Principal]:
        """See Tenancy. A known key is found by its digest in memory; any change of any key makes everybody look again."""
        key = key_in(headers)
        if not key:
            if self.required:
                raise Unauthorised("there is no key", field="authorization", fix="send it as Bearer or in x-api-key")
            return ANYONE
        digest = digest_of(key)
        known = self._known.get(digest)
        if known is not None and known.version == self.store.version and self._wall() < known.until:
            assert known.principal is not None
            return known.principal
        return self._look_up(key, digest)

    def _look_up(self, key: bytes, digest: bytes) -> Principal | Awaitable[Principal]:
        if self._admin and hmac.compare_digest(digest, self._admin):
            return self._remember(digest, ADMIN, float("inf"))
        if len(key) > LONGEST_KEY or not key.startswith(PREFIX.encode()):
            return self._stranger(key)
        now = self._wall()
        missing = self._unknown.get(digest)
        if missing is not None and missing.version == self.store.version and now < missing.until:
            return self._stranger(key)
        found = self.store.find(digest, now)
        if isinstance(found, Awaitable):
            return self._found_later(found, key, digest)
        return self._found(found, key, digest)

    async def _found_later(self, finding: Awaitable[KeyRecord | None], key: bytes, digest: bytes) -> Principal:
        return self._found(await finding, key, digest)

    def _found(self, record: KeyRecord | None, key: bytes, digest: bytes) -> Principal:
        now = self._wall()
        if record is None or record.state(now) != "active" or (record.team and record.team not in self.teams):
            self._unknown[digest] = Known(None, self.store.version, now + self.store.fresh_s)
            if len(self._unknown) > UNKNOWN_REMEMBERED:
                self._unknown.popitem(last=False)
            return self._stranger(key)
        ends = record.expires if record.expires is not None else float("inf")
        return self._remember(digest, self.caller(record), min(ends, now + self.store.fresh_s))

    def _stranger(self, key: bytes) -> Principal:
        if not self.required and not key.startswith(PREFIX.encode()):
            return ANYONE  # clients of this API always send something
        raise Unauthorised("this key is not known here", field="authorization", fix="make one: junctor keys create")

    def _remember(self, digest: bytes, principal: Principal, until: float) -> Principal:
        self._known[digest] = Known(principal, self.store.version, until)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return principal

    def caller(self, record: KeyRecord) -> Caller:
        """The principal of a key: what its team may use bounds what it may use."""
        own = account(
            f"key:{record.id}",
            requests=record.requests_per_minute,
            tokens=record.tokens_per_minute,
            budget_usd=record.budget_usd,
            soft_usd=record.soft_budget_usd,
            period=record.period,
            cell=self.store.place(f"key:{record.id}"),
        )
        team = self.teams.get(record.team)
        models = set(record.models) or None
        if team is not None and team.models:
            models = set(team.models) if models is None else models & set(team.models)
        accounts = (own, self._team_accounts[record.team]) if team is not None else (own,)
        priority = record.priority if record.priority is not None else team.priority if team is not None else 1
        return Caller(
            key=record.id,
            name=record.name,
            team=record.team,
            tenant=record.tenant,
            models=None if models is None else frozenset(models),
            priority=priority,
            accounts=accounts,
            door=self._doors.get(record.team) if team is not None else None,
            limits=limit_headers(accounts),
        )

    # a call

    def enter(self, principal: Principal, request: Request, model: str) -> Hold | Awaitable[Hold]:
        """See Tenancy. Counts what goes in at four characters a token, and the output that was asked for."""
        accounts = principal.accounts if isinstance(principal, Caller) else ()
        ticket = Ticket(accounts, input_bytes(request), asked_output(request), choices(request))
        if not accounts:
            return ticket
        assert isinstance(principal, Caller)
        ticket.model = model
        ticket.headers = list(principal.limits)
        now = self._wall()
        ticket.expires = now + self._hold_s
        deadline_s = request.constraints.deadline_s
        if deadline_s is not None and deadline_s > self._hold_s - RESERVED_FOR_S:
            ticket.expires = now + min(deadline_s, LONGEST_HOLD_S) + RESERVED_FOR_S
        if principal.door is not None:
            self._choose(principal, ticket, now)
        ticket.ceiling = self.tariffs.ceiling(ticket.sent, ticket.asked, ticket.answers)
        room = self.store.enter(ticket, now)
        if isinstance(room, (Room, Refusal)):
            return self._entered(room, ticket, request)
        return self._entered_later(room, ticket, request)

    def _choose(self, caller: Caller, ticket: Ticket, now: float) -> None:
        """While the team's limits are short, room is kept for calls that are worth more of it. Raises RateLimited."""
        door = caller.door
        assert door is not None
        free = self.store.free(caller.accounts[-1], now) if door.short or door.due <= now else None
        load = (1.0, float(ticket.tokens))
        if not door.admit(caller.priority, load, now, HEADROOM if free is None else free):
            raise RateLimited(
                f"{caller.accounts[-1].shown} is near its limits, and what is left is kept for more important calls",
                retry_after_s=KEPT_FOR_S,
                fix="try again later, or with a key of a higher priority",
            )

    async def _entered_later(self, entering: Awaitable[Room | Refusal], ticket: Ticket, request: Request) -> Ticket:
        return self._entered(await entering, ticket, request)

    def _entered(self, room: Room | Refusal, ticket: Ticket, request: Request) -> Ticket:
        if type(room) is Refusal:
            raise self._limited(room, ticket)
        assert isinstance(room, Room)
        headers = list(ticket.headers or ())
        if room.requests != NO_END:
            headers.append((b"x-ratelimit-remaining-requests", b"%d" % room.requests))
        if room.tokens != NO_END:
            headers.append((b"x-ratelimit-remaining-tokens", b"%d" % room.tokens))
        if room.budget != NO_END:
            left = max(0, room.budget)
            headers.append((HEADER, b"%.6f" % (left / NANO)))
            if left < ticket.ceiling:
                self._narrow(left, ticket, request)
        if room.soft:
            headers.append((b"x-junctor-budget-warning", b"the soft budget is used up"))
        ticket.headers = headers
        return ticket

    def _narrow(self, left: int, ticket: Ticket, request: Request) -> None:
        """Where little is left, tell the engine's filter, so that it picks a target for which enough can be set aside."""
        ticket.budget_usd = self.tariffs.threshold(
            ticket.model, left, ticket.sent, characters(request), ticket.asked, ticket.answers
        )

    def _limited(self, refusal: Refusal, ticket: Ticket) -> RateLimited:
        shown = next((a for a in ticket.accounts if a.name == refusal.account), ticket.accounts[0])
        limit = shown.requests if refusal.kind == "requests" else shown.tokens
        if refusal.kind == "tokens" and ticket.tokens > limit:
            return RateLimited(
                f"the call takes about {ticket.tokens} tokens, {shown.shown} may use {limit} a minute",
                retry_after_s=60.0,
                fix="send less, or raise tokens_per_minute",
            )
        return RateLimited(
            f"{shown.shown} may use {limit} {refusal.kind} a minute",
            retry_after_s=float(math.ceil(refusal.wait_s)),
            fix=f"try again in {refusal.wait_s:.1f} s",
        )

    def reserve(self, hold: Hold, run: Run) -> Awaitable[None] | None:
        """See Tenancy."""
        assert isinstance(hold, Ticket)
        for a in hold.accounts:
            if a.budget >= 0:
                break
        else:
            return None
        amount = self.tariffs.most(run.decision.plan, hold.sent, hold.asked, hold.answers)
        if run.hedge is not None:
            amount += amount  # two targets may be asked, and both may be billed
        if amount <= hold.reserved:
            return None
        refusal = self.store.reserve(hold, amount - hold.reserved, self._wall())
        if refusal is None or isinstance(refusal, Refusal):
            self._reserved(refusal, hold, amount)
            return None
        return self._reserved_later(refusal, hold, amount)

    async def _reserved_later(self, reserving: Awaitable[Refusal | None], hold: Ticket, amount: int) -> None:
        self._reserved(await reserving, hold, amount)

    def _reserved(self, refusal: Refusal | None, hold: Ticket, amount: int) -> None:
        if refusal is None:
            return
        shown = next((a for a in hold.accounts if a.name == refusal.account), hold.accounts[0])
        raise OverBudget(
            f"{shown.shown} has {usd(refusal.left):.6f} US dollars left, this call may cost {usd(amount):.6f}",
            field="budget",
            fix="ask for fewer tokens (max_tokens), or raise the budget",
        )

    def settle(self, hold: Hold, run: Run | None, record: OutcomeRecord | None) -> None:
        """See Tenancy."""
        assert isinstance(hold, Ticket)
        if not hold.accounts:
            return
        try:
            cost, tokens = (0, 0)
            if run is not None and record is not None and record.attempts:
                cost, tokens = self.tariffs.billed(run, record, hold.sent)
            self.store.settle(hold, cost, tokens, self._wall())
        except Exception as error:  # noqa: BLE001 - the answer is there already; whoever wrote the books wrong is told in the log
            log.error("a call was not booked: %s", type(error).__name__)

    # the audit log

    def audit(self, actor: str, action: str, subject: str = "", **detail: Any) -> None:
        """See Tenancy."""
        self.store.note(Entry(at=self._wall(), actor=actor, action=action, subject=subject, detail=detail))

    def _crossed(self, crossing: Crossing) -> None:
        action = "budget.warned" if crossing.kind == "soft" else "budget.exhausted"
        self.audit("gateway", action, crossing.account, spent_usd=usd(crossing.spent))

    async def aclose(self) -> None:
        """Write back and close."""
        await self.store.aclose()


def _door(team: TeamSection, workers: int) -> Admission | None:
    limits = (team.requests_per_minute, team.tokens_per_minute)
    if limits == (None, None):
        return None
    return Admission([None if limit is None else limit / workers for limit in limits])


def limit_headers(accounts: Accounts) -> tuple[tuple[bytes, bytes], ...]:
    """The least limits of these accounts, as answers state them."""
    found = []
    for name in ("requests", "tokens"):
        limits = [limit for a in accounts if (limit := getattr(a, name)) >= 0]
        if limits:
            found.append((f"x-ratelimit-limit-{name}".encode(), b"%d" % min(limits)))
    return tuple(found)
