"""Sessions stay where their prompt is in a cache, unless leaving is worth what it breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engine.choosing_world import PROOF, SUM, TARGETS, ask, engine_of

from junctor.engine.sessions import Sessions, saved_usd
from junctor.errors import ConfigError, NoTarget, UpstreamError
from junctor.sections import StickySection
from junctor.types import Limits, Price, Target

LONG = "please note the following facts " * 40


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sticky(
    tmp: Path,
    clock: Clock | None = None,
    targets: dict[str, Any] | None = None,
    policy: str = "fitted",
    workers: int = 1,
    **more: Any,
):
    by_turns = {
        "turns": {
            "use": "rules",
            "settings": {"rules": [{"when": {"contains": "prove"}, "use": ["large", "small"]}], "default": ["small", "large"]},
        }
    }
    engine = engine_of(tmp, {"policy": policy, "sticky": more}, by_turns, targets, workers)
    if clock is not None:
        engine.aliases["auto"].sessions._clock = clock
    return engine


async def target_of(engine, *turns: str, **more: Any) -> str:
    return (await engine.complete(ask(*turns, **more), "auto")).decision.target


async def test_a_policy_that_trades_nothing_keeps_its_session(tmp_path: Path) -> None:
    engine = sticky(tmp_path, policy="turns")
    assert await target_of(engine, PROOF) == "large"
    answer = await engine.complete(ask(PROOF, "done", SUM), "auto")
    assert answer.decision.target == "large"
    assert answer.decision.plan == msgspec.convert(
        {"type": "fallback", "plans": [{"type": "call", "target": "large"}, {"type": "call", "target": "small"}]},
        type(answer.decision.plan),
    )
    assert "stays with large, which has served this session so far" in answer.decision.reasons[0]
    assert answer.decision.propensity == 1.0
    assert await target_of(engine, SUM) == "small"  # another conversation
    assert await target_of(engine, PROOF, "done", SUM, tenant="acme") == "small"  # another tenant says the same
    await engine.aclose()


async def test_a_switch_must_be_worth_the_cached_tokens(tmp_path: Path) -> None:
    """At a weight of 0.3 a sum goes to `small`, unless `large` holds so much that reading it anew eats up the gain."""
    from tests.engine.choosing_world import fit

    fit(tmp_path / "fitted", cost_weight=0.3)
    engine = sticky(tmp_path)
    assert await target_of(engine, PROOF, session="short") == "large"
    leaves = await engine.complete(ask(PROOF, "done", SUM, session="short"), "auto")
    assert leaves.decision.target == "small"
    assert "leaves large, which served this session so far, although about" in leaves.decision.reasons[-1]

    # 1,300 characters are 1,300 tokens at this upstream: $0.0117 to read anew. A sum costs 0.009 less at `small`.
    assert await target_of(engine, f"{LONG} {PROOF}", session="long") == "large"
    stays = await engine.complete(ask(f"{LONG} {PROOF}", "done", SUM, session="long"), "auto")
    assert stays.decision.target == "large"
    assert "a switch costs $0.0119" in stays.decision.reasons[-1]
    costs = {row.target: row.predicted.cost_usd for row in stays.decision.ranked}
    assert costs["small"] == pytest.approx(0.001 + 0.0119, abs=2e-4)
    assert await target_of(engine, f"{LONG} {PROOF}", "done", SUM, session="other") == "small"
    await engine.aclose()


async def test_what_a_cache_forgets_is_forgotten_here_too(tmp_path: Path) -> None:
    clock = Clock()
    engine = sticky(tmp_path, clock, policy="turns", ttl_s=60.0)
    assert await target_of(engine, PROOF) == "large"
    clock.now += 59
    assert await target_of(engine, PROOF, "done", SUM) == "large"
    clock.now += 61
    assert await target_of(engine, PROOF, "done", SUM) == "small"
    await engine.aclose()


async def test_hard_filters_and_cooldowns_go_before_the_session(tmp_path: Path) -> None:
    engine = sticky(tmp_path, policy="turns")
    assert await target_of(engine, PROOF) == "large"
    for _ in range(9):
        engine.health.failed("large", UpstreamError("is down"))
    answer = await engine.complete(ask(PROOF, "done", SUM), "auto")
    assert answer.decision.target == "small"
    assert "large served this session so far, but cannot take this request" in answer.decision.reasons
    await engine.aclose()


async def test_a_small_gain_is_not_worth_a_switch_where_a_margin_is_set(tmp_path: Path) -> None:
    plain = {
        id_: {**target, "price": {**target["price"], "cached_input_usd_per_mtok": None}} for id_, target in TARGETS.items()
    }
    plain = {id_: {**t, "price": {k: v for k, v in t["price"].items() if v is not None}} for id_, t in plain.items()}
    for margin, expected in ((0.0, "large"), (0.1, "small")):
        folder = tmp_path / str(margin)
        folder.mkdir()
        engine = sticky(folder, targets=plain, by="thread", margin=margin)
        assert await target_of(engine, SUM, labels={"thread": "t"}, constraints=_cheap()) == "small"
        assert await target_of(engine, SUM, labels={"thread": "t"}) == expected
        await engine.aclose()


def _cheap():
    from junctor.types import Constraints

    return Constraints(cost_weight=1000.0)


async def test_the_window_is_reckoned_from_what_the_upstream_counted(tmp_path: Path) -> None:
    """A token per character: by characters / 4 the second turn would seem to fit, and the upstream would refuse it."""
    targets = {id_: {**target, "limits": {"context_tokens": 600}} for id_, target in TARGETS.items()}
    targets["large"]["limits"] = {"context_tokens": 2000}
    engine = sticky(tmp_path, targets=targets, policy="turns")
    first, second = "事" * 400, "实" * 400
    assert await target_of(engine, first) == "small"
    answer = await engine.complete(ask(first, "好", second), "auto")
    assert answer.decision.target == "large"
    with pytest.raises(NoTarget, match="about 2401"):
        await engine.complete(ask(first, "好", "实" * 2000), "auto")
    await engine.aclose()


async def test_memory_is_bounded_and_the_same_history_gives_the_same_choices(tmp_path: Path) -> None:
    engine = sticky(tmp_path, policy="turns", most=2)
    for name in ("a", "b", "c"):
        assert await target_of(engine, PROOF, session=name) == "large"
    assert len(engine.aliases["auto"].sessions) == 2
    assert await target_of(engine, SUM, session="a") == "small"  # the oldest was dropped
    assert await target_of(engine, SUM, session="c") == "large"
    await engine.aclose()


def test_nothing_is_saved_where_no_price_of_cached_tokens_is_known() -> None:
    dear = Target(id="a", price=Price(input_usd_per_mtok=10.0, cached_input_usd_per_mtok=1.0))
    assert saved_usd(dear, 1000) == pytest.approx(0.009)
    assert saved_usd(Target(id="a", price=Price(input_usd_per_mtok=10.0)), 1000) == 0.0
    assert saved_usd(Target(id="a", limits=Limits()), 1000) == 0.0
    assert saved_usd(None, 1000) == 0.0


def test_what_names_a_session() -> None:
    sessions = Sessions(StickySection(by="user"))
    assert sessions.key(ask("hi")) is None
    assert sessions.key(ask("hi", labels={"user": "u"})) == sessions.key(ask("ho", labels={"user": "u"}))
    assert sessions.key(ask("hi", session="x")) != sessions.key(ask("hi", session="x", tenant="t"))
    talk = Sessions(StickySection())
    assert talk.key(ask("hi")) == talk.key(ask("hi", "yes", "go on"))
    assert talk.key(ask("hi")) != talk.key(ask("ho"))
    assert talk.key(ask("a" * 5000)) != talk.key(ask("a" * 5001))


@pytest.mark.parametrize("wrong", [{"ttl_s": 0}, {"most": 0}, {"margin": -1}, {"by": ""}])
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"aliases\.auto\.sticky\."):
        sticky(tmp_path, **wrong)


async def test_a_conversation_that_another_worker_began_is_taken_to_be_where_its_first_turn_goes(tmp_path: Path) -> None:
    """Two engines as two workers have them: they share the configuration and nothing else."""
    for policy in ("turns", "fitted"):
        folder = tmp_path / policy
        folder.mkdir()
        one, other = (sticky(folder, policy=policy, workers=2, margin=0.5) for _ in range(2))
        assert await target_of(one, PROOF) == "large"
        assert await target_of(other, PROOF, "done", SUM, constraints=_cheapish()) == "large"
        assert await target_of(other, f"done: {SUM}", constraints=_cheapish()) == "small"  # nobody has answered before
        alone = sticky(folder, policy=policy)
        assert await target_of(alone, PROOF, "done", SUM, constraints=_cheapish()) == "small"
        for engine in (one, other, alone):
            await engine.aclose()


def _cheapish():
    from junctor.types import Constraints

    return Constraints(cost_weight=0.3)


async def test_nobody_is_taught_where_nobody_learns(tmp_path: Path) -> None:
    """A sticky policy passes results on; that must not make every alias with sessions one that learns."""
    engine = sticky(tmp_path)
    assert engine.ledger._aliases_that_learn == frozenset()
    await engine.aclose()


async def test_the_propensity_is_that_of_what_happens(tmp_path: Path) -> None:
    """Where a session stays whatever is drawn, the target has a chance of 1, also when it was drawn."""
    from tests.engine.choosing_world import fit

    fit(tmp_path / "fitted", "greenserv", warm=0.0)
    engine = sticky(tmp_path)
    first = (await engine.complete(ask(PROOF, session="s"), "auto")).decision
    for turn in range(10):
        decision = (await engine.complete(ask(PROOF, "so", f"{SUM} {turn}", session="s"), "auto")).decision
        assert (decision.target, decision.propensity, decision.propensity_kind) == (first.target, 1.0, "exact")
    await engine.aclose()
