"""Accept rules, aggregators, what they read off answers, and how a plan reads."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import msgspec
import numpy as np
import pytest

from junctor import registry
from junctor.errors import ConfigError, UnknownName, UserError
from junctor.outcomes import OutcomeTable
from junctor.plans.accepting import Agreement, Judge, Scorer, Verifier, spread
from junctor.plans.answers import FEATURES, answer_key, features_of, says_yes
from junctor.plans.combining import BestScored, First, Majority
from junctor.plans.contracts import Given, Trace, accept_rule, aggregator, check_plan
from junctor.plans.scoring import learn_weights
from junctor.plans.signals import drawn_answers, scores, separation, verified
from junctor.plans.telling import plan_lines
from junctor.types import Call, Cascade, Catalogue, Decision, Fallback, Panel, looks_at_answers, plan_targets


def given(*texts, **more):
    return tuple(Given(target=f"t{i}", text=text, place=i, **more) for i, text in enumerate(texts))


def trace(*texts, query="How many?", **more):
    return Trace(query=query, answers=given(*texts), asked=more.pop("asked", len(texts)), **more)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Paris.", " paris", True),
        ("The answer is: 42!", "the answer is 42", True),
        ("-2", "2", False),
        ("3.5", "35", False),
        ("+4", "4", True),
        ("A", "B", False),
    ],
)
def test_answers_are_compared_by_what_they_say(one, other, same):
    assert (answer_key(one) == answer_key(other)) is same


def test_the_first_yes_or_no_of_a_check_counts():
    assert [says_yes(t) for t in ("Yes.", "no, yes", "It is INCORRECT", "correct", "perhaps", "")] == [
        True,
        False,
        False,
        True,
        None,
        None,
    ]


def test_features_see_empty_cut_off_and_evasive_answers():
    assert len(features_of("q", "a")) == len(FEATURES)
    assert features_of("q", "", "length")[:3] == (1.0, 1.0, 0.0)
    assert features_of("q", "I cannot do that")[2] == 1.0
    assert features_of("how many cows", "7 cows")[4:] == (0.5, 1.0)


def test_the_scorer_reads_texts_offsets_or_a_signal():
    assert Scorer(tau=(0.5,)).judge(trace("42")).accept
    assert not Scorer(tau=(0.5,)).judge(trace("I am not sure")).accept
    assert not Scorer(tau=(0.5,), offset=(-3.0,)).judge(trace("42")).accept
    assert Scorer(tau=(0.9, 0.1)).judge(trace("42", stage=1)).accept
    with_signal = Trace(query="q", answers=given("42", signals={"score": 0.8}))
    assert Scorer(tau=(0.7,), signal="score").judge(with_signal).accept
    assert not Scorer(tau=(0.7,), signal="other").judge(with_signal).accept


def test_the_judge_stops_at_the_cap_before_it_asks():
    rule = Judge(cap_usd=0.1, expected_usd=(0.01, 0.2), by=("judge",))
    verdict = rule.judge(trace("42", spent_usd=0.01))
    assert verdict.accept
    assert "exceed the cap" in verdict.why
    assert rule.questions(trace("42", spent_usd=0.01)) == ()
    (question,) = Judge(by=("judge",)).questions(trace("42"))
    assert (question.target, question.times) == ("judge", 1)
    assert not Judge().judge(trace("42", checks=given("no"))).accept


def test_agreement_skips_as_many_stages_as_the_spread_asks():
    rule = Agreement(levels=(0.0, 0.5))
    assert rule.judge(trace("4", "4", "4.")).accept
    half, whole = rule.judge(trace("4", "4", "5")), rule.judge(trace("4", "5", "6"))
    assert (half.accept, half.skip, whole.accept, whole.skip) == (False, 0, False, 1)
    assert rule.judge(trace("4")).accept
    assert spread(["4"], 3) == 1.0


def test_majority_first_and_best_scored():
    assert Majority().choose(trace("a", "b", "B")).given.place == 1
    assert Majority().choose(trace("a", "b")).given.place == 0
    assert Majority(ties="last").choose(trace("a", "b")).given.place == 1
    later = Trace(query="q", answers=(Given(target="x", text="c", place=3),), before=given("a", "b", "c"))
    assert Majority(carry=True).choose(later).given.place == 2
    assert Majority().choose(later).given.place == 3
    assert First().choose(trace("a", "b")).given.place == 0
    assert BestScored().choose(trace("sorry", "42")).given.place == 1
    assert BestScored(offset={"t0": 9.0}).choose(trace("sorry", "42")).given.place == 0
    assert (
        BestScored(signal="s").choose(Trace(query="q", answers=given("a", signals={"s": 0.5}))).why.startswith("best score 0.5")
    )


def test_rules_are_found_by_name_and_their_settings_are_checked():
    assert isinstance(accept_rule("verifier", {"k": 3}), Verifier)
    assert isinstance(aggregator("majority", {}), Majority)
    with pytest.raises(UnknownName, match="did you mean 'scorer'"):
        accept_rule("scorers", {})
    for name, settings, field in [
        ("verifier", {"kk": 3}, "verifier.kk"),
        ("verifier", {"k": 0}, "verifier.k"),
        ("verifier", {"rule": "pomdp"}, "verifier.escalate"),
        ("scorer", {"tau": []}, "scorer.tau"),
        ("agreement", {"levels": [1.0, 0.0]}, "agreement.levels"),
    ]:
        with pytest.raises(ConfigError, match=field):
            accept_rule(name, settings)


def test_a_plan_is_checked_as_a_whole():
    check_plan(Fallback((Cascade((Call("a"), Panel((Call("b"),), "first")), "scorer"), Call("c"))))
    with pytest.raises(UserError, match="panel: has no plans"):
        check_plan(Cascade((Call("a"), Panel((), "first")), "scorer"))
    with pytest.raises(UnknownName):
        check_plan(Panel((Call("a"),), "vote"))


def test_a_rule_of_yours_comes_through_its_entry_point(monkeypatch):
    points = {"junctor.accepts": [EntryPoint("mine", "junctor.plans.accepting:Scorer", "junctor.accepts")]}
    monkeypatch.setattr(registry, "entry_points", lambda group: points.get(group, []))
    registry.forget()
    try:
        assert isinstance(accept_rule("mine", {"tau": [0.1]}), Scorer)
    finally:
        registry.forget()


PLAN = Cascade((Panel((Call("a"),) * 3, "majority"), Fallback((Call("b"), Call("c")))), "agreement", {"levels": [0.0]})


def test_a_plan_survives_the_journal():
    decision = Decision(id="d", plan=PLAN, target="a", policy="p")
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision
    assert plan_targets(PLAN) == ("a", "a", "a", "b", "c")
    assert looks_at_answers(Fallback((Call("x"), PLAN)))
    assert not looks_at_answers(Fallback((Call("x"), Fallback((Call("y"),)))))


def test_a_plan_reads_as_a_few_lines():
    assert list(plan_lines(PLAN)) == [
        "cascade: in this order, until agreement accepts (levels [0])",
        "  panel: all at once, then majority",
        "    3 x call a",
        "  fallback: the first that answers",
        "    call b",
        "    call c",
    ]


def test_the_live_scorer_learns_which_signs_are_good():
    """Answers that say they cannot are wrong, others right: the weight of hedging is negative, and a NaN is left out."""
    answers = ["I cannot tell", "42"] * 20
    weights = learn_weights(["how many"] * 41, [*answers, "?"], [*([0.0, 1.0] * 20), float("nan")])
    assert len(weights) == len(FEATURES) + 1
    rule = Scorer(weights=weights)
    assert rule.score(trace("42")) > 0.8
    assert rule.score(trace("I cannot say")) < 0.2
    with pytest.raises(UserError, match="equally long"):
        learn_weights(["q"], [], [])
    with pytest.raises(UserError, match="no answer was judged"):
        learn_weights(["q"], ["a"], [float("nan")])


def table(outcomes, **samples):
    return OutcomeTable(["q"] * len(outcomes), Catalogue.of(["a", "b"]), np.array(outcomes), samples=samples)


def auc(score, right):
    return (score[right][:, None] > score[~right][None, :]).mean()


@pytest.mark.parametrize("wanted", [0.5, 0.7, 0.9])
def test_drawn_scores_have_the_stated_power(wanted):
    """The share of pairs in which the right answer scores higher."""
    rng = np.random.default_rng(0)
    quality = (rng.random((3000, 2)) < 0.5).astype(np.float64)
    found = scores(table(quality), wanted, rng)[:, 0, 0]
    assert auc(found, quality[:, 0] == 1) == pytest.approx(wanted, abs=0.02)
    assert separation(0.5) == pytest.approx(0.0)


def test_drawn_verdicts_have_the_stated_means_and_gaps_stay_gaps():
    rng = np.random.default_rng(0)
    quality = np.array([[1.0, 0.0]] * 4000)
    quality[0, 0] = np.nan
    share = verified(table(quality), 8, (0.8, 0.3), 3.0, rng)[:, :, 0]
    assert np.isnan(share[0, 0])
    assert np.nanmean(share, axis=0) == pytest.approx([0.8, 0.3], abs=0.02)


def test_drawn_answers_repeat_as_often_as_stated():
    """Draws equal the usual answer with the stated probability; recorded keys are taken as they are."""
    rng = np.random.default_rng(0)
    found = drawn_answers(table([[1.0, 0.0]] * 4000), 3, (0.9, 0.4), 4, rng)
    assert (found["key"][:, 0] == 0).mean() == pytest.approx(0.9, abs=0.02)
    assert np.array_equal(found["quality"] == 1, found["key"] == 0)
    same = (found["key"][:, 1, 0] == found["key"][:, 1, 1]).mean()
    assert same == pytest.approx(0.4**2 + 3 * 0.2**2, abs=0.03)
    key, drawn = np.ones((1, 2, 3)), np.zeros((1, 2, 3))
    assert drawn_answers(table([[0.0, 0.0]], quality=drawn, key=key), 3, (0.9, 0.4), 4, rng)["key"] is key
    assert (drawn_answers(table([[0.0, 0.0]], quality=drawn), 3, (0.9, 0.4), 4, rng)["key"] > 0).all()


def test_draws_from_rates_are_right_as_often_as_recorded():
    """A share of 0.7 right samples: each draw is right with that probability."""
    found = drawn_answers(table([[0.7, np.nan]] * 4000), 3, None, 4, np.random.default_rng(0))
    assert found["quality"][:, 0].mean() == pytest.approx(0.7, abs=0.02)
    assert np.isnan(found["quality"][:, 1]).all()
    assert np.array_equal(found["quality"][:, 0] == 1, found["key"][:, 0] == 0)
