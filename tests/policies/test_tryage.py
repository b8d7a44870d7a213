"""tryage: flags and their words, constraints by hand, the Pareto sweep, and a world where predicted loss must decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.estimators.regions import Split, split, unit
from tests.estimators.tables import NAN, at, seen, table

from junctor.errors import ConfigError, UserError
from junctor.estimators.regression import sigmoid
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.tryage import WORDS, Flag, TryageConfig, flags, properties_of, scaled
from junctor.types import Catalogue, Price, Request, Target

RNG = np.random.default_rng(0)


def pool(found: OutcomeTable) -> OutcomeTable:
    """a is small and old and runs at home, b is large, new and costs four times as much."""
    old = Target(
        id="a",
        settings={"parameters_b": 7, "released": "2023-05-01"},
        price=Price(usd_per_call=1),
        capabilities=frozenset({"local"}),
    )
    new = Target(id="b", model="b-70b-chat", settings={"released": "2025-05-01"}, price=Price(usd_per_call=4))
    return replace(found, targets=Catalogue([old, new]))


def test_flags_are_read_with_their_weights():
    assert flags("Say hello. [Flag: smallest model]", 1.0) == [Flag("size", 1.0, "smallest model")]
    assert flags("[flag: fast 0.3] hi [ FLAG : most recent ]", 2.0) == [
        Flag("latency", 0.3, "fast 0.3"),
        Flag("recency", 2.0, "most recent"),
    ]
    assert flags("[Flag: purple]", 1.0) == [Flag("", 1.0, "purple")]
    assert flags("a list [1, 2] and a flag: none", 1.0) == []


@pytest.mark.parametrize(("words", "name"), [(word, name) for name, words in WORDS.items() for word in words])
def test_every_word_names_its_constraint(words, name):
    assert flags(f"[Flag: {words.upper()} please]", 1.0)[0].constraint == name


def test_constraints_are_read_off_the_targets_and_the_table():
    rows = pool(table([[1, 1]] * 2, cost=[[2, 3]] * 2, latency_s=[[5, 1]] * 2, output_tokens=[[NAN, NAN]] * 2))
    terms = scaled(properties_of(rows))
    assert dict(zip(WORDS, terms.tolist(), strict=True)) == {
        "size": [0, 1],
        "recency": [1, 0],
        "cost": [0, 1],
        "latency": [1, 0],
        "verbosity": [0, 0],
        "security": [0, 1],
    }


def test_an_unknown_property_is_the_worst_and_one_unknown_of_all_no_difference():
    assert scaled(np.array([[1.0, NAN, 3.0], [NAN] * 3, [2.0] * 3])).tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_a_flag_changes_the_choice_and_is_named_in_the_reasons():
    rows = pool(table([[0, 1], [0.4, 1]] * 5, cost=[[2, 3]] * 10))
    policy = TryageConfig(alpha=1.0).fit(rows, seen(np.tile(at(0, 90), (5, 1))), RNG)

    def asked(text: str):
        return policy.decide(Request(id="r", text=text, features=Features([text], at(45))), rows.targets, RNG)

    assert asked("hello").target == "b"
    flagged = asked("hello [Flag: smallest model]")
    assert flagged.target == "a"
    assert "flag 'smallest model': size counts 1" in flagged.reasons
    assert asked("hello [Flag: small 0.1]").target == "b"
    assert asked("hello [Flag: small 0.5, please] [Flag: secure 0.5]").target == "a"
    assert any("is not understood" in reason for reason in asked("hello [Flag: purple]").reasons)
    many = Features(["hello", "hello [Flag: cheapest]"], np.tile(at(45), (2, 1)))
    assert policy.decide_many(many, rows.targets, RNG)[0].tolist() == [1, 0]


def test_standing_weights_need_no_flag():
    rows = pool(table([[0.2, 0.9]] * 4, cost=[[2, 3]] * 4))
    heavy = TryageConfig(weights={"size": 1.0}).fit(rows, seen(at(0, 1, 2, 3)), RNG)
    assert heavy.decide_many(seen(at(0)), rows.targets, RNG)[0].tolist() == [0]
    new = TryageConfig(weights={"size": 1.0, "recency": 1.0}).fit(rows, seen(at(0, 1, 2, 3)), RNG)
    assert new.decide_many(seen(at(0)), rows.targets, RNG)[0].tolist() == [1]


def linear_skills(seed: int, rows: int = 400, dim: int = 48) -> Split:
    """Each of four targets is good along a direction of its own; the better ones on average are the dearer ones."""
    rng = np.random.default_rng(seed)
    x = unit(rng.standard_normal((rows + 600, dim))) * dim**0.5
    skill = rng.standard_normal((dim, 4))
    chance = sigmoid(1.5 * x @ (skill / np.linalg.norm(skill, axis=0)) + np.linspace(-0.3, 0.3, 4))
    return split(chance, x, rows, cost=np.tile([0.001, 0.002, 0.004, 0.008], (len(x), 1)), seed=seed)


def tie_aware_accuracy(choices: np.ndarray, quality: np.ndarray, tolerance: float) -> float:
    """Share of queries on which the choice is as good as the best, within the tolerance."""
    chosen = quality[np.arange(len(choices)), choices]
    return float((chosen >= quality.max(axis=1) - tolerance).mean())


def test_it_beats_the_cheap_bars_on_linear_skills_and_not_without_its_loss(monkeypatch):
    worlds = [linear_skills(seed) for seed in range(2)]

    def mean(name: str, **settings) -> float:
        return float(np.mean([world.quality(name, **settings) for world in worlds]))

    ours = mean("tryage", alpha=10.0)
    single = np.mean([world.single() for world in worlds])
    assert ours > single + 0.1
    assert ours > max(mean("knn", k=k) for k in (10, 20, 40)) + 0.02
    fitted = [world.fit("tryage", alpha=10.0) for world in worlds]
    places = [policy.decide_many(world.seen, world.fresh.targets, RNG)[0] for policy, world in zip(fitted, worlds, strict=True)]
    pairs = list(zip(places, worlds, strict=True))
    harsh, kind = (np.mean([tie_aware_accuracy(p, w.fresh.quality, t) for p, w in pairs]) for t in (0.0, 0.1))
    always = np.mean(
        [tie_aware_accuracy(np.full(600, w.fresh.quality.mean(axis=0).argmax()), w.fresh.quality, 0.1) for w in worlds]
    )
    assert harsh < kind
    assert kind > always + 0.15
    for policy in fitted:
        monkeypatch.setattr(policy._heads, "_weights", np.zeros_like(policy._heads._weights))
    without = np.mean([world.reached(policy) for policy, world in zip(fitted, worlds, strict=True)])
    assert without < single + 0.01


def test_the_sweep_is_a_frontier_from_quality_to_thrift():
    world = linear_skills(0)
    sweep = world.fit("tryage", alpha=10.0).decide_sweep(world.seen, world.fresh.targets, RNG)
    cost = np.take_along_axis(world.fresh.cost_usd, sweep.choices.T, axis=1).mean(axis=0)
    quality = np.take_along_axis(world.fresh.quality, sweep.choices.T, axis=1).mean(axis=0)
    assert (np.diff(cost) <= 1e-12).all()
    assert cost[-1] == pytest.approx(0.001)
    assert quality[0] > quality[-1] + 0.1
    latency = world.fit("tryage", sweep="latency").decide_sweep(world.seen, world.fresh.targets, RNG)
    assert (latency.choices[0] == latency.choices[-1]).all()  # no latency is recorded: that knob does nothing


def test_a_newcomer_has_a_head_and_properties_of_its_own():
    rows = pool(table([[0, 1], [0.2, 0.8]] * 5, cost=[[2, 3]] * 10))
    vectors = np.tile(at(0, 90), (5, 1))
    old = TryageConfig(alpha=1.0).fit(rows.only(["a"]), seen(vectors), RNG)
    wider = old.onboard("b", rows, seen(vectors))
    again = type(wider).from_state(wider.state())
    for policy in (wider, again):
        made = policy.decide(Request(id="r", text="x", features=Features(["x"], at(0))), rows.targets, RNG)
        assert made.target == "b"
        flagged = Features(["[Flag: smallest]"], at(0))
        assert policy.decide_many(flagged, rows.targets, RNG)[0].tolist() == [0]


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no outcome to learn from"):
        TryageConfig().fit(table([[NAN]]), seen(at(0)), RNG)
    bad = (
        {"alpha": 0.0},
        {"flag_weight": -1.0},
        {"sweep": "x"},
        {"weights": {"x": 1.0}},
        {"weights": {"size": -1.0}},
        {"fallbacks": -1},
    )
    for settings in bad:
        with pytest.raises(ConfigError, match=r"tryage\."):
            TryageConfig(**settings)


def test_a_policy_with_a_newcomer_has_a_version_of_its_own():
    rows = pool(table([[0, 1], [0.2, 0.8]] * 5, cost=[[2, 3]] * 10))
    old = TryageConfig(alpha=1.0).fit(rows.only(["a"]), seen(np.tile(at(0, 90), (5, 1))), RNG)
    assert old.onboard("b", rows, seen(np.tile(at(0, 90), (5, 1)))).version == ""
    old.version = "abc"
    assert old.onboard("b", rows, seen(np.tile(at(0, 90), (5, 1)))).version == "abc+b"
    assert old.version == "abc"
