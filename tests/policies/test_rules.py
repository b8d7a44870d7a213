"""rules: each condition, the order, the default, and every mistake in them."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, NoTarget
from junctor.features import Features
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policies.rules import Rule, Rules, RulesConfig, When
from junctor.types import Catalogue, Request, plan_targets

ABC = Catalogue.of(["a", "b", "c"])
NOTHING = OutcomeTable([], ABC, np.empty((0, 3)))
RNG = np.random.default_rng(0)


def rules(*found, default="c") -> Rules:
    return policy_config("rules", {"rules": list(found), "default": default}).fit(NOTHING, NOTHING.features(), RNG)


def chosen(policy, text="", targets=ABC, **request):
    return policy.decide(Request(id="r", text=text, **request), targets, RNG).target


@pytest.mark.parametrize(
    ("when", "yes", "no"),
    [
        ({"contains": "SQL"}, {"text": "some sql here"}, {"text": "some text"}),
        ({"contains": ["x", "y"]}, {"text": "only y"}, {"text": "none"}),
        ({"regex": r"^\d+$"}, {"text": "123"}, {"text": "12a"}),
        ({"min_length": 3}, {"text": "abc"}, {"text": "ab"}),
        ({"max_length": 3}, {"text": "abc"}, {"text": "abcd"}),
        ({"label": {"task": "code"}}, {"labels": {"task": "code"}}, {"labels": {"task": "chat"}}),
        ({"label": {"task": ["code", "sql"]}}, {"labels": {"task": "sql"}}, {"labels": {}}),
        ({"needs": "vision"}, {"needs": frozenset({"vision", "tools"})}, {"needs": frozenset({"tools"})}),
        ({"needs": ["vision", "tools"]}, {"needs": frozenset({"vision", "tools"})}, {"needs": frozenset({"tools"})}),
        ({"contains": "a", "max_length": 2}, {"text": "ab"}, {"text": "abc"}),
    ],
)
def test_each_condition(when, yes, no):
    policy = rules({"when": when, "use": "a"})
    assert chosen(policy, **yes) == "a"
    assert chosen(policy, **no) == "c"


def test_the_first_match_decides_and_says_so():
    policy = rules({"when": {"contains": "x"}, "use": "a"}, {"when": {"contains": "y"}, "use": ["b", "a"]})
    assert chosen(policy, "x and y") == "a"
    made = policy.decide(Request(id="r", text="only y"), ABC, RNG)
    assert plan_targets(made.plan) == ("b", "a")
    assert made.reasons == ("rule 2 matches: contains 'y'",)


def test_a_rule_whose_targets_are_away_is_passed_and_mentioned():
    policy = rules({"when": {"contains": "x"}, "use": "a"}, {"when": {}, "use": "b"}, default=())
    made = policy.decide(Request(id="r", text="x"), ABC.only(["b", "c"]), RNG)
    assert made.target == "b"
    assert made.reasons == ("rule 2 matches: always; rule 1 matches too, but its targets are not available",)
    with pytest.raises(NoTarget, match="c: no rule that matches names it"):
        policy.decide(Request(id="r", text="x"), ABC.only(["c"]), RNG)


def test_rows_of_a_table_are_judged_like_requests():
    policy = rules({"when": {"label": {"task": "code"}}, "use": "a"}, {"when": {"contains": "x"}, "use": "b"})
    rows = Features(["x", "x", "z"], None, {"task": ["code", "", ""]})
    choices, propensities = policy.decide_many(rows, ABC, RNG)
    assert choices.tolist() == [0, 1, 2]
    assert propensities.tolist() == [1, 1, 1]
    with_features = Request(id="r", text="x", features=Features(["x"], None, {"task": ["code"]}))
    assert policy.decide(with_features, ABC, RNG).target == "a"


def test_labels_are_needed_only_where_a_rule_reads_them():
    assert rules({"when": {"label": {"t": "x"}}, "use": "a"}).needs == {"labels"}
    assert rules({"when": {"contains": "x"}, "use": "a"}).needs == frozenset()


def test_rules_may_be_objects():
    config = RulesConfig(rules=(Rule(when=When(contains="x"), use="a"),), default="b")
    assert chosen(config.fit(NOTHING, NOTHING.features(), RNG), "x") == "a"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, r"rules\.rules: there is no rule"),
        (
            {"rules": [{"when": {}, "use": "a"}, {"when": {"contains": "x"}, "use": "b"}]},
            r"rules\[1\]: is never reached: rule 1",
        ),
        (
            {"rules": [{"when": {"contians": "x"}, "use": "a"}]},
            r"rules\[0\]\.when\.contians: unknown setting \(did you mean 'contains'",
        ),
        ({"rules": [{"wen": {}, "use": "a"}]}, r"rules\[0\]\.wen: unknown setting .*known: when, use"),
        ({"rules": [{"when": {"min_length": "x"}, "use": "a"}]}, r"rules\[0\]\.when\.min_length: Expected `int"),
        ({"rules": [{"when": {"contains": "x"}}]}, r"rules\[0\]\.use: names no target"),
        ({"rules": [{"when": "x", "use": "a"}]}, r"rules\[0\]\.when: must be a table of conditions"),
        ({"rules": ["x"]}, r"rules\[0\]: must be a table with `when` and `use`"),
        ({"rules": [{"when": {"regex": "("}, "use": "a"}]}, r"rules\[0\]\.when\.regex: is no regular expression"),
        ({"rules": [{"when": {"min_length": 5, "max_length": 3}, "use": "a"}]}, r"max_length: must not be below min_length"),
        ({"rules": [{"when": {"min_length": -1}, "use": "a"}]}, r"min_length: must not be negative"),
        (
            {"rules": [{"when": {"contains": "x"}, "use": "nobody"}]},
            r"rules\[0\]\.use: no target is called 'nobody' \(targets: a, b, c",
        ),
        ({"default": "nobody"}, r"rules\.default: no target is called 'nobody'"),
    ],
)
def test_each_mistake_has_its_message(settings, said):
    with pytest.raises(ConfigError, match=said):
        policy_config("rules", settings).fit(NOTHING, NOTHING.features(), RNG)
