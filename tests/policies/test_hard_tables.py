"""Tables with little in them, for the published neighbours, tables and regressions: a choice, or a typed error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.estimators.tables import NAN, at, seen, table

from junctor.errors import UserError
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policy import Policy
from junctor.types import Request

NAMES = (
    "knn",
    "knn-vote",
    "avengers",
    "uniroute",
    "routerretriever",
    "carrot",
    "tryage",
    "hybrid-llm",
    "routerbench-mlp",
    "scope",
    "hallucibot",
)
ANGLES = (0, 10, 20, 90, 100, 110)


def fitted(name: str, rows: OutcomeTable) -> tuple[Policy, list[str]]:
    """A policy fitted on rows at these angles, and what it chooses for each of them, alone and together."""
    features = replace(seen(at(*ANGLES[: len(rows)])), labels=dict(rows.labels))
    policy = policy_config(name).fit(rows, features, np.random.default_rng(0))
    asked = features.without_labels()
    together = policy.decide_many(asked, rows.targets, np.random.default_rng(0))[0]
    alone = [
        policy.decide(Request(id="r", features=asked.take([i])), rows.targets, np.random.default_rng(0)).target
        for i in range(len(rows))
    ]
    assert [rows.targets.ids[i] for i in together] == alone
    sweep = policy.decide_sweep(asked, rows.targets, np.random.default_rng(0))
    assert ((sweep.choices >= 0) & (sweep.choices < len(rows.targets))).all()
    return policy, alone


@pytest.mark.parametrize("name", NAMES)
def test_one_target_is_always_chosen(name):
    _, chosen = fitted(name, table([[1], [0], [1], [0], [1], [0]]))
    assert set(chosen) == {"a"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_where_all_scores_are_the_same_the_cheapest_is_as_good_as_any(name, score):
    _, chosen = fitted(name, table([[score] * 3] * 6, cost=[[3, 1, 2]] * 6))
    assert set(chosen) == {"b"}


@pytest.mark.parametrize("name", NAMES)
def test_a_target_that_was_never_tried_is_not_chosen(name):
    _, chosen = fitted(name, table([[NAN, 1, 0], [NAN, 1, 0], [NAN, 1, 0], [NAN, 0, 1], [NAN, 0, 1], [NAN, 0, 1]]))
    assert "a" not in chosen


@pytest.mark.parametrize("name", NAMES)
def test_one_row_of_each_kind(name):
    _, chosen = fitted(name, table([[1, 0], [0, 1]], cost=[[1, 2]] * 2, labels=["x", "y"]))
    assert set(chosen) <= {"a", "b"}


@pytest.mark.parametrize("name", NAMES)
def test_a_single_row(name):
    _, chosen = fitted(name, table([[0.2, 0.9]], cost=[[1, 2]]))
    assert chosen in (["b"], ["a"])


@pytest.mark.parametrize("name", NAMES)
def test_cells_that_no_two_targets_share(name):
    quality = [[1, NAN], [NAN, 0], [1, NAN], [NAN, 1], [0, NAN], [NAN, 1]]
    _, chosen = fitted(name, table(quality, cost=[[1, NAN], [NAN, 2]] * 3))
    assert set(chosen) <= {"a", "b"}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_without_any_outcome_is_a_typed_error(name):
    rows = table([[NAN, NAN]] * 3)
    with pytest.raises(UserError):
        fitted(name, rows)
