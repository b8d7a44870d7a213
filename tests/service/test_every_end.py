"""However a call ends, at whatever step: what was set aside is settled once, its place given back, its run recorded."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import numpy as np
import pytest

from junctor.caching.contracts import ReplyCache, Slot
from junctor.engine import Alias, Engine
from junctor.engine.run import ask_embeddings
from junctor.errors import JunctorError, RateLimited
from junctor.guards.contracts import Chain, Guard
from junctor.policy import Policy, State
from junctor.providers.scripted import ScriptedProvider, Step
from junctor.service import Service
from junctor.service.queueing import Queue
from junctor.tenancy.contracts import Hold, Principal, Tenancy
from junctor.types import Call, Cascade, Catalogue, Decision, Fallback, Message, Ranked, Request, Target

CALLER = Principal(key="k")


class Books(Tenancy):
    """Counts what is set aside and settled; `slow`: every step has to be waited for."""

    def __init__(self, *, slow: bool) -> None:
        self.slow = slow
        self.holds: list[Hold] = []
        self.settled: list[Hold] = []

    def identify(self, headers):
        return CALLER

    def enter(self, principal, request, model):
        hold = Hold()

        def entered():
            self.holds.append(hold)
            return hold

        async def later():
            await asyncio.sleep(0)
            return entered()

        return later() if self.slow else entered()

    def reserve(self, hold, run):
        return asyncio.sleep(0) if self.slow else None

    def settle(self, hold, run, record):
        self.settled.append(hold)


class Kept(Slot):
    """A place in a cache that knows how it ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def keep(self, reply, target):
        self.ends.append("kept")

    def collect(self, reply, target):
        slot = self

        class Collecting:
            def push(self, events):
                return events

            def end(self):
                slot.ends.append("kept")
                return b""

        return Collecting()

    def drop(self, *, gone=False):
        self.ends.append("dropped")


class Cache(ReplyCache):
    """Never has anything, and wants to keep everything."""

    def __init__(self, *, slow: bool) -> None:
        self.slow = slow
        self.slots: list[Kept] = []

    def find(self, request, model, owner, *, stream, priority=1):
        def found():
            self.slots.append(Kept())
            return self.slots[-1]

        async def later():
            await asyncio.sleep(0)
            return found()

        return later() if self.slow else found()


class Passing:
    """A filter of a stream that changes nothing."""

    def push(self, events):
        return events

    def end(self):
        return b""


class Watching(Guard):
    name = "watching"

    def stream(self, request, noticed):
        return Passing()


class Planned(Policy):
    """Always the same plan."""

    name, version = "planned", "v1"

    def __init__(self, plan) -> None:
        self.plan = plan

    def decide(self, request, targets, rng):
        ranked = tuple(Ranked(target=id_, score=0.0) for id_ in targets.ids)
        return Decision(id=request.id, plan=self.plan, target=targets.ids[0], ranked=ranked, policy=self.name, version="v1")

    def decide_many(self, features, targets, rng):
        return np.zeros(len(features), dtype=np.intp), np.ones(len(features))

    def state(self):
        return State()

    @classmethod
    def from_state(cls, state):
        return cls(Call("a"))


class World:
    """A service with everything around it, and what it must look like when no call is under way."""

    def __init__(self, *, slow: bool = False, plan=None, script=None) -> None:
        targets = Catalogue([Target(id=name, provider="p") for name in ("a", "b")])
        provider = ScriptedProvider(script or {"*": Step(chunks=("one ", "two ", "three"))})
        aliases = {"auto": Alias(name="auto", policy=Planned(plan or Fallback((Call("a"), Call("b")))), targets=targets)}
        self.engine = Engine(targets, {"p": provider}, aliases)
        self.provider = provider
        self.books, self.cache, self.queue = Books(slow=slow), Cache(slow=slow), Queue(1, 4)
        self.guard = Watching()
        self.service = Service(
            self.engine, tenancy=self.books, chains={"auto": Chain([self.guard])}, caches={"auto": self.cache}, queue=self.queue
        )
        self.ended: list[str] = []
        self.engine.listen(lambda run, record: self.ended.append(record.id))
        self.asked = 0

    def request(self) -> Request:
        self.asked += 1
        messages = [{"role": "user", "content": "hi"}]
        turns = (Message("user", "hi"),)
        return Request(id=f"d{self.asked}", text="hi", messages=turns, params={"model": "auto", "messages": messages})

    async def call(self, kind: str) -> None:
        """One call, read to its end."""
        if kind == "whole":
            await self.service.complete(self.request(), "auto", CALLER)
            return
        if kind == "embedding":
            await self.service.complete(self.request(), "auto", CALLER, ask_embeddings)
            return
        async with await self.service.stream(self.request(), "auto", CALLER) as answer:
            async for _ in answer:
                pass

    def check(self) -> None:
        """Nothing is left of any call."""
        assert (self.queue.running, len(self.queue)) == (0, 0)
        assert Counter(self.books.settled) == Counter(self.books.holds)
        assert all(place.outstanding == 0 for place in self.engine.health.snapshot())
        decided = [known.decision.id for known in self.engine.ledger.recent()]
        assert sorted(self.ended) == sorted(decided)
        for slot in self.cache.slots:
            assert set(slot.ends) in ({"kept"}, {"dropped"}, {"kept", "dropped"}), slot.ends
            assert slot.ends[:1] != ["dropped"] or "kept" not in slot.ends


class Bug(Exception):
    """What nobody expects."""


ERRORS = [Bug("x"), RateLimited("x", retry_after_s=1.0), asyncio.CancelledError()]


def failing(error: BaseException):
    def raises(*_, **__):
        raise error

    return raises


def failing_later(error: BaseException):
    async def raises(*_, **__):
        await asyncio.sleep(0)
        raise error

    return raises


STEPS = {
    "enter": lambda w, e: (w.books, "enter", failing(e)),
    "enter, later": lambda w, e: (w.books, "enter", failing_later(e)),
    "before": lambda w, e: (w.guard, "before", failing(e)),
    "find": lambda w, e: (w.cache, "find", failing(e)),
    "find, later": lambda w, e: (w.cache, "find", failing_later(e)),
    "queue": lambda w, e: (w.queue, "enter", failing(e)),
    "turn": lambda w, e: (w.queue, "enter", failing_later(e)),
    "prepare": lambda w, e: (w.engine, "prepare", failing_later(e)),
    "decide": lambda w, e: (w.engine.aliases["auto"].policy, "decide", failing(e)),
    "reserve": lambda w, e: (w.books, "reserve", failing(e)),
    "reserve, later": lambda w, e: (w.books, "reserve", failing_later(e)),
    "complete": lambda w, e: (w.provider, "complete", failing_later(e)),
    "stream": lambda w, e: (w.provider, "stream", failing_later(e)),
    "keep": lambda w, e: (Kept, "keep", failing(e)),
    "collect": lambda w, e: (Kept, "collect", failing(e)),
    "filters": lambda w, e: (w.guard, "stream", failing(e)),
    "push": lambda w, e: (Passing, "push", failing(e)),
    "end": lambda w, e: (Passing, "end", failing(e)),
    "after": lambda w, e: (w.guard, "after", failing(e)),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("slow", [False, True], ids=["at once", "later"])
async def test_whatever_raises_nothing_is_left_behind(step, slow, monkeypatch) -> None:
    """A bug, a refusal and a cancellation at every step; the next call finds its place."""
    for error in ERRORS:
        for kind in ("whole", "stream"):
            world = World(slow=slow)
            with monkeypatch.context() as patch:
                patch.setattr(*STEPS[step](world, error))
                with contextlib.suppress(Bug, JunctorError, asyncio.CancelledError):
                    await world.call(kind)
            world.check()
            await asyncio.wait_for(world.call(kind), 5)
            world.check()


@pytest.mark.parametrize("kind", ["whole", "stream"])
async def test_a_caller_who_goes_away_at_any_moment_leaves_nothing_behind(kind) -> None:
    """Cancelled after every possible number of turns of the loop, while another call holds the only place and while not."""
    pause = {"*": Step(chunks=("one ", "two "), delay_s=0.001, chunk_delay_s=0.001)}
    for crowded in (False, True):
        for turns in range(40):
            world = World(slow=True, script=pause)
            before = asyncio.ensure_future(world.call("whole")) if crowded else None
            task = asyncio.ensure_future(world.call(kind))
            for turn in range(turns):
                await asyncio.sleep(0.0005 if turn % 4 == 3 else 0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if before is not None:
                await before
            world.check()


async def test_a_stream_that_nobody_reads_leaves_nothing_behind() -> None:
    """Left unread, and left in the middle."""
    for most in (0, 1, 2):
        world = World()
        async with await world.service.stream(world.request(), "auto", CALLER) as answer:
            read = 0
            async for _ in answer:
                read += 1
                if read >= most:
                    break
        world.check()


@pytest.mark.parametrize("kind", ["whole", "stream", "embedding"])
async def test_plans_that_look_at_answers_end_as_well(kind) -> None:
    """Also where one cannot do what is asked of it."""
    cascade = Cascade((Call("a"), Call("b")), "scorer", {})
    for script in (None, {"*": Step(status=500)}, {"*": Step(break_after=1)}, {"a": Step(garbage=True), "*": Step()}):
        world = World(plan=cascade, script=script)
        with contextlib.suppress(JunctorError):
            await world.call(kind)
        world.check()
