"""Tuning on validation rows only, names to configs, versions; and the recorded RouterBench bars."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from junctor.curves import area_under_hull
from junctor.encoders import load_encoder
from junctor.errors import ConfigError, MissingExtra, TableError, UnknownName, UserError
from junctor.fitting import fit_policy, policy_config, validation_score
from junctor.outcomes import OutcomeTable
from junctor.outcomes.table import normalise
from junctor.policies.fixed import Fixed
from junctor.policies.utility import UtilityConfig
from junctor.policy import Policy, PolicyConfig
from junctor.testing import planted
from junctor.types import Catalogue

TRAIN, VALIDATION = np.arange(150), np.arange(150, 200)


def fit(config, table=None, features=None, seed=0, train=TRAIN, validation=VALIDATION, **more):
    own_table, own_features = planted(240)
    found = own_table if table is None else table
    seen = own_features if features is None else features
    return fit_policy(config, found, seen, train, validation, np.random.default_rng(seed), **more)


@dataclass(frozen=True, kw_only=True)
class Pick(PolicyConfig):
    """One fixed target; the grid tries them all, and `fit` notes how many rows it saw."""

    target: str = "linguist"
    seen: ClassVar[list] = []
    name: ClassVar[str] = "pick"
    fitted: ClassVar[type[Policy]] = Fixed

    def candidates(self, rows):
        return [Pick(target=t) for t in ("linguist", "calculator", "programmer", "generalist")]

    def fit(self, table, features, rng):
        self.seen.append((self.target, len(table), float(rng.random())))
        return Fixed([self.target], {}, 0)


def test_the_winner_on_validation_rows_is_fitted_on_training_and_validation_rows():
    Pick.seen.clear()
    table, features = planted(240)
    table = replace(table, cost_usd=None)
    table.quality[TRAIN] = 0.0
    table.quality[VALIDATION] = [0.1, 0.2, 0.9, 0.3]
    table.quality[200:] = [1.0, 1.0, 0.0, 1.0]
    made = fit(Pick(), table, features)
    assert made.config == Pick(target="programmer")
    assert [score for _, score in made.tried] == pytest.approx([0.1, 0.2, 0.9, 0.3])
    assert made.tried[2][0] == {"target": "programmer"}
    assert [rows for _, rows, _ in Pick.seen] == [150] * 4 + [200], "test rows are never seen"
    assert len({draw for _, _, draw in Pick.seen}) == 1, "luck does not choose between candidates"


def test_ties_go_to_the_first():
    table, features = planted(240)
    table = replace(table, quality=np.full_like(table.quality, 0.5), cost_usd=None)
    assert fit(Pick(), table, features).config.target == "linguist"


def test_with_costs_the_score_is_the_area_under_the_hull_between_the_singles():
    table = OutcomeTable(["x"] * 2, Catalogue.of(["a", "b"]), np.array([[0.5, 1.0]] * 2), np.array([[1.0, 3.0]] * 2))
    dear = validation_score(Fixed(["b"], {}, 0), table, table.features(), np.random.default_rng(0))
    cheap = validation_score(Fixed(["a"], {}, 0), table, table.features(), np.random.default_rng(0))
    assert (cheap, dear) == (0.5, 0.0), "all of the window lies left of the dear point"
    gap = replace(table, quality=np.array([[0.5, 1.0], [np.nan, 1.0]]))
    assert validation_score(Fixed(["a"], {}, 0), gap, gap.features(), np.random.default_rng(0)) == 0.5


def test_without_validation_rows_nothing_is_tuned():
    made = fit(policy_config("knn", {"k": 7}), validation=[])
    assert made.tried == []
    assert made.config.estimator.k == 7


def test_progress_is_told():
    told: list[tuple[int, int]] = []
    fit(Pick(), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    told.clear()
    fit(policy_config("random"), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]


def test_the_version_names_settings_data_rows_and_seed():
    one = fit(policy_config("mean")).policy.version
    assert one == fit(policy_config("mean")).policy.version
    others = [
        fit(policy_config("mean"), seed=1),
        fit(policy_config("mean"), train=TRAIN[:-1]),
        fit(policy_config("mean", {"cost_weight": 0.1})),
        fit(policy_config("mean"), planted(240, seed=3)[0]),
    ]
    assert len({one, *(made.policy.version for made in others)}) == 5


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        ({"validation": [140]}, TableError, "validation: is also a training row"),
        ({"validation": [999]}, TableError, "names a row that is not among the 240"),
        ({"train": np.ones(240, dtype=bool)}, UserError, "must be row positions"),
    ],
)
def test_wrong_rows_are_refused(rows, kind, said):
    with pytest.raises(kind, match=said):
        fit(policy_config("mean"), **rows)


def test_an_estimators_name_means_the_utility_over_it():
    made = policy_config("knn", {"k": 9, "cost_weight": 0.25})
    assert isinstance(made, UtilityConfig)
    assert (made.estimator_name, made.estimator.k, made.cost_weight) == ("knn", 9, 0.25)
    table, features = planted(50)
    policy = made.fit(table, features, np.random.default_rng(0))
    assert (policy.title, policy.name) == ("knn", "utility")
    assert policy_config("utility").label == ""
    assert policy_config("knn", {"label": "mine"}).label == "mine"
    assert policy_config("label-table", {"label": "topic"}).estimator.label == "topic", "its own setting goes first"


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("knn", {"kk": 3}, r"knn\.kk: unknown setting \(.*known: k, weights, shrinkage, .*cost_weight"),
        ("knn", {"cost_wieght": 3}, r"knn\.cost_wieght: unknown setting \(did you mean 'cost_weight'"),
        ("knn", {"k": "many"}, r"knn\.k: Expected `int`"),
        ("knn", {"cost_weight": "much"}, r"knn\.cost_weight: Expected `float`"),
        ("fixed", {"targets": "a"}, r"fixed\.targets: unknown setting \(did you mean 'target'\? known: target, then\)"),
        ("mean", {"alpha": 1}, r"mean\.alpha: unknown setting"),
    ],
)
def test_settings_are_validated(name, settings, said):
    with pytest.raises(ConfigError, match=said):
        policy_config(name, settings)


def test_an_unknown_name_lists_policies_and_estimators():
    with pytest.raises(UnknownName, match=r"no policy is called 'kn'.*utility.*knn"):
        policy_config("kn")


@pytest.fixture(scope="module")
def routerbench(data):
    """Three tasks of RouterBench: train and test rows as released, without broken pairs and rows in both; MiniLM vectors."""
    pl = pytest.importorskip("polars")
    path = data / "routerbench_subset" / "routerbench_arc_mbpp_winogrande.parquet"
    if not path.is_file():
        pytest.skip("the RouterBench subset is not among the recorded data")
    rows = pl.read_parquet(path).filter(~pl.col("broken_pair"))
    ids = [name.removeprefix("score:") for name in rows.columns if name.startswith("score:")]
    quality, cost = (rows.select([f"{kind}:{id_}" for id_ in ids]).to_numpy().astype(float) for kind in ("score", "cost_usd"))
    texts, split = rows["query"].to_list(), rows["split"].to_list()
    keys = [normalise(text) for text in texts]
    train, test = ({key for key, part in zip(keys, split, strict=True) if part == name} for name in ("train", "test"))
    places = [i for i, key in enumerate(keys) if key not in train & test]
    labels = {"dataset": rows["eval_name"].to_list()}
    table = OutcomeTable(texts, Catalogue.of(ids), quality, cost, labels=labels, label_name="dataset")
    try:
        features = table.features(load_encoder("minilm").encode(texts))
    except MissingExtra as error:
        pytest.skip(f"MiniLM is not installed: {error}")
    parts = {name: np.array([i for i in places if split[i] == name]) for name in ("train", "test")}
    return table, features, parts["train"], parts["test"]


BARS = [
    ("mean", {}, 0.8228),
    ("label-table", {"shrinkage": 0.0}, 0.8556),
    ("knn", {"k": 100}, 0.854),
    ("knn", {"k": 200}, 0.860),
    ("linear", {"alpha": 30.0, "loss": "squared"}, 0.854),
    ("linear", {"alpha": 100.0, "loss": "squared"}, 0.860),
]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("name", "settings", "bar"), BARS)
def test_recorded_routerbench_bars_are_met(routerbench, name, settings, bar):
    table, features, train, test = routerbench
    policy = policy_config(name, settings).fit(table.take(train), features.take(train), np.random.default_rng(0))
    assert validation_score(policy, table.take(test), features.take(test), np.random.default_rng(0)) == pytest.approx(
        bar, abs=0.005
    )


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", ["knn", "linear"])
def test_tuned_on_validation_rows_they_clear_the_zero_router(routerbench, name):
    table, features, train, test = routerbench
    mixed = np.random.default_rng(0).permutation(train)
    made = fit_policy(policy_config(name), table, features, mixed[500:], mixed[:500], np.random.default_rng(0))
    judged = table.take(test)
    single = judged.cost_usd.mean(axis=0)
    zero = area_under_hull(single, judged.quality.mean(axis=0), float(single.min()), float(single.max()))
    assert validation_score(made.policy, judged, features.take(test), np.random.default_rng(0)) > zero + 0.02
