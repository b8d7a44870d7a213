"""stack: worlds in which one member matters, worlds in which none does, and what a user hands it on a bad day."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators import blending, stack_fitting
from junctor.estimators.knn import KNNConfig
from junctor.estimators.label_table import LabelTableConfig
from junctor.estimators.linear import LinearConfig
from junctor.estimators.stack import LabelledStackConfig, Stack, StackConfig, within_unit
from junctor.estimators.stacking import fitted_temperature, folds_of, gap_weights, gaps, label_places, soft_table
from junctor.estimators.text_statistics import MOST, NAMES, many, statistics
from junctor.features import Features
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policies.utility import UtilityConfig
from junctor.testing import planted
from junctor.testing.planted import requests, through_files, with_gaps
from junctor.types import Catalogue, Constraints, Request

from .worlds import World, recorded, units

SEEDS = (0, 1)


def world(quality: np.ndarray, vectors: np.ndarray, chance: np.ndarray, labels: list[str] | None = None) -> World:
    """The first rows to learn from, the others to judge on; labels are there on both, and left out where they should be."""
    rows = len(quality)
    kept = {} if labels is None else {"labels": {"task": labels[:rows]}, "label_name": "task"}
    table, features = recorded(quality, vectors[:rows], **kept)
    shown = {} if labels is None else {"task": labels[rows:]}
    return World(
        table, features, Features([""] * (len(vectors) - rows), vectors[rows:].astype(np.float32), shown), chance[rows:]
    )


def drawn(chance: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    return (rng.random((rows, chance.shape[1])) < chance[:rows]).astype(np.float64)


def sectors(seed: int = 0, rows: int = 600, targets: int = 4, dim: int = 16, tasks: int = 6, test: int = 1500) -> World:
    """The task is whose direction a query is nearest to: easily told from the vector, but in no cluster, and no straight line
    says what a target is worth. Each target is good at the tasks of its own.
    """
    rng = np.random.default_rng(seed)
    vectors, directions = units(rng, rows + test, dim), units(rng, tasks, dim)
    task = (vectors @ directions.T).argmax(axis=1)
    skill = np.where(np.arange(tasks)[:, None] % targets == np.arange(targets), 0.85, 0.25)
    chance = skill[task]
    return world(drawn(chance, rows, rng), vectors, chance, [f"task {t}" for t in task.tolist()])


def linear(seed: int = 0, rows: int = 600, targets: int = 4, dim: int = 24, test: int = 1500) -> World:
    """A chance is a straight line in the vector."""
    rng = np.random.default_rng(seed)
    vectors = units(rng, rows + test, dim)
    chance = np.clip(0.5 + 0.35 * vectors @ rng.standard_normal((dim, targets)), 0.02, 0.98)
    return world(drawn(chance, rows, rng), vectors, chance)


def local(seed: int = 0, rows: int = 900, targets: int = 4, test: int = 1500) -> World:
    """A chessboard on a sphere: only neighbours know."""
    rng = np.random.default_rng(seed)
    vectors = units(rng, rows + test, 3)
    phase = rng.uniform(0, 6, (targets, 2))
    chance = 0.5 + 0.4 * np.prod(np.sign(np.sin(4 * vectors[:, None, :2] + phase)), axis=2)
    return world(drawn(chance, rows, rng), vectors, chance)


def noise(seed: int = 0, rows: int = 400, test: int = 500) -> World:
    """The vector says nothing; the first target is best."""
    rng = np.random.default_rng(seed)
    chance = np.tile([0.6, 0.5, 0.45, 0.4], (rows + test, 1))
    return world(drawn(chance, rows, rng), units(rng, rows + test, 24), chance)


def unlabelled(made: World) -> World:
    return replace(made, test=made.test.without_labels())


def bars(made: World) -> list[float]:
    """kNN and ridge, alone, each at its best setting for this very world."""
    knn = max(made.gained(KNNConfig(k=k)) for k in (20, 80, 160))
    return [knn, max(made.gained(LinearConfig(alpha=alpha, loss="squared")) for alpha in (3.0, 30.0, 300.0))]


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_of_recorded_rows_alone_are_worth_predicting(seed, monkeypatch):
    """It beats the best single target (0), kNN and ridge by far, and no longer does without its table over predicted labels."""
    made = unlabelled(sectors(seed))
    fitted = made.fit(StackConfig())
    reached = made.reached(fitted)
    assert reached > 0.6
    assert reached > max(bars(made)) + 0.12
    assert fitted.members["label"] > 0.4
    monkeypatch.setattr(stack_fitting, "label_places", lambda labels: ([], np.full(len(labels), -1)))
    assert made.gained(StackConfig()) < reached - 0.12, "removing the label member loses nothing"


def test_labels_that_requests_bring_are_believed():
    """As good as the table over known labels; a label that was never seen, or none, is predicted."""
    made = sectors()
    assert made.gained(LabelledStackConfig()) > made.gained(LabelTableConfig()) - 0.02
    fitted = made.fit(LabelledStackConfig())
    assert fitted.needs == {"embedding", "labels"}
    bare = unlabelled(made)
    strange = replace(made, test=Features(made.test.texts, made.test.embedding, {"task": ["never seen"] * len(made.test)}))
    assert bare.reached(fitted) == pytest.approx(strange.reached(fitted))
    assert bare.reached(fitted) > 0.4
    again = type(fitted).from_state(through_files(fitted.state()))
    assert np.array_equal(again.predict_many(made.test).quality, fitted.predict_many(made.test).quality)


@pytest.mark.parametrize("make", [linear, local])
def test_it_is_never_far_below_the_best_of_its_members(make):
    """Which of them that is differs from world to world, and nobody told it."""
    lost = []
    for seed in SEEDS:
        made = make(seed)
        fitted = made.fit(StackConfig())
        lost.append(max(bars(made)) - made.reached(fitted))
    assert np.mean(lost) < 0.04, lost
    assert fitted.members["ridge3" if make is linear else "knn20"] > 0.4


def test_where_nothing_helps_it_is_the_best_single_target_and_says_so():
    """Most of the time; where luck on held-out rows fools it, it costs next to nothing."""
    fell, value = [], []
    for seed in range(8):
        made = noise(seed)
        fitted = made.fit(StackConfig())
        places = fitted.predict_many(made.test).quality.argmax(axis=1)
        fell.append(not any(fitted.members.values()))
        value.append(made.chance[0][places].mean())
        if fell[-1]:
            assert fitted.summary.startswith("nothing beat the best single target on held-out rows")
            assert set(places.tolist()) == {0}
    assert sum(fell) >= 5
    assert np.mean(value) > 0.6 - 0.004


def test_it_says_who_is_in_it_and_what_that_gained():
    fitted = unlabelled(sectors()).fit(StackConfig())
    assert fitted.summary.startswith("stack of label 0.")
    assert "against the best single target on held-out rows" in fitted.summary
    assert float(fitted.summary.split("; ")[1].split(" ")[0]) > 0.1


GAPS = {
    "30% of the cells missing": lambda t: with_gaps(t, 0.3, np.random.default_rng(0)),
    "90% of the cells missing": lambda t: with_gaps(t, 0.9, np.random.default_rng(0)),
    "two targets": lambda t: t.only(t.targets.ids[:2]),
    "one target": lambda t: t.only(t.targets.ids[:1]),
    "one label per row": lambda t: replace(t, labels={"topic": [f"label {i}" for i in range(len(t))]}),
    "no label": lambda t: replace(t, labels={}, label_name=""),
    "constant scores": lambda t: replace(t, quality=np.ones_like(t.quality)),
    "a target never recorded": lambda t: replace(t, quality=np.where(np.arange(4) == 1, np.nan, t.quality)),
    "nothing recorded": lambda t: replace(t, quality=np.full_like(t.quality, np.nan)),
    "no costs": lambda t: replace(t, cost_usd=None, latency_s=None, output_tokens=None),
    "one outcome per row": lambda t: replace(
        t, quality=np.where(np.arange(4) == np.arange(len(t))[:, None] % 4, t.quality, np.nan)
    ),
    "the same prompt on every row": lambda t: replace(t, texts=["again"] * len(t)),
}


@pytest.mark.parametrize("case", GAPS)
@pytest.mark.parametrize("rows", [240, 21, 5, 1])
def test_whatever_was_recorded_it_gives_defined_predictions(case, rows):
    """NaN for a target of which nothing is known, numbers in range for the others; one row and many agree."""
    table, features = planted(240)
    table, features = GAPS[case](table).take(range(rows)), features.take(range(rows))
    fitted = StackConfig().fit(table, features, np.random.default_rng(0))
    found = fitted.predict_many(features.without_labels())
    never = ~table.mask.any(axis=0)
    assert np.isnan(found.quality[:, never]).all()
    assert ((found.quality[:, ~never] >= 0) & (found.quality[:, ~never] <= 1)).all()
    assert (found.quality_std[:, ~never] >= 0).all()
    if found.cost_usd is not None:
        assert (found.cost_usd[~np.isnan(found.cost_usd)] >= 0).all()
    one = fitted.predict(features.without_labels().take([0]))
    assert one.quality == pytest.approx(found.quality[0], nan_ok=True)
    assert one.quality_std == pytest.approx(found.quality_std[0], nan_ok=True)
    again = Stack.from_state(through_files(fitted.state()))
    assert np.array_equal(again.predict_many(features.without_labels()).quality, found.quality, equal_nan=True)


def test_a_handful_of_rows_is_the_means():
    table, features = planted(5)
    fitted = StackConfig().fit(table, features, np.random.default_rng(0))
    assert fitted.predict_many(features).quality == pytest.approx(np.tile(table.quality.mean(axis=0), (5, 1)))
    assert "fewer than 20 rows" in fitted.summary
    with pytest.raises(UserError, match="there is no row to learn from"):
        StackConfig().fit(table.take(range(0)), features.take(range(0)), np.random.default_rng(0))


def test_gaps_at_random_cost_little():
    made = unlabelled(sectors())
    gappy = replace(made, table=with_gaps(made.table, 0.3, np.random.default_rng(0)))
    assert gappy.gained(StackConfig()) > made.gained(StackConfig()) - 0.15


def test_doubt_grows_with_the_distance_from_what_was_seen():
    made = linear()
    fitted = made.fit(StackConfig())
    centre = made.features.embedding.mean(axis=0, keepdims=True)
    step = made.test.embedding[:1]
    doubts = [fitted.predict(Features([""], centre + far * step)).quality_std for far in (0.0, 0.5, 1.0, 3.0)]
    assert all((later > earlier).all() for earlier, later in pairwise(doubts))
    rare = replace(made.table, quality=np.where(np.arange(600)[:, None] >= [600, 600, 600, 12], np.nan, made.table.quality))
    unsure = replace(made, table=rare).fit(StackConfig()).predict_many(made.test).quality_std.mean(axis=0)
    assert unsure[3] > 1.2 * unsure[:3].max(), "what was recorded seldom is known less"


def test_two_standard_errors_hold_four_of_five_true_chances():
    held = []
    for seed in range(3):
        made = linear(seed)
        found = made.fit(StackConfig()).predict_many(made.test)
        held.append((np.abs(found.quality - made.chance) <= 2.0 * found.quality_std).mean())
    assert np.mean(held) >= 0.8
    assert np.mean(held) < 0.99, "intervals that hold everything say nothing"


@pytest.mark.parametrize("make", [sectors, linear, local, noise])
def test_predictions_are_right_on_average_for_every_target(make):
    """Of new rows their true mean, within what so few rows can tell."""
    made = unlabelled(make())
    found = made.fit(StackConfig()).predict_many(made.test).quality.mean(axis=0)
    error = 0.5 * np.sqrt(1.0 / len(made.table) + 1.0 / len(made.test))
    assert np.abs(found - made.chance.mean(axis=0)).max() < 4.0 * error


def test_a_floor_and_a_budget_are_met_through_the_policy():
    table, features = planted(600)
    learn, rest = range(400), range(400, 600)
    config = policy_config("stack")
    assert isinstance(config, UtilityConfig)
    rng = np.random.default_rng(0)
    policy = config.fit(table.take(learn), features.take(learn), rng)
    spent, reached = [], []
    for request in requests(table, features, rest):
        told = Request(id=request.id, features=request.features.without_labels(), constraints=Constraints(budget_usd=0.001))
        made = policy.decide(told, table.targets, rng)
        spent.append(made.ranked[0].predicted.cost_usd)
        assert made.target != "generalist"
    assert max(spent) <= 0.001
    for floor in (0.3, 0.6, 0.8):
        frugal = replace(config, quality_floor=floor).fit(table.take(learn), features.take(learn), rng)
        places, _ = frugal.decide_many(features.take(rest).without_labels(), table.targets, rng)
        reached.append(table.quality[np.arange(400, 600), places].mean())
        assert reached[-1] > floor - 0.08
    assert reached == sorted(reached)


def test_the_same_seed_decides_the_same_and_everything_survives_files():
    """With a memory of neighbours in it."""
    made = local()
    first, second = made.fit(StackConfig(), seed=3), made.fit(StackConfig(), seed=3)
    assert np.array_equal(first.predict_many(made.test).quality, second.predict_many(made.test).quality)
    again = Stack.from_state(through_files(first.state()))
    assert any(name.startswith("memory/") for name in first.state().arrays)
    assert (again.members, again.summary) == (first.members, first.summary)
    before, after = (one.predict_many(made.test) for one in (first, again))
    assert np.array_equal(before.quality, after.quality)
    assert np.array_equal(before.quality_std, after.quality_std)
    row = made.test.take([7])
    assert first.predict(row).quality == pytest.approx(before.quality[7])


def test_a_new_target_is_learned_from_a_few_rows():
    """The last one is left out of the fit and shown on 60 rows: it then gets a good part of what it is best at."""
    made = unlabelled(sectors(rows=900))
    known = made.table.only(made.table.targets.ids[:3])
    fitted = StackConfig().fit(known, made.features, np.random.default_rng(0))
    rows = np.random.default_rng(1).choice(900, 60, replace=False)
    wider = fitted.onboard("target-3", made.table.take(rows), made.features.take(rows))
    best = made.chance.argmax(axis=1) == 3
    places = wider.predict_many(made.test).quality.argmax(axis=1)
    assert (places[best] == 3).mean() > 2.0 * (places[~best] == 3).mean()
    assert wider.targets == made.table.targets.ids


def test_settings_are_checked():
    for settings, said in (({"folds": 1}, "stack.folds"), ({"held_out": 0}, "stack.held_out"), ({"rows": 0}, "stack.rows")):
        with pytest.raises(ConfigError, match=said):
            StackConfig(**settings)
    with pytest.raises(ConfigError, match=r"stack-labels.folds"):
        LabelledStackConfig(folds=1)


def test_fewer_rows_may_be_looked_at():
    made = linear()
    small = made.fit(StackConfig(rows=200, held_out=100))
    assert made.reached(small) > 0.5
    assert made.reached(small) < made.gained(StackConfig())


def test_gaps_are_taken_within_a_row_among_what_was_recorded():
    values = np.array([[1.0, 3.0, 9.0], [2.0, np.nan, 4.0]])
    seen = ~np.isnan(values)
    seen[0, 2] = False
    assert gaps(values, seen).tolist() == [[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]


def test_weights_are_found_and_never_negative():
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, 500, 4))
    noisy = 0.7 * one + 0.2 * two + 0.1 * rng.standard_normal((500, 4)) + rng.standard_normal((500, 1))
    found = gap_weights({"one": one, "two": two, "against": -one}, noisy)
    assert found["one"] == pytest.approx(0.7, abs=0.02)
    assert found["two"] == pytest.approx(0.2, abs=0.02)
    assert found["against"] == pytest.approx(0.0, abs=1e-6)
    assert gap_weights({"one": np.zeros((5, 2))}, np.ones((5, 2))) == {"one": 0.0}


def test_small_parts_by_hand():
    assert label_places(["b", "a", "", "b"]) == (["a", "b"], pytest.approx(np.array([1, 0, -1, 1])))
    assert label_places(["", ""])[0] == []
    membership = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    table = soft_table(membership, np.array([[1.0], [np.nan], [0.0]]), np.array([0.5]))
    assert table[:, 0] == pytest.approx([(1.0 + 4.0 * 0.5) / 5.0, (0.0 + 4.0 * 0.5) / 5.0])
    sure, unsure = np.eye(3)[[0, 1, 2]], np.zeros((3, 3))
    assert fitted_temperature(sure, np.arange(3)) > 20.0
    assert fitted_temperature(unsure, np.array([-1, -1, -1])) == 1.0
    fold = folds_of(np.array([0, 0, 1, 2, 2, 3]), 2, np.random.default_rng(0))
    assert fold[0] == fold[1]
    assert fold[3] == fold[4]
    assert within_unit(np.array([[0.5, 1.2], [-0.1, 0.3], [0.2, 0.4]])) == pytest.approx(
        np.array([[0.3, 1], [0, 0.4], [0.2, 0.4]])
    )


def test_contenders_are_the_best_and_those_that_somebody_would_choose():
    mean = np.array([0.9, 0.8, np.nan, 0.7, 0.6, 0.5, 0.1, 0.2])
    assert blending.best_columns(mean).tolist() == [0, 1, 3, 4, 5]
    assert blending.best_columns(np.array([np.nan, np.nan])).tolist() == [0]


def by_name(text: str) -> dict[str, float]:
    return dict(zip(NAMES, statistics(text), strict=True))


def test_statistics_of_a_text_by_hand():
    found = by_name("Add 12 and 30, then\nsay (why)?")
    assert found["length"] == pytest.approx(np.log1p(30))
    assert found["words"] == pytest.approx(np.log1p(7))
    assert found["lines"] == pytest.approx(np.log1p(1))
    assert found["digits"] == pytest.approx(4 / 30)
    assert found["capitals"] == pytest.approx(1 / 30)
    assert found["punctuation"] == pytest.approx(2 / 30)
    assert found["symbols"] == pytest.approx(2 / 30)
    assert found["questions"] == 1.0
    assert found["beyond Latin-1"] == 0.0


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "?", "天气怎么样?", "Как дела?", "🙂" * 50, "\ud800", "\x00\x01", "é" * 10, "a" * 10_000]
)
def test_statistics_are_defined_for_every_text(text):
    found = statistics(text)
    assert len(found) == len(NAMES)
    assert np.isfinite(found).all()
    named = by_name(text)
    assert all(0.0 <= named[name] <= 1.0 for name in ("digits", "capitals", "punctuation", "symbols", "beyond Latin-1"))


def test_other_alphabets_are_told_apart_from_latin():
    assert by_name("天气怎么样？")["beyond Latin-1"] == 1.0
    assert by_name("Как дела?")["beyond Latin-1"] == pytest.approx(7 / 9)
    assert by_name("où est-il?")["beyond Latin-1"] == 0.0


def test_a_megabyte_of_text_takes_no_longer_than_a_page():
    """Its length is counted in full, the rest of it is not looked at."""
    page, book = "word 1, " * (MOST // 8), "word 1, " * 125_000
    assert by_name(page)["digits"] == by_name(book)["digits"]
    assert by_name(book)["length"] == pytest.approx(np.log1p(1_000_000))
    started = time.perf_counter()
    for _ in range(20):
        statistics(book)
    assert time.perf_counter() - started < 0.1
    assert many([]).shape == (0, len(NAMES))


def test_statistics_tell_what_a_vector_cannot():
    """Long texts suit one target, short ones another, and all vectors are alike."""
    rng = np.random.default_rng(0)
    long = rng.random(400) < 0.5
    texts = [("a word " * 80 if is_long else "a word") + f" {i}" for i, is_long in enumerate(long.tolist())]
    chance = np.where(long[:, None], [0.9, 0.3], [0.3, 0.8])
    table = OutcomeTable(texts=texts, targets=Catalogue.of(["a", "b"]), quality=(rng.random((400, 2)) < chance).astype(float))
    features = table.features(np.ones((400, 4), dtype=np.float32) / 2)
    fitted = StackConfig().fit(table.take(range(300)), features.take(range(300)), rng)
    places = fitted.predict_many(features.take(range(300, 400))).quality.argmax(axis=1)
    assert (places == np.where(long[300:], 0, 1)).mean() > 0.95
