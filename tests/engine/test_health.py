"""Breakers, cooldowns and ejection: a dead primary is learned once, one probe at a time asks whether it is back."""

import asyncio
from itertools import pairwise

import msgspec
import pytest
from tests.engine.virtual_world import ASK, Place, all_of, deployed, failing, now, virtually, world

from junctor.engine import Health
from junctor.errors import ConfigError, UpstreamRefused, UpstreamStatus, UpstreamTimeout
from junctor.sections import HealthSection
from junctor.types import Constraints, Limits, Target


def dead(seconds=5.0):
    """Connects to nobody: after five seconds it is refused, as with a black hole."""
    return Place(seconds, error=failing(lambda: UpstreamRefused("no connection")))


async def test_two_hundred_at_a_dead_primary_wait_for_it_a_handful_of_times():
    """BerriAI/litellm#40405: every request waited 5 s anew. Here 200 requests, 20 at a time, over minutes: the first ones learn
    it for all, and then one at a time looks again, ever more rarely."""

    def main():
        return virtually(run)

    async def run():
        primary, second = dead(), Place(0.1)
        engine = world(primary, second)
        took = []

        async def client(count):
            for _ in range(count):
                began = now()
                answer = await engine.complete(ASK, "auto")
                took.append(now() - began)
                assert answer.target.id == "t1"
                await asyncio.sleep(1.0)

        await asyncio.gather(*(client(10) for _ in range(20)))
        assert len(took) == 200
        waited = sum(seconds > 1.0 for seconds in took)
        assert waited == len(primary.calls)
        assert 20 <= waited <= 24  # the first of each client, begun before anybody knew; then single probes
        probes = [at for at, _, _ in primary.calls[20:]]
        assert all(later - earlier > 1.0 for earlier, later in pairwise(probes))

    await asyncio.to_thread(main)


def test_one_probe_at_a_time_and_the_others_do_not_wait_for_it():
    """After the cooldown one call looks; forty that come meanwhile go to the fallback at once. It is back: all go there."""

    async def main():
        primary, second = dead(), Place(0.1)
        engine = world(primary, second)
        await all_of(*(engine.complete(ASK, "auto") for _ in range(3)))
        assert len(primary.calls) == 3
        await asyncio.sleep(1.1)
        primary.latency_s, primary.error = 2.0, lambda: None
        answers = await all_of(*(engine.complete(ASK, "auto") for _ in range(40)))
        assert len(primary.calls) == 4
        assert sorted({a.target.id for a in answers}) == ["t0", "t1"]
        assert [a.target.id for a in answers].count("t0") == 1
        assert not engine.health
        answers = await all_of(*(engine.complete(ASK, "auto") for _ in range(5)))
        assert {a.target.id for a in answers} == {"t0"}

    virtually(main)


def test_a_probe_that_is_called_off_lets_the_next_one_look():
    """Its caller goes away: nothing is known yet, and nobody is locked out."""

    async def main():
        primary, second = dead(), Place(0.1)
        engine = world(primary, second)
        await all_of(*(engine.complete(ASK, "auto") for _ in range(3)))
        await asyncio.sleep(1.1)
        probe = asyncio.create_task(engine.complete(ASK, "auto"))
        await asyncio.sleep(0.5)
        assert engine.health.snapshot()[0].state == "half-open"
        probe.cancel()
        await all_of(probe)
        assert engine.health.cooling_s("t0") == 0
        primary.latency_s, primary.error = 0.1, lambda: None
        assert (await engine.complete(ASK, "auto")).target.id == "t0"

    virtually(main)


def test_a_stream_that_has_begun_ends_the_probe():
    """It may go on for minutes; the others need not wait for its end."""

    async def main():
        primary, second = dead(), Place(0.1)
        engine = world(primary, second)
        await all_of(*(engine.complete(ASK, "auto") for _ in range(3)))
        await asyncio.sleep(1.1)
        primary.latency_s, primary.error = 0.1, lambda: None
        primary.events = (b"data: {}\n\n", 50.0, b"data: [DONE]\n\n")
        async with await engine.stream(ASK, "auto") as probe:
            assert engine.health.snapshot()[0].state == "closed"
            assert (await engine.complete(ASK, "auto")).target.id == "t0"
            assert probe.target.id == "t0"
            async for _ in probe:
                pass

    virtually(main)


def test_calls_that_were_under_way_do_not_lengthen_the_cooldown():
    """A hundred fail at the same time: that is one outage, not a hundred; the cooldown is a second, not a minute."""

    async def main():
        engine = world(dead(), Place(0.1))
        await all_of(*(engine.complete(ASK, "auto") for _ in range(100)))
        assert 0 < engine.health.cooling_s("t0") <= 1.0

    virtually(main)


def test_last_tries_in_an_outage_of_all_do_not_lengthen_the_cooldown():
    """Two seconds without anybody, a hundred calls a second that are tried all the same: the breaker closes soon after."""
    clock = [0.0]
    health = Health(threshold=3, base_s=0.5, clock=lambda: clock[0])
    vital = health.vital("t")
    for number in range(200):
        clock[0] = number * 0.01
        health.enter(vital, 10.0)
        health.left(vital, UpstreamRefused("no connection"), clock[0])
    assert 0 < health.cooling_s("t") <= 2.0  # 0.5, then 1 after the first probe, then 2 after the second
    assert vital.outstanding == 0


def test_an_answer_that_was_under_way_does_not_lift_retry_after():
    """One call is told to come back in 30 s; another, begun before, still gets its answer. The 30 s hold."""

    async def main():
        limited = failing(lambda: UpstreamStatus("slow down", upstream_status=429, retry_after_s=30.0), first=1)
        primary = Place(lambda running: 1.0 * running, error=limited)
        engine = world(primary, Place(0.1))
        answers = await all_of(*(engine.complete(ASK, "auto") for _ in range(2)))
        assert {a.target.id for a in answers} == {"t0", "t1"}
        assert 28 < engine.health.cooling_s("t0") <= 30
        assert (await engine.complete(ASK, "auto")).target.id == "t1"
        await asyncio.sleep(30)
        answers = await all_of(*(engine.complete(ASK, "auto") for _ in range(4)))
        assert {a.target.id for a in answers} == {"t0"}, "Retry-After is no failure: no probe is needed"

    virtually(main)


def test_health_is_kept_per_deployment_and_a_target_cools_only_with_all_of_them():
    """One of two dies: the other takes its work without a wait; both die: the target itself is left out."""

    async def main():
        gone, fine, other = dead(0.1), Place(0.1), Place(0.1)
        targets = [deployed(1, 1), deployed(1, id_="spare")]
        targets[1] = deployed(0, 0, 1, id_="spare")
        engine = world(gone, fine, other, targets=targets)
        for _ in range(6):
            assert (await engine.complete(ASK, "auto")).target.id == "m"
        assert engine.health.cooling_s("m", "d0") > 0
        assert engine.health.cooling_s("m") == 0
        assert len(gone.calls) == 3
        fine.error = gone.error
        for _ in range(3):
            await engine.complete(ASK, "auto")
        assert engine.health.cooling_s("m") > 0
        routed = engine.route(ASK, "auto")
        assert routed.targets == ("spare",)
        assert "cooling down" in routed.refusals["m"]

    virtually(main)


def test_another_deployment_is_asked_before_the_next_target_and_every_attempt_is_told():
    """Order: the deployments of a target, then the next target; each attempt names its deployment."""

    async def main():
        engine = world(dead(0.1), dead(0.1), Place(0.1), targets=[deployed(1, 1), deployed(0, 0, 1, id_="other")])
        answer = await engine.complete(ASK, "auto")
        assert [(a.target, a.deployment, bool(a.error)) for a in answer.attempts] == [
            ("m", "d0", True),
            ("m", "d1", True),
            ("other", "d2", False),
        ]

    virtually(main)


def test_one_request_tries_at_most_three_deployments():
    """A pool of ten dead ones does not eat the time of the next target."""

    async def main():
        places = [dead(0.1) for _ in range(10)] + [Place(0.1)]
        engine = world(*places, targets=[deployed(*[1] * 10), deployed(*[0] * 10, 1, id_="other")])
        answer = await engine.complete(ASK, "auto")
        assert [a.target for a in answer.attempts] == ["m", "m", "m", "other"]

    virtually(main)


def test_an_outlier_by_errors_is_sent_off_and_comes_back():
    """Half of its calls fail, never three in a row, so that no breaker opens: its siblings' share of errors convicts it."""

    async def main():
        flip = iter(range(10**6))
        bad = Place(0.1, error=lambda: UpstreamStatus("oops", upstream_status=500) if next(flip) % 2 else None)
        targets, health = [deployed(1, 1, 1)], Health(base_s=30.0, clock=now)
        engine = world(bad, Place(0.1), Place(0.1), targets=targets, health=health)
        for _ in range(200):
            await engine.complete(ASK, "m")
        assert [row.state for row in engine.health.snapshot()] == ["ejected", "closed", "closed"]
        at = len(bad.calls)
        assert at < 50
        await asyncio.sleep(30)
        bad.error = lambda: None
        for _ in range(60):
            await engine.complete(ASK, "m")
        assert len(bad.calls) - at >= 15

    virtually(main)


def test_an_outlier_by_latency_is_sent_off_but_never_more_than_half():
    """One of four is ten times slower: it goes. When three are slower than the fourth, the rule does not turn on the crowd."""

    async def main(slow):
        places = [Place(2.0 if i < slow else 0.2) for i in range(4)]
        engine = world(*places, targets=[deployed(1, 1, 1, 1)], health=Health(base_s=1000.0, cap_s=1000.0, clock=now))
        for _ in range(400):
            await engine.complete(ASK, "m")
        return [row.deployment for row in engine.health.snapshot() if row.state == "ejected"]

    assert virtually(lambda: main(1)) == ["d0"]
    assert virtually(lambda: main(0)) == []
    assert len(virtually(lambda: main(2))) <= 2
    assert virtually(lambda: main(3)) == []


def test_the_snapshot_tells_what_a_page_shows():
    """State, failures, calls on their way, latency and cooldown, per target and deployment."""

    async def main():
        slow, gone = Place(4.0), dead(0.1)
        engine = world(slow, gone)
        running = asyncio.create_task(engine.complete(ASK, "t0"))
        await all_of(*(engine.complete(ASK, "t1") for _ in range(3)))
        first, second = engine.health.snapshot()
        assert (first.target, first.state, first.outstanding, first.latency_s) == ("t0", "closed", 1, None)
        assert (second.target, second.state, second.failures, second.outstanding) == ("t1", "open", 3, 0)
        assert 0 < second.cooling_s <= 1
        assert second.error_share > 0.2
        await running
        assert engine.health.snapshot()[0].latency_s == pytest.approx(4.0)
        assert engine.health.snapshot()[0].outstanding == 0

    virtually(main)


def test_a_new_configuration_keeps_what_is_known_of_the_same_places():
    """A reload is no reason to rediscover a dead primary; what is gone from the file is forgotten."""

    async def main():
        first = world(dead(0.1), dead(0.1), Place(0.1))
        for _ in range(3):
            await first.complete(ASK, "auto")
        health = Health.of(HealthSection(), old=first.health, clock=now)
        second = world(dead(0.1), health=health)
        assert second.health.cooling_s("t0") > 0
        assert [row.target for row in second.health.snapshot()] == ["t0"]
        assert Health.of(HealthSection(failures=7)).threshold == 7

    virtually(main)


WRONG = {"failures": 0, "base_s": -1.0, "cap_s": 0.5, "outlier_calls": 0, "outlier_times": 0.5, "outlier_errors": float("nan")}


@pytest.mark.parametrize("name", WRONG)
def test_settings_are_checked(name):
    """Each figure that cannot be is named."""
    with pytest.raises(ConfigError, match=rf"health\.{name}"):
        Health.of(HealthSection(**{name: WRONG[name]}))


def test_what_is_the_caller_s_fault_counts_for_nothing():
    """A 400 is no failure of the place, and takes nothing off its record either."""
    health = Health()
    vital = health.vital("t")
    for error in (UpstreamStatus("bad", upstream_status=400), asyncio.CancelledError()):
        health.enter(vital, 1.0)
        health.left(vital, error, 0.0)
    assert (vital.failures, vital.outstanding, vital.errors, bool(health)) == (0, 0, 0.0, False)
    health.enter(vital, 1.0)
    health.left(vital, UpstreamTimeout("silent"), health.clock())
    assert (vital.failures, bool(health)) == (1, True)


def test_a_caller_in_a_hurry_does_not_close_a_target_for_all():
    """Ten requests with a deadline of 0.2 s at a target that takes 2 s: they time out, and say nothing about it. A limit that
    the operator set does, and so does one that the target usually keeps."""

    def hurried(seconds):
        return msgspec.structs.replace(ASK, constraints=Constraints(deadline_s=seconds))

    async def main(limit_s, usual_s):
        place = Place(usual_s)
        engine = world(place, targets=[Target(id="t0", provider="p0", limits=Limits(timeout_s=limit_s))])
        if limit_s is None:
            await engine.complete(ASK, "auto")
        place.latency_s = 2.0
        await all_of(*(engine.complete(hurried(0.2), "auto") for _ in range(10)))
        return engine.health.cooling_s("t0") > 0

    assert not virtually(lambda: main(None, 2.0))
    assert virtually(lambda: main(0.1, 2.0))
    assert virtually(lambda: main(None, 0.05))
