"""What one request wishes for: honoured by policies that trade, said where it is not, kept in the journal."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.engine.choosing_world import PROOF, SUM, ask, engine_of, fit

from junctor.artefact import load_policy
from junctor.encoders import load_encoder
from junctor.engine.aliases import encoded
from junctor.errors import RequestError
from junctor.gateway.wishes import wishes_of
from junctor.journal import DecisionRecord, read
from junctor.types import NO_CONSTRAINTS, Catalogue, Constraints, Decision, Switch

FIXED = {"first": {"use": "fixed", "settings": {"target": "small"}}}


def wish(**said: float) -> Constraints:
    return Constraints(**said)


async def decided(engine, text: str, constraints: Constraints) -> Decision:
    return (await engine.complete(ask(text, constraints=constraints), "auto")).decision


async def test_a_weight_of_nothing_takes_the_best_and_a_large_one_the_cheapest(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, {"policy": "fitted"}, {})
    for text in (SUM, PROOF):
        assert (await decided(engine, text, wish(cost_weight=0.0))).target == "large"
        assert (await decided(engine, text, wish(cost_weight=1000.0))).target == "small"
    # Between them the text decides: a proof is worth it, a sum is not. A dearest single target costs 0.01 on average, so the
    # ninth of quality that a sum gains costs 0.9 x 0.3.
    assert (await decided(engine, SUM, wish(cost_weight=0.3))).target == "small"
    assert (await decided(engine, PROOF, wish(cost_weight=0.3))).target == "large"
    assert (await decided(engine, SUM, NO_CONSTRAINTS)).target == "large"
    assert (await decided(engine, SUM, wish(quality_floor=0.8))).target == "small"
    assert (await decided(engine, PROOF, wish(quality_floor=0.8))).target == "large"
    assert (await decided(engine, PROOF, wish(quality_floor=0.8, budget_usd=0.002))).target == "small"
    await engine.aclose()


async def test_a_weight_sets_a_configured_floor_aside_and_an_own_floor_goes_before_it(tmp_path: Path) -> None:
    fit(tmp_path / "fitted", quality_floor=0.8)
    engine = engine_of(tmp_path, {"policy": "fitted"}, {})
    assert (await decided(engine, SUM, NO_CONSTRAINTS)).target == "small"
    assert (await decided(engine, SUM, wish(cost_weight=0.0))).target == "large"
    assert (await decided(engine, SUM, wish(cost_weight=0.0, quality_floor=0.8))).target == "small"
    await engine.aclose()


async def test_a_policy_that_trades_nothing_says_so_and_the_journal_keeps_the_wish(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, {"policy": "first"}, FIXED)
    heard = await decided(engine, PROOF, wish(cost_weight=0.0, quality_floor=0.5))
    plain = await decided(engine, PROOF, wish(deadline_s=5.0))
    assert heard.target == "small"
    assert heard.propensity == 1.0
    assert "the weight and the quality floor of the request did not count: fixed trades nothing by them" in heard.reasons
    assert not any("did not count" in reason for reason in plain.reasons)
    await engine.aclose()
    kept = [record.constraints for record in read(tmp_path / "j") if isinstance(record, DecisionRecord)]
    assert kept == [wish(cost_weight=0.0, quality_floor=0.5), wish(deadline_s=5.0)]
    assert b"constraints" not in msgspec.json.encode(DecisionRecord(at=0.0, decision=plain))


def test_wishes_come_by_header_or_metadata_and_a_header_wins() -> None:
    params = {"metadata": {"junctor_weight": "2", "junctor_session": "s1", "junctor_budget_usd": 1, "tier": "gold"}}
    found = wishes_of(params, [(b"x-junctor-weight", b"0.5"), (b"x-junctor-tenant", b"acme")])
    assert found.constraints == wish(cost_weight=0.5, budget_usd=1.0)
    assert (found.session, found.tenant, found.labels) == ("s1", "acme", {"tier": "gold"})
    assert params["metadata"] == {"tier": "gold"}
    assert wishes_of({}, [(b"x-junctor-session", b"s2")]).session == "s2"
    assert wishes_of({}, []).constraints is NO_CONSTRAINTS


@pytest.mark.parametrize("value", [b"-1", b"nan", b"inf", b"much"])
def test_a_weight_that_is_none_is_refused_by_name(value: bytes) -> None:
    with pytest.raises(RequestError, match=r"x-junctor-weight: is not a number of 0 or more"):
        wishes_of({}, [(b"x-junctor-weight", value)])
    with pytest.raises(RequestError, match=r"metadata\.junctor_session"):
        wishes_of({"metadata": {"junctor_session": 3}}, [])


@pytest.mark.parametrize("name", ["linucb", "thompson", "epsilon-greedy", "exp3"])
def test_bandits_draw_under_the_weight_and_say_with_which_chance(tmp_path: Path, name: str) -> None:
    """A large weight moves the draws to the cheap target; the propensity is how often it is really drawn."""
    fit(tmp_path / "bandit", name, optimism=0.5)
    policy = load_policy(tmp_path / "bandit").policy
    encoder, targets = load_encoder("lexical"), Catalogue.of(["small", "large"])
    request = encoded(encoder, ask(PROOF))
    cheap: dict[float, float] = {}
    for weight in (0.0, 50.0):
        wished = msgspec.structs.replace(request, constraints=wish(cost_weight=weight))
        rng = np.random.default_rng(0)
        made = [policy.decide(wished, targets, rng) for _ in range(400)]
        share = sum(decision.target == "small" for decision in made) / len(made)
        for decision in made[:20]:
            chance = share if decision.target == "small" else 1 - share
            assert decision.propensity == pytest.approx(chance, abs=0.1)
        cheap[weight] = share
    assert cheap[50.0] > cheap[0.0] + 0.2
    leaving = msgspec.structs.replace(request, switch=Switch("large", 1e3), constraints=wish(cost_weight=1.0))
    assert policy.decide(leaving, targets, np.random.default_rng(0)).target == "large"
