"""gqr: the expert of the domain, or none; the guard is set on in-domain rows alone."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators import bags
from junctor.estimators.heads import KINDS, Head, fit_head
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policies.gqr import GQRConfig, best_threshold, cut_into, harmonic, outside_rows, threshold_at
from junctor.policy import State
from junctor.testing import check_policy
from junctor.testing.planted import planted, through_files
from junctor.types import Catalogue, Constraints, Request

RNG = np.random.default_rng(0)
WORDS = (("judge", "court", "contract", "sue"), ("stock", "bond", "loan", "tax"), ("fever", "drug", "nurse", "cough"))
STRANGE = ("banana", "guitar", "football", "galaxy", "dragon", "sailing", "pottery", "comet", "recipe", "waltz")
EXPERTS = ("lawyer", "banker", "doctor", "none")


def world(rows=450, seed=0, strangers=0.0, two_moons=False):
    """Three domains with their own words and directions, and requests of none: on words and directions nobody has seen.

    With `two_moons` a domain is two far clusters, and the strangers lie half way between the two of some domain.
    """
    rng = np.random.default_rng(seed)
    kind = np.where(rng.random(rows) < strangers, 3, rng.integers(3, size=rows))
    centres = np.zeros((3, 2, 24))
    for k in range(3):
        centres[k, 0, k] = 2.0
        centres[k, 1, 3 + k if two_moons else k] = 2.0
    inner = centres[np.minimum(kind, 2), rng.integers(2, size=rows)]
    away = np.zeros((rows, 24))
    away[np.arange(rows), rng.integers(8, 24, size=rows)] = 2.0
    if two_moons:
        away = centres.mean(axis=1)[rng.integers(3, size=rows)] * np.sqrt(2.0)
    vectors = np.where((kind == 3)[:, None], away, inner) + 0.15 * rng.standard_normal((rows, 24))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [" ".join(rng.choice(STRANGE if k == 3 else WORDS[k], 5)) + f" {i}" for i, k in enumerate(kind.tolist())]
    quality = np.zeros((rows, 4))
    quality[np.arange(rows), kind] = 1.0
    names = [("law", "money", "health", "")[k] for k in kind.tolist()]
    table = OutcomeTable(texts, Catalogue.of(EXPERTS), quality, labels={"domain": names}, label_name="domain")
    return table, table.features(vectors.astype(np.float32)), kind


def guarded_score(policy, table, features, kind):
    """GQR score, in-domain accuracy, rejection."""
    choices, _ = policy.decide_many(features.without_labels(), table.targets, np.random.default_rng(0))
    right, rejected = float(np.mean((choices == kind)[kind < 3])), float(np.mean((choices == 3)[kind == 3]))
    return harmonic(right, rejected), right, rejected


@pytest.mark.parametrize("head", KINDS)
def test_planted_world_every_head_routes_and_rejects(head):
    table, features, _ = world(seed=1)
    later, seen, kind = world(seed=2, strangers=0.3)
    policy = GQRConfig(head=head).fit(table, features, np.random.default_rng(0))
    score, right, rejected = guarded_score(policy, later, seen, kind)
    assert right > 0.85
    assert rejected > 0.85
    # a policy that knows the targets but has no guard, and this one with its key part removed
    plain = guarded_score(policy_config("linear").fit(table, features, RNG), later, seen, kind)
    policy.threshold = -np.inf
    unguarded = guarded_score(policy, later, seen, kind)
    assert score > 0.85
    assert plain[0] == unguarded[0] == 0.0


def test_planted_world_parts_reject_what_lies_between_the_halves_of_a_domain():
    table, features, _ = world(rows=900, seed=3, two_moons=True)
    later, seen, kind = world(rows=900, seed=4, two_moons=True, strangers=0.3)
    for parts, least, most in ((8, 0.9, 1.0), (1, 0.0, 0.3)):
        policy = GQRConfig(parts=parts).fit(table, features, np.random.default_rng(0))
        assert least <= guarded_score(policy, later, seen, kind)[0] <= most


def test_one_cloud_is_not_cut_and_several_are():
    rng = np.random.default_rng(0)
    cloud = rng.standard_normal((400, 16)) * np.linspace(0.2, 2.0, 16)
    clouds = cloud * 0.3 + np.eye(16)[rng.integers(4, size=400)] * 4
    assert cut_into(cloud.astype(np.float32), 4, rng).max() == 0
    assert cut_into(clouds.astype(np.float32), 4, rng).max() == 3
    assert cut_into(clouds.astype(np.float32), 1, rng).max() == 0


def test_the_guard_loses_as_much_of_the_domains_as_it_may():
    table, features, _ = world(rows=3000, seed=5)
    _, seen, _ = world(rows=3000, seed=6)
    for loss in (0.02, 0.1, 0.3):
        policy = GQRConfig(loss=loss, parts=1).fit(table, features, np.random.default_rng(0))
        groups = policy.groups_of(seen)
        assert np.mean(groups == 3) == pytest.approx(loss, abs=0.04)
    assert threshold_at(np.arange(101.0), 0.05) == 5.0
    assert threshold_at(np.zeros(0), 0.05) == -np.inf


def test_out_of_domain_rows_of_the_table_are_never_learned_from():
    table, features, kind = world(rows=600, seed=7, strangers=0.3)
    inner = np.flatnonzero(kind < 3)
    with_, without = (
        GQRConfig().fit(t, f, np.random.default_rng(0))
        for t, f in ((table, features), (table.take(inner), features.take(inner)))
    )
    assert with_.threshold == without.threshold
    assert np.array_equal(with_.inside(features), without.inside(features))
    assert outside_rows(table, "none").tolist() == (kind == 3).tolist()
    told = GQRConfig(outsiders=True).fit(table, features, np.random.default_rng(0))
    assert told.threshold != with_.threshold


def test_best_threshold_is_the_best_of_all():
    inside, outside = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.5, 2.5])
    right = np.array([True, True, False, True])
    found = best_threshold(inside, right, outside)
    scores = [harmonic(np.mean(right & (inside >= t)), np.mean(outside < t)) for t in np.linspace(-1, 5, 601)]
    assert harmonic(np.mean(right & (inside >= found)), np.mean(outside < found)) == pytest.approx(max(scores))
    assert harmonic(0.0, 0.0) == 0.0


def test_a_rejected_request_goes_to_none_or_to_the_best_of_all_and_says_so():
    table, features, _ = world(seed=8)
    policy = GQRConfig().fit(table, features, RNG)
    stranger = np.zeros((1, 24), np.float32)
    stranger[0, 20] = 1.0
    request = Request(text="galaxy", features=features.take([0]))
    asked = Request(text="galaxy", features=type(features)(["galaxy"], stranger))
    made = policy.decide(asked, table.targets, RNG)
    assert made.target == "none"
    assert made.reasons[0] == "rejected: it looks like none of the domains"
    bare = table.targets.only(["lawyer", "banker", "doctor"])
    made = policy.decide(asked, bare, RNG)
    assert made.target in bare.ids
    assert "there is no target 'none' here" in made.reasons[0]
    assert policy.decide(request, table.targets, RNG).reasons[0].startswith("domain ")
    refused = policy.decide(Request(text="galaxy", features=asked.features, constraints=Constraints()), table.targets, RNG)
    assert refused.target == "none"


@pytest.mark.parametrize("head", KINDS)
def test_every_head_conforms(head):
    check_policy(GQRConfig(head=head))


def test_heads_on_words_read_no_vector():
    table, _, _ = world(seed=9)
    policy = GQRConfig(head="fasttext").fit(table, table.features(), RNG)
    assert policy.needs == frozenset()
    assert policy.groups_of(table.features()).shape == (len(table),)
    with pytest.raises(UserError, match="needs an embedding"):
        GQRConfig(head="svm").fit(table, table.features(), RNG)


def test_degenerate_tables_are_survived_or_refused():
    table, features, kind = world(rows=60, seed=10, strangers=0.5)
    out = np.flatnonzero(kind == 3)
    with pytest.raises(UserError, match="no in-domain row"):
        GQRConfig().fit(table.take(out), features.take(out), RNG)
    with pytest.raises(UserError, match="no label 'x'"):
        GQRConfig(label="x").fit(table, features, RNG)
    with pytest.raises(ConfigError, match=r"gqr\.loss"):
        GQRConfig(loss=1.0)
    first = [int(np.flatnonzero(kind == k)[0]) for k in range(3)]
    for head in KINDS:
        few = GQRConfig(head=head).fit(table.take(first), features.take(first), RNG)
        assert few.decide_many(features, table.targets, RNG)[0].shape == (60,)
    one = np.flatnonzero(kind == 0)
    for head in KINDS:
        alone = GQRConfig(head=head).fit(table.take(one), features.take(one), RNG)
        assert alone.table.groups == ("law", "outside")


def test_without_none_in_the_table_it_is_a_label_table_over_predicted_labels():
    table, features = planted()
    policy = GQRConfig(loss=0.0).fit(table, features, RNG)
    choices, _ = policy.decide_many(features.without_labels(), table.targets, RNG)
    assert table.quality[np.arange(len(table)), choices].mean() > 0.8
    assert len(policy.decide_sweep(features, table.targets, RNG).settings) > 50


@pytest.mark.parametrize("head", KINDS)
def test_heads_come_back_from_files(head):
    _, features, kind = world(rows=120, seed=11)
    made = fit_head(head, features, kind.astype(np.intp), 3, 1.0, np.random.default_rng(0), "test")
    again = Head.from_state(through_files(State(made.state().config, made.state().arrays)))
    assert np.array_equal(made.scores(features, "test"), again.scores(features, "test"))
    assert (made.scores(features, "test").argmax(axis=1) == kind).mean() > 0.9


def test_bags_alone_and_in_a_matrix_are_the_same():
    texts = ["a fox, a dog", "", "One WORD one word"]
    weights = np.random.default_rng(0).standard_normal((bags.PLACES, 3)).astype(np.float32)
    assert np.allclose(bags.matrix(texts) @ weights, bags.product(texts, weights), atol=1e-5)
    assert bags.product([""], weights).tolist() == [[0, 0, 0]]
    assert np.allclose(bags.product(["x y"], weights, pairs=False), bags.product(["y x"], weights, pairs=False))
