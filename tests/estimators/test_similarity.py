"""similarity: descriptions against queries, without a single outcome."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.encoders import load_encoder
from junctor.errors import ArtefactError, ConfigError, UserError
from junctor.estimators.similarity import Similarity, SimilarityConfig
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import State
from junctor.types import Catalogue, Target

TARGETS = Catalogue(
    [
        Target(id="weather-agent", description="weather forecast, rain, temperature"),
        Target(id="bank-agent", description="bank transfer, account balance, payment"),
        Target(id="train_timetable"),
    ]
)
NOTHING = OutcomeTable(texts=[], targets=TARGETS, quality=np.empty((0, 3)))
RNG = np.random.default_rng(0)
ENCODER = load_encoder("lexical")


def embedded(*texts: str) -> Features:
    return Features(list(texts), ENCODER.encode(texts))


def zero_shot(**settings) -> Similarity:
    return SimilarityConfig(encoder="lexical", **settings).fit(NOTHING, Features([]), RNG)


def test_it_routes_without_outcomes_and_reads_the_id_where_there_is_no_description():
    asked = embedded("rain forecast please", "what is my account balance", "a train timetable")
    for settings in ({"lexical": 0.0}, {"lexical": 0.5}):
        found = zero_shot(**settings).predict_many(asked)
        assert found.quality.argmax(axis=1).tolist() == [0, 1, 2]
        assert found.cost_usd is None


def test_quality_is_the_cosine_moved_into_the_unit_interval():
    found = zero_shot(lexical=0.0).predict(embedded("weather forecast, rain, temperature"))
    assert found.quality[0] == pytest.approx(1.0, abs=1e-6)
    cosines = ENCODER.encode([TARGETS[0].description]) @ ENCODER.encode([TARGETS[1].description]).T
    assert found.quality[1] == pytest.approx((1 + cosines[0, 0]) / 2, abs=1e-6)


def test_recorded_costs_become_means():
    table = OutcomeTable(["x", "y"], TARGETS, np.ones((2, 3)), cost_usd=np.array([[1.0, 2.0, np.nan], [3.0, 2.0, np.nan]]))
    fitted = SimilarityConfig(encoder="lexical").fit(table, embedded("x", "y"), RNG)
    assert fitted.predict(embedded("x")).cost_usd[:2].tolist() == [2, 2]
    assert np.isnan(fitted.predict(embedded("x")).cost_usd[2])


def test_a_new_target_needs_a_description_only():
    new = Target(id="poet", description="poems and rhymes")
    rows = OutcomeTable([], Catalogue([new]), np.empty((0, 1)))
    wider = zero_shot().onboard("poet", rows, Features([]))
    assert wider.predict(embedded("write poems with rhymes")).quality.argmax() == 3


def test_another_encoder_and_wrong_settings_are_refused():
    table = OutcomeTable(["x"], TARGETS, np.ones((1, 3)))
    with pytest.raises(UserError, match=r"similarity\.encoder: 'lexical' makes vectors of 512 numbers, the features have 2"):
        SimilarityConfig(encoder="lexical").fit(table, Features(["x"], np.ones((1, 2), np.float32)), RNG)
    with pytest.raises(ConfigError, match=r"similarity\.lexical: must be in \[0, 1\]"):
        SimilarityConfig(lexical=2.0)
    assert [c.lexical for c in SimilarityConfig().candidates(10)] == [0.0, 0.3, 0.6]


def test_state_of_another_n_gram_encoder_is_refused():
    state = zero_shot(lexical=0.5).state()
    with pytest.raises(ArtefactError, match="another version of the encoder lexical"):
        Similarity.from_state(State({**state.config, "lexical_digest": "old"}, state.arrays))
