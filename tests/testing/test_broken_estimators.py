"""Every check of the estimator suite fails on an estimator that is broken in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from junctor.errors import ArtefactError
from junctor.estimators.knn import KNN, KNNConfig
from junctor.estimators.mean import Mean, MeanConfig
from junctor.policy import Estimator, EstimatorConfig, Prediction, State
from junctor.testing import check_estimator
from junctor.testing.estimators import ESTIMATOR_CHECKS


class Broken(Mean):
    """Wraps a sound estimator; subclasses break one thing."""

    name: ClassVar[str] = "broken"

    def __init__(self, inner: Mean) -> None:
        super().__init__(inner._columns, inner._mean, inner._error)

    def onboard(self, target, rows, features):
        return type(self)(super().onboard(target, rows, features))

    @classmethod
    def from_state(cls, state):
        return cls(Mean.from_state(state))


def config_of(kind: type[Estimator], prepare=lambda table, features, rng: table) -> EstimatorConfig:
    @dataclass(frozen=True, kw_only=True)
    class Config(EstimatorConfig):
        name: ClassVar[str] = "broken"
        fitted: ClassVar[type[Estimator]] = kind

        def fit(self, table, features, rng):
            return kind(MeanConfig().fit(prepare(table, features, rng), features, rng))

    return Config()


def test_the_base_of_these_is_sound():
    check_estimator(config_of(Broken))


@dataclass(frozen=True, kw_only=True)
class ForgetsSettings(EstimatorConfig):
    k: int = 1
    name: ClassVar[str] = "broken"
    fitted: ClassVar[type[Estimator]] = Broken

    def settings(self) -> dict[str, Any]:
        return {"k": 7}

    def fit(self, table, features, rng):
        return Broken(MeanConfig().fit(table, features, rng))


@dataclass(frozen=True, kw_only=True)
class NoGrid(ForgetsSettings):
    def settings(self):
        return {"k": self.k}

    def candidates(self, rows: int) -> Sequence[EstimatorConfig]:
        return []


class TooSure(Broken):
    def predict_many(self, features):
        found = super().predict_many(features)
        return replace(found, quality=found.quality * 3)

    def predict(self, features):
        found = super().predict(features)
        return replace(found, quality=found.quality * 3)


class OneDiffers(Broken):
    def predict(self, features):
        found = super().predict(features)
        return replace(found, quality=found.quality * 0.5)


class ExpectsOtherwise(Broken):
    def expect(self, features):
        found = super().expect(features)
        return replace(found, quality=found.quality * 0.5)


class Dice(Broken):
    def predict_many(self, features):
        found = super().predict_many(features)
        return replace(found, quality=np.random.default_rng().random(found.quality.shape))

    def predict(self, features):
        return Estimator.predict(self, features)


def spoils(table, features, rng):
    features.embedding[0] = 0
    return table


class ReadsLabels(Broken):
    def predict_many(self, features):
        if not features.labels:
            raise TypeError("no labels")
        return super().predict_many(features)


def zeros_for_gaps(table, features, rng):
    return replace(table, quality=np.nan_to_num(table.quality))


def zeros_for_untried(table, features, rng):
    untried = np.isnan(table.quality).all(axis=0)
    return replace(table, quality=np.where(untried, 0.0, table.quality))


class MakesUpCosts(Broken):
    def predict(self, features):
        found = super().predict(features)
        return found if found.cost_usd is not None else replace(found, cost_usd=np.zeros_like(found.quality))

    def predict_many(self, features):
        found = super().predict_many(features)
        return found if found.cost_usd is not None else replace(found, cost_usd=np.zeros_like(found.quality))


class OnboardsInPlace(Broken):
    def onboard(self, target, rows, features):
        wider = super().onboard(target, rows, features)
        self.targets = wider.targets
        return wider


class SpeaksOfOthers(Broken):
    def state(self):
        state = super().state()
        return State(state.config, {**state.arrays, "mean": state.arrays["mean"] * 0.5})


class Trusting(Broken):
    @classmethod
    def from_state(cls, state):
        try:
            return super().from_state(state)
        except ArtefactError:
            return cls(MeanConfig().fit(*_any()))


def _any():
    from junctor.testing import planted

    return (*planted(10), np.random.default_rng(0))


BROKEN = [
    ("settings_round_trip", ForgetsSettings(), "do not make the same config"),
    ("candidates_are_configs", NoGrid(), "is empty"),
    ("predicts_every_target", config_of(TooSure), "above 1"),
    ("one_row_equals_many", config_of(OneDiffers), "differs: predict says"),
    ("one_row_equals_many", config_of(ExpectsOtherwise), "differs: expect says"),
    ("same_seed_same_prediction", config_of(Dice), "take randomness from rng"),
    ("leaves_inputs_alone", config_of(Broken, spoils), "changed the table or the features"),
    ("needs_are_declared", config_of(ReadsLabels), "reads more than needs"),
    ("masks_missing_cells", config_of(Broken, zeros_for_gaps), "missing cells count as failures"),
    ("never_tried_is_not_a_failure", config_of(Broken, zeros_for_untried), "never tried is predicted to fail"),
    ("unrecorded_costs_are_none", config_of(MakesUpCosts), "although nothing was recorded"),
    ("onboards_a_target", config_of(OnboardsInPlace), "return a new one"),
    ("state_round_trips", config_of(SpeaksOfOthers), "differs after a round trip"),
    ("damaged_state_is_refused", config_of(Trusting), "nothing was raised"),
]


@pytest.mark.parametrize(("check", "config", "said"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_each_check_fails_on_what_it_is_for(check, config, said):
    others = [found.__name__ for found in ESTIMATOR_CHECKS if found.__name__ != check]
    with pytest.raises(AssertionError, match=said):
        check_estimator(config, leave_out=others)


def test_no_check_is_without_a_case():
    assert {name for name, _, _ in BROKEN} == {check.__name__ for check in ESTIMATOR_CHECKS}


class AsksNothing(KNN):
    """Answers without the embedding that it declares."""

    def predict_many(self, features):
        if features.embedding is None:
            return Prediction(np.full((len(features), len(self.targets)), 0.5))
        return super().predict_many(features)


@dataclass(frozen=True, kw_only=True)
class AsksNothingConfig(KNNConfig):
    fitted: ClassVar[type[Estimator]] = AsksNothing
    extra: dict[str, int] = field(default_factory=dict)

    def fit(self, table, features, rng):
        found = super().fit(table, features, rng)
        return AsksNothing(self, found._columns, found._vectors, found._outcomes)


def test_an_absent_embedding_must_be_refused_by_name():
    others = [found.__name__ for found in ESTIMATOR_CHECKS if found.__name__ != "needs_are_declared"]
    with pytest.raises(AssertionError, match="an embedding is absent, and nothing was raised"):
        check_estimator(AsksNothingConfig(), leave_out=others)
