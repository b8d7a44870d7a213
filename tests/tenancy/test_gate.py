"""Keys: who gets in and who does not, what is remembered, what is kept; limits and budgets as callers see them."""

from __future__ import annotations

import inspect
import json
import logging

import msgspec
import pytest

from junctor.engine.context import CallContext
from junctor.errors import Forbidden, OverBudget, RateLimited, Unauthorised
from junctor.journal import OutcomeRecord
from junctor.sections import TeamSection
from junctor.tenancy.contracts import ANYONE
from junctor.tenancy.estimates import Tariffs
from junctor.tenancy.gate import UNKNOWN_REMEMBERED, KeyedTenancy
from junctor.tenancy.keeping import Keeper
from junctor.tenancy.keys import digest_of
from junctor.tenancy.local_store import LocalStore
from junctor.types import Attempt, Call, Constraints, Decision, Fallback, Limits, Message, Outcome, Price, Request, Target

from .conftest import Clock

PRICE = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
TARGETS = {
    "dear": Target(id="dear", provider="p", price=Price(input_usd_per_mtok=10.0, output_usd_per_mtok=20.0)),
    "cheap": Target(id="cheap", provider="p", price=PRICE),
}


class Standing:
    """As much of a Run as the books look at."""

    def __init__(self, request: Request, plan=None, hedge=None, sent_tokens: int = 0) -> None:
        self.request = request
        plan = plan or Call("cheap")
        self.decision = Decision(id="d", plan=plan, target="cheap", policy="x")
        self.hedge = hedge
        self.sent_tokens = sent_tokens
        self.context = CallContext()


def asking(text: str = "x" * 92, **params) -> Request:
    return Request(id="d", text=text, messages=(Message("user", text),), params=params)


def ended(*attempts: Attempt) -> OutcomeRecord:
    return OutcomeRecord(at=0.0, id="d", target="cheap", attempts=attempts)


def took(cost: float | None, error: str = "", first_byte_s: float | None = None, tokens: int | None = 10) -> Attempt:
    outcome = Outcome(cost_usd=cost, input_tokens=tokens, output_tokens=tokens)
    return Attempt(target="cheap", started_s=0.0, ended_s=1.0, error=error, first_byte_s=first_byte_s, outcome=outcome)


@pytest.fixture
async def world(tmp_path):
    """A tenancy over a local store, and who makes keys for it."""
    opened = []

    def make(teams=None, **more):
        clock = Clock()
        store = LocalStore(tmp_path / "junctor.db", flush_s=0.0)
        tenancy = KeyedTenancy(store, teams or {}, Tariffs(TARGETS, {"auto": tuple(TARGETS)}), wall=clock, **more)
        keeper = Keeper(store, teams=tuple(teams or ()), models=("auto", "cheap"), actor="test", wall=clock)
        opened.append(store)
        return tenancy, keeper, clock

    yield make
    for store in opened:
        await store.aclose()


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", b"Bearer " + key.encode())]


async def test_a_key_is_read_from_any_of_the_usual_headers(world):
    tenancy, keeper, _ = world()
    record, key = await keeper.create({"name": "ci", "tenant": "acme"})
    for headers in (
        bearer(key),
        [(b"authorization", b"bearer  " + key.encode() + b" ")],
        [(b"x-api-key", key.encode())],
        [(b"api-key", key.encode())],
    ):
        principal = tenancy.identify(headers)
        assert (principal.key, principal.name, principal.tenant, principal.admin) == (record.id, "ci", "acme", False)


async def test_who_has_no_good_key_hears_the_same_words(world):
    tenancy, keeper, clock = world()
    record, key = await keeper.create({}, "1h")
    revoked, dead = await keeper.create({})
    await keeper.revoke(revoked.id)
    wrong_secret = key[:-4] + "0000"
    said = set()
    for bad in (wrong_secret, "jk-nobody1234-" + "a" * 48, dead, "sk-other", "jk-", "x" * 10_000, "jk-é"):
        with pytest.raises(Unauthorised) as caught:
            tenancy.identify(bearer(bad))
        said.add(str(caught.value))
        assert bad not in str(caught.value)
    assert tenancy.identify(bearer(key)).key == record.id
    clock.at += 3600
    with pytest.raises(Unauthorised) as caught:
        tenancy.identify(bearer(key))
    said.add(str(caught.value))
    assert len(said) == 1
    with pytest.raises(Unauthorised, match="there is no key"):
        tenancy.identify([(b"authorization", b"Basic abc")])


async def test_a_revoked_key_ends_at_once_in_every_worker(world):
    one, keeper, _ = world()
    other, _, _ = world()
    record, key = await keeper.create({})
    assert one.identify(bearer(key)).key == other.identify(bearer(key)).key == record.id
    await keeper.revoke(record.id)
    for tenancy in (one, other):
        with pytest.raises(Unauthorised):
            tenancy.identify(bearer(key))


async def test_a_known_key_is_not_looked_up_again_until_any_key_changes(world):
    tenancy, keeper, _ = world()
    _, key = await keeper.create({})
    looked = []
    find = tenancy.store.find
    tenancy.store.find = lambda digest, now: looked.append(digest) or find(digest, now)
    first = tenancy.identify(bearer(key))
    assert tenancy.identify(bearer(key)) is first
    assert len(looked) == 1
    await keeper.create({})
    assert tenancy.identify(bearer(key)) == first
    assert len(looked) == 2


async def test_unknown_keys_are_remembered_in_bounded_memory(world):
    tenancy, _, _ = world()
    looked = []
    find = tenancy.store.find
    tenancy.store.find = lambda digest, now: looked.append(digest) or find(digest, now)
    for _ in range(3):
        with pytest.raises(Unauthorised):
            tenancy.identify(bearer("jk-nobody-1"))
    assert len(looked) == 1
    for number in range(UNKNOWN_REMEMBERED + 50):
        with pytest.raises(Unauthorised):
            tenancy.identify(bearer(f"jk-nobody-{number}"))
    assert len(tenancy._unknown) == UNKNOWN_REMEMBERED


async def test_a_secret_is_nowhere_on_the_disk_and_in_no_log(world, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    tenancy, keeper, _ = world()
    record, key = await keeper.create({"name": "canary"})
    _, second = await keeper.rotate(record.id)
    call = tenancy.enter(tenancy.identify(bearer(second)), asking("a very private prompt"), "auto")
    tenancy.settle(call, None, None)
    with pytest.raises(Unauthorised):
        tenancy.identify(bearer(key + "x"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        assert path.stat().st_mode & 0o077 == 0
        data = path.read_bytes()
        for secret in (key, second, key.rpartition("-")[2], "a very private prompt"):
            assert secret.encode() not in data
    assert key.rpartition("-")[2] not in caplog.text
    assert "private" not in caplog.text


async def test_scope_is_what_both_key_and_team_allow(world):
    teams = {"t": TeamSection(models=("auto", "cheap"), priority=3), "open": TeamSection()}
    tenancy, keeper, _ = world(teams)
    _, wide = await keeper.create({"team": "t"})
    _, narrow = await keeper.create({"team": "t", "models": ["cheap"], "priority": 0})
    _, free = await keeper.create({"team": "open"})
    principal = tenancy.identify(bearer(wide))
    principal.permit("auto")
    with pytest.raises(Forbidden, match="auto, cheap"):
        principal.permit("dear")
    assert principal.priority == 3
    assert tenancy.identify(bearer(narrow)).priority == 0
    with pytest.raises(Forbidden):
        tenancy.identify(bearer(narrow)).permit("auto")
    tenancy.identify(bearer(free)).permit("anything")


async def test_the_key_of_a_team_that_is_gone_is_good_for_nothing(world):
    _, keeper, _ = world({"t": TeamSection(budget_usd=1.0)})
    _, key = await keeper.create({"team": "t"})
    without, _, _ = world()
    with pytest.raises(Unauthorised):
        without.identify(bearer(key))


async def test_the_admin_key_and_keys_that_are_off(world):
    tenancy, keeper, _ = world(admin=digest_of(b"open sesame, please"), required=False)
    admin = tenancy.identify(bearer("open sesame, please"))
    assert admin.admin
    assert tenancy.identify(bearer("open sesame, please")) is admin
    assert tenancy.identify([]) is ANYONE
    assert tenancy.identify(bearer("sk-anything")) is ANYONE
    assert not ANYONE.admin
    record, key = await keeper.create({})
    assert tenancy.identify(bearer(key)).key == record.id
    await keeper.revoke(record.id)
    with pytest.raises(Unauthorised):
        tenancy.identify(bearer(key))


async def test_limits_say_who_what_and_when(world):
    tenancy, keeper, clock = world({"t": TeamSection(requests_per_minute=2, tokens_per_minute=1000)})
    _, key = await keeper.create({"team": "t", "requests_per_minute": 5})
    principal = tenancy.identify(bearer(key))
    first = tenancy.enter(principal, asking(), "auto")
    assert dict(first.headers)[b"x-ratelimit-remaining-requests"] == b"1"
    assert dict(first.headers)[b"x-ratelimit-remaining-tokens"] == b"975"
    tenancy.enter(principal, asking(), "auto")
    clock.at += 20.5
    with pytest.raises(RateLimited, match="team 't' may use 2 requests a minute") as caught:
        tenancy.enter(principal, asking(), "auto")
    assert caught.value.retry_after_s == 41  # whole seconds, never too early
    clock.at += 40.5
    with pytest.raises(RateLimited, match="takes about 1025 tokens") as caught:
        tenancy.enter(principal, asking(max_tokens=1000), "auto")


async def test_a_call_reserves_the_most_and_books_what_it_cost(world):
    tenancy, keeper, _ = world({"t": TeamSection(budget_usd=100.0)})
    record, key = await keeper.create({"team": "t", "budget_usd": 0.03})
    principal = tenancy.identify(bearer(key))
    request = asking(max_tokens=100)
    call = tenancy.enter(principal, request, "auto")
    run = Standing(request, Fallback((Call("cheap"), Call("dear"))))
    assert tenancy.reserve(call, run) is None
    # 100 bytes in and 100 tokens out at the dearer of the two
    assert call.reserved == pytest.approx((100 * 10 + 100 * 20) * 1000, abs=2)
    tenancy.settle(call, run, ended(took(None, error="upstream_refused", tokens=None), took(0.000123)))
    row = await keeper.row(record.id)
    assert (row["spent_usd"], row["reserved_usd"]) == (0.000123, 0.0)
    assert await keeper.teams_spent({"t": "month"}) == {"t": (0.000123, 0.0)}


async def test_where_two_may_be_asked_twice_as_much_is_set_aside(world):
    tenancy, keeper, _ = world()
    _, key = await keeper.create({"budget_usd": 0.002})
    request = asking(max_tokens=100)
    one, two = (tenancy.enter(tenancy.identify(bearer(key)), request, "cheap") for _ in range(2))
    tenancy.reserve(one, Standing(request))
    tenancy.reserve(two, Standing(request, hedge=object()))
    assert two.reserved == 2 * one.reserved > 0


async def test_over_the_budget_is_said_in_dollars_and_nothing_stays_set_aside(world):
    tenancy, keeper, _ = world()
    record, key = await keeper.create({"budget_usd": 0.0002})
    principal = tenancy.identify(bearer(key))
    request = asking(max_tokens=100)
    call = tenancy.enter(principal, request, "auto")
    with pytest.raises(OverBudget, match=r"this key has 0.000200 US dollars left, this call may cost 0.000300"):
        tenancy.reserve(call, Standing(request))
    tenancy.settle(call, None, None)
    assert (await keeper.row(record.id))["reserved_usd"] == 0.0


async def test_when_little_is_left_the_filter_is_told_so_much_that_what_it_passes_can_be_reserved(world):
    from junctor.engine.filters import Demand, expected_cost_usd

    tenancy, keeper, _ = world()
    passed = refused = 0
    for budget in (0.0001, 0.0003, 0.001, 0.004, 0.02):
        _, key = await keeper.create({"budget_usd": budget})
        principal = tenancy.identify(bearer(key))
        for request in (asking(max_tokens=100), asking("y" * 4000, max_tokens=10), asking()):
            told = tenancy.enter(principal, request, "auto")
            tenancy.settle(told, None, None)
            for target in TARGETS.values():
                call = tenancy.enter(principal, request, "auto")
                cost = expected_cost_usd(target, Demand.of(request))
                if told.budget_usd is None or cost <= told.budget_usd:
                    tenancy.reserve(call, Standing(request, Call(target.id)))
                    passed += 1
                else:
                    with pytest.raises(OverBudget):
                        tenancy.reserve(call, Standing(request, Call(target.id)))
                    refused += 1
                tenancy.settle(call, None, None)
    assert (passed, refused) == (7, 23)


async def test_much_left_bothers_no_filter(world):
    tenancy, keeper, _ = world()
    _, key = await keeper.create({"budget_usd": 1000.0})
    call = tenancy.enter(tenancy.identify(bearer(key)), asking(), "auto")
    assert call.budget_usd is None
    assert dict(call.headers)[b"x-junctor-budget-left-usd"] == b"1000.000000"


async def test_a_soft_budget_warns_in_a_header_and_in_the_audit_log_once(world):
    tenancy, keeper, _ = world()
    record, key = await keeper.create({"budget_usd": 1.0, "soft_budget_usd": 0.5})
    principal = tenancy.identify(bearer(key))
    for number in range(4):
        request = asking(max_tokens=10)
        call = tenancy.enter(principal, request, "auto")
        assert (b"x-junctor-budget-warning" in dict(call.headers)) == (number >= 2)
        run = Standing(request)
        tenancy.reserve(call, run)
        tenancy.settle(call, run, ended(took(0.25)))
    told = [(e.action, e.subject) for e in await tenancy.store.entries(10)]
    assert told == [
        ("key.created", record.id),
        ("budget.warned", f"key:{record.id}"),
        ("budget.exhausted", f"key:{record.id}"),
    ]


@pytest.mark.parametrize(
    ("attempts", "sent", "cost"),
    [
        ((took(None, error="upstream_timeout", tokens=None),), 0, 0.0),
        ((took(0.5, error="upstream_broken", first_byte_s=0.1),), 0, 0.5),
        ((took(None, error="upstream_broken", first_byte_s=0.1, tokens=None),), 40, (25 + 2 * 40) / 1e6),
        ((took(None, error="cancelled", first_byte_s=0.1, tokens=None),), 7, (25 + 2 * 7) / 1e6),
        ((took(None, error="cancelled", tokens=None),), 0, 25 / 1e6),
        ((took(None, tokens=None),), 30, (25 + 2 * 30) / 1e6),
        ((took(0.25, error="upstream_status"), took(0.25)), 0, 0.5),
    ],
    ids=["failed", "broken, billed", "broken", "went away in a stream", "went away", "no usage", "two billed"],
)
async def test_what_is_booked_when_a_call_ends_badly(world, attempts, sent, cost):
    tenancy, keeper, _ = world()
    record, key = await keeper.create({"budget_usd": 10.0})
    request = asking(max_tokens=100)
    call = tenancy.enter(tenancy.identify(bearer(key)), request, "auto")
    run = Standing(request, sent_tokens=sent)
    tenancy.reserve(call, run)
    tenancy.settle(call, run, ended(*attempts))
    row = await keeper.row(record.id)
    assert (row["spent_usd"], row["reserved_usd"]) == (pytest.approx(cost, abs=1e-12), 0.0)


async def test_a_hit_in_the_cache_costs_nothing(world):
    tenancy, keeper, _ = world()
    record, key = await keeper.create({"budget_usd": 10.0, "tokens_per_minute": 1000})
    request = asking(max_tokens=100)
    call = tenancy.enter(tenancy.identify(bearer(key)), request, "auto")
    tenancy.settle(call, Standing(request), ended())
    assert (await keeper.row(record.id))["spent_usd"] == 0.0
    after = tenancy.enter(tenancy.identify(bearer(key)), asking(), "auto")
    assert dict(after.headers)[b"x-ratelimit-remaining-tokens"] == b"975"


async def test_the_answer_is_there_already_so_settling_never_raises(world, caplog):
    tenancy, keeper, _ = world()
    _, key = await keeper.create({"budget_usd": 10.0})
    call = tenancy.enter(tenancy.identify(bearer(key)), asking(), "auto")
    tenancy.store.settle = lambda *_: 1 / 0
    tenancy.settle(call, None, None)
    assert "ZeroDivisionError" in caplog.text


def test_the_most_that_a_call_may_cost():
    from junctor.tenancy.estimates import asked_output, input_bytes
    from junctor.types import Cascade, Panel

    prices = {
        "a": Target(id="a", price=PRICE, limits=Limits(context_tokens=50, output_tokens=10)),
        "b": Target(id="b", price=Price(input_usd_per_mtok=3.0, output_usd_per_mtok=1.0, usd_per_call=0.001)),
        "c": Target(id="c", price=Price(input_usd_per_mtok=1.0, cache_write_usd_per_mtok=1.25, reasoning_usd_per_mtok=4.0)),
        "free": Target(id="free"),
    }
    tariffs = Tariffs(prices)
    assert tariffs.unpriced == ("free",)
    a = 50_000 + 10 * 2000 + 1  # what its context holds, what it answers at most
    b = 100 * 3000 + 4096 * 1000 + 1_000_000 + 1
    c = 125_000 + 4096 * 4000 + 1
    assert [tariffs.most(Call(name), 100, None, 1) for name in ("a", "b", "c", "free")] == [a, b, c, 1]
    assert tariffs.most(Fallback((Call("a"), Call("b"))), 100, None, 1) == b
    assert tariffs.most(Panel((Call("a"), Call("b")), "vote"), 100, None, 1) == a + b
    assert tariffs.most(Cascade((Call("a"), Call("b")), "scorer", {}), 100, None, 1) == a + b
    asking_rule = Cascade((Call("a"), Call("b")), "verifier", {"k": 3})
    checks = 3 * ((100 + 4096) * 3000 + 4096 * 1000 + 1_000_000 + 1)
    assert tariffs.most(asking_rule, 100, None, 1) == a + b + checks
    assert tariffs.most(Call("b"), 0, 7, 3) == 3 * 7000 + 1_000_000 + 1
    assert tariffs.ceiling(100, None, 1) >= max(a, b, c)
    picture = [{"type": "text", "text": "é"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert input_bytes(Request(messages=(Message("user", picture),))) == 8 + 2 + 3000
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert input_bytes(Request(messages=(Message("user", "hi"),), params={"tools": tools})) == 10 + len(
        json.dumps(tools, separators=(",", ":"))
    )
    assert asked_output(Request(params={"input": "embed me"})) == 0
    assert asked_output(asking(max_tokens=5, max_completion_tokens=6)) == 6


LONG = "x" * 5000


@pytest.mark.parametrize(
    "said",
    [
        {"messages": [{"role": "user", "content": "hi", "name": LONG}]},
        {"messages": [{"role": "assistant", "content": "hi", "reasoning_content": LONG}]},
        {"messages": [{"role": "assistant", "content": "hi", "function_call": {"name": "f", "arguments": LONG}}]},
        {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": LONG}]}]},
        {"messages": [{"role": "user", "content": [{"type": "thinking", "text": "", "thinking": LONG}]}]},
        {"prediction": {"type": "content", "content": LONG}},
        {"extra_body": {"documents": [LONG]}},
        {"guided_grammar": LONG},
    ],
    ids=["name", "reasoning", "function call", "refusal", "a part of another kind", "prediction", "unknown", "unknown text"],
)
def test_no_field_takes_text_past_the_budget(said):
    """Whatever an upstream may read is set aside for, wherever it stands."""
    from junctor.tenancy.estimates import input_bytes

    turns = said.get("messages", [{"role": "user", "content": "hi"}])
    request = Request(messages=tuple(Message(t["role"], t["content"]) for t in turns), params={"messages": turns, **said})
    assert 5000 <= input_bytes(request) < 5300


def test_the_larger_of_two_limits_and_pictures_with_words_are_set_aside_for():
    """One upstream reads the one, another the other; a picture with a text of its own is still a picture."""
    from junctor.tenancy.estimates import asked_output, input_bytes

    assert asked_output(asking(max_tokens=9000, max_completion_tokens=1)) == 9000
    assert asked_output(asking(max_tokens=1, max_completion_tokens=9000)) == 9000
    picture = [{"type": "image_url", "text": "", "image_url": {"url": "x"}}]
    assert input_bytes(Request(messages=(Message("user", picture),))) == 8 + 3000


async def test_a_long_deadline_holds_what_was_set_aside_as_long(world):
    """Otherwise a slow call would be given up while it runs, and its money promised again."""
    tenancy, keeper, clock = world()
    _, key = await keeper.create({"budget_usd": 10.0})
    for asked, held in ((None, 120.0), (1.0, 120.0), (600.0, 660.0), (1e300, 7 * 86_400.0 + 60.0)):
        request = msgspec.structs.replace(asking(), constraints=Constraints(deadline_s=asked))
        call = tenancy.enter(tenancy.identify(bearer(key)), request, "auto")
        assert call.expires - clock() == pytest.approx(held)
        tenancy.settle(call, None, None)


async def test_nothing_awaits_where_the_state_is_on_this_machine(world):
    tenancy, keeper, _ = world()
    _, key = await keeper.create({"budget_usd": 1.0})
    principal = tenancy.identify(bearer(key))
    call = tenancy.enter(principal, asking(), "auto")
    assert not inspect.isawaitable(principal)
    assert not inspect.isawaitable(call)
    assert tenancy.reserve(call, Standing(asking())) is None
    tenancy.settle(call, None, None)
