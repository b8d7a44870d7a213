"""Retries: when, how long after, how often, and of what never; deadlines that shrink; every attempt in the journal."""

import msgspec
import pytest
from tests.engine.virtual_world import ASK, PRICE, Place, failing, now, virtually, world

from junctor.engine import Health
from junctor.engine.retrying import Retries
from junctor.errors import (
    ConfigError,
    DeadlineExceeded,
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from junctor.journal import Journal, read
from junctor.sections import RetrySection
from junctor.types import Constraints, Target

TWICE = Retries(most=2, base_s=1.0, cap_s=8.0)


def within(seconds):
    """The same request with a deadline."""
    return msgspec.structs.replace(ASK, constraints=Constraints(deadline_s=seconds))


async def drain(answer):
    async with answer:
        return [event async for event in answer]


def down():
    return UpstreamStatus("is down", upstream_status=503)


def test_a_target_alone_is_asked_again_after_a_pause(tmp_path):
    """Two failures, then an answer: three attempts, all in the journal, with pauses between them."""

    async def main():
        journal = Journal(tmp_path / "j", fsync="never")
        place = Place(0.1, error=failing(down, first=2))
        engine = world(place, retries=TWICE, journal=journal)
        answer = await engine.complete(ASK, "t0")
        assert [a.error for a in answer.attempts] == ["upstream_status", "upstream_status", ""]
        assert list(read(journal.path))[-1].attempts == tuple(answer.attempts)
        gaps = [b.started_s - a.ended_s for a, b in zip(answer.attempts, answer.attempts[1:], strict=False)]
        assert 0 < gaps[0] <= 1.0
        assert 0 < gaps[1] <= 2.0

    virtually(main)


def test_everybody_in_the_plan_comes_before_anybody_comes_again():
    """First the other targets; then the first of the plan that is well."""

    async def main():
        first, second = Place(0.1, error=failing(down, first=1)), Place(0.1, error=failing(down))
        answer = await world(first, second, retries=TWICE).complete(ASK, "auto")
        assert [a.target for a in answer.attempts] == ["t0", "t1", "t0"]

    virtually(main)


def test_no_more_than_the_most_and_without_a_setting_none():
    """The last error is raised when the tries are spent."""

    async def main(retries, calls):
        place = Place(0.1, error=failing(down))
        with pytest.raises(UpstreamStatus):
            await world(place, retries=retries, health=Health(threshold=99, clock=now)).complete(ASK, "t0")
        assert len(place.calls) == calls

    virtually(lambda: main(TWICE, 3))
    virtually(lambda: main(Retries(), 1))


def test_retry_after_is_obeyed_when_there_is_time_for_it():
    """3 s asked: the next try is no earlier. With a deadline of 2 s there is no point: the 429 comes back at once."""

    async def main(deadline_s):
        limited = failing(lambda: UpstreamStatus("slow", upstream_status=429, retry_after_s=3.0, target="t0"), first=1)
        place = Place(0.1, error=limited)
        began = now()
        try:
            answer = await world(place, retries=TWICE).complete(within(deadline_s), "t0")
        except UpstreamStatus as error:
            return error.upstream_status, now() - began
        assert answer.attempts[1].started_s - answer.attempts[0].ended_s >= 3.0
        return len(answer.attempts), now() - began

    assert virtually(lambda: main(20.0))[0] == 2
    status, took = virtually(lambda: main(2.0))
    assert (status, took) == (429, pytest.approx(0.1))


def test_the_deadline_holds_whatever_is_tried():
    """Every attempt takes 3 s and fails; with 7 s there is time for two and a bit, and at 7 s it is over."""

    async def main():
        place = Place(3.0, error=failing(lambda: UpstreamBroken("cut")))
        many = Retries(most=50, base_s=0.001, cap_s=0.001)
        engine = world(place, retries=many, health=Health(threshold=99, clock=now))
        began = now()
        with pytest.raises(DeadlineExceeded):
            await engine.complete(within(7.0), "t0")
        assert now() - began == pytest.approx(7.0, abs=0.01)
        assert len(place.calls) == 3

    virtually(main)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_cannot_get_better_is_not_asked_again(status):
    """The caller's fault, or our key's: once."""

    async def main():
        place = Place(0.1, error=failing(lambda: UpstreamStatus("no", upstream_status=status)))
        with pytest.raises(UpstreamStatus):
            await world(place, retries=TWICE).complete(ASK, "t0")
        assert len(place.calls) == 1

    virtually(main)


def test_nothing_is_retried_after_the_first_byte():
    """A stream that breaks has broken; one that never began is tried again."""

    async def main():
        place = Place(0.1, error=failing(down, first=1), events=(b"data: {}\n\n", UpstreamBroken("cut")))
        engine = world(place, retries=TWICE)
        answer = await engine.stream(ASK, "t0")
        assert answer.tries == 2
        with pytest.raises(UpstreamBroken):
            await drain(answer)
        assert len(place.calls) == 2
        assert [a.error for a in answer.attempts] == ["upstream_status", "upstream_broken"]
        assert answer.attempts[1].outcome.output_tokens == 50, "what it had used is known, and is in the record"

    virtually(main)


ACTED = {
    "broken": (lambda: UpstreamBroken("cut"), 1),
    "silent": (lambda: UpstreamTimeout("silent"), 1),
    "500": (lambda: UpstreamStatus("oops", upstream_status=500), 1),
    "refused": (lambda: UpstreamRefused("nobody there"), 2),
    "429": (lambda: UpstreamStatus("later", upstream_status=429), 2),
}


@pytest.mark.parametrize("kind", ["tool", "agent"])
@pytest.mark.parametrize("case", ACTED)
def test_what_may_have_acted_is_not_asked_twice(case, kind):
    """A tool whose connection broke may have sent the mail: nobody is asked again, not even the next target. Where it was
    never reached, or is said to be idempotent, it is as with models; and the provider is not sent that setting."""

    async def main(settings):
        make, calls = ACTED[case]
        place, other = Place(0.1, error=failing(make, first=1)), Place(0.1)
        targets = [
            Target(id="t0", provider="p0", kind=kind, settings=settings),
            Target(id="t1", provider="p1", kind=kind, settings=settings),
        ]
        engine = world(place, other, targets=targets, retries=TWICE)
        try:
            await engine.complete(ASK, "auto")
        except UpstreamError:
            assert calls == 1
        assert all("idempotent" not in target.settings for _, target, _ in place.calls)
        return len(place.calls) + len(other.calls)

    assert virtually(lambda: main({})) == ACTED[case][1]
    assert virtually(lambda: main({"idempotent": True, "verbose": 1})) == 2


def test_pauses_have_full_jitter_and_are_seeded():
    """From nothing to twice as much each time, up to the cap; the same seed gives the same pauses."""
    draws = [0.0, 0.5, 0.999999]
    assert [Retries(most=9, base_s=1.0, cap_s=5.0).pause_s(n, lambda: 1.0) for n in (1, 2, 3, 4, 50)] == [1, 2, 4, 5, 5]
    assert [round(TWICE.pause_s(2, lambda d=d: d), 3) for d in draws] == [0.0, 1.0, 2.0]

    async def main(seed):
        engine = world(Place(0.1, error=failing(down, first=2)), retries=TWICE, seed=seed)
        return [a.started_s for a in (await engine.complete(ASK, "t0")).attempts]

    assert virtually(lambda: main(1)) == virtually(lambda: main(1)) != virtually(lambda: main(2))


def test_the_bill_holds_every_attempt(tmp_path):
    """A first try that failed after it had used tokens is paid for as well."""

    async def main():
        journal = Journal(tmp_path / "j", fsync="never")
        engine = world(Place(0.1, error=failing(down, first=1)), retries=TWICE, journal=journal)
        answer = await engine.complete(ASK, "t0")
        record = list(read(journal.path))[-1]
        own = PRICE.cost_usd(100, 50)
        assert record.outcome.cost_usd == pytest.approx(own)
        assert sum(a.outcome.cost_usd or 0.0 for a in record.attempts) == pytest.approx(answer.run.spent_usd())

    virtually(main)


@pytest.mark.parametrize(("name", "value"), [("most", -1), ("base_s", -0.1), ("cap_s", float("inf"))])
def test_settings_are_checked(name, value):
    """Each figure that cannot be is named."""
    with pytest.raises(ConfigError, match=rf"retries\.{name}"):
        Retries.of(RetrySection(**{name: value}))
    assert Retries.of(RetrySection()).most == 1
