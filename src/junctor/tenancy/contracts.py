"""Who calls, what they may use, and what is set aside for a call before it is made.

The order of a call: `identify` its key, `enter` (rate limits), decide, `reserve` (budgets: the most that the plan may cost),
call, `settle` what it did cost. Each step answers at once where the state is on this machine, and with an awaitable where it is
not; whoever calls them awaits only what must be awaited.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any

from msgspec import Struct

from junctor.engine.run import Run
from junctor.errors import Forbidden
from junctor.journal import OutcomeRecord
from junctor.types import Request

Headers = Sequence[tuple[bytes, bytes]]


class Principal(Struct, frozen=True, kw_only=True):
    """Who calls. `key` is the id of the key, never the key; `models` the aliases and targets it may use (None: all)."""

    key: str = ""
    name: str = ""
    team: str = ""
    tenant: str = ""
    models: frozenset[str] | None = None
    priority: int = 1
    admin: bool = False

    def permit(self, model: str) -> None:
        """Raises Forbidden when this model is not in the key's scope."""
        if self.models is not None and model not in self.models:
            shown = ", ".join(sorted(self.models)[:8]) or "none"
            raise Forbidden(f"this key may not use {model[:80]!r}", field="model", fix=f"it may use: {shown}")


ANYONE = Principal()
"""A caller without a key, where none is needed."""


class Hold:
    """What was set aside for one call.

    budget_usd  the most that may be expected of a target, where so little is left that it matters to the choice
    headers     what the answer says of limits and budgets
    """

    __slots__ = ("budget_usd", "headers", "settled", "state")

    def __init__(self, state: Any = None, budget_usd: float | None = None) -> None:
        self.state = state
        self.budget_usd = budget_usd
        self.headers: list[tuple[bytes, bytes]] | None = None
        self.settled = False


class Tenancy(ABC):
    """Keys, budgets and limits."""

    @abstractmethod
    def identify(self, headers: Headers) -> Principal | Awaitable[Principal]:
        """Whose call this is; header names are lower-case. Raises Unauthorised or StateUnavailable."""

    @abstractmethod
    def enter(self, principal: Principal, request: Request, model: str) -> Hold | Awaitable[Hold]:
        """Count the call against its rate limits. Raises RateLimited, OverBudget or StateUnavailable."""

    @abstractmethod
    def reserve(self, hold: Hold, run: Run) -> Awaitable[None] | None:
        """Set aside the most that the run may cost. Raises OverBudget or StateUnavailable; then nothing is set aside."""

    @abstractmethod
    def settle(self, hold: Hold, run: Run | None, record: OutcomeRecord | None) -> None:
        """Exchange what was set aside for what it did cost, once per hold; without a run, nothing was called. Never raises."""

    def audit(self, actor: str, action: str, subject: str = "", **detail: Any) -> None:
        """Write down who changed what ("config.reloaded", "admin.login"). Never a secret, never a prompt. Never raises."""
        del actor, action, subject, detail

    async def aclose(self) -> None:
        """Write back and close."""
