"""What a target cannot be told: left out with a reason where a field says so, passed over where only the writing finds out."""

from typing import Any, ClassVar

import msgspec
import pytest
from tests.engine.virtual_world import ASK, PRICE, Place, deployed, failing, now, virtually, world

from junctor.engine import Health
from junctor.engine.filters import Filter
from junctor.engine.retrying import Retries
from junctor.errors import NoTarget, RequestError, UpstreamStatus
from junctor.providers.anthropic import AnthropicProvider
from junctor.providers.bedrock import BedrockProvider
from junctor.providers.gemini import GeminiProvider
from junctor.providers.openai_compatible import OpenAICompatibleProvider
from junctor.sections import HedgeSection
from junctor.types import Call, Cascade, Fallback, Panel, Target

SEED = msgspec.structs.replace(ASK, params={"seed": 7})
UNTOLD = "seed cannot be told to it"
TWICE = Retries(most=2, base_s=1.0, cap_s=8.0)


class Picky(Place):
    """Has no word for `seed`."""

    cannot: ClassVar[Any] = {"seed": lambda value: "" if value == 0 else "cannot be told to it"}


def unsaid():
    return RequestError("cannot be told to this target", field="messages[0].name", fix="say who speaks in the text")


def down():
    return UpstreamStatus("is down", upstream_status=503)


async def answered(engine, request, model="auto", streamed=False):
    """The answer, read to its end."""
    if not streamed:
        return await engine.complete(request, model)
    answer = await engine.stream(request, model)
    async with answer:
        assert [event async for event in answer]
    return answer


@pytest.mark.parametrize("streamed", [False, True])
def test_such_a_target_is_left_out_with_the_reason(streamed):
    """The next one takes it; nobody else was asked, and a request without the field goes to the first."""

    async def main():
        picky, other = Picky(0.1), Place(0.1)
        engine = world(picky, other)
        answer = await answered(engine, SEED, streamed=streamed)
        assert (answer.target.id, answer.tries) == ("t1", 1)
        assert (await engine.explain(answer.decision.id)).refusals == {"t0": UNTOLD}
        assert picky.calls == []
        for params in ({}, {"seed": None}, {"seed": 0}):
            routed = engine.route(msgspec.structs.replace(ASK, params=params), "auto")
            assert (routed.decision.target, dict(routed.refusals)) == ("t0", {})

    virtually(main)


def test_when_nobody_is_left_each_reason_is_named_and_the_field():
    """With the alias and by the target's own name; a need that another one lacks is named beside it."""

    async def main():
        engine = world(Picky(), Picky())
        for model, ids in (("auto", ["t0", "t1"]), ("t1", ["t1"])):
            with pytest.raises(NoTarget) as caught:
                await engine.complete(SEED, model)
            assert caught.value.refusals == dict.fromkeys(ids, UNTOLD)
            assert (caught.value.field, caught.value.http_status) == ("seed", 422)
        both = world(Picky(), Place(capabilities=frozenset({"stream"})))
        with pytest.raises(NoTarget) as caught:
            await both.complete(msgspec.structs.replace(SEED, needs=frozenset({"tools"})), "auto")
        assert caught.value.refusals == {"t0": UNTOLD, "t1": "cannot do: tools"}
        assert caught.value.field == ""

    virtually(main)


def test_what_is_ignored_or_said_by_the_target_itself_is_no_reason():
    """The operator's `ignore`, and a setting that goes before the caller's own."""

    async def main():
        lenient = Picky(0.1)
        lenient.ignored = frozenset({"seed"})
        assert (await world(lenient).complete(SEED, "auto")).target.id == "t0"
        own = Target(id="t0", provider="p0", price=PRICE, settings={"seed": 3})
        assert (await world(Picky(0.1), targets=[own]).complete(SEED, "auto")).target.id == "t0"

    virtually(main)


@pytest.mark.parametrize("balance", ["weighted", "least-outstanding", "peak-ewma", "power-of-two", "cache-aware"])
def test_of_deployments_only_those_that_can_be_told_are_picked(balance):
    """Every pick and every fallback; the target itself is left out only where none can."""

    async def main():
        picky, sick, well = Picky(0.1), Place(0.1, error=failing(down)), Place(0.1)
        engine = world(picky, sick, well, targets=[deployed(5, 1, 1, balance=balance)])
        for _ in range(8):
            assert (await engine.complete(SEED, "m")).target.id == "m"
        assert (picky.calls, len(well.calls)) == ([], 8)
        for _ in range(8):
            await engine.complete(ASK, "m")
        assert picky.calls
        alone = world(Picky(), Picky(), targets=[deployed(1, 1, balance=balance)])
        with pytest.raises(NoTarget, match=UNTOLD):
            await alone.complete(SEED, "m")

    virtually(main)


def test_one_deployment_that_cannot_do_it_and_another_that_cannot_be_told_it_make_no_target():
    """Each alone is short of something: a reason, and no call that leads nowhere."""

    async def main():
        plain, picky = Place(capabilities=frozenset({"stream"})), Picky(capabilities=frozenset({"tools"}))
        engine = world(plain, picky, targets=[deployed(1, 1)])
        with pytest.raises(NoTarget, match="cannot do: tools"):
            await engine.complete(msgspec.structs.replace(SEED, needs=frozenset({"tools"})), "m")
        assert (await engine.complete(SEED, "m")).attempts[0].deployment == "d0"

    virtually(main)


def test_an_ordinary_request_is_not_looked_at():
    """Without such a field nobody is asked whether it can be told, and what is given back is the catalogue itself."""

    class Asked(Picky):
        def untold(self, request, target):
            raise AssertionError("looked at")

    async def main():
        engine = world(Asked(0.1), Asked(0.1), targets=[deployed(1, 1)])
        ordinary = msgspec.structs.replace(ASK, params={"model": "m", "messages": [], "top_p": 0.5, "max_tokens": 5})
        filter_: Filter = engine.names.direct["m"]
        assert filter_.apply(ordinary, Health()).targets is filter_.targets
        assert (await engine.complete(ordinary, "m")).target.id == "m"

    virtually(main)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("hedge", [None, HedgeSection(after_s=1.0, most=1.0)])
def test_what_only_the_writing_finds_out_moves_on(streamed, hedge):
    """Not a failure of that target: it is well, and not asked again; the attempt says which field it was."""

    async def main():
        deaf, other = Place(0.0, error=failing(unsaid)), Place(0.1)
        engine = world(deaf, other, hedge=hedge, retries=TWICE)
        for _ in range(5):
            answer = await answered(engine, ASK, streamed=streamed)
            assert answer.target.id == "t1"
            first = answer.attempts[0]
            assert (first.target, first.error) == ("t0", "invalid_request")
            assert first.detail == "messages[0].name: cannot be told to this target"
        assert not engine.health
        assert [row.outstanding for row in engine.health.snapshot()] == [0, 0]

    virtually(main)


def test_nobody_can_be_told_it_is_the_caller_s_to_mend():
    """The field is named; nobody is asked twice, not even where retries are allowed."""

    async def main():
        places = [Place(0.1, error=failing(unsaid)) for _ in range(2)]
        engine = world(*places, retries=TWICE)
        with pytest.raises(RequestError) as caught:
            await engine.complete(ASK, "auto")
        assert (caught.value.field, caught.value.http_status) == ("messages[0].name", 400)
        assert [len(place.calls) for place in places] == [1, 1]
        assert not engine.health

    virtually(main)


@pytest.mark.parametrize("order", ["deaf first", "deaf last"])
def test_a_failure_of_one_that_could_take_it_counts_more(order):
    """Only that one is tried again, and its error is the client's when it stays down: it may come back later."""

    async def main():
        deaf, sick = Place(0.1, error=failing(unsaid)), Place(0.1, error=failing(down))
        places = (deaf, sick) if order == "deaf first" else (sick, deaf)
        with pytest.raises(UpstreamStatus, match="is down"):
            await world(*places, retries=TWICE).complete(ASK, "auto")
        assert (len(deaf.calls), len(sick.calls)) == (1, 3)
        well = Place(0.1, error=failing(down, first=1))
        places = (deaf, well) if order == "deaf first" else (well, deaf)
        assert (await world(*places, retries=TWICE).complete(ASK, "auto")).attempts[-1].error == ""

    virtually(main)


def test_deployments_that_cannot_be_told_it_are_passed_over_one_by_one():
    """Four of them, more than one request may try after failures: none of those was called."""

    async def main():
        deaf = [Place(0.0, error=failing(unsaid)) for _ in range(4)]
        engine = world(*deaf, Place(0.1), targets=[deployed(9, 9, 9, 9, 1)])
        answer = await engine.complete(ASK, "m")
        assert answer.attempts[-1].deployment == "d4"
        assert all(len(place.calls) <= 1 for place in deaf)

    virtually(main)


def test_one_that_cools_down_is_tried_when_nobody_else_can_be_told():
    """Being told no is no answer: a last try at one to be left alone is better than a refusal."""

    async def main():
        deaf, sick = Place(0.0, error=failing(unsaid)), Place(0.1, error=failing(down, first=1))
        engine = world(deaf, sick, targets=[deployed(1, 1)], health=Health(threshold=1, base_s=30.0, clock=now))
        with pytest.raises(UpstreamStatus):
            await engine.complete(ASK, "m")
        assert (await engine.complete(ASK, "m")).attempts[-1].deployment == "d1"

    virtually(main)


def test_a_hedge_that_cannot_be_told_it_leaves_the_first_to_answer():
    """Its own answer when there is one, else its own failure, then the next in line."""

    async def main():
        hedge = HedgeSection(after_s=1.0, most=1.0)
        deaf, third = Place(0.0, error=failing(unsaid)), Place(0.1)
        slow = world(Place(3.0), deaf, third, hedge=hedge)
        assert (await slow.complete(ASK, "auto")).target.id == "t0"
        broken = world(Place(3.0, error=failing(down)), deaf, third, hedge=hedge, retries=TWICE)
        answer = await broken.complete(ASK, "auto")
        assert (answer.target.id, len(deaf.calls)) == ("t2", 2)
        late = world(Place(3.0, error=failing(unsaid)), Place(9.0), hedge=hedge)
        assert (await late.complete(ASK, "auto")).target.id == "t1"

    virtually(main)


BOTH = (Call("t0"), Call("t1"))
PLANS = {
    "cascade": Cascade(BOTH, accept="agreement"),
    "panel": Panel(BOTH, aggregate="first"),
    "fallback of cascades": Fallback((Cascade(BOTH[:1], accept="agreement"), Cascade(BOTH[1:], accept="agreement"))),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_plans_that_look_at_answers_go_on_without_it(plan):
    """A stage or a member that cannot be told it is missing; only when all are, the field is named."""

    async def main():
        deaf = Place(0.1, error=failing(unsaid))
        answer = await planned(world(deaf, Place(0.1), retries=TWICE), plan)
        assert answer.target.id == "t1"
        with pytest.raises(RequestError, match="name"):
            await planned(world(deaf, deaf, retries=TWICE), plan)
        with pytest.raises(UpstreamStatus, match="is down"):
            await planned(world(deaf, Place(0.1, error=failing(down))), plan)
        with pytest.raises(UpstreamStatus, match="is down"):
            await planned(world(Place(0.1, error=failing(down)), deaf), plan)

    virtually(main)


async def planned(engine, plan):
    """The answer of this plan."""
    policy = engine.aliases["auto"].policy
    decide = policy.decide
    policy.decide = lambda *asked: msgspec.structs.replace(decide(*asked), plan=plan)
    return await engine.complete(ASK, "auto")


KEYS = {"base_url": "http://127.0.0.1:9"}
FOREIGN = {
    "anthropic": AnthropicProvider.from_settings(KEYS),
    "gemini": GeminiProvider.from_settings(KEYS),
    "bedrock": BedrockProvider.from_settings({**KEYS, "region": "eu-central-1"}),
    "openai": OpenAICompatibleProvider.from_settings(KEYS),
}
EVERYTHING = {
    "n": 2, "logprobs": True, "top_logprobs": 3, "frequency_penalty": 0.5, "presence_penalty": 0.5, "logit_bias": {"5": 1},
    "store": True, "service_tier": "flex", "modalities": ["text", "audio"], "verbosity": "low", "seed": 1,
    "audio": {"voice": "a"}, "functions": [{"name": "f"}], "function_call": {"name": "f"}, "web_search_options": {},
    "parallel_tool_calls": False, "temperature": 1.5,
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("field", EVERYTHING)
async def test_what_is_said_to_be_impossible_is_what_the_writing_refuses(kind, field):
    """Field by field: the filter leaves a target out exactly where the call would have been refused."""
    provider, target = FOREIGN[kind], Target(id="t", model="m")
    request = msgspec.structs.replace(ASK, params={"messages": [{"role": "user", "content": "x"}], field: EVERYTHING[field]})
    untold = provider.untold(request, target)
    if kind == "openai":
        assert untold == {}
        return
    if not untold:
        assert provider.exchange(request, target, stream=False).body
        return
    with pytest.raises(RequestError) as caught:
        provider.exchange(request, target, stream=False)
    assert (list(untold), caught.value.field) == ([field], field)
    assert untold[field].startswith(("cannot be told", "is over 1, the most", "is none of auto"))


@pytest.mark.parametrize("kind", ["anthropic", "gemini", "bedrock"])
def test_defaults_said_aloud_are_no_demand(kind):
    """What asks for what happens anyway leaves nobody out."""
    said = {"n": 1, "logprobs": False, "frequency_penalty": 0, "logit_bias": {}, "store": False, "service_tier": "auto",
            "parallel_tool_calls": True, "temperature": 1, "seed": None, "modalities": ["text"]}  # fmt: skip
    assert FOREIGN[kind].untold(msgspec.structs.replace(ASK, params=said), Target(id="t")) == {}
