"""The service: one call from the caller's key to the settled bill, whatever API it came by, with or without HTTP.

    enter (scope, rate limits) -> guards -> cache -> queue -> decide -> reserve (budget) -> call -> guards -> keep -> settle

Each part is there only where the configuration names it; a service over a bare engine costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import msgspec

from junctor.caching.contracts import Hit, ReplyCache, Slot
from junctor.engine import Answer, CallContext, Engine, StreamAnswer
from junctor.engine.buffered import Buffered
from junctor.engine.run import Ask, Run
from junctor.errors import JunctorError
from junctor.guards.contracts import Chain, Noticed
from junctor.journal import OutcomeRecord
from junctor.providers.base import Reply
from junctor.service.queueing import Queue
from junctor.tenancy.contracts import ANYONE, Headers, Principal, Tenancy
from junctor.types import Request

T = TypeVar("T")


async def resolved(value: T | Awaitable[T]) -> T:
    """What it is, or what it becomes."""
    return await value if isinstance(value, Awaitable) else value


class Passage:
    """How far one call has come: what has to be given back when it ends here."""

    __slots__ = ("chain", "context", "noticed", "request", "slot")

    def __init__(self, request: Request, context: CallContext) -> None:
        self.request = request
        self.context = context
        self.chain: Chain | None = None
        self.noticed: Noticed | None = None
        self.slot: Slot | None = None


class Service:
    """Takes calls for an engine.

    tenancy   keys, budgets, limits; None: everybody may call
    chains    alias -> guards; caches  alias -> cache
    queue     bounds how many calls run at the same time
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tenancy: Tenancy | None = None,
        chains: Mapping[str, Chain] | None = None,
        caches: Mapping[str, ReplyCache] | None = None,
        queue: Queue | None = None,
    ) -> None:
        self.engine = engine
        self.tenancy = tenancy
        self.chains = dict(chains or {})
        self.caches = dict(caches or {})
        self.queue = queue
        if tenancy is not None or queue is not None:
            engine.listen(self._ended)

    def identify(self, headers: Headers) -> Principal | Awaitable[Principal]:
        """Whose call this is. Raises Unauthorised."""
        return ANYONE if self.tenancy is None else self.tenancy.identify(headers)

    async def complete(
        self, request: Request, model: str, principal: Principal = ANYONE, ask: Ask[Reply] | None = None
    ) -> Answer:
        """Answer whole. Raises what the engine raises, and Forbidden, RateLimited, OverBudget, GuardRefused, Overloaded."""
        passage = Passage(request, CallContext(principal.key, principal))
        try:
            run, hit = await self._admit(passage, model, principal, plain=ask is not None)
            if hit is not None:
                answer = self._given(run, hit)
            else:
                answer = await run.complete(ask)
                if passage.slot is not None:
                    passage.slot.keep(answer.reply, answer.target.id)
        except BaseException:
            self._left(passage)
            raise
        if passage.chain is not None and passage.noticed is not None:
            body = passage.chain.after(passage.request, answer.reply.body, passage.noticed)
            answer.reply = msgspec.structs.replace(answer.reply, body=body)
            self._say(passage)
        return answer

    async def stream(self, request: Request, model: str, principal: Principal = ANYONE) -> StreamAnswer:
        """Answer as a stream; returns once the first event is there. Raises like `complete`."""
        passage = Passage(request, CallContext(principal.key, principal))
        try:
            run, hit = await self._admit(passage, model, principal)
            if hit is not None:
                answer = self._given_stream(run, hit)
            else:
                answer = await run.stream()
        except BaseException:
            self._left(passage)
            raise
        if passage.slot is not None and (collecting := passage.slot.collect(answer.target.id)) is not None:
            answer.through(collecting)
        if passage.chain is not None and passage.noticed is not None:
            for filter_ in passage.chain.filters(passage.request, passage.noticed):
                answer.through(filter_)
        return answer

    async def _admit(
        self, passage: Passage, model: str, principal: Principal, *, plain: bool = False
    ) -> tuple[Run, Hit | None]:
        """Everything up to the call itself. `plain`: not a chat, so neither guards nor caches know what to make of it."""
        if self.tenancy is not None:
            await self._enter(passage, model, principal, self.tenancy)
        hit = None if plain else await self._looked_up(passage, model)
        if hit is not None:
            return self.engine.given(passage.request, model, hit.target, passage.context), hit
        if self.queue is not None:
            await resolved(self.queue.enter(passage.context, principal.priority))
        run = await self.engine.prepare(passage.request, model, passage.context)
        hold = passage.context.hold
        if self.tenancy is not None and hold is not None:
            try:
                await resolved(self.tenancy.reserve(hold, run))
            except BaseException as error:
                run.close(error)
                raise
        return run, None

    async def _enter(self, passage: Passage, model: str, principal: Principal, tenancy: Tenancy) -> None:
        principal.permit(model)
        request = passage.request
        if principal.tenant and request.tenant != principal.tenant:
            request = msgspec.structs.replace(request, tenant=principal.tenant)
        found = tenancy.enter(principal, request, model)
        hold = passage.context.hold = await found if isinstance(found, Awaitable) else found
        left, asked = hold.budget_usd, request.constraints.budget_usd
        if left is not None and (asked is None or left < asked):
            constraints = msgspec.structs.replace(request.constraints, budget_usd=left)
            request = msgspec.structs.replace(request, constraints=constraints)
        passage.request = request

    async def _looked_up(self, passage: Passage, model: str) -> Hit | None:
        chain = self.chains.get(model)
        if chain is not None:
            passage.chain = chain
            passage.request, passage.noticed = chain.before(passage.request)
            self._say(passage)
        cache = self.caches.get(model)
        if cache is None:
            return None
        found = await resolved(cache.find(passage.request, model))
        if isinstance(found, Hit):
            passage.context.note("cache", found.kind)
            return found
        passage.slot = found
        return None

    def _say(self, passage: Passage) -> None:
        if passage.noticed is not None and passage.noticed.findings:
            passage.context.note("guards", "; ".join(passage.noticed.findings))

    def _given(self, run: Run, hit: Hit) -> Answer:
        return run.given(hit.reply)

    def _given_stream(self, run: Run, hit: Hit) -> StreamAnswer:
        return run.given_stream(Buffered(run.request, hit.reply))

    def _left(self, passage: Passage) -> None:
        """The call ended before there was an answer: nothing may stay set aside. After a run, its end has done this already."""
        if passage.slot is not None:
            passage.slot.drop()
        self._release(passage.context, None, None)

    def _ended(self, run: Run, record: OutcomeRecord) -> None:
        if run.context is not None:
            self._release(run.context, run, record)

    def _release(self, context: CallContext, run: Run | None, record: OutcomeRecord | None) -> None:
        if self.queue is not None:
            self.queue.leave(context)
        hold: Any = context.hold
        if self.tenancy is not None and hold is not None and not hold.settled:
            hold.settled = True
            self.tenancy.settle(hold, run, record)

    async def aclose(self) -> None:
        """Close the engine and what stands around it."""
        await self.engine.aclose()
        if self.tenancy is not None:
            await self.tenancy.aclose()


def refused(error: BaseException) -> bool:
    """Whether a call was turned away by us, on purpose."""
    return isinstance(error, JunctorError)
