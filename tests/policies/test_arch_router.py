"""arch-router: policies in words, a map of their own to targets, hierarchy, and the turn before."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.turns import conversation_accuracy, span_accuracy, turn_accuracy
from junctor.encoders import load_encoder
from junctor.errors import ConfigError, UserError
from junctor.features import Features
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policies.arch_router import ArchRouterConfig, PolicyWords, RoutePolicy, brevity, within_best_domain
from junctor.testing import check_policy
from junctor.testing.planted import planted, through_files
from junctor.types import Catalogue, Request

RNG = np.random.default_rng(0)
IN_WORDS = [
    {"name": "sums", "description": "arithmetic question", "use": ["calculator", "generalist"]},
    {"name": "words", "description": "translation question", "use": "linguist"},
    {"name": "programs", "description": "python code question", "use": "programmer"},
]
LEXICAL = load_encoder("lexical")


def in_words(table):
    return table.features(LEXICAL.encode(table.texts))


def by_words(**more):
    return ArchRouterConfig(policies=IN_WORDS, mode="words", encoder="lexical", **more)


def quality(policy, table, features):
    choices, _ = policy.decide_many(features.without_labels(), table.targets, RNG)
    return float(table.quality[np.arange(len(table)), choices].mean())


def dialogues(count=150, turns=6, seed=0):
    """Conversations that stay with a policy for a few turns; every other turn is a short follow-up that says nothing itself."""
    rng = np.random.default_rng(seed)
    kinds, texts, vectors, owner, before = [], [], [], [], []
    for c in range(count):
        kind = int(rng.integers(3))
        for t in range(turns):
            moved = t > 0 and rng.random() < 0.15
            last = kind
            kind = int(rng.choice([k for k in range(3) if k != kind])) if moved else kind
            empty = t > 0 and not moved and rng.random() < 0.6
            texts.append("now shorter" if empty else f"a long question about one topic with many telling words in it {c} {t}")
            vectors.append(2.0 * np.eye(4, 12)[3 if empty else kind] + 0.3 * rng.standard_normal(12))
            kinds.append(kind)
            owner.append(c)
            before.append("" if t == 0 else f"p{last}")
    made = np.array(vectors, dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    gold = np.array(kinds)
    labels = {"policy": [f"p{k}" for k in kinds], "previous_policy": before}
    table = OutcomeTable(texts, Catalogue.of(["t0", "t1", "t2"]), np.eye(3)[gold], labels=labels, label_name="policy")
    return table, table.features(made), gold, owner


def test_planted_conversations_need_the_turn_before():
    table, features, _, _ = dialogues(seed=1)
    later, seen, gold, owner = dialogues(seed=2)
    with_, alone = (ArchRouterConfig(follow=f).fit(table, features, RNG) for f in (8.0, 0.0))
    right = {}
    for name, policy in (("with", with_), ("alone", alone)):
        asked = Features(seen.texts, seen.embedding, {"previous_policy": seen.labels["previous_policy"]})
        right[name] = policy.decide_many(asked, later.targets, RNG)[0] == gold
    assert turn_accuracy(right["with"]) > 0.88
    assert turn_accuracy(right["alone"]) < turn_accuracy(right["with"]) - 0.1
    spans = {name: span_accuracy(flags, owner, gold.tolist()) for name, flags in right.items()}
    whole = {name: conversation_accuracy(flags, owner) for name, flags in right.items()}
    assert spans["with"] > spans["alone"] + 0.15
    assert whole["alone"] < spans["alone"] < turn_accuracy(right["alone"])
    assert whole["with"] < spans["with"] < turn_accuracy(right["with"])
    # and a label-free bar cannot know it either
    bar = policy_config("knn").fit(table, features, RNG)
    assert (
        turn_accuracy(bar.decide_many(seen.without_labels(), later.targets, RNG)[0] == gold)
        < turn_accuracy(right["with"]) - 0.1
    )


def test_three_levels_of_accuracy():
    right = np.array([True, True, False, True, True, True])
    owner, policy = [1, 1, 1, 2, 2, 2], ["a", "a", "b", "b", "b", "b"]
    assert turn_accuracy(right) == pytest.approx(5 / 6)
    assert span_accuracy(right, owner, policy) == pytest.approx(2 / 3)
    assert conversation_accuracy(right, owner) == 0.5
    assert np.isnan(turn_accuracy(np.zeros(0, dtype=bool)))
    assert np.isnan(conversation_accuracy(np.zeros(0, dtype=bool), []))


def test_policies_in_words_need_no_rows_at_all():
    table, _ = planted()
    features = in_words(table)
    policy = by_words().fit(table.take([]), features.take(np.arange(0)), RNG)
    assert quality(policy, table, features) > 0.83
    made = policy.decide(Request(features=features.take([0])), table.targets, RNG)
    assert made.reasons[0].startswith("policy '")
    scrambled = [{**p, "description": "nothing of the kind"} for p in IN_WORDS]
    lost = ArchRouterConfig(policies=scrambled, mode="words", encoder="lexical").fit(table, features, RNG)
    assert quality(lost, table, features) < 0.6


@pytest.mark.parametrize("mode", ["logistic", "centroid"])
def test_labels_are_policies_and_their_best_targets_the_map(mode):
    whole, vectors = planted(1200)
    table, features = whole.take(np.arange(400)), vectors.take(np.arange(400))
    later, seen = whole.take(np.arange(400, 1200)), vectors.take(np.arange(400, 1200))
    policy = ArchRouterConfig(mode=mode, cost_weight=0.2).fit(table, features, RNG)
    assert {p.name for p in policy.policies} == set(table.label)
    single = policy_config("best-single", {}).fit(table, features, RNG)
    assert quality(policy, later, seen) > quality(single, later, seen) - 0.02
    choices, _ = policy.decide_many(seen, later.targets, RNG)
    assert later.cost_usd[np.arange(800), choices].mean() < 0.1 * later.cost_usd[:, 3].mean()
    # the key part removed: whatever is asked, no policy fits
    none = ArchRouterConfig(mode=mode, cost_weight=0.2, threshold=1e9).fit(table, features, RNG)
    lost, _ = none.decide_many(seen, later.targets, RNG)
    assert later.cost_usd[np.arange(800), lost].mean() > 5 * later.cost_usd[np.arange(800), choices].mean()


def test_another_target_or_policy_needs_no_training():
    table, _ = planted()
    features = in_words(table)
    old = by_words().fit(table, features, RNG)
    asked = Request(features=features.take([table.label.index("arithmetic")]))
    moved = old.with_targets({"sums": ["brand-new", "calculator"]})
    wide = Catalogue.of([*table.targets, "brand-new"])
    assert moved.decide(asked, wide, RNG).target == "brand-new"
    assert moved.decide(asked, table.targets, RNG).target == "calculator"
    assert old.decide(asked, wide, RNG).target == "calculator"
    grown = old.with_policy(RoutePolicy(name="poems", description="write me a rhyming poem", use="generalist"))
    text = "please write a poem that is rhyming"
    poem = Request(text=text, features=Features([text], LEXICAL.encode([text])))
    assert grown.decide(poem, table.targets, RNG).target == "generalist"
    same = grown.decide_many(features, table.targets, RNG)[0] == old.decide_many(features, table.targets, RNG)[0]
    assert same.all()
    again = PolicyWords.from_state(through_files(grown.state()))
    assert again.decide(poem, table.targets, RNG) == grown.decide(poem, table.targets, RNG)
    with pytest.raises(UserError, match="already a policy"):
        grown.with_policy(RoutePolicy(name="poems"))
    with pytest.raises(UserError, match="is not a policy"):
        old.with_targets({"poems": ["generalist"]})


def test_a_policy_by_a_few_examples():
    table, features = planted()
    rows = np.flatnonzero([label != "python code" for label in table.label])
    few = ArchRouterConfig(mode="centroid").fit(table.take(rows), features.take(rows), RNG)
    code = np.flatnonzero([label == "python code" for label in table.label])
    grown = few.with_policy(RoutePolicy(name="code", use="programmer"), features.take(code[:5]))
    choices, _ = grown.decide_many(features.take(code[5:]), table.targets, RNG)
    assert (choices == 2).mean() > 0.95
    with pytest.raises(UserError, match="known by examples"):
        few.with_policy(RoutePolicy(name="code"))
    fitted = ArchRouterConfig().fit(table, features, RNG)
    with pytest.raises(UserError, match="fitted anew"):
        fitted.with_policy(RoutePolicy(name="code"))


def test_onboarding_by_outcomes_keeps_the_policies():
    table, features = planted()
    old = ArchRouterConfig().fit(table.only(["linguist", "calculator"]), features, RNG)
    rows = np.arange(0, 240, 2)
    grown = old.onboard("programmer", table.take(rows), features.take(rows))
    assert quality(grown, table.only(["linguist", "calculator", "programmer"]), features) > 0.83
    assert old.table.targets == ("linguist", "calculator")
    with pytest.raises(UserError, match="already known"):
        grown.onboard("programmer", table, features)


def test_hierarchy_chooses_the_domain_first_and_knows_its_other():
    scores = np.array([[2.0, 0.0, 1.9, 1.9], [5.0, 0.0, 1.0, 1.0]])
    found = within_best_domain(scores, np.array([0, 0, 1, 1]))
    assert found.argmax(axis=1).tolist() == [2, 0]
    policies = [
        {"name": "maths: arithmetic", "use": "calculator"},
        {"name": "maths: other", "description": "maths", "use": "generalist"},
        {"name": "languages: translation", "use": "linguist"},
    ]
    table, _ = planted()
    config = ArchRouterConfig(
        policies=policies, mode="words", encoder="lexical", hierarchy=True, threshold=5.0, other="programmer"
    )
    policy = config.fit(table, in_words(table), RNG)
    texts = ["an arithmetic question about maths", "anything maths", "a translation to other languages", "zzz qqq"]
    groups = policy.groups_of(Features(texts, LEXICAL.encode(texts)))
    names = [policy.table.groups[g] for g in groups]
    assert names[0] == "maths: arithmetic"
    assert names[1] == "maths: other"
    assert names[2] == "languages: translation"
    assert (
        policy.decide(Request(features=Features(texts[:1], LEXICAL.encode(texts[:1]))), table.targets, RNG).target
        == "calculator"
    )


@pytest.mark.parametrize("mode", ["logistic", "centroid", "words"])
def test_loss_is_the_share_that_goes_to_other(mode):
    table, planted_features = planted(600)
    features = in_words(table) if mode == "words" else planted_features
    settings = {"policies": IN_WORDS, "encoder": "lexical"} if mode == "words" else {}
    if mode == "words":
        names = {"arithmetic": "sums", "translation": "words", "python code": "programs"}
        table = OutcomeTable(
            table.texts, table.targets, table.quality, labels={"t": [names[n] for n in table.label]}, label_name="t"
        )
    policy = ArchRouterConfig(mode=mode, loss=0.2, **settings).fit(table, features, RNG)
    other = policy.groups_of(features) == len(policy.policies)
    assert 0.03 < other.mean() < 0.35


def test_every_way_conforms():
    table, features = planted()
    check_policy(by_words(hierarchy=True, loss=0.1), table=table, features=in_words(table))
    check_policy(ArchRouterConfig(mode="centroid", loss=0.1), table=table, features=features)
    check_policy(ArchRouterConfig(follow=1.0), table=table, features=features)


def test_a_short_turn_says_little():
    assert brevity("") == 1.0
    assert brevity("one two three four five six seven eight") == 0.5


def test_mistakes_are_named():
    table, features = planted()
    bare = OutcomeTable(table.texts, table.targets, table.quality)
    with pytest.raises(UserError, match="neither named nor labelled"):
        ArchRouterConfig().fit(bare, features, RNG)
    with pytest.raises(UserError, match="no labelled row"):
        ArchRouterConfig(policies=IN_WORDS).fit(bare, features, RNG)
    with pytest.raises(UserError, match="makes vectors of 512"):
        by_words().fit(table, features, RNG)
    for settings, field in (
        ({"policies": [{"name": "a"}, {"name": "a"}]}, "used twice"),
        ({"policies": [{"name": "other"}]}, r"policies\[0\]\.name"),
        ({"policies": ["a"]}, r"policies\[0\]: must be a table"),
        ({"lexical": 2.0}, r"arch-router\.lexical"),
    ):
        with pytest.raises(ConfigError, match=field):
            ArchRouterConfig(**settings)
