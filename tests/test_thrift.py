"""The knob before serving: nothing is paid for quality that validation rows cannot see, and what they see is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policies.utility import UtilityConfig
from junctor.thrift import thrifty
from junctor.types import Catalogue

ROWS = 400
TRAIN, VALIDATION = np.arange(200), np.arange(200, 400)


def mean_policy(**settings: object) -> UtilityConfig:
    made = policy_config("label-table", settings)
    assert isinstance(made, UtilityConfig)
    return made


def table(gain_on_hard: float) -> OutcomeTable:
    """Half of the queries are hard: there the dear target is better by `gain_on_hard`; on easy ones both are alike."""
    hard = np.arange(ROWS) % 2 == 0
    noise = np.random.default_rng(0).normal(0, 0.01, (ROWS, 2))
    quality = np.clip(0.5 + noise + np.outer(hard, [0.0, gain_on_hard]), 0, 1)
    cost = np.tile([0.001, 0.1], (ROWS, 1))
    labels = {"task": ["hard" if h else "easy" for h in hard]}
    return OutcomeTable(
        texts=[str(i) for i in range(ROWS)],
        targets=Catalogue.of(["cheap", "dear"]),
        quality=quality,
        cost_usd=cost,
        labels=labels,
        label_name="task",
    )


def served_cost(found: OutcomeTable, config: UtilityConfig) -> tuple[float, float]:
    policy = config.fit(found, found.features(), np.random.default_rng(0))
    choices, _ = policy.decide_many(found.features(), found.targets, np.random.default_rng(0))
    assert found.cost_usd is not None
    rows = np.arange(len(found))
    return float(found.quality[rows, choices].mean()), float(found.cost_usd[rows, choices].mean())


def choose(found: OutcomeTable, config: UtilityConfig | None = None) -> UtilityConfig:
    rng = np.random.default_rng(0)
    return thrifty(config or mean_policy(), found, found.features(), TRAIN, VALIDATION, rng)


def test_quality_within_noise_is_not_paid_for() -> None:
    found = table(gain_on_hard=0.0)
    assert served_cost(found, choose(found))[1] == pytest.approx(0.001)


def test_quality_that_shows_is_kept_and_the_easy_half_goes_to_the_cheap_target() -> None:
    found = table(gain_on_hard=0.3)
    quality, cost = served_cost(found, choose(found))
    assert quality == pytest.approx(0.65, abs=0.01)
    assert cost == pytest.approx((0.001 + 0.1) / 2)
    assert served_cost(found, mean_policy())[1] >= cost


def test_without_costs_or_rows_or_knob_nothing_changes() -> None:
    found = table(0.3)
    plain = mean_policy()
    assert choose(replace(found, cost_usd=None)) == plain
    assert thrifty(plain, found, found.features(), TRAIN, [], np.random.default_rng(0)) == plain
    floor = mean_policy(quality_floor=0.5)
    assert choose(found, floor) == floor


def test_rows_with_gaps_do_not_count() -> None:
    found = table(0.3)
    gaps = found.quality.copy()
    gaps[VALIDATION] = np.nan
    assert choose(replace(found, quality=gaps)).cost_weight == 0.0
