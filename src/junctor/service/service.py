"""The service: one call from the caller's key to the settled bill, whatever API it came by, with or without HTTP.

    enter (scope, rate limits) -> guards -> cache -> queue -> decide -> reserve (budget) -> call -> guards -> keep -> settle

Each part is there only where the configuration names it; a service over a bare engine costs next to nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import msgspec

from junctor.caching.contracts import Hit, Owner, ReplyCache, Slot
from junctor.encoders.base import Encoder
from junctor.engine import Answer, CallContext, Engine, StreamAnswer
from junctor.engine.buffered import Buffered
from junctor.engine.run import CANCELLED, Ask, Run
from junctor.errors import DeadlineExceeded, NoTarget, OverBudget
from junctor.guards.contracts import Chain, Noticed
from junctor.journal import OutcomeRecord
from junctor.providers.base import Reply
from junctor.service.queueing import Queue
from junctor.tenancy.contracts import ANYONE, Headers, Hold, Principal, Tenancy
from junctor.types import Request


def owner_of(principal: Principal, request: Request) -> Owner:
    """Whose replies a call may see. A tenant that only the caller names divides further, and opens nobody else's."""
    if principal.tenant:
        return ("tenant", principal.tenant, "")
    return ("key", principal.key, request.tenant) if principal.key else ("anyone", "", request.tenant)


class Passage:
    """How far one call has come: what has to be given back when it ends here."""

    __slots__ = ("chain", "context", "fresh", "noticed", "request", "slot", "stream")

    def __init__(self, request: Request, context: CallContext) -> None:
        self.request = request
        self.context = context
        self.chain: Chain | None = None
        self.noticed: Noticed | None = None
        self.slot: Slot | None = None
        self.fresh = self.stream = False


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
        if tenancy is not None or queue is not None or self.caches:
            engine.listen(self._ended)

    def identify(self, headers: Headers) -> Principal | Awaitable[Principal]:
        """Whose call this is. Raises Unauthorised."""
        return ANYONE if self.tenancy is None else self.tenancy.identify(headers)

    async def complete(
        self,
        request: Request,
        model: str,
        principal: Principal = ANYONE,
        ask: Ask[Reply] | None = None,
        *,
        fresh: bool = False,
    ) -> Answer:
        """Answer whole. `fresh`: nothing out of a cache, and nothing kept.

        Raises what the engine raises, and Forbidden, RateLimited, OverBudget, GuardRefused, Overloaded.
        """
        passage = Passage(request, CallContext(principal.key, principal))
        passage.fresh = fresh
        try:
            run, hit = await self._admit(passage, model, principal, plain=ask is not None)
            if hit is not None:
                answer = self._given(run, hit)
            else:
                answer = await run.complete(ask)
                if passage.slot is not None:
                    passage.slot.keep(answer.reply, answer.target.id)
        except BaseException as error:
            self._left(passage, error)
            raise
        if passage.chain is not None and passage.noticed is not None:
            body = passage.chain.after(passage.request, answer.reply.body, passage.noticed)
            answer.reply = msgspec.structs.replace(answer.reply, body=body)
            self._say(passage)
        return answer

    async def stream(self, request: Request, model: str, principal: Principal = ANYONE, *, fresh: bool = False) -> StreamAnswer:
        """Answer as a stream; returns once the first event is there. Raises like `complete`."""
        passage = Passage(request, CallContext(principal.key, principal))
        passage.fresh, passage.stream = fresh, True
        try:
            run, hit = await self._admit(passage, model, principal)
            if hit is not None:
                answer = self._given_stream(run, hit)
            else:
                answer = await run.stream()
        except BaseException as error:
            self._left(passage, error)
            raise
        try:
            if passage.slot is not None:
                self._collect(passage.slot, answer)
            if passage.chain is not None and passage.noticed is not None:
                for filter_ in passage.chain.filters(passage.request, passage.noticed):
                    answer.through(filter_)
        except BaseException as error:
            await answer.give_up(error)
            raise
        return answer

    async def _admit(
        self, passage: Passage, model: str, principal: Principal, *, plain: bool = False
    ) -> tuple[Run, Hit | None]:
        """Everything up to the call itself. `plain`: not a chat, so guards see what is asked, and no more."""
        if self.tenancy is not None:
            await self._enter(passage, model, principal, self.tenancy)
        hit = None
        if model in self.chains or (not plain and model in self.caches):
            hit = await self._looked_up(passage, model, principal, plain=plain)
        if hit is not None:
            return self.engine.given(passage.request, model, hit.target, passage.context), hit
        if self.queue is not None:
            await self._queued(passage, principal.priority, self.queue)
        hold = passage.context.hold
        try:
            run = await self.engine.prepare(passage.request, model, passage.context)
        except NoTarget as error:
            if hold is not None and hold.budget_usd == passage.request.constraints.budget_usd is not None:
                raise _too_little(error) from error
            raise
        if self.tenancy is not None and hold is not None:
            try:
                reserving = self.tenancy.reserve(hold, run)
                if reserving is not None:
                    await reserving
            except BaseException as error:
                run.close(error)
                raise
        return run, None

    async def _queued(self, passage: Passage, priority: int, queue: Queue) -> None:
        """Wait for a place; the wait counts against the call's own deadline."""
        asked = passage.request.constraints.deadline_s
        deadline_s = self.engine.default_deadline_s if asked is None else asked
        turn = queue.enter(passage.context, priority, deadline_s)
        if turn is None:
            return
        started = time.monotonic()
        await turn
        left = max(0.0, deadline_s - (time.monotonic() - started))
        constraints = msgspec.structs.replace(passage.request.constraints, deadline_s=left)
        passage.request = msgspec.structs.replace(passage.request, constraints=constraints)

    async def _enter(self, passage: Passage, model: str, principal: Principal, tenancy: Tenancy) -> None:
        principal.permit(model)
        request = passage.request
        if principal.tenant and request.tenant != principal.tenant:
            request = msgspec.structs.replace(request, tenant=principal.tenant)
        found = tenancy.enter(principal, request, model)
        hold = passage.context.hold = found if isinstance(found, Hold) else await found
        left, asked = hold.budget_usd, request.constraints.budget_usd
        if left is not None and (asked is None or left < asked):
            constraints = msgspec.structs.replace(request.constraints, budget_usd=left)
            request = msgspec.structs.replace(request, constraints=constraints)
        passage.request = request

    async def _looked_up(self, passage: Passage, model: str, principal: Principal, *, plain: bool) -> Hit | None:
        chain = self.chains.get(model)
        if chain is not None:
            passage.chain = None if plain else chain
            passage.request, passage.noticed = chain.before(passage.request)
            self._say(passage)
        cache = self.caches.get(model)
        return None if cache is None or plain or passage.fresh else await self._cached(passage, model, cache, principal)

    async def _cached(self, passage: Passage, model: str, cache: ReplyCache, principal: Principal) -> Hit | None:
        request = passage.request
        owner = owner_of(principal, request)
        found = cache.find(request, model, owner, stream=passage.stream, priority=principal.priority)
        if found is None:
            return None
        if isinstance(found, Awaitable):
            found = await self._waited(passage, found)
        if isinstance(found, Hit):
            passage.context.note("cache", found.kind)
            return found
        passage.context.note("cache", "miss")
        passage.slot = found
        if found.features is not None and request.features is None and found.encoder is self._encoder(model):
            passage.request = msgspec.structs.replace(passage.request, features=found.features)
        return None

    def _encoder(self, model: str) -> Encoder | None:
        """What the alias's policy reads; None where a trial may read otherwise."""
        alias = self.engine.aliases.get(model)
        return None if alias is None or alias.trials is not None else alias.encoder

    async def _waited(self, passage: Passage, found: Awaitable[Hit | Slot]) -> Hit | Slot:
        """Another asks the same already. The wait counts against this call's own deadline."""
        asked = passage.request.constraints.deadline_s
        deadline_s = self.engine.default_deadline_s if asked is None else asked
        started = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s):
                hit = await found
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {deadline_s:g} s", fix="allow more time, or a faster target") from error
        left = max(0.0, deadline_s - (time.monotonic() - started))
        constraints = msgspec.structs.replace(passage.request.constraints, deadline_s=left)
        passage.request = msgspec.structs.replace(passage.request, constraints=constraints)
        return hit

    def _collect(self, slot: Slot, answer: StreamAnswer) -> None:
        context = answer.run.context
        assert context is not None
        context.slot = slot  # dropped when the stream breaks
        collecting = slot.collect(answer.reply, answer.target.id)
        if collecting is None:
            context.slot = None
            slot.drop()
        else:
            answer.through(collecting)

    def _say(self, passage: Passage) -> None:
        if passage.noticed is not None and passage.noticed.findings:
            passage.context.note("guards", "; ".join(passage.noticed.findings))

    def _given(self, run: Run, hit: Hit) -> Answer:
        return run.given(hit.reply)

    def _given_stream(self, run: Run, hit: Hit) -> StreamAnswer:
        return run.given_stream(Buffered(run.request, hit.reply))

    def _left(self, passage: Passage, error: BaseException) -> None:
        """The call ended before there was an answer: nothing may stay set aside. After a run, its end has done this already."""
        if passage.slot is not None:
            passage.slot.drop(gone=isinstance(error, asyncio.CancelledError))
        self._release(passage.context, None, None)

    def _ended(self, run: Run, record: OutcomeRecord) -> None:
        context = run.context
        if context is not None:
            if context.slot is not None and record.error:
                context.slot.drop(gone=record.error == CANCELLED)
            self._release(context, run, record)

    def _release(self, context: CallContext, run: Run | None, record: OutcomeRecord | None) -> None:
        if self.queue is not None:
            self.queue.leave(context)
        hold: Any = context.hold
        if self.tenancy is not None and hold is not None and not hold.settled:
            hold.settled = True
            self.tenancy.settle(hold, run, record)

    def turn_away(self) -> bool:
        """Refuse those who wait for a place, because the gateway stops; whether there was anybody."""
        if self.queue is None:
            return False
        waited = len(self.queue) > 0
        self.queue.close()
        return waited

    async def aclose(self) -> None:
        """Close the engine and what stands around it."""
        await self.engine.aclose()
        if self.tenancy is not None:
            await self.tenancy.aclose()


def _too_little(error: NoTarget) -> OverBudget:
    """What is left of a key's or a team's budget is less than any target may cost."""
    return OverBudget(
        f"what is left of the budget is not enough for any target: {'; '.join(sorted(set(error.refusals.values())))[:300]}",
        field="budget",
        fix="ask for fewer tokens (max_tokens), or raise the budget",
    )
