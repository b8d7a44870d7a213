"""Cascades and panels against providers: what is asked, what is billed, what happens when something fails."""

from __future__ import annotations

import asyncio
import json

import msgspec
import numpy as np
import pytest

from junctor.engine import Alias, Engine, Health, plan_run
from junctor.engine.buffered import Buffered, text_of
from junctor.errors import DeadlineExceeded, UnknownName, UpstreamStatus
from junctor.journal import Journal, read
from junctor.plans.contracts import Accept, Aggregate, Choice
from junctor.policy import Learner, Policy, State
from junctor.providers.base import Reply
from junctor.providers.scripted import ScriptedProvider, Step
from junctor.types import (
    Call,
    Cascade,
    Catalogue,
    Constraints,
    Decision,
    Fallback,
    Message,
    Outcome,
    Panel,
    Price,
    Request,
    Target,
    plan_targets,
)

ASK = Request(text="What is 2 + 2?", messages=(Message("user", "What is 2 + 2?"),))
SMALL, MIDDLE, LARGE = Call("small"), Call("middle"), Call("large")
COST = {"small": 0.001, "middle": 0.01, "large": 0.1}


class Planned(Policy):
    """Always the same plan."""

    name = "planned"

    def __init__(self, plan):
        self.plan = plan

    def decide(self, request, targets, rng):
        return Decision(id=request.id, plan=self.plan, target=plan_targets(self.plan)[0], policy=self.name, reasons=("so",))

    def decide_many(self, features, targets, rng):
        return np.zeros(len(features), dtype=np.intp), np.ones(len(features))

    def state(self):
        return State()

    @classmethod
    def from_state(cls, state):
        return cls(Call("small"))


class Taught(Planned, Learner):
    """The same plan whatever it is taught."""

    def __init__(self, plan):
        super().__init__(plan)
        self.credited = []

    def learn(self, decision, outcome):
        self.credited.append((decision.target, outcome.quality, outcome.cost_usd))


def said(text, target="small", **more):
    return Step(answer=text, cost_usd=COST[target], **more)


def engine(plan, script, journal=None, policy=None, **more):
    provider = ScriptedProvider(script)
    price = {id_: Price(usd_per_call=cost) for id_, cost in COST.items()}
    targets = Catalogue([Target(id=id_, provider="p", price=price[id_]) for id_ in COST])
    aliases = {"auto": Alias(name="auto", policy=policy or Planned(plan), targets=targets)}
    return Engine(targets, {"p": provider}, aliases, journal, **more), provider


def text(answer):
    return json.loads(answer.reply.body)["choices"][0]["message"]["content"]


def asked(provider):
    return [call.target for call in provider.calls]


SCORED = Cascade((SMALL, LARGE), "scorer", {"tau": [0.5], "offset": [1.0]})


async def test_a_cascade_stops_at_the_first_accepted_answer():
    e, provider = engine(SCORED, {"small": said("four"), "large": said("4", "large")})
    answer = await e.complete(ASK, "auto")
    assert (text(answer), answer.target.id, asked(provider)) == ("four", "small", ["small"])
    assert answer.outcome.cost_usd == pytest.approx(0.001)
    assert answer.run.steps == ["stage 1: small, score 0.731 reaches 0.500: accepted"]


async def test_a_rejected_answer_is_billed_and_the_next_stage_is_given(tmp_path):
    journal = Journal(tmp_path / "j", fsync="never")
    e, provider = engine(SCORED, {"small": said("I cannot say, sorry"), "large": said("4", "large")}, journal)
    answer = await e.complete(ASK, "auto")
    assert (text(answer), asked(provider)) == ("4", ["small", "large"])
    assert answer.outcome.cost_usd == pytest.approx(0.101)
    decided, ended = read(journal.path)
    assert decided.decision.plan == SCORED
    assert ended.target == "large"
    assert ended.outcome.cost_usd == pytest.approx(0.101)
    assert [(a.target, a.role, a.error) for a in ended.attempts] == [("small", "stage 1", ""), ("large", "stage 2", "")]
    assert ended.steps[0].endswith("is below 0.500: on to stage 2")


class Longest(Aggregate):
    """The longest answer."""

    name = "longest"

    def choose(self, trace):
        return Choice(given=max(trace.answers, key=lambda given: len(given.text)), why="longest")


TAUGHT = {
    "the first stage is accepted": (SCORED, {"small": said("4", quality=1.0)}, [("small", 1.0, 0.001)]),
    "a later stage is given": (
        SCORED,
        {"small": said("", quality=0.0), "large": said("4", "large", quality=1.0)},
        [("large", None, 0.101)],
    ),
    "the first stage fails": (
        SCORED,
        {"small": Step(status=503), "large": said("4", "large", quality=1.0)},
        [("large", None, 0.1)],
    ),
    "a panel is won by another": (
        Panel((SMALL, LARGE), "longest"),
        {"small": said("4", quality=0.0), "large": said("four", "large", quality=1.0)},
        [("large", None, 0.101)],
    ),
    "a panel is won by the intended one": (
        Panel((SMALL, LARGE), "longest"),
        {"small": said("four", quality=0.5), "large": said("4", "large", quality=1.0)},
        [("small", 0.5, 0.101)],
    ),
}


@pytest.mark.parametrize("case", TAUGHT)
async def test_a_learner_is_told_the_quality_of_its_own_target_alone(case, monkeypatch):
    """Of a plan that looks at answers it hears what the plan paid, and the quality only where its target's answer was given."""
    monkeypatch.setattr(plan_run, "aggregator", lambda name, settings: Longest())
    plan, script, credited = TAUGHT[case]
    policy = Taught(plan)
    e, _ = engine(plan, script, policy=policy)
    answer = await e.complete(ASK, "auto")
    assert policy.credited == [(id_, quality, pytest.approx(cost)) for id_, quality, cost in credited]
    await e.feedback(answer.decision.id, Outcome(quality=0.25))
    own = answer.target.id == "small"
    assert policy.credited[-1][:2] == (answer.target.id, 0.25 if own else None)


async def test_a_failed_stage_moves_on_and_is_visible():
    e, _ = engine(SCORED, {"small": Step(status=503), "large": said("4", "large")})
    answer = await e.complete(ASK, "auto")
    assert [(a.target, a.error) for a in answer.attempts] == [("small", "upstream_status"), ("large", "")]
    assert answer.run.steps[0].startswith("stage 1: no answer (upstream_status")


async def test_when_every_later_stage_fails_the_rejected_answer_is_given():
    e, _ = engine(SCORED, {"small": said(""), "large": Step(refuse=True)})
    answer = await e.complete(ASK, "auto")
    assert answer.target.id == "small"
    assert answer.run.steps[-1] == "small is given all the same: no later stage answered"


async def test_an_error_that_is_the_caller_s_is_not_tried_elsewhere():
    e, provider = engine(SCORED, {"small": Step(status=400), "large": said("4", "large")})
    with pytest.raises(UpstreamStatus):
        await e.complete(ASK, "auto")
    assert asked(provider) == ["small"]


async def test_when_all_fail_the_last_error_is_raised_and_settled(tmp_path):
    journal = Journal(tmp_path / "j", fsync="never")
    e, _ = engine(SCORED, {"*": Step(status=500)}, journal)
    with pytest.raises(UpstreamStatus):
        await e.complete(ASK, "auto")
    ended = list(read(journal.path))[-1]
    assert (ended.target, ended.error, len(ended.attempts)) == ("", "upstream_status", 2)


async def test_self_verification_asks_k_times_and_bills_each():
    """Six of eight say yes: p_ver 0.75."""
    plan = Cascade((SMALL, LARGE), "verifier", {"k": 8, "threshold": 0.7})
    checks = [said("Yes.", times=6), said("no", times=2)]
    e, provider = engine(plan, {"small": [said("4"), *checks], "large": said("5", "large")})
    answer = await e.complete(ASK, "auto")
    assert (text(answer), len(provider.calls)) == ("4", 9)
    assert "Proposed answer:\n4\n" in provider.calls[1].request.text
    assert answer.outcome.cost_usd == pytest.approx(0.009)
    assert {a.role for a in answer.attempts} == {"stage 1", "check of stage 1"}
    assert "p_ver 0.75 of 8 checks" in answer.run.steps[0]


@pytest.mark.parametrize(
    ("settings", "yes", "target"),
    [
        ({"threshold": 0.7}, 2, "large"),
        ({"rule": "double", "threshold": 0.7, "hopeless": 0.2}, 2, "large"),
        ({"rule": "double", "threshold": 0.7, "hopeless": 0.2}, 0, "small"),
        ({"rule": "pomdp", "escalate": [False, True, False]}, 4, "large"),
        ({"rule": "pomdp", "escalate": [False, True, False]}, 0, "small"),
    ],
)
async def test_each_rule_of_the_verifier(settings, yes, target):
    """Hopeless queries are not escalated: a dearer model would not help either."""
    plan = Cascade((SMALL, LARGE), "verifier", {"k": 8, **settings})
    checks = [*([said("yes", times=yes)] if yes else []), said("no", times=8)]
    e, _ = engine(plan, {"small": [said("4"), *checks], "large": said("5", "large")})
    assert (await e.complete(ASK, "auto")).target.id == target


async def test_checks_that_fail_are_missing_and_without_any_it_goes_on():
    plan = Cascade((SMALL, LARGE), "verifier", {"k": 2})
    e, _ = engine(plan, {"small": [said("4"), Step(status=500)], "large": said("5", "large")})
    answer = await e.complete(ASK, "auto")
    assert answer.target.id == "large"
    assert "no check said yes or no" in answer.run.steps[0]
    assert sum(a.error != "" for a in answer.attempts) == 2


ACAR = Cascade(
    (
        Panel((SMALL, SMALL, SMALL), "majority"),
        Panel((MIDDLE,), "majority", {"carry": True, "ties": "last"}),
        Panel((MIDDLE, LARGE), "majority", {"carry": True, "ties": "last"}),
    ),
    "agreement",
    {"levels": [0.0, 0.5]},
)


@pytest.mark.parametrize(
    ("probes", "calls", "given"),
    [
        (("4", "4.", " 4 "), 3, "4"),
        (("4", "4", "5"), 4, "4"),
        (("4", "5", "6"), 5, "7"),
    ],
)
async def test_disagreement_of_the_probes_decides_how_many_models_are_asked(probes, calls, given):
    """Sigma 0, 0.5, 1: one, two or three models; all answers vote, and of tied groups the dearest model's wins."""
    script = {"small": [said(p) for p in probes], "middle": said("7", "middle"), "large": said("7", "large")}
    e, provider = engine(ACAR, script)
    answer = await e.complete(ASK, "auto")
    assert (text(answer), len(provider.calls)) == (given, calls)
    assert answer.outcome.cost_usd == pytest.approx(sum(COST[id_] for id_ in asked(provider)))


async def test_a_lost_probe_is_no_agreement():
    """One answer of three says nothing."""
    script = {"small": [said("4"), Step(refuse=True, times=2)], "middle": said("7", "middle"), "large": said("7", "large")}
    e, _ = engine(ACAR, script)
    answer = await e.complete(ASK, "auto")
    assert text(answer) == "7"
    assert "sigma 1.00 of 1 answers" in answer.run.steps[1]


async def test_a_panel_asks_at_the_same_time_and_survives_a_failure():
    plan = Panel((SMALL, MIDDLE, LARGE), "majority")
    wait = {"delay_s": 0.2}
    script = {"small": said("5", **wait), "middle": said("4", "middle", **wait), "large": Step(status=500, delay_s=0.2)}
    e, _ = engine(plan, script)
    started = asyncio.get_running_loop().time()
    answer = await e.complete(ASK, "auto")
    assert asyncio.get_running_loop().time() - started < 0.5
    assert text(answer) == "5"
    assert answer.outcome.cost_usd == pytest.approx(0.011)
    assert len(answer.attempts) == 3


async def test_a_panel_of_which_nobody_answers_fails_with_the_first_error():
    e, _ = engine(Panel((SMALL, LARGE), "first"), {"small": Step(status=503), "large": Step(refuse=True)})
    with pytest.raises(UpstreamStatus):
        await e.complete(ASK, "auto")


async def test_the_best_scored_answer_of_a_panel_is_given():
    plan = Panel((SMALL, LARGE), "best-scored")
    e, _ = engine(plan, {"small": said("Sorry, I do not know"), "large": said("4", "large")})
    assert (await e.complete(ASK, "auto")).target.id == "large"


async def test_plans_nest_in_a_fallback():
    plan = Fallback((Cascade((SMALL, MIDDLE), "scorer"), LARGE))
    e, _ = engine(plan, {"small": Step(status=500), "middle": Step(refuse=True), "large": said("4", "large")})
    answer = await e.complete(ASK, "auto")
    assert answer.target.id == "large"
    assert [a.role for a in answer.attempts] == ["stage 1", "stage 2", ""]


async def test_the_budget_leaves_out_what_cannot_be_paid_but_the_first_call_is_made():
    request = msgspec.structs.replace(ASK, constraints=Constraints(budget_usd=0.1005))
    e, provider = engine(SCORED, {"small": said(""), "large": said("4", "large")})
    answer = await e.complete(request, "auto")
    assert (answer.target.id, asked(provider)) == ("small", ["small"])
    assert "are left of the budget" in answer.run.steps[1]
    panel, provider = engine(Panel((LARGE, SMALL, MIDDLE), "first"), {"*": said("4", "large")})
    await panel.complete(request, "auto")
    assert asked(provider) == ["large"]


async def test_the_deadline_ends_a_slow_stage_and_the_answer_in_hand_is_given():
    request = msgspec.structs.replace(ASK, constraints=Constraints(deadline_s=0.4))
    e, provider = engine(SCORED, {"small": said(""), "large": Step(hang=True)})
    answer = await e.complete(request, "auto")
    assert answer.target.id == "small"
    assert provider.calls[0].timeout_s <= 0.2
    assert [a.error for a in answer.attempts] == ["", "upstream_timeout"]
    e, _ = engine(SCORED, {"*": Step(hang=True)})
    with pytest.raises(DeadlineExceeded):
        await e.complete(request, "auto")


async def test_a_target_that_cools_down_is_left_out_while_others_can_be_asked():
    health = Health(threshold=1, base_s=60.0)
    e, provider = engine(SCORED, {"small": said("4"), "large": said("5", "large")}, health=health)
    health.failed("small", UpstreamStatus("no", upstream_status=503))
    decision = e.aliases["auto"].policy.decide(ASK, e.catalogue, None)
    assert plan_targets(decision.plan)[0] == "small"
    answer = await e.complete(ASK, "auto")
    assert asked(provider) == ["large"]
    assert "cooling down" in answer.run.steps[0]


async def test_a_caller_who_goes_away_ends_every_call_of_a_panel(tmp_path):
    journal = Journal(tmp_path / "j", fsync="never")
    e, _ = engine(Panel((SMALL, LARGE), "majority"), {"*": Step(hang=True)}, journal)
    task = asyncio.create_task(e.complete(ASK, "auto"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ended = list(read(journal.path))[-1]
    assert (ended.error, [a.error for a in ended.attempts]) == ("cancelled", ["cancelled", "cancelled"])


async def test_a_stream_is_buffered_until_an_answer_is_accepted(tmp_path):
    journal = Journal(tmp_path / "j", fsync="never")
    e, provider = engine(SCORED, {"small": said(""), "large": said("it is 4", "large")}, journal)
    request = msgspec.structs.replace(ASK, params={"stream": True, "stream_options": {"include_usage": True}})
    answer = await e.stream(request, "auto")
    assert answer.billed_usd == pytest.approx(0.101)
    assert answer.tries == 2
    async with answer:
        events = [event async for event in answer]
    events = b"".join(events).removesuffix(b"\n\n").split(b"\n\n")
    assert events[-1] == b"data: [DONE]"
    chunks = [json.loads(event[6:]) for event in events[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "it is 4"
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert not any(call.streamed for call in provider.calls)
    ended = list(read(journal.path))[-1]
    assert (ended.target, ended.error, len(ended.attempts)) == ("large", "", 2)
    assert ended.outcome.cost_usd == pytest.approx(0.101)


async def test_a_reader_of_a_stream_who_goes_away_is_recorded(tmp_path):
    journal = Journal(tmp_path / "j", fsync="never")
    e, _ = engine(SCORED, {"*": said("one two three")}, journal)
    async with await e.stream(ASK, "auto") as answer:
        async for _ in answer:
            break
    assert list(read(journal.path))[-1].error == "cancelled"


class Failing(Accept, Aggregate):
    """A plug-in's rule with a bug in it."""

    name = "failing"

    def judge(self, trace):
        raise KeyError("a prompt")

    def choose(self, trace):
        raise KeyError("a prompt")


async def test_a_rule_of_yours_that_fails_is_no_failure_of_the_request(monkeypatch):
    """It accepts nothing, its aggregator gives the first answer, and the journal names the type without the words."""
    monkeypatch.setattr(plan_run, "accept_rule", lambda name, settings: Failing())
    monkeypatch.setattr(plan_run, "aggregator", lambda name, settings: Failing())
    plan = Cascade((SMALL, Panel((MIDDLE, LARGE), "failing")), "failing")
    e, _ = engine(plan, {"small": said("1"), "middle": said("2", "middle"), "large": said("3", "large")})
    answer = await e.complete(ASK, "auto")
    assert text(answer) == "2"
    assert "accept rule failed with KeyError" in answer.run.steps[0]
    assert "aggregator failed with KeyError" in answer.run.steps[1]
    assert "a prompt" not in "".join(answer.run.steps)


async def test_a_plan_that_names_an_unknown_rule_or_target_says_so():
    """A journalled plan of a plug-in that is not there any more, a target that was taken away."""
    e, _ = engine(Cascade((SMALL, LARGE), "gone"), {"*": said("1")})
    with pytest.raises(UnknownName, match="no accept is called 'gone'"):
        await e.complete(ASK, "auto")
    e, _ = engine(Cascade((Call("nobody"), SMALL), "scorer"), {"*": said("1")})
    assert (await e.complete(ASK, "auto")).target.id == "small"


def body(message, **more):
    return msgspec.json.encode({"id": "c", "model": "m", "choices": [{"index": 0, "message": message, **more}]})


async def test_tool_calls_survive_buffering_and_are_compared_without_their_ids():
    """The stream carries what the whole answer had; two answers with the same call say the same."""
    calls = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    whole = body({"role": "assistant", "content": None, "tool_calls": calls}, finish_reason="tool_calls")
    chunks = [json.loads(e[6:]) async for e in Buffered(ASK, Reply(body=whole)) if e != b"data: [DONE]\n\n"]
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0] == {"role": "assistant", "content": None}
    assert deltas[1] == {"tool_calls": [{"index": 0, **calls[0]}]}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    other = body({"role": "assistant", "content": None, "tool_calls": [{**calls[0], "id": "call_2"}]})
    assert text_of(whole) == text_of(other) == '[{"name":"add","arguments":"{}"}]'


@pytest.mark.parametrize("strange", [b"", b"[]", b'{"choices": 5}', b'{"choices": [{"message": 1}]}', b"\xff"])
def test_a_body_that_is_no_answer_says_nothing(strange):
    """And is rejected by the scorer rather than raising."""
    assert text_of(strange) == ""
