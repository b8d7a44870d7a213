"""Rules that pick a deployment: shares, idleness, latency, affinity with bounded load, in a world where time is simulated."""

import asyncio
import random
from collections import Counter

import msgspec
import pytest
from tests.engine.virtual_world import ASK, Place, deployed, virtually, world

from junctor.engine.balancing import LOAD_BOUND, RULES, Load, Weighted, affinity, balancer, conversation
from junctor.engine.breaker import Vital
from junctor.errors import ConfigError, NoTarget, UpstreamError
from junctor.types import Deployment, Message, Request, Target


async def traffic(engine, count, *, at_once, request=lambda i: ASK):
    """`count` calls, `at_once` of them under way at any time."""
    numbers = iter(range(count))

    async def client():
        for i in numbers:
            await engine.complete(request(i), "m")

    await asyncio.gather(*(client() for _ in range(at_once)))


def loads(*weights):
    return [Load(f"d{i}", w, Vital("m", f"d{i}")) for i, w in enumerate(weights)]


def test_weighted_is_exact_and_smooth():
    """5:1:1, as in nginx's own example: a a b a c a a, and never the same three times more often than it must."""
    places, rule = loads(5, 1, 1), Weighted()
    first = [rule.pick(places, ASK).id for _ in range(7)]
    assert first == ["d0", "d0", "d1", "d0", "d2", "d0", "d0"]
    assert Counter(rule.pick(places, ASK).id for _ in range(700)) == {"d0": 500, "d1": 100, "d2": 100}


def test_weighted_keeps_its_shares_when_one_is_away_for_a_while():
    """Those that are left share by weight, and the one that comes back does not get all at once."""
    places, rule = loads(1, 1, 2), Weighted()
    away = Counter(rule.pick(places[:2], ASK).id for _ in range(100))
    back = Counter(rule.pick(places, ASK).id for _ in range(400))
    assert away == {"d0": 50, "d1": 50}
    assert max(abs(back[i] - want) for i, want in {"d0": 100, "d1": 100, "d2": 200}.items()) <= 2


def test_every_rule_uses_every_deployment_and_the_engine_records_which():
    """End to end: the provider sees its own name of the model, the attempt says which deployment, all of them get work."""

    async def main(rule):
        places = [Place(1.0), Place(1.0), Place(1.0)]
        engine = world(*places, targets=[deployed(1, 1, 1, balance=rule)])
        answers = [await engine.complete(ask(i), "m") for i in range(4)]
        await traffic(engine, 120, at_once=6, request=ask)
        assert all(place.calls for place in places), rule
        assert {target.upstream_model for _, target, _ in places[1].calls} == {"m-1"}
        for answer in answers:
            [attempt] = answer.attempts
            assert attempt.target == "m"
            assert answer.reply.body == f"m-{attempt.deployment[1:]}".encode()

    def ask(i):
        return Request(text=f"question {i}", messages=(Message("user", f"question {i}"),))

    for rule in RULES:
        virtually(lambda rule=rule: main(rule))


def test_least_outstanding_gives_more_to_the_faster():
    """One takes 1 s, the other 4 s: with 10 calls under way the fast one ends up with about four times the calls."""

    async def main():
        fast, slow = Place(1.0), Place(4.0)
        engine = world(fast, slow, targets=[deployed(1, 1, balance="least-outstanding")])
        await traffic(engine, 500, at_once=10)
        assert 3.0 < len(fast.calls) / len(slow.calls) < 5.0
        assert max(fast.most, slow.most) <= 6

    virtually(main)


@pytest.mark.parametrize("rule", ["peak-ewma", "power-of-two"])
def test_latency_rules_leave_a_deployment_that_became_slow(rule):
    """After 200 calls one becomes ten times slower: from then on it gets a small share, though nothing fails."""

    async def main():
        places = [Place(0.1), Place(0.1), Place(0.1)]
        engine = world(*places, targets=[deployed(1, 1, 1, balance=rule)], seed=3)
        await traffic(engine, 200, at_once=6)
        before = [len(place.calls) for place in places]
        assert min(before) > 30
        places[0].latency_s = 1.0
        await traffic(engine, 600, at_once=6)
        share = (len(places[0].calls) - before[0]) / 600
        assert share < 0.12

    virtually(main)


def test_peak_ewma_comes_back_to_one_that_has_recovered():
    """The peak decays with time, so that a deployment that was slow once is tried again."""

    async def main():
        places = [Place(0.1), Place(0.1)]
        engine = world(*places, targets=[deployed(1, 1, balance="peak-ewma")])
        await traffic(engine, 20, at_once=2)
        places[0].latency_s = 3.0
        await traffic(engine, 50, at_once=4)
        places[0].latency_s = 0.1
        before = len(places[0].calls)
        for _ in range(20):
            await traffic(engine, 20, at_once=4)
            await asyncio.sleep(5)
        assert len(places[0].calls) - before > 100

    virtually(main)


def test_power_of_two_beats_chance_under_load():
    """Equal servers that slow down under load: the longest queue stays near the mean, where random picks let it grow."""

    async def main(rule):
        places = [Place(lambda running: 0.1 * running) for _ in range(8)]
        engine = world(*places, targets=[deployed(*[1] * 8, balance="power-of-two")], seed=1)
        if rule == "random":
            draw = random.Random(1)
            engine.pools["m"]._balancer.pick = lambda found, request: draw.choice(found)
        await traffic(engine, 1500, at_once=32)
        return max(place.most for place in places)

    assert virtually(lambda: main("power-of-two")) <= 8
    assert virtually(lambda: main("random")) > 8


def turns(conversation_, count):
    """The same conversation, one turn longer each time."""
    said = [Message("system", "You are kind."), Message("user", f"conversation {conversation_}")]
    for i in range(count):
        said += [Message("assistant", f"answer {i}"), Message("user", f"and then {i}?")]
    return Request(text=said[-1].content, messages=tuple(said))


def test_cache_aware_keeps_a_conversation_where_it_is():
    """Every turn of a conversation finds its prompt; another tenant's same words do not share its place by name."""

    async def main():
        places = [Place(0.1) for _ in range(4)]
        engine = world(*places, targets=[deployed(1, 1, 1, 1, balance="cache-aware")])
        used = Counter()
        for number in range(40):
            at = {(await engine.complete(turns(number, n), "m")).attempts[0].deployment for n in range(5)}
            assert len(at) == 1
            used.update(at)
        assert len(used) == 4
        assert max(used.values()) <= 20

    virtually(main)
    one, other = turns(1, 0), msgspec.structs.replace(turns(1, 0), tenant="other")
    assert conversation(one) == conversation(turns(1, 3)) != conversation(other)


def test_cache_aware_bounds_the_load_of_a_favourite():
    """One conversation that everybody has at the same time does not drown its favourite: 1.25 times its fair share at most."""

    async def main():
        places = [Place(1.0) for _ in range(4)]
        engine = world(*places, targets=[deployed(1, 1, 1, 1, balance="cache-aware")])
        await asyncio.gather(*(engine.complete(turns(7, 0), "m") for _ in range(80)))
        assert max(place.most for place in places) <= -(-80 * LOAD_BOUND // 4)
        assert max(place.most for place in places) > 20

    virtually(main)


def test_cache_aware_moves_few_conversations_when_a_deployment_goes():
    """Rendezvous: only those of the one that went find a new place; and shares go by weight."""
    places = loads(1, 1, 1, 3)
    keys = [random.Random(i).getrandbits(64) for i in range(6000)]

    def favourite(key, among):
        return max(among, key=lambda place: affinity(key, place)).id

    before = [favourite(key, places) for key in keys]
    after = [favourite(key, places[1:]) for key in keys]
    assert all(a == b for b, a in zip(before, after, strict=True) if b != "d0")
    share = Counter(before)
    assert abs(share["d3"] / 6000 - 0.5) < 0.03
    assert all(abs(share[f"d{i}"] / 6000 - 1 / 6) < 0.03 for i in range(3))


def test_a_need_that_only_some_can_do_restricts_the_pick():
    """The one without vision gets no pictures; a need that nobody has is refused; two needs must be met in one place."""

    async def main():
        plain = Place(0.1, capabilities=frozenset({"tools"}))
        seeing = Place(0.1, capabilities=frozenset({"vision"}))
        engine = world(plain, seeing, targets=[deployed(1, 1)])
        for _ in range(6):
            await engine.complete(Request(text="look", needs=frozenset({"vision"})), "m")
        assert (len(plain.calls), len(seeing.calls)) == (0, 6)
        for needs in ({"audio"}, {"vision", "tools"}):
            with pytest.raises(NoTarget, match="cannot do"):
                await engine.complete(Request(text="hear", needs=frozenset(needs)), "m")
        declared = world(plain, seeing, targets=[deployed(1, 1, capabilities=frozenset({"tools"}))])
        with pytest.raises(NoTarget, match="vision"):
            await declared.complete(Request(text="look", needs=frozenset({"vision"})), "m")

    virtually(main)


def test_a_weight_of_nothing_is_the_last_resort():
    """A deployment of weight 0 gets no call while another can take it, and all when none can."""

    async def main():
        usual, spare = Place(0.1), Place(0.1)
        engine = world(usual, spare, targets=[deployed(1, 0)])
        await traffic(engine, 10, at_once=2)
        assert (len(usual.calls), len(spare.calls)) == (10, 0)
        usual.error = lambda: UpstreamError("is gone")
        await traffic(engine, 10, at_once=1)
        assert len(spare.calls) == 10

    virtually(main)


def test_names_are_checked():
    """A rule or a provider that is not there is a ConfigError with its path."""
    with pytest.raises(ConfigError, match=r"targets\.m\.balance.*fastest.*weighted, least-outstanding"):
        world(Place(), targets=[deployed(1, balance="fastest")])
    strange = Target(id="m", deployments=(Deployment(id="a", provider="ghost"),))
    with pytest.raises(ConfigError, match=r"targets\.m\.deployments.*ghost"):
        world(Place(), targets=[strange])
    with pytest.raises(ConfigError, match="balance"):
        balancer("")
