"""vllm-sr: Boolean rules over signals mean what their truth tables say; dead and conflicting ones are found."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from junctor.encoders import load_encoder
from junctor.errors import ConfigError, NoTarget, UserError
from junctor.estimators import knn
from junctor.features import Features
from junctor.fitting import policy_config
from junctor.policies.boolean import parse, truth_table
from junctor.policies.languages import language_of
from junctor.policies.signals import Signals, signal_of, worlds
from junctor.policies.vllm_sr import VllmSRConfig
from junctor.testing import check_policy
from junctor.testing.planted import planted
from junctor.types import Catalogue, Constraints, Request

RNG = np.random.default_rng(0)
SIGNALS = {
    "code": {"contains": ["python", "code"]},
    "sums": {"regex": r"\barith"},
    "short": {"max_length": 30},
    "long": {"min_length": 40},
    "german": {"language": "de"},
    "foreign": {"language": ["de", "fr"]},
    "gold": {"label": {"tier": "gold"}},
    "tools": {"needs": "tools"},
}
BY_HAND = {
    "signals": SIGNALS,
    "decisions": [
        {"name": "programs", "when": "code and not long", "use": ["programmer", "generalist"], "priority": 5},
        {"name": "numbers", "when": "sums or (german and short)", "use": "calculator"},
    ],
    "default": ["generalist", "linguist"],
}


def ask(policy, text="", targets=None, **more):
    table, _ = planted()
    return policy.decide(Request(text=text, **more), table.targets if targets is None else targets, RNG)


def fitted(**settings):
    table, features = planted()
    return VllmSRConfig(**settings).fit(table, features, RNG)


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("a", "a"),
        ("not a", "not a"),
        ("a and b or c", "(a and b) or c"),
        ("a or b and c", "a or (b and c)"),
        ("not a and b", "(not a) and b"),
        ("NOT (a OR NOT b) AND c", "(not (a or not b)) and c"),
        ("((a)) or not not b", "a or b"),
        ("a and (b or c) and not (a and b)", "a and (b or c) and not (a and b)"),
    ],
)
def test_expressions_are_equal_to_plain_logic_on_the_whole_truth_table(text, python):
    names, table, found = truth_table(parse(text, "here"))
    for row, matches in zip(table, found, strict=True):
        truth = dict(zip(names, map(bool, row), strict=True))
        assert bool(matches) == eval(python, {}, truth)
        assert (parse(text, "here").value(lambda name, t=truth: float(t[name])) > 0) == bool(matches)
    again = parse(str(parse(text, "here")), "here")
    assert np.array_equal(truth_table(again)[2], found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a and", "ends where a signal"),
        ("(a or b", "lacks a closing bracket"),
        ("a b", "has 'b' where an operator"),
        ("and a", "has 'and' where a signal"),
        ("a & b", "does not read at '& b'"),
        ("()", r"has '\)' where a signal"),
    ],
)
def test_expressions_that_do_not_parse_say_where(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text, "here")


def test_confidences_are_least_and_greatest():
    sure = {"a": 0.9, "b": 0.4, "c": 0.0}
    for text, expected in (("a and b", 0.4), ("a or b", 0.9), ("not c and b", 0.4), ("c or b", 0.4), ("not a", 0.0), ("", 1.0)):
        assert parse(text, "here").value(sure.__getitem__) == expected
        columns = {name: np.array([value]) for name, value in sure.items()}
        assert parse(text, "here").values(columns, 1).tolist() == [expected]


def test_a_truth_table_of_too_many_signals_is_refused():
    with pytest.raises(ConfigError, match="reads 17 signals"):
        truth_table(parse(" or ".join(f"s{i}" for i in range(17)), "here"))


def test_decisions_follow_priority_then_default_and_say_why():
    policy = fitted(**BY_HAND)
    made = ask(policy, "some python code")
    assert made.target == "programmer"
    assert made.reasons[0] == "decision 'programs': code and not long (confidence 1.00)"
    assert ask(policy, "python arith").target == "programmer"
    assert ask(policy, "arithmetic").target == "calculator"
    assert ask(policy, "Wie ist das und was?").target == "calculator"
    made = ask(policy, "something else")
    assert (made.target, made.reasons[0]) == ("generalist", "no decision matches: the default")
    assert [row.target for row in made.ranked] == ["generalist", "linguist"]


def test_a_decision_whose_targets_are_not_here_passes_its_turn():
    policy = fitted(**BY_HAND)
    few = Catalogue.of(["calculator", "linguist"])
    assert ask(policy, "python arith", few).target == "calculator"
    assert ask(policy, "python", few).target == "linguist"
    with pytest.raises(NoTarget):
        ask(policy, "python", Catalogue.of(["calculator"]))
    with pytest.raises(NoTarget, match="costs more than the budget"):
        ask(policy, "arithmetic", constraints=Constraints(budget_usd=1e-12))


def test_signals_that_nothing_asks_for_are_never_read(monkeypatch):
    policy = fitted(**BY_HAND)
    read = []
    own = Signals.read
    monkeypatch.setattr(Signals, "read", lambda self, name, seen: (read.append(name), own(self, name, seen))[1])
    ask(policy, "python")
    assert read == ["code", "long"]
    read.clear()
    ask(policy, "arithmetic")
    assert read == ["code", "sums"]  # "long" and "german" cannot change anything any more


def test_labels_and_capabilities_are_signals():
    rules = [{"when": "gold and not tools", "use": "generalist"}, {"when": "tools", "use": "programmer"}]
    policy = fitted(signals=SIGNALS, decisions=rules, default="linguist")
    assert policy.needs == {"labels"}
    assert ask(policy, labels={"tier": "gold"}).target == "generalist"
    assert ask(policy, labels={"tier": "gold"}, needs=frozenset({"tools"})).target == "programmer"
    assert ask(policy).target == "linguist"


def kinds(**settings):
    return {(f.kind, f.decision): f for f in VllmSRConfig(**settings).findings()}


def test_dead_shadowed_and_conflicting_rules_are_found():
    found = kinds(
        signals=SIGNALS,
        decisions=[
            {"name": "both", "when": "short and long", "use": "a"},
            {"name": "top", "when": "code or sums", "use": "a", "priority": 9},
            {"name": "under", "when": "code and gold", "use": "b", "priority": 3},
            {"name": "german", "when": "german", "use": "a", "priority": 2},
            {"name": "not french", "when": "foreign and not german", "use": "b", "priority": 2},
            {"name": "tool", "when": "tools", "use": "b", "priority": 2},
        ],
    )
    assert found.keys() == {
        ("never true", "both"),
        ("shadowed", "under"),
        ("conflict", "german"),
        ("conflict", "german"),
    }
    assert found["shadowed", "under"].others == ("top",)
    assert found["conflict", "german"].others == ("tool",)  # a text has one language: german and not french never meet


def test_two_rules_together_can_shadow_a_third_and_unused_signals_are_named():
    rules = [
        {"name": "one", "when": "code", "use": "a", "priority": 2},
        {"name": "two", "when": "not code", "use": "b", "priority": 1},
        {"name": "last", "when": "sums", "use": "a"},
    ]
    found = kinds(signals={"code": SIGNALS["code"], "sums": SIGNALS["sums"], "spare": {"regex": "x"}}, decisions=rules)
    assert found["shadowed", "last"].others == ("one", "two")
    assert ("unused signal", "spare") in found
    assert (
        fitted(signals=SIGNALS, decisions=[{"when": "code and not code", "use": "linguist"}]).findings[-1].kind == "never true"
    )


def test_by_confidence_order_shadows_nothing_but_overlaps_conflict():
    rules = [{"name": "one", "when": "code", "use": "a", "priority": 2}, {"name": "two", "when": "code", "use": "b"}]
    signals = {"code": SIGNALS["code"]}
    assert kinds(signals=signals, decisions=rules, strategy="confidence").keys() == {("conflict", "one")}
    assert kinds(signals=signals, decisions=rules).keys() == {("shadowed", "two")}
    many = {f"s{i}": {"regex": str(i)} for i in range(17)}
    wide = [{"name": "wide", "when": " or ".join(many), "use": "a"}]
    assert kinds(signals=many, decisions=wide).keys() == {("not analysed", "wide")}


def test_worlds_are_those_that_texts_can_have():
    specs = {name: signal_of(found, name) for name, found in SIGNALS.items()}
    table = worlds(specs, ["short", "long", "code"], 100)
    assert sorted(map(tuple, table.tolist())) == sorted(
        (*pair, code) for pair, code in product([(True, False), (False, True), (False, False)], [True, False])
    )
    both = worlds({"a": signal_of({"regex": "x"}, "a"), "b": signal_of({"regex": "x"}, "b")}, ["a", "b"], 100)
    assert sorted(map(tuple, both.tolist())) == [(False, False), (True, True)]
    assert worlds(specs, ["code", "sums"], 3) is None


def test_examples_match_what_is_close_to_them():
    table, _ = planted()
    encoder = load_encoder("lexical")
    features = table.features(encoder.encode(table.texts))
    config = VllmSRConfig(
        encoder="lexical",
        signals={"code": {"examples": ["python code question"], "threshold": 0.6}},
        decisions=[{"when": "code", "use": "programmer"}],
        default="generalist",
    )
    policy = config.fit(table, features, RNG)
    choices, _ = policy.decide_many(features, table.targets, RNG)
    named = np.array([label == "python code" for label in table.label])
    assert (choices[named] == 2).all()
    assert (choices[~named] == 3).all()
    check_policy(config, table=table, features=features)
    with pytest.raises(UserError, match="makes vectors of 512"):
        config.fit(table, planted()[1], RNG)
    with pytest.raises(UserError, match="needs an embedding"):
        policy.decide(Request(text="x", features=Features(["x"])), table.targets, RNG)


def test_learned_categories_beat_the_best_single_target_and_labels_are_never_needed():
    whole, vectors = planted(2000)
    first, last = np.arange(800), np.arange(800, 2000)
    (table, features), (later, seen) = ((whole.take(rows), vectors.take(rows)) for rows in (first, last))
    policy = VllmSRConfig(cost_weight=0.2).fit(table, features, RNG)
    assert {rule.name for rule in policy.decisions} == set(table.label)
    choices, _ = policy.decide_many(seen.without_labels(), later.targets, RNG)
    right = later.quality[np.arange(len(later)), choices].mean()
    # the key part removed: no signal matches, so that all goes to the default
    blind = VllmSRConfig(signals={"never": {"regex": "zzz"}}, decisions=[{"when": "never"}]).fit(table, features, RNG)
    alone = later.quality[np.arange(len(later)), blind.decide_many(seen, later.targets, RNG)[0]].mean()
    single = policy_config("best-single").fit(table, features, RNG)
    bar = later.quality[np.arange(len(later)), single.decide_many(seen, later.targets, RNG)[0]].mean()
    cost = later.cost_usd[np.arange(len(later)), choices].mean()
    assert right >= bar
    assert cost < 0.3 * later.cost_usd[:, 3].mean()
    assert alone == bar
    assert len(policy.decide_sweep(features, table.targets, RNG).settings) > 50


@pytest.mark.parametrize("strategy", ["priority", "confidence"])
@pytest.mark.parametrize("selector", ["", "knn"])
def test_all_ways_to_choose_conform(strategy, selector):
    settings = {**BY_HAND, "strategy": strategy, "selector": selector}
    check_policy(VllmSRConfig(**settings))
    check_policy(VllmSRConfig(strategy=strategy, selector=selector))
    assert knn.KNN.name == "knn"


def test_a_selector_chooses_among_the_decisions_targets():
    table, features = planted()
    rules = [{"name": "all", "when": "", "use": ["linguist", "calculator", "programmer"]}]
    policy = VllmSRConfig(decisions=rules, selector="knn").fit(table, features, RNG)
    choices, _ = policy.decide_many(features, table.targets, RNG)
    assert set(choices.tolist()) == {0, 1, 2}
    assert table.quality[np.arange(len(table)), choices].mean() > 0.8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is the capital of this country, and how do I get to it?", "en"),
        ("Wie komme ich mit dem Zug von hier zum Bahnhof und was kostet das?", "de"),
        ("Quelle est la capitale de ce pays et comment y aller avec le train ?", "fr"),
        ("¿Cuál es la capital de este país y cómo puedo llegar en tren?", "es"),
        ("这个国家的首都是什么", "zh"),
        ("この国の首都はどこですか", "ja"),
        ("Какая столица этой страны", "ru"),
        ("x = 1 + 2", ""),
        ("", ""),
    ],
)
def test_languages(text, expected):
    assert language_of(text) == expected


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"decisions": [{"when": "nobody", "use": "a"}]}, r"when: no signal is called 'nobody'"),
        ({"signals": {"x": {"regex": "a", "contains": "b"}}}, r"signals\.x: must be exactly one kind"),
        ({"signals": {"x": {}}}, r"signals\.x: must be exactly one kind"),
        ({"signals": {"x": {"regex": "("}}}, r"signals\.x\.regex"),
        ({"signals": {"x": {"language": "xx"}}}, r"signals\.x\.language"),
        ({"signals": {"x": {"regx": "a"}}}, r"signals\.x\.regx: unknown setting"),
        ({"decisions": [{"name": "one"}, {"name": "one"}]}, "a name is used twice"),
        ({"decisions": ["x"]}, r"decisions\[0\]: must be a table"),
        ({"decisions": [{"name": "default"}]}, r"decisions\[0\]\.name"),
        ({"selector_settings": {"k": 3}}, "there is no selector"),
        ({"signals": {"x": 3}}, r"signals\.x: must be a table"),
    ],
)
def test_mistakes_in_the_rules_are_named(settings, field):
    with pytest.raises(ConfigError, match=field):
        VllmSRConfig(**settings)


def test_targets_that_the_table_lacks_are_named():
    table, features = planted()
    with pytest.raises(ConfigError, match="no target is called 'gpt'"):
        VllmSRConfig(decisions=[{"name": "x", "use": "gpt"}]).fit(table, features, RNG)
