"""Hedged requests: a second target when the first is slow; the first answer wins, the other is called off, both recorded."""

import asyncio

import pytest
from tests.engine.virtual_world import ASK, PRICE, Place, all_of, deployed, failing, now, virtually, world

from junctor.engine.hedging import LOST, Hedge
from junctor.errors import ConfigError, UpstreamBroken, UpstreamStatus
from junctor.journal import Journal, read
from junctor.sections import HedgeSection
from junctor.types import Target

ALWAYS = HedgeSection(after_s=1.0, most=1.0)


async def drain(answer):
    async with answer:
        return [event async for event in answer]


async def ask(engine, streamed):
    if streamed:
        answer = await engine.stream(ASK, "auto")
        await drain(answer)
        return answer
    return await engine.complete(ASK, "auto")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_slow_first_is_overtaken(streamed, tmp_path):
    """10 s against 0.5 s: the answer is there after 1.5 s, the slow one is cancelled, both attempts are in the journal."""

    async def main():
        journal = Journal(tmp_path / "j", fsync="never")
        slow, fast = Place(10.0), Place(0.5)
        engine = world(slow, fast, hedge=ALWAYS, journal=journal)
        began = now()
        answer = await ask(engine, streamed)
        assert now() - began == pytest.approx(1.5)
        assert answer.target.id == "t1"
        assert slow.ended == ["cancelled"]
        first, second = list(read(journal.path))[-1].attempts
        assert (first.target, first.error, first.detail, first.role) == ("t0", "cancelled", LOST, "")
        assert (second.target, second.error, second.role) == ("t1", "", "hedge")
        assert (second.started_s, answer.tries) == (pytest.approx(1.0), 2)
        assert not engine.health, "losing a race is no failure"
        assert [row.outstanding for row in engine.health.snapshot()] == [0, 0]

    virtually(main)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_first_that_answers_in_time_wins(streamed):
    """After 1.2 s, with the second under way: the second is called off."""

    async def main():
        first, second = Place(1.2), Place(5.0)
        answer = await ask(world(first, second, hedge=ALWAYS), streamed)
        assert answer.target.id == "t0"
        assert second.ended == ["cancelled"]
        assert [(a.role, a.error) for a in answer.attempts] == [("hedge", "cancelled"), ("", "")]

    virtually(main)


def test_a_quick_first_needs_no_second():
    """Nobody else is asked, and nothing is left behind."""

    async def main():
        first, second = Place(0.9), Place(0.1)
        answer = await ask(world(first, second, hedge=ALWAYS), streamed=False)
        assert (answer.target.id, len(answer.attempts), second.calls) == ("t0", 1, [])
        assert len(asyncio.all_tasks()) == 1

    virtually(main)


def test_the_share_of_hedged_requests_is_bounded():
    """All are slow; with `most` = 0.1 no more than a tenth is hedged, whatever the moment."""

    async def main():
        slow, fast = Place(10.0), Place(0.5)
        engine = world(slow, fast, hedge=HedgeSection(after_s=1.0, most=0.1))
        for wave in range(1, 21):
            await all_of(*(engine.complete(ASK, "auto") for _ in range(10)))
            assert len(fast.calls) <= wave
        assert len(fast.calls) == 20

    virtually(main)


def test_credit_does_not_pile_up():
    """A quiet night does not pay for a morning on which everything is asked twice."""
    hedge = Hedge(1.0, 0.5)
    for _ in range(1000):
        hedge.earn()
    assert sum(hedge.take() for _ in range(1000)) == 10


def test_a_share_of_one_means_all_of_them():
    """Fifty at the same time: fifty are hedged."""

    async def main():
        slow, fast = Place(10.0), Place(0.5)
        engine = world(slow, fast, hedge=ALWAYS)
        await all_of(*(engine.complete(ASK, "auto") for _ in range(50)))
        assert len(fast.calls) == 50

    virtually(main)


def test_hedges_go_to_another_deployment():
    """Of one target with two deployments the other one is asked."""

    async def main():
        slow, fast = Place(10.0), Place(0.5)
        answer = await ask(world(slow, fast, targets=[deployed(1, 1)], hedge=ALWAYS), streamed=False)
        assert [(a.deployment, a.role) for a in answer.attempts] == [("d0", ""), ("d1", "hedge")]

    virtually(main)


def test_when_the_first_fails_the_second_may_still_answer_and_the_other_way_round():
    """Whichever fails, the other is waited for; when both fail, the third is asked."""

    async def main(first, second, ends):
        down = failing(lambda: UpstreamStatus("down", upstream_status=503))
        places = [Place(1.5, error=down if first else lambda: None), Place(1.0, error=down if second else lambda: None)]
        answer = await ask(world(*places, Place(0.1), hedge=ALWAYS), streamed=False)
        assert answer.target.id == ends
        return [(a.target, bool(a.error)) for a in answer.attempts]

    assert virtually(lambda: main(True, False, "t1")) == [("t0", True), ("t1", False)]
    assert virtually(lambda: main(True, True, "t2")) == [("t0", True), ("t1", True), ("t2", False)]


def test_an_error_of_the_caller_s_ends_the_race():
    """A 400 is a 400: the second is called off, nothing more is paid for."""

    async def main():
        bad = Place(1.5, error=failing(lambda: UpstreamStatus("no", upstream_status=400)))
        other = Place(5.0)
        with pytest.raises(UpstreamStatus):
            await ask(world(bad, other, hedge=ALWAYS), streamed=False)
        assert other.ended == ["cancelled"]

    virtually(main)


@pytest.mark.parametrize("streamed", [False, True])
def test_both_answers_at_the_same_moment_are_both_paid_for(streamed, tmp_path):
    """The first at 2 s, the second 1 s after 1 s: one is used, the other is closed, and the bill names both."""

    async def main():
        journal = Journal(tmp_path / "j", fsync="never")
        first, second = Place(2.0), Place(1.0)
        engine = world(first, second, hedge=ALWAYS, journal=journal)
        answer = await ask(engine, streamed)
        record = list(read(journal.path))[-1]
        assert [row.outstanding for row in engine.health.snapshot()] == [0, 0]
        paid = [a for a in record.attempts if a.outcome.cost_usd]
        assert len(record.attempts) == 2
        assert record.outcome.cost_usd == pytest.approx(PRICE.cost_usd(100, 50) * len(paid))
        assert answer.run.spent_usd() == pytest.approx(record.outcome.cost_usd)
        assert all(stream.closed for stream in [*first.streams, *second.streams] if stream is not answer.reply)

    virtually(main)


def test_a_caller_who_goes_away_takes_both_with_him(tmp_path):
    """Cancelled in the middle of a race: both upstreams are told, both attempts are recorded, once."""

    async def main():
        journal = Journal(tmp_path / "j", fsync="never")
        slow, other = Place(10.0), Place(9.0)
        engine = world(slow, other, hedge=ALWAYS, journal=journal)
        task = asyncio.create_task(engine.complete(ASK, "auto"))
        await asyncio.sleep(2.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (slow.ended, other.ended) == (["cancelled"], ["cancelled"])
        record = list(read(journal.path))[-1]
        assert (record.error, sorted(a.target for a in record.attempts)) == ("cancelled", ["t0", "t1"])
        assert [row.outstanding for row in engine.health.snapshot()] == [0, 0]

    virtually(main)


def test_tools_with_effects_are_never_hedged():
    """What may send a mail is asked once, however slow it is."""

    async def main():
        slow, fast = Place(10.0), Place(0.5)
        targets = [Target(id="t0", provider="p0", kind="tool"), Target(id="t1", provider="p1", kind="tool")]
        answer = await ask(world(slow, fast, targets=targets, hedge=ALWAYS), streamed=False)
        assert (answer.target.id, fast.calls) == ("t0", [])

    virtually(main)


def test_a_hedged_stream_that_breaks_later_is_not_hidden():
    """The winner's stream breaks after its first byte: the client hears of it."""

    async def main():
        slow, fast = Place(10.0), Place(0.5, events=(b"data: {}\n\n", UpstreamBroken("cut")))
        answer = await world(slow, fast, hedge=ALWAYS).stream(ASK, "auto")
        with pytest.raises(UpstreamBroken):
            await drain(answer)
        assert [(a.target, a.error, a.role) for a in answer.attempts] == [
            ("t0", "cancelled", ""),
            ("t1", "upstream_broken", "hedge"),
        ]

    virtually(main)


def test_the_deadline_ends_a_race():
    """Neither answers: 60 s by default, and then it is over for both."""

    async def main():
        first, second = Place(1e4), Place(1e4)
        began = now()
        with pytest.raises(Exception, match="no answer within 60 s"):
            await ask(world(first, second, hedge=ALWAYS), streamed=False)
        assert now() - began <= 60.5
        assert (first.ended, second.ended) == (["cancelled"], ["cancelled"])

    virtually(main)


@pytest.mark.parametrize(("name", "value"), [("after_s", 0.0), ("after_s", float("nan")), ("most", 1.5), ("most", -0.1)])
def test_settings_are_checked(name, value):
    """The path is the alias's own."""
    section = HedgeSection(**{"after_s": 1.0, name: value})
    with pytest.raises(ConfigError, match=rf"aliases\.auto\.hedge\.{name}"):
        virtually(lambda: _made(section))


async def _made(section):
    return world(Place(), hedge=section)


def test_a_second_stream_that_began_as_well_is_cut_off_and_says_so():
    """Both have their first event in the same turn of the loop: the one that nobody reads is closed, and said to be off."""

    async def main():
        first, second = Place(2.0), Place(1.0)
        answer = await world(first, second, hedge=ALWAYS).stream(ASK, "auto")
        await drain(answer)
        assert len(answer.attempts) == 2
        lost = [a for a in answer.attempts if a.target != answer.target.id]
        assert [(a.error, a.detail) for a in lost] == [("cancelled", LOST)]

    virtually(main)
