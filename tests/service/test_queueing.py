"""The queue: order, shedding, deadlines, cancellation at every point; and under random interleavings no place is ever lost."""

import asyncio
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from junctor.engine.context import CallContext
from junctor.errors import DeadlineExceeded, Overloaded
from junctor.service.queueing import LEAST_DEAD, Queue


def enter(queue, priority=1, deadline_s=None):
    """A call that takes a place or waits in a task of its own."""
    context = CallContext()
    turn = queue.enter(context, priority, deadline_s)
    return context, None if turn is None else asyncio.ensure_future(turn)


async def settle():
    """Let everything that is ready run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_places_then_a_line_then_a_refusal():
    """Two run, two wait, the fifth is refused with a guess at when to come back."""
    queue = Queue(2, 2)
    made = [enter(queue) for _ in range(4)]
    assert [turn is None for _, turn in made] == [True, True, False, False]
    assert (queue.running, len(queue)) == (2, 2)
    with pytest.raises(Overloaded) as refused:
        enter(queue)
    assert refused.value.retry_after_s >= 1
    for context, turn in made:
        if turn is not None:
            await turn
        queue.leave(context)
    assert (queue.running, len(queue)) == (0, 0)


async def test_the_important_first_and_among_equals_the_early():
    """Priorities 2, 0, 1, 0, 1 wait in this order; they run as 0, 0, 1, 1, 2, each class in its own order."""
    queue = Queue(1, 10)
    running, _ = enter(queue)
    order = []

    async def call(name, priority):
        context = CallContext()
        await queue.enter(context, priority)
        order.append(name)
        queue.leave(context)

    calls = [asyncio.ensure_future(call(f"{p}{n}", p)) for n, p in enumerate((2, 0, 1, 0, 1))]
    await settle()
    queue.leave(running)
    await asyncio.gather(*calls)
    assert order == ["01", "03", "12", "14", "20"]


async def test_the_latest_of_the_least_important_is_shed():
    """A more important newcomer takes its place in line; an equal one is refused itself."""
    queue = Queue(1, 3)
    enter(queue, 0)
    (_, first), (_, middle), (_, latest) = enter(queue, 2), enter(queue, 1), enter(queue, 2)
    await settle()
    _, newcomer = enter(queue, 1)
    await settle()
    assert isinstance(latest.exception(), Overloaded)
    assert not first.done()
    for priority in (2, 3):
        with pytest.raises(Overloaded):
            enter(queue, priority)
    _, urgent = enter(queue, 0)
    await settle()
    assert isinstance(first.exception(), Overloaded)
    with pytest.raises(Overloaded):
        enter(queue, 1)
    for turn in (middle, newcomer, urgent):
        turn.cancel()
    await settle()
    assert len(queue) == 0


async def test_a_deadline_passes_in_line():
    """The wait is part of the deadline: then DeadlineExceeded, and the place in line is free."""
    queue = Queue(1, 1)
    running, _ = enter(queue)
    _, turn = enter(queue, deadline_s=0.01)
    with pytest.raises(DeadlineExceeded, match="waited for its turn"):
        await turn
    assert len(queue) == 0
    _, next_ = enter(queue, deadline_s=30.0)
    queue.leave(running)
    await next_
    assert queue.running == 1


async def test_cancelled_in_line_before_and_after_the_turn_came():
    """Who is cancelled while waiting frees its place in line; who is cancelled with its turn in hand passes it on."""
    queue = Queue(1, 2)
    running, _ = enter(queue)
    _, waiting = enter(queue)
    await settle()
    waiting.cancel()
    await settle()
    assert len(queue) == 0
    (_, chosen), (last, behind) = enter(queue), enter(queue)
    await settle()
    queue.leave(running)  # the turn of `chosen` has come, but it has not run yet
    chosen.cancel()
    await settle()
    assert chosen.cancelled()
    await behind
    assert (queue.running, len(queue)) == (1, 0)
    queue.leave(last)
    assert queue.running == 0


async def test_cancelled_and_left_in_the_same_moment():
    """A newcomer of that moment gets the place in line that is free already; the turn is given to nobody who is gone."""
    queue = Queue(1, 1)
    running, _ = enter(queue)
    _, gone = enter(queue)
    await settle()
    gone.cancel()
    _, newcomer = enter(queue)
    queue.leave(running)
    await newcomer
    assert (queue.running, len(queue)) == (1, 0)


async def test_leaving_twice_or_without_a_place_does_nothing():
    """A service gives back whatever ended, wherever it ended."""
    queue = Queue(1, 1)
    running, _ = enter(queue)
    _, waiting = enter(queue)
    queue.leave(CallContext())
    assert queue.running == 1
    queue.leave(running)
    queue.leave(running)
    await waiting
    assert queue.running == 1


async def test_closing_refuses_those_who_wait_and_lets_run_who_runs():
    """On the way out: nobody hangs, nobody new is let in."""
    queue = Queue(1, 5)
    running, _ = enter(queue)
    turns = [enter(queue)[1] for _ in range(5)]
    await settle()
    queue.close()
    await settle()
    assert all(isinstance(turn.exception(), Overloaded) for turn in turns)
    with pytest.raises(Overloaded, match="stopping"):
        enter(queue)
    queue.leave(running)
    assert (queue.running, len(queue)) == (0, 0)


async def test_other_bounds_while_it_runs():
    """More places are filled at once; fewer take effect as calls leave."""
    queue = Queue(1, 9)
    first, _ = enter(queue)
    made = [enter(queue) for _ in range(4)]
    await settle()
    queue.resize(3, 9)
    await settle()
    assert (queue.running, len(queue)) == (3, 2)
    queue.resize(1, 9)
    queue.leave(first)
    await settle()
    assert (queue.running, len(queue)) == (2, 2)
    for _, turn in made:
        turn.cancel()
    await settle()


async def test_the_refused_are_told_when_there_may_be_room():
    """A line of ten, half a minute each, on one place: not in a second; and never more than a minute."""
    now = [0.0]
    queue = Queue(1, 10, clock=lambda: now[0])
    running, _ = enter(queue)
    now[0] = 4.0
    queue.leave(running)
    enter(queue)
    turns = [enter(queue)[1] for _ in range(10)]
    with pytest.raises(Overloaded) as refused:
        enter(queue)
    assert refused.value.retry_after_s == pytest.approx(44.0)
    for turn in turns:
        turn.cancel()
    await settle()


async def test_the_dead_are_swept_out():
    """Four thousand that were shed or cancelled behind one that never comes up do not pile up in memory."""
    queue = Queue(1, 50)
    enter(queue)
    keep = [enter(queue, 9) for _ in range(10)]
    for _ in range(100):
        turns = [enter(queue, 5)[1] for _ in range(40)]
        await asyncio.sleep(0)
        for turn in turns:
            turn.cancel()
        await settle()
    assert len(queue) == 10
    assert max(len(queue._next), len(queue._last)) <= LEAST_DEAD + 2 * 10 + 40
    for _, turn in keep:
        turn.cancel()
    await settle()


async def test_shedding_does_not_scan_the_line():
    """Ten times as many in line do not make a refusal ten times as dear (a scan would): O(log n)."""

    async def seconds(length):
        queue = Queue(1, length)
        enter(queue)
        turns = [enter(queue, 5)[1] for _ in range(length)]
        await settle()
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(100):
                turns.append(enter(queue, 4)[1])
            best = min(best, time.perf_counter() - began)
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
        return best

    assert await seconds(6_000) < 5 * await seconds(600)


class Interleavings(RuleBasedStateMachine):
    """Calls enter, leave, are cancelled and expire in any order; between them the loop runs for a while or not at all."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue = self.do(lambda: Queue(2, 3))
        self.calls = []
        self.refused = 0

    def do(self, step):
        """One step inside the loop, which then runs what was ready at most once."""

        async def main():
            return step()

        return self.loop.run_until_complete(main())

    @rule(priority=st.integers(0, 2), deadline=st.sampled_from([None, None, 30.0, 0.0]))
    def enters(self, priority, deadline):
        def step():
            context = CallContext()
            worst = max((c[1] for c in self.line()), default=-1)
            full = len(self.queue) >= self.queue.waiting
            try:
                turn = self.queue.enter(context, priority, deadline)
            except Overloaded:
                assert full
                assert worst <= priority
                self.refused += 1
                return
            task = None if turn is None else asyncio.ensure_future(turn)
            self.calls.append((context, priority, task))

        self.do(step)

    def line(self):
        return [call for call in self.calls if call[2] is not None and not call[2].done() and not call[2].cancelling()]

    def holders(self):
        """Calls that were told that they may run and have not left."""
        return [c for c in self.calls if c[2] is None or (c[2].done() and not c[2].cancelled() and not c[2].exception())]

    @precondition(lambda self: self.holders())
    @rule(data=st.data(), twice=st.booleans())
    def leaves(self, data, twice):
        call = data.draw(st.sampled_from(self.holders()))

        def step():
            self.queue.leave(call[0])
            if twice:
                self.queue.leave(call[0])
            self.calls.remove(call)

        self.do(step)

    @precondition(lambda self: self.line())
    @rule(data=st.data())
    def is_cancelled(self, data):
        call = data.draw(st.sampled_from(self.line()))
        self.do(lambda: call[2].cancel())

    @precondition(lambda self: self.line() and self.holders())
    @rule(data=st.data())
    def is_cancelled_in_the_moment_in_which_a_place_is_freed(self, data):
        leaver = data.draw(st.sampled_from(self.holders()))
        call = data.draw(st.sampled_from(self.line()))
        first = data.draw(st.booleans())

        def step():
            if first:
                call[2].cancel()
            self.queue.leave(leaver[0])
            self.calls.remove(leaver)
            if not first:
                call[2].cancel()

        self.do(step)

    @rule(most=st.integers(1, 4), waiting=st.integers(0, 4))
    def is_resized(self, most, waiting):
        self.do(lambda: self.queue.resize(most, waiting))
        self.loop.run_until_complete(settle())

    @rule()
    def time_passes(self):
        self.loop.run_until_complete(settle())

    @invariant()
    def nobody_waits_while_there_is_room(self):
        assert not (len(self.queue) and self.queue.running < self.queue.most)
        assert len(self.queue) >= 0

    @invariant()
    def every_place_has_a_holder(self):
        self.loop.run_until_complete(settle())
        assert self.queue.running == len(self.holders())
        assert len(self.queue) == len(self.line())

    def teardown(self):
        for _, _, task in self.calls:
            if task is not None:
                task.cancel()
        self.loop.run_until_complete(settle())
        for call in self.holders():
            self.do(lambda call=call: self.queue.leave(call[0]))
        self.loop.run_until_complete(settle())
        assert (self.queue.running, len(self.queue)) == (0, 0)
        for _, _, task in self.calls:
            if task is not None and not task.cancelled():
                task.exception()
        self.loop.close()


Interleavings.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestInterleavings = Interleavings.TestCase
