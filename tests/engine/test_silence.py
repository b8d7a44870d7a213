"""Streams that fall silent: ended with an error before the whole deadline where a limit is set; a slow reader is no silence."""

import asyncio

import pytest
from tests.engine.virtual_world import ASK, DONE, PRICE, Place, now, virtually, world

from junctor.errors import DeadlineExceeded, UpstreamTimeout
from junctor.journal import Journal, read
from junctor.types import Limits, Target

EVENT = b"data: {}\n\n"


def limited(seconds):
    return [Target(id="t0", provider="p0", price=PRICE, limits=Limits(silence_s=seconds))]


async def read_slowly(answer, pause_s=0.0):
    async with answer:
        return [await asyncio.sleep(pause_s, event) async for event in answer]


@pytest.mark.parametrize("before", [1, 5])
def test_a_stall_ends_after_the_limit(before, tmp_path):
    """Some events, then nothing for ever: after 3 s of silence it is over, the upstream is let go, its health suffers."""

    async def main():
        journal = Journal(tmp_path / "j", fsync="never")
        script = [step for _ in range(before) for step in (EVENT, 2.0)]
        place = Place(0.1, events=(*script, 1e6))
        engine = world(place, targets=limited(3.0), journal=journal)
        answer = await engine.stream(ASK, "t0")
        began = now()
        with pytest.raises(UpstreamTimeout, match="silent for 3 s in the middle"):
            await read_slowly(answer)
        assert now() - began == pytest.approx((before - 1) * 2.0 + 3.0)
        assert place.streams[0].closed
        record = list(read(journal.path))[-1]
        assert (record.error, record.attempts[0].outcome.output_tokens) == ("upstream_timeout", 50)
        assert engine.health
        assert engine.health.snapshot()[0].outstanding == 0

    virtually(main)


def test_a_slow_stream_is_not_silent():
    """An event every 2.9 s for minutes: every one resets the limit of 3 s."""

    async def main():
        place = Place(0.1, events=(*[step for _ in range(15) for step in (EVENT, 2.9)], DONE))
        events = await read_slowly(await world(place, targets=limited(3.0)).stream(ASK, "t0"))
        assert len(events) == 16

    virtually(main)


def test_a_slow_reader_is_not_a_silent_upstream():
    """The client takes 10 s for each event; the upstream had them ready."""

    async def main():
        place = Place(0.1, events=(EVENT, EVENT, EVENT, DONE))
        events = await read_slowly(await world(place, targets=limited(3.0)).stream(ASK, "t0"), pause_s=10.0)
        assert len(events) == 4

    virtually(main)


def test_without_a_limit_the_deadline_alone_ends_it():
    """60 s by default."""

    async def main():
        place = Place(0.1, events=(EVENT, 1e6))
        answer = await world(place).stream(ASK, "t0")
        with pytest.raises(DeadlineExceeded):
            await read_slowly(answer)

    virtually(main)


def test_the_deadline_comes_first_when_it_is_nearer():
    """A limit of 100 s of silence does not lengthen the deadline."""

    async def main():
        place = Place(0.1, events=(EVENT, 1e6))
        answer = await world(place, targets=limited(100.0)).stream(ASK, "t0")
        with pytest.raises(DeadlineExceeded):
            await read_slowly(answer)

    virtually(main)


def test_a_stream_that_is_left_early_leaves_no_timer():
    """Leaving the block stops the watch: nothing fires into somebody else's work later."""

    async def main():
        place = Place(0.1, events=(EVENT, 1e6))
        async with await world(place, targets=limited(3.0)).stream(ASK, "t0") as answer:
            async for _ in answer:
                break
        await asyncio.sleep(50)

    virtually(main)
