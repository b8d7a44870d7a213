"""What every store of keys, budgets and limits can do: the same steps on this machine, in Redis and in PostgreSQL.

The steps of a call (`find`, `enter`, `reserve`) answer at once or with an awaitable; `settle` never waits. Everything that
people do (make, list, revoke) is asynchronous.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from junctor.tenancy.accounts import Account, Crossing, Refusal, Room, Spent
from junctor.tenancy.contracts import Hold
from junctor.tenancy.keys import KeyRecord

Accounts = tuple[Account, ...]
OnCrossing = Callable[[Crossing], None]


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the audit log: who did what to what. `at` is Unix seconds; never a secret, never a prompt."""

    at: float
    actor: str
    action: str
    subject: str = ""
    detail: Mapping[str, Any] = {}


class Ticket(Hold):
    """What one call has counted and set aside.

    sent      the most tokens that go in; `asked`: the most that come out in each of `answers`, None when not said
    tokens    counted against the token limits, in the bucket of the Unix second `second`
    ceiling   nano-dollars that no single target may exceed: set aside at once where much is left
    reserved  nano-dollars set aside; `expires` is when they are given up if nobody settles them
    model     the alias or target that was asked for
    holds     the names under which a store elsewhere keeps what is set aside
    shadow    the accounts in this worker's memory that took its place while the store was away
    """

    __slots__ = (
        "accounts",
        "answers",
        "asked",
        "ceiling",
        "expires",
        "holds",
        "id",
        "model",
        "reserved",
        "second",
        "sent",
        "shadow",
        "tokens",
    )

    def __init__(self, accounts: Accounts, sent: int, asked: int | None, answers: int) -> None:
        self.state = None
        self.budget_usd = None
        self.headers = None
        self.settled = False
        self.accounts = accounts
        self.sent = sent
        self.asked = asked
        self.answers = answers
        self.tokens = (sent + 3) // 4 + (asked or 0)
        self.second = 0
        self.ceiling = 0
        self.reserved = 0
        self.expires = 0.0
        self.id = ""
        self.model = ""
        self.holds: tuple[str, ...] = ()
        self.shadow: Accounts | None = None


class Store(ABC):
    """Keys, counters and the audit log."""

    on_crossing: OnCrossing | None = None
    fresh_s: float = 0.9
    """How long a key may be remembered while `version` stays; for ever where `version` tells of every change at once."""

    # steps of a call

    @property
    @abstractmethod
    def version(self) -> int:
        """Changes whenever a key was changed; read before every use of a remembered key."""

    @abstractmethod
    def find(self, digest: bytes, now: float) -> KeyRecord | Awaitable[KeyRecord | None] | None:
        """The key of this digest, whatever its state; None for an unknown one and for a rotated one after its grace."""

    @abstractmethod
    def enter(self, ticket: Ticket, now: float) -> Room | Refusal | Awaitable[Room | Refusal]:
        """Count one request and `ticket.tokens` against all its accounts, or against none; sets `ticket.second`.

        Where PLENTY times `ticket.ceiling` is left of every budget, it is set aside too; sets `ticket.reserved`.
        """

    @abstractmethod
    def reserve(self, ticket: Ticket, amount: int, now: float) -> Refusal | Awaitable[Refusal | None] | None:
        """Set this amount more aside in all accounts with a budget, or in none; adds it to `ticket.reserved`."""

    @abstractmethod
    def settle(self, ticket: Ticket, cost: int, tokens: int, now: float) -> None:
        """Give back what was set aside, book the cost, and correct the tokens that were counted to what they were."""

    # what people do

    @abstractmethod
    async def create(self, record: KeyRecord, digest: bytes) -> None:
        """Keep a new key."""

    @abstractmethod
    async def keys(self) -> list[KeyRecord]:
        """All keys, oldest first."""

    @abstractmethod
    async def update(self, record: KeyRecord) -> None:
        """Replace the record of an id."""

    @abstractmethod
    async def rotate(self, record: KeyRecord, digest: bytes, until: float) -> None:
        """Another secret for an id; the earlier ones end at this Unix time."""

    @abstractmethod
    async def spent(self, names: Sequence[str]) -> list[Spent]:
        """What these accounts have spent, all periods that are known, and what is set aside now."""

    @abstractmethod
    async def append(self, entry: Entry) -> None:
        """One more line of the audit log."""

    @abstractmethod
    async def entries(self, most: int) -> list[Entry]:
        """The last lines of the audit log, oldest first."""

    def note(self, entry: Entry) -> None:
        """`append` from where nobody waits; a failure is logged."""

    def free(self, account: Account, now: float) -> float | None:
        """The share of an account's limits that is unused, where that is known without asking anybody."""
        del account, now
        return None

    def place(self, name: str) -> int:
        """The cell of an account; 0 where there are no cells."""
        del name
        return 0

    async def aclose(self) -> None:
        """Write back and close."""

    async def key(self, id_: str) -> KeyRecord | None:
        """The key of this id."""
        return next((record for record in await self.keys() if record.id == id_), None)
