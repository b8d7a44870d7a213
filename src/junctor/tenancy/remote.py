"""What stores on other machines have in common: no call waits long for them, and they may go away and come back.

A step that fails opens a circuit: for a second nobody asks again, then one call tries. Meanwhile calls are refused at once, or
("allow") let in within what this worker knows: the keys it has seen, and counters in its own memory that start from what it
last heard was spent. What calls did cost waits in a queue, and is booked when the store is back, each cost exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from abc import abstractmethod
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

from msgspec.structs import replace

from junctor.errors import StateUnavailable
from junctor.tenancy.accounts import Account, Calendar, Crossing, Refusal, Room
from junctor.tenancy.counters import Counters
from junctor.tenancy.keys import KeyRecord
from junctor.tenancy.stores import Accounts, Entry, Store, Ticket

log = logging.getLogger("junctor.tenancy")
T = TypeVar("T")
ANSWER_S = 1.0
DOWN_S = 1.0
MOST_WAITING = 100_000
BATCH = 64
CLOSE_S = 2.0
SEEN = 65_536


class Booking(NamedTuple):
    """A cost that is on its way to the store. `number` counts this worker's, so that none is booked twice."""

    number: int
    ticket: str
    holds: tuple[str, ...]
    accounts: Accounts
    cost: int
    token_error: int
    second: int
    now: float


class Entered(NamedTuple):
    """What a store says to `enter`: the room or the refusal, second, set aside; what each account has used."""

    room: Room | Refusal
    second: int = 0
    reserved: int = 0
    used: tuple[int, ...] = ()


class RemoteStore(Store):
    """The steps over a network. A subclass does them; `failures` are the errors that mean that nobody is there."""

    failures: tuple[type[BaseException], ...] = (OSError, TimeoutError)

    def __init__(self, *, on_failure: Literal["refuse", "allow"] = "refuse", wall: Callable[[], float] = time.time) -> None:
        self._allow = on_failure == "allow"
        self._wall = wall
        self.worker = uuid.uuid4().hex
        self._number = 0
        self._tickets = 0
        self._down_until = 0.0
        self._down = False
        self._waiting: deque[Booking | Entry] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._seen: OrderedDict[bytes, KeyRecord] = OrderedDict()
        self._calendar = Calendar()
        self._memory = Memory()

    # what a subclass does; each raises one of `failures` when the store is away

    @abstractmethod
    async def _find(self, digest: bytes, now: float) -> KeyRecord | None: ...

    @abstractmethod
    async def _enter(self, ticket: Ticket, ids: Sequence[int], now: float) -> Entered: ...

    @abstractmethod
    async def _reserve(self, ticket: Ticket, amount: int, ids: Sequence[int], now: float) -> Refusal | None: ...

    @abstractmethod
    async def _book(self, bookings: Sequence[Booking]) -> list[Crossing]: ...

    @abstractmethod
    async def _append(self, entry: Entry) -> None: ...

    @abstractmethod
    async def _close(self) -> None: ...

    # the circuit

    @property
    def version(self) -> int:
        """Always the same: a remembered key is looked up again when it is `fresh_s` old."""
        return 0

    @property
    def down(self) -> bool:
        """Whether the store did not answer when it was last asked."""
        return self._down

    def _open(self) -> bool:
        """Whether nobody should ask now. After a while one call may: it moves the time on for the others."""
        if not self._down:
            return False
        now = time.monotonic()
        if now < self._down_until:
            return True
        self._down_until = now + DOWN_S
        return False

    def _broke(self, error: BaseException) -> None:
        if not self._down:
            log.error("the store of keys and budgets does not answer: %s", type(error).__name__)
        self._down = True
        self._down_until = time.monotonic() + DOWN_S

    def _back(self) -> None:
        if self._down:
            log.warning("the store of keys and budgets answers again; %d bookings wait for it", len(self._waiting))
            self._down = False
            self._memory = Memory()
            self._wake.set()

    async def _asked(self, step: Awaitable[T]) -> T:
        """What the store says; raises StateUnavailable after a second at most, and opens the circuit."""
        try:
            async with asyncio.timeout(ANSWER_S):
                found = await step
        except self.failures as error:
            self._broke(error)
            raise _unavailable() from error
        self._back()
        return found

    # steps of a call

    def find(self, digest: bytes, now: float) -> KeyRecord | Awaitable[KeyRecord | None] | None:
        """See Store."""
        if self._open():
            return self._remembered(digest)
        return self._finding(digest, now)

    async def _finding(self, digest: bytes, now: float) -> KeyRecord | None:
        try:
            record = await self._asked(self._find(digest, now))
        except StateUnavailable:
            return self._remembered(digest)
        if record is None:
            self._seen.pop(digest, None)
        else:
            self._seen[digest] = record
            if len(self._seen) > SEEN:
                self._seen.popitem(last=False)
        return record

    def _remembered(self, digest: bytes) -> KeyRecord:
        record = self._seen.get(digest) if self._allow else None
        if record is None:
            raise _unavailable()
        return record

    def enter(self, ticket: Ticket, now: float) -> Room | Refusal | Awaitable[Room | Refusal]:
        """See Store."""
        if self._open():
            return self._entered_here(ticket, now)
        self._tickets += 1
        ticket.id = f"{self.worker}-{self._tickets}"
        return self._entering(ticket, now)

    async def _entering(self, ticket: Ticket, now: float) -> Room | Refusal:
        ids = self._calendar.ids(now)
        try:
            entered = await self._asked(self._enter(ticket, [ids[a.period] for a in ticket.accounts], now))
        except StateUnavailable:
            return self._entered_here(ticket, now)
        ticket.second, ticket.reserved = entered.second, entered.reserved
        for account, used in zip(ticket.accounts, entered.used, strict=False):
            self._memory.heard(account, ids[account.period], used)
        return entered.room

    def _entered_here(self, ticket: Ticket, now: float) -> Room | Refusal:
        if not self._allow:
            raise _unavailable()
        ticket.shadow = self._memory.shadow(ticket.accounts)
        room, ticket.second, ticket.reserved = self._memory.counters.enter(ticket.shadow, ticket.tokens, ticket.ceiling, now)
        return room

    def reserve(self, ticket: Ticket, amount: int, now: float) -> Refusal | Awaitable[Refusal | None] | None:
        """See Store."""
        if ticket.shadow is not None or self._open():
            return self._reserved_here(ticket, amount, now)
        return self._reserving(ticket, amount, now)

    async def _reserving(self, ticket: Ticket, amount: int, now: float) -> Refusal | None:
        ids = self._calendar.ids(now)
        try:
            refusal = await self._asked(self._reserve(ticket, amount, [ids[a.period] for a in ticket.accounts], now))
        except StateUnavailable:
            return self._reserved_here(ticket, amount, now)
        if refusal is None:
            ticket.reserved += amount
        return refusal

    def _reserved_here(self, ticket: Ticket, amount: int, now: float) -> Refusal | None:
        if not self._allow:
            raise _unavailable()
        if ticket.shadow is None:
            ticket.shadow = self._memory.shadow(ticket.accounts)
            ticket.reserved = 0  # what the store holds ends by itself or with the booking
        refusal = self._memory.counters.reserve(ticket.shadow, amount, now)
        if refusal is None:
            ticket.reserved += amount
        return refusal

    def settle(self, ticket: Ticket, cost: int, tokens: int, now: float) -> None:
        """See Store. Waits in the queue; the answer does not."""
        error = tokens - ticket.tokens
        if ticket.shadow is not None:
            self._memory.settle(ticket, cost, error, now)
        if cost or ticket.reserved or error or ticket.shadow is not None:
            self._number += 1
            self._put(Booking(self._number, ticket.id, ticket.holds, ticket.accounts, cost, error, ticket.second, now))

    def note(self, entry: Entry) -> None:
        """See Store. Waits in the queue."""
        self._put(entry)

    def _put(self, item: Booking | Entry) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            log.error("more than %d bookings wait for the store: the oldest is lost", MOST_WAITING)
        self._waiting.append(item)
        self._wake.set()
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        """Book what waits, in order, some at a time; again and again while the store is away."""
        while True:
            self._wake.clear()
            while self._waiting:
                try:
                    await self._asked(self._send_some())
                except StateUnavailable:
                    await asyncio.sleep(DOWN_S / 2)
            await self._wake.wait()

    async def _send_some(self) -> None:
        first = self._waiting[0]
        if isinstance(first, Entry):
            await self._append(first)
            self._waiting.popleft()
            return
        batch: list[Booking] = []
        for item in self._waiting:
            if isinstance(item, Entry) or len(batch) == BATCH:
                break
            batch.append(item)
        crossed = await self._book(batch)
        for _ in batch:
            self._waiting.popleft()
        for crossing in crossed:
            if self.on_crossing is not None:
                self.on_crossing(crossing)

    async def drain(self, seconds: float) -> bool:
        """Wait until everything is booked; False when that took too long."""
        end = time.monotonic() + seconds
        while self._waiting and time.monotonic() < end:
            self._wake.set()
            await asyncio.sleep(0.01)
        return not self._waiting

    async def append(self, entry: Entry) -> None:
        """See Store."""
        await self._asked(self._append(entry))

    async def aclose(self) -> None:
        """Book what waits, if that can be done soon, and close."""
        if not await self.drain(CLOSE_S):
            log.error("%d bookings were not written to the store", len(self._waiting))
        if self._sender is not None:
            self._sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sender
        await self._close()


class Memory:
    """Counters of this worker alone, for the time without a store; they start from what was last heard."""

    def __init__(self) -> None:
        self._counters: Counters | None = None
        self._shadows: dict[str, Account] = {}
        self._heard: OrderedDict[str, tuple[int, int]] = OrderedDict()

    @property
    def counters(self) -> Counters:
        """Made when they are needed for the first time."""
        if self._counters is None:
            self._counters = Counters(None)
            self._counters.join()
        return self._counters

    def heard(self, account: Account, period: int, used: int) -> None:
        """So much is spent or set aside, the store says."""
        self._heard[account.name] = (period, used)
        if len(self._heard) > SEEN:
            self._heard.popitem(last=False)

    def shadow(self, accounts: Accounts) -> Accounts:
        """The accounts here that stand for these."""
        return tuple([self._one(account) for account in accounts])

    def _one(self, account: Account) -> Account:
        found = self._shadows.get(account.name)
        if found is None:
            at = self.counters.add_cell(len(self._shadows) + 1)
            found = self._shadows[account.name] = replace(account, cell=at)
            if account.name in self._heard:
                self.counters.restore(at, *self._heard[account.name])
        return found

    def settle(self, ticket: Ticket, cost: int, token_error: int, now: float) -> None:
        """Book here too, so that the next call knows of it; a ticket of an earlier absence is none of ours."""
        shadow = ticket.shadow or ()
        if all(self._shadows.get(account.name) is account for account in shadow):
            self.counters.settle(shadow, ticket.reserved, cost, token_error, ticket.second, now)


def _unavailable() -> StateUnavailable:
    return StateUnavailable("the store of keys and budgets does not answer", field="state.url", fix="try again in a moment")
