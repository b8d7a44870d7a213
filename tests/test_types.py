"""The nouns hold what they promise: frozen, in the field's units, and the same after a trip through JSON."""

from __future__ import annotations

import msgspec
import pytest

from junctor.errors import UserError
from junctor.types import Attempt, Call, Catalogue, Decision, Fallback, Outcome, Price, Ranked, Target, plan_targets


def test_a_price_is_dollars_per_million_tokens_and_per_call() -> None:
    price = Price(input_usd_per_mtok=2.0, output_usd_per_mtok=8.0, usd_per_call=0.001)
    assert price.cost_usd(500_000, 250_000) == pytest.approx(1.0 + 2.0 + 0.001)
    assert Price().cost_usd(1e9, 1e9) == 0.0


def test_a_target_with_a_setting_calls_its_model() -> None:
    assert Target(id="o3-mini@low").upstream_model == "o3-mini"
    assert Target(id="fast", model="o3-mini").upstream_model == "o3-mini"
    assert Target(id="plain").upstream_model == "plain"


def test_a_catalogue_keeps_order_and_finds_by_id() -> None:
    catalogue = Catalogue.of(["b", "a", Target(id="c", kind="tool")])
    assert catalogue.ids == ("b", "a", "c")
    assert (catalogue.position("a"), catalogue.position("z")) == (1, None)
    assert catalogue.get("z") is None
    assert catalogue.get("c") is catalogue[2]
    assert catalogue.only(["c", "b", "z"]).ids == ("b", "c")
    assert Catalogue.of(catalogue) is catalogue
    assert repr(catalogue) == "Catalogue(['b', 'a', 'c'])"


def test_an_id_that_is_used_twice_is_refused() -> None:
    with pytest.raises(UserError, match="a: a target id is used twice"):
        Catalogue.of(["a", "b", "a"])


def test_a_decision_is_frozen_and_survives_json() -> None:
    plan = Fallback((Call("a"), Fallback((Call("b"), Call("c")))))
    ranked = (Ranked(target="a", score=0.5, predicted=Outcome(quality=0.5)),)
    decision = Decision(id="d", plan=plan, target="a", ranked=ranked, policy="p", reasons=("r",))
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision
    assert plan_targets(plan) == ("a", "b", "c")
    with pytest.raises(AttributeError):
        decision.target = "b"  # type: ignore[misc]


def test_what_is_not_known_is_left_out_and_never_zero() -> None:
    assert msgspec.json.encode(Outcome(cost_usd=0.0)) == b'{"cost_usd":0.0}'
    attempt = Attempt(target="a", started_s=0.0, ended_s=1.0)
    assert msgspec.json.decode(msgspec.json.encode(attempt), type=Attempt).first_byte_s is None
