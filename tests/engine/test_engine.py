"""The engine without HTTP: names, filters, encoding in time, feedback, memory and learners."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import numpy as np
import pytest

from junctor.encoders.base import Encoder
from junctor.engine import Alias, Engine, Health
from junctor.engine.filters import Demand, Filter, expected_cost_usd, refusal
from junctor.errors import (
    ConfigError,
    DeadlineExceeded,
    JournalError,
    NoTarget,
    RequestError,
    UnknownDecision,
    UnknownModel,
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamStatus,
)
from junctor.journal import DecisionRecord, FeedbackRecord, Journal, OutcomeRecord, read
from junctor.policy import Learner, Policy, State
from junctor.providers.base import Provider, Reply, StreamReply, Usage
from junctor.types import (
    Call,
    Catalogue,
    Constraints,
    Decision,
    Fallback,
    Limits,
    Message,
    Outcome,
    Price,
    Ranked,
    Request,
    Target,
)

ASK = Request(text="hi", messages=(Message("user", "hi"),))


class InOrder(Policy):
    """The targets in their own order; remembers what it saw."""

    name = "in-order"

    def __init__(self, needs=frozenset()):
        self._needs = frozenset(needs)
        self.saw = []

    @property
    def needs(self):
        return self._needs

    def decide(self, request, targets, rng):
        self.saw.append((request, targets))
        ranked = tuple(Ranked(target=id_, score=0.0) for id_ in targets.ids)
        plan = Fallback((Call(targets.ids[0]), Fallback(tuple(Call(id_) for id_ in targets.ids[1:]))))
        return Decision(id=request.id, plan=plan, target=targets.ids[0], ranked=ranked, policy=self.name)

    def decide_many(self, features, targets, rng):
        return np.zeros(len(features), dtype=np.intp), np.ones(len(features))

    def state(self):
        return State()

    @classmethod
    def from_state(cls, state):
        return cls()


class Learning(InOrder, Learner):
    """Keeps what it is taught."""

    def __init__(self):
        super().__init__()
        self.learned, self.credited = [], []

    def learn(self, decision, outcome):
        self.learned.append((decision.id, outcome))
        self.credited.append((decision.target, outcome.quality))


class Events(StreamReply):
    """Some events, then perhaps an error."""

    def __init__(self, *events, then=None):
        self.events, self.then, self.closed = events, then, False
        self.usage = Usage(input_tokens=1, output_tokens=2)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for event in self.events:
            yield event
        if self.then is not None:
            raise self.then

    async def aclose(self):
        self.closed = True


class Canned(Provider):
    """Gives the next of its answers: a Reply, a StreamReply, an error to raise, or a number of seconds to sleep."""

    name = "canned"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.limits = []
        self.closed = False

    async def complete(self, request, target, timeout_s):
        self.limits.append(timeout_s)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        return answer

    stream = complete

    async def aclose(self):
        self.closed = True


GOOD = Reply(body=b"{}", usage=Usage(input_tokens=1_000_000, output_tokens=500_000))


class Vector(Encoder):
    """Always the same vector, after a while."""

    name = "vector"
    dim = 2
    digest = "v"

    def __init__(self, sleep=0.0):
        self.sleep = sleep
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        time.sleep(self.sleep)
        return np.ones((len(texts), 2), dtype=np.float32)


def engine(*providers, policy=None, targets=None, journal=None, encoder=None, default="", **more):
    """Target ti on provider pi; alias `auto` over all."""
    made = targets or [Target(id=f"t{i}", provider=f"p{i}", price=Price(input_usd_per_mtok=2.0)) for i in range(len(providers))]
    catalogue = Catalogue(made)
    alias = Alias(name="auto", policy=policy or InOrder(), targets=catalogue, encoder=encoder, default=default)
    return Engine(catalogue, {f"p{i}": p for i, p in enumerate(providers)}, {"auto": alias}, journal, **more)


async def drain(answer, pause_s=0.0):
    """Reads a stream to its end."""
    async with answer:
        return [await asyncio.sleep(pause_s, event) async for event in answer]


async def test_an_alias_decides_and_the_outcome_has_its_cost():
    """Cost is usage at list price, the decision has an id, the attempt is recorded."""
    answer = await engine(Canned(GOOD)).complete(ASK, "auto")
    assert answer.target.id == "t0"
    assert answer.outcome.cost_usd == pytest.approx(2.0)
    assert answer.decision.id.startswith("dec-")
    assert [a.target for a in answer.attempts] == ["t0"]


async def test_the_upstream_s_own_cost_goes_before_the_list_price():
    """What was billed is what counts."""
    answer = await engine(Canned(msgspec.structs.replace(GOOD, cost_usd=0.25))).complete(ASK, "auto")
    assert answer.outcome.cost_usd == 0.25


async def test_the_model_may_come_with_the_params():
    """`params["model"]` names the model; without any it is a RequestError."""
    e = engine(Canned(GOOD))
    assert (await e.complete(msgspec.structs.replace(ASK, params={"model": "t0"}))).decision.policy == "direct"
    with pytest.raises(RequestError, match="model"):
        await e.complete(ASK)


async def test_unknown_model_names_the_nearest_and_a_few():
    """The error helps to mend it."""
    with pytest.raises(UnknownModel, match=r"did you mean 'auto'.*known: auto, t0"):
        await engine(Canned()).complete(ASK, "autoo")


def test_many_models_are_not_all_listed():
    """Eight are enough."""
    targets = [Target(id=f"model-{i}", provider="p0") for i in range(20)]
    with pytest.raises(UnknownModel, match="and 13 more"):
        engine(Canned(), targets=targets).route(ASK, "zzz")


def test_wiring_that_leads_nowhere_is_a_config_error():
    """Providers, alias targets, encoders, defaults and doubled names are checked when the engine is made."""
    targets = Catalogue([Target(id="a", provider="p")])
    with pytest.raises(ConfigError, match=r"targets\.a\.provider"):
        Engine(targets, {})
    with pytest.raises(ConfigError, match="needs an encoder"):
        Alias(name="x", policy=InOrder({"embedding"}), targets=targets)
    with pytest.raises(ConfigError, match="default"):
        Alias(name="x", policy=InOrder(), targets=targets, default="b")
    with pytest.raises(ConfigError, match="no targets"):
        Alias(name="x", policy=InOrder(), targets=Catalogue([]))
    doubled = Alias(name="a", policy=InOrder(), targets=targets)
    with pytest.raises(ConfigError, match="also the id of a target"):
        Engine(targets, {"p": Canned()}, {"a": doubled})
    strange = Alias(name="x", policy=InOrder(), targets=Catalogue([Target(id="b")]))
    with pytest.raises(ConfigError, match="not a target"):
        Engine(targets, {"p": Canned()}, {"x": strange})


FILTERED = {
    "context": (Target(id="t", limits=Limits(context_tokens=10)), {"text": "x" * 41}, "holds 10 tokens, about 10 needed"),
    "context with output": (
        Target(id="t", limits=Limits(context_tokens=10)),
        {"text": "x" * 4, "params": {"max_tokens": 10}},
        "holds 10 tokens, about 11",
    ),
    "output": (Target(id="t", limits=Limits(output_tokens=5)), {"params": {"max_tokens": 6}}, "answers at most 5 tokens, 6"),
    "tools": (Target(id="t", capabilities=frozenset({"vision"})), {"needs": frozenset({"tools"})}, "cannot do: tools"),
    "budget": (
        Target(id="t", price=Price(usd_per_call=0.02)),
        {"constraints": Constraints(budget_usd=0.01)},
        "about 0.020000 USD, over the budget of 0.010000",
    ),
}


@pytest.mark.parametrize("case", FILTERED)
def test_each_filter_gives_its_reason(case):
    """What a target cannot take is said in a few words; what it can take passes."""
    target, fields, reason = FILTERED[case]
    demand = Demand.of(Request(**fields))
    assert refusal(target, demand, target.capabilities or None).startswith(reason)
    assert refusal(Target(id="free"), demand, None) == ""


def test_expected_cost_uses_what_was_asked_for():
    """4 characters a token in, the asked tokens out (else 512, at most what the target answers)."""
    target = Target(id="t", price=Price(input_usd_per_mtok=1e6, output_usd_per_mtok=1e6))
    assert expected_cost_usd(target, Demand.of(Request(text="x" * 8, params={"max_tokens": 3}))) == 2 + 3
    assert expected_cost_usd(target, Demand.of(Request(text=""))) == 512
    short = msgspec.structs.replace(target, limits=Limits(output_tokens=7))
    assert expected_cost_usd(short, Demand.of(Request(text=""))) == 7
    assert expected_cost_usd(Target(id="t"), Demand.of(ASK)) is None


def test_content_parts_are_counted():
    """Text parts count, pictures do not."""
    parts = [{"type": "text", "text": "x" * 40}, {"type": "image_url"}, 5]
    assert Demand.of(Request(messages=(Message("user", parts), Message("assistant", None)))).input_tokens == 10


def test_equal_remainders_are_the_same_catalogue():
    """Policies keep lookups keyed on identity, so a filter makes each remainder once."""
    targets = Catalogue([Target(id="a", capabilities=frozenset({"x"})), Target(id="b")])
    filter_ = Filter(targets, {"a": frozenset({"x"}), "b": None})
    need = Request(needs=frozenset({"tools"}))
    first, second = filter_.apply(need, None), filter_.apply(need, None)
    assert first.targets.ids == ("b",)
    assert first.targets is second.targets
    assert filter_.apply(ASK, None).targets is targets


async def test_no_target_left_names_each_reason():
    """Nothing is called, nothing is journalled."""
    small = [Target(id=f"t{i}", provider="p0", limits=Limits(context_tokens=i)) for i in (1, 2)]
    with pytest.raises(NoTarget) as caught:
        await engine(Canned(), targets=small).complete(Request(text="x" * 100), "auto")
    assert set(caught.value.refusals) == {"t1", "t2"}


async def test_a_provider_s_capabilities_stand_in_for_undeclared_ones():
    """A target that declares nothing can do what its provider says."""
    provider = Canned(GOOD)
    provider.capabilities = frozenset({"stream"})
    with pytest.raises(NoTarget, match="cannot do: tools"):
        await engine(provider).complete(Request(needs=frozenset({"tools"})), "t0")


async def test_a_failure_moves_on_and_every_attempt_is_recorded(tmp_path):
    """Retryable errors of two providers, then an answer: three attempts, one outcome, the billed total."""
    journal = Journal(tmp_path / "j", fsync="never")
    failing = [UpstreamRefused("no"), KeyError("a plug-in's own bug")]
    e = engine(*(Canned(f) for f in failing), Canned(GOOD), journal=journal)
    answer = await e.complete(ASK, "auto")
    assert [(a.target, a.error) for a in answer.attempts] == [("t0", "upstream_refused"), ("t1", "upstream_error"), ("t2", "")]
    assert "KeyError" in answer.attempts[1].detail
    assert "own bug" not in answer.attempts[1].detail
    decided, ended = read(journal.path)
    assert isinstance(decided, DecisionRecord)
    assert ended.outcome.cost_usd == pytest.approx(2.0)
    assert ended.target == "t2"


async def test_an_error_that_is_the_caller_s_does_not_move_on():
    """400 from the first target: the second is not asked and the first stays healthy."""
    second = Canned(GOOD)
    e = engine(Canned(UpstreamStatus("no", upstream_status=400)), second)
    with pytest.raises(UpstreamStatus):
        await e.complete(ASK, "auto")
    assert second.limits == []
    assert not e.health


async def test_the_first_attempt_gets_half_the_time_the_last_all_that_is_left():
    """10 s: 5, then half of the rest, then the rest; a target's own limit is kept."""
    providers = [Canned(UpstreamRefused("no")), Canned(UpstreamRefused("no")), Canned(GOOD)]
    request = msgspec.structs.replace(ASK, constraints=Constraints(deadline_s=10.0))
    await engine(*providers).complete(request, "auto")
    assert [round(p.limits[0], 1) for p in providers] == [5.0, 5.0, 10.0]


async def test_a_provider_that_ignores_its_limit_is_stopped():
    """The engine's own timer ends it."""
    started = time.monotonic()
    request = msgspec.structs.replace(ASK, constraints=Constraints(deadline_s=0.1))
    with pytest.raises(DeadlineExceeded):
        await engine(Canned(30.0)).complete(request, "auto")
    assert time.monotonic() - started < 5


async def test_a_decision_is_in_the_journal_before_the_call(tmp_path):
    """The provider finds it there when it is called."""
    journal = Journal(tmp_path / "j", fsync="never")
    found = []

    class Looking(Canned):
        async def complete(self, request, target, timeout_s):
            found.extend(read(journal.path))
            return GOOD

    await engine(Looking(), journal=journal).complete(ASK, "auto")
    assert [type(r) for r in found] == [DecisionRecord]


async def test_without_a_journal_entry_there_is_no_call(tmp_path):
    """A journal that cannot be written stops the request before anything is spent."""
    journal = Journal(tmp_path / "j", fsync="never")
    journal.close()
    provider = Canned(GOOD)
    with pytest.raises(JournalError):
        await engine(provider, journal=journal).complete(ASK, "auto")
    assert provider.limits == []


async def test_a_journal_that_fails_afterwards_does_not_cost_the_answer(tmp_path, caplog):
    """The answer is there and paid for: it is given out, and the log says what is missing."""
    journal = Journal(tmp_path / "j", fsync="never")

    class Closing(Canned):
        async def complete(self, request, target, timeout_s):
            journal.close()
            return GOOD

    assert (await engine(Closing(), journal=journal).complete(ASK, "auto")).reply is GOOD
    assert "was not written" in caplog.text


async def test_the_encoder_runs_only_when_the_policy_needs_it():
    """A policy that needs an embedding finds it; one that does not costs nothing."""
    encoder, policy = Vector(), InOrder({"embedding"})
    e = engine(Canned(GOOD), policy=policy, encoder=encoder)
    encoder.texts.clear()
    await e.complete(msgspec.structs.replace(ASK, labels={"k": "v"}), "auto")
    features = policy.saw[0][0].features
    assert features.embedding.shape == (1, 2)
    assert (features.texts, features.labels) == (["hi"], {"k": ["v"]})
    assert encoder.texts == ["hi"]
    lazy = Vector()
    await engine(Canned(GOOD), encoder=lazy).complete(ASK, "auto")
    assert "hi" not in lazy.texts


async def test_a_slow_encoder_runs_in_a_thread_and_is_given_up():
    """Over the limit the alias's default is called, and the decision says so; in time the policy decides."""
    policy = InOrder({"embedding"})
    slow = engine(Canned(), Canned(GOOD), policy=policy, encoder=Vector(0.05), default="t1", encode_timeout_s=0.001)
    answer = await slow.complete(ASK, "auto")
    assert answer.target.id == "t1"
    assert "took too long" in answer.decision.reasons[0]
    assert policy.saw == []
    patient = engine(Canned(GOOD), policy=policy, encoder=Vector(0.005), encode_timeout_s=5)
    assert (await patient.complete(ASK, "auto")).decision.policy == "in-order"
    await slow.aclose()


async def test_the_default_may_be_filtered_out():
    """Then the first that is left is called."""
    targets = [Target(id="t0", provider="p0", limits=Limits(context_tokens=1)), Target(id="t1", provider="p0")]
    e = engine(Canned(GOOD), targets=targets, policy=InOrder({"embedding"}), encoder=Vector(0.05), encode_timeout_s=0.001)
    assert (await e.complete(Request(text="x" * 40), "auto")).target.id == "t1"


def test_route_is_a_dry_run(tmp_path):
    """It decides like `complete`, calls nobody and writes nothing."""
    journal = Journal(tmp_path / "j", fsync="never")
    provider = Canned()
    e = engine(provider, journal=journal, policy=InOrder({"embedding"}), encoder=Vector())
    routed = e.route(ASK, "auto")
    assert (routed.decision.target, routed.targets, dict(routed.refusals)) == ("t0", ("t0",), {})
    assert e.route(ASK, "t0").decision.policy == "direct"
    assert (provider.limits, list(read(journal.path))) == ([], [])


async def test_same_seed_same_decisions():
    """The generator that policies draw from is seeded by the engine."""

    class Draw(InOrder):
        def decide(self, request, targets, rng):
            made = super().decide(request, targets, rng)
            return msgspec.structs.replace(made, propensity=float(rng.random()))

    def draws(seed):
        e = engine(Canned(), policy=Draw(), seed=seed)
        return [e.route(ASK, "auto").decision.propensity for _ in range(3)]

    assert draws(1) == draws(1) != draws(2)


async def test_stream_yields_the_events_and_settles_once(tmp_path):
    """Events pass through, usage and first byte are in the journal."""
    journal = Journal(tmp_path / "j", fsync="never")
    e = engine(Canned(Events(b"a", b"b")), journal=journal)
    answer = await e.stream(ASK, "auto")
    assert answer.tries == 1
    assert await drain(answer) == [b"a", b"b"]
    assert answer.tries == 1
    ended = list(read(journal.path))[-1]
    assert (ended.error, ended.outcome.output_tokens, ended.attempts[0].first_byte_s is not None) == ("", 2, True)


async def test_a_stream_is_read_inside_async_with():
    """Otherwise nobody would hold its deadline."""
    answer = await engine(Canned(Events(b"a"))).stream(ASK, "auto")
    with pytest.raises(RuntimeError, match="async with"):
        async for _ in answer:
            pass


@pytest.mark.parametrize(("then", "raised"), [(UpstreamBroken("cut"), UpstreamBroken), (KeyError("bug"), UpstreamBroken)])
async def test_a_stream_that_breaks_is_closed_and_recorded(tmp_path, then, raised):
    """An upstream's error is raised; a plug-in's bug becomes one. The reply is closed, the error is in the journal."""
    journal = Journal(tmp_path / "j", fsync="never")
    events = Events(b"a", then=then)
    answer = await engine(Canned(events), journal=journal).stream(ASK, "auto")
    with pytest.raises(raised):
        await drain(answer)
    assert events.closed
    assert list(read(journal.path))[-1].error == "upstream_broken"


async def test_a_stream_that_is_left_early_counts_as_cancelled(tmp_path):
    """Leaving the block before the end closes the upstream."""
    journal = Journal(tmp_path / "j", fsync="never")
    events = Events(b"a", b"b")
    async with await engine(Canned(events), journal=journal).stream(ASK, "auto") as answer:
        async for _ in answer:
            break
    assert events.closed
    assert list(read(journal.path))[-1].error == "cancelled"


async def test_a_slow_reader_does_not_hold_a_stream_past_its_deadline():
    """The deadline also ends a consumer that hangs."""
    request = msgspec.structs.replace(ASK, constraints=Constraints(deadline_s=0.1))
    events = Events(b"a", b"b")
    answer = await engine(Canned(events)).stream(request, "auto")
    with pytest.raises(DeadlineExceeded):
        await drain(answer, pause_s=30)
    assert events.closed


async def test_feedback_teaches_a_learner_and_is_journalled(tmp_path):
    """The learner gets what was measured, and later that together with what was said."""
    policy = Learning()
    journal = Journal(tmp_path / "j", fsync="never")
    e = engine(Canned(GOOD), policy=policy, journal=journal)
    answer = await e.complete(ASK, "auto")
    [(_, billed)] = policy.learned
    assert (billed.quality, billed.cost_usd) == (None, pytest.approx(2.0))
    await e.feedback(answer.decision.id, Outcome(quality=0.5), "fine")
    id_, outcome = policy.learned[-1]
    assert (id_, outcome.quality, outcome.cost_usd) == (answer.decision.id, 0.5, pytest.approx(2.0))
    assert isinstance(list(read(journal.path))[-1], FeedbackRecord)


async def test_a_provider_that_judges_teaches_at_once():
    """A quality that comes with the reply reaches the learner without feedback."""
    policy = Learning()
    await engine(Canned(msgspec.structs.replace(GOOD, quality=0.9)), policy=policy).complete(ASK, "auto")
    assert policy.learned[0][1].quality == 0.9


async def test_a_quality_is_credited_to_the_target_that_earned_it():
    """A fallback answers: nothing is known of the intended target, and what was paid is the fallback's."""
    policy = Learning()
    broken = [UpstreamStatus("is down", target="t0", upstream_status=503) for _ in range(2)]
    judged = msgspec.structs.replace(GOOD, quality=0.9)
    e = engine(Canned(*broken), Canned(judged, GOOD), policy=policy)
    first = await e.complete(ASK, "auto")
    second = await e.complete(ASK, "auto")
    assert (first.decision.target, first.target.id) == ("t0", "t1")
    await e.feedback(second.decision.id, Outcome(quality=1.0))
    assert policy.credited == [("t1", None)] * 3
    assert policy.learned[0][1].cost_usd == first.outcome.cost_usd


async def test_a_failure_teaches_nothing(tmp_path):
    """Nobody answered, so nobody earned anything, and feedback on it is kept but not learned from."""
    policy = Learning()
    journal = Journal(tmp_path / "j", fsync="never")
    e = engine(Canned(UpstreamStatus("is down", target="t0", upstream_status=503)), policy=policy, journal=journal)
    with pytest.raises(UpstreamStatus):
        await e.complete(ASK, "auto")
    failed = list(read(journal.path))[-1]
    await e.feedback(failed.id, Outcome(quality=0.0, cost_usd=1.0))
    assert policy.credited == []


async def test_feedback_that_overtakes_the_end_of_a_stream_is_learned_at_its_end():
    """Who answers is open until then, so it must not be credited before; with one target in the plan it is clear at once."""
    policy = Learning()
    e = engine(Canned(Events(b"a")), Canned(GOOD), policy=policy)
    answer = await e.stream(ASK, "auto")
    await e.feedback(answer.decision.id, Outcome(quality=0.25))
    assert policy.credited == []
    await drain(answer)
    assert policy.credited == [("t0", 0.25)]


BAD_FEEDBACK = {
    "over 1": Outcome(quality=1.1),
    "NaN": Outcome(quality=float("nan")),
    "negative cost": Outcome(quality=1.0, cost_usd=-1.0),
    "infinite latency": Outcome(latency_s=float("inf")),
    "nothing": Outcome(),
}


@pytest.mark.parametrize("case", BAD_FEEDBACK)
async def test_feedback_that_cannot_be_is_refused(case):
    """Figures are checked before the decision is looked up."""
    with pytest.raises(RequestError):
        await engine(Canned()).feedback("dec-1", BAD_FEEDBACK[case])


async def test_a_long_comment_is_refused():
    """Comments are short."""
    with pytest.raises(RequestError, match="comment"):
        await engine(Canned()).feedback("dec-1", Outcome(quality=1.0), "x" * 4001)


async def test_old_decisions_are_found_in_the_journal(tmp_path):
    """What memory has forgotten, and what an earlier process did, is read from the file, feedback included."""
    path = tmp_path / "j"
    first = engine(*(Canned(GOOD, GOOD) for _ in range(1)), journal=Journal(path, fsync="never"), remember=1)
    old = (await first.complete(ASK, "auto")).decision.id
    await first.complete(ASK, "auto")
    assert (await first.explain(old)).outcome.target == "t0"
    await first.feedback(old, Outcome(quality=1.0))
    await first.aclose()
    second = engine(Canned(), journal=Journal(path, fsync="never"))
    known = await second.explain(old)
    assert (known.alias, known.decision.id, known.feedback[0].outcome.quality) == ("auto", old, 1.0)
    assert isinstance(known.outcome, OutcomeRecord)
    with pytest.raises(UnknownDecision):
        await second.explain("dec-none")
    with pytest.raises(UnknownDecision):
        await second.explain("x" * 500)
    await second.aclose()


async def test_memory_is_bounded_and_without_prompts():
    """The last `remember` decisions are kept, and no text."""
    e = engine(Canned(*[GOOD] * 5), remember=3)
    ids = [(await e.complete(Request(text="a secret"), "auto")).decision.id for _ in range(5)]
    for id_ in ids[:2]:
        with pytest.raises(UnknownDecision):
            await e.explain(id_)
    assert "secret" not in str(await e.explain(ids[-1]))


async def test_cancelling_a_request_is_recorded(tmp_path):
    """Whoever waits for the answer goes away: one cancelled attempt."""
    journal = Journal(tmp_path / "j", fsync="never")
    task = asyncio.create_task(engine(Canned(30.0), journal=journal).complete(ASK, "auto"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ended = list(read(journal.path))[-1]
    assert (ended.error, ended.attempts[0].error) == ("cancelled", "cancelled")


async def test_a_plan_that_names_a_stranger_is_an_error():
    """A policy that makes up a target does not bring the engine down."""

    class Stranger(InOrder):
        def decide(self, request, targets, rng):
            return Decision(id=request.id, plan=Call("ghost"), target="ghost", policy="x")

    with pytest.raises(UpstreamError, match="ghost"):
        await engine(Canned(), policy=Stranger()).complete(ASK, "auto")


async def test_aclose_gives_up_providers_and_journal(tmp_path):
    """Everything the engine holds is closed."""
    journal, provider = Journal(tmp_path / "j", fsync="never"), Canned()
    await engine(provider, journal=journal).aclose()
    assert provider.closed
    with pytest.raises(JournalError):
        journal.append(OutcomeRecord(at=0.0, id="x"))


class Clock:
    """Stands still until told."""

    now = 100.0

    def __call__(self):
        return self.now


def test_health_cools_down_after_three_and_doubles():
    """Nothing for two failures, then 1, 2, 4 … up to the cap; success forgets it."""
    clock = Clock()
    health = Health(threshold=3, base_s=1, cap_s=5, clock=clock)
    waits = []
    for _ in range(7):
        health.failed("t", UpstreamRefused("no"))
        waits.append(health.cooling_s("t"))
    assert waits == [0, 0, 1, 2, 4, 5, 5]
    clock.now += 5
    assert health.cooling_s("t") == 0
    assert health
    health.succeeded("t")
    assert not health


def test_health_waits_as_long_as_it_is_asked():
    """Retry-After counts from the first failure, up to the cap; the caller's own errors do not count, a refused key does."""
    health = Health(cap_s=60, clock=Clock())
    health.failed("a", UpstreamStatus("slow down", upstream_status=429, retry_after_s=20))
    health.failed("b", UpstreamStatus("slow down", upstream_status=503, retry_after_s=1e9))
    health.failed("c", UpstreamStatus("bad", upstream_status=400))
    health.failed("d", DeadlineExceeded("late"))
    for _ in range(3):
        health.failed("e", UpstreamStatus("key", upstream_status=401))
    assert [health.cooling_s(t) for t in "abcde"] == [20, 60, 0, 0, 1]
