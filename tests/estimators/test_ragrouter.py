"""ragrouter: documents on the topic make readers right, others mislead them; a router that does not look loses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.errors import ArtefactError, ConfigError, UserError
from junctor.estimators.knn import KNNConfig
from junctor.estimators.linear import LinearConfig
from junctor.estimators.ragrouter import RAGRouterConfig, RAGShift, parted, partners
from junctor.policy import State
from junctor.testing import planted
from junctor.testing.planted import through_files

from .worlds import with_documents

MARK = RAGRouterConfig().marker


@pytest.mark.slow
def test_it_wins_where_documents_matter_and_not_without_looking_at_them():
    worlds = [with_documents(seed=seed) for seed in (0, 1)]
    bars = [
        max(w.gained(bar) for bar in (LinearConfig(alpha=3.0), LinearConfig(), KNNConfig(k=40), KNNConfig(k=10)))
        for w in worlds
    ]
    found = [world.gained(RAGRouterConfig()) for world in worlds]
    assert min(np.array(found) - bars) > 0.05, f"{found} against {bars}"
    static = [world.gained(RAGRouterConfig(documents=False)) for world in worlds]
    assert max(np.array(static) - bars) < 0.05, f"the static router {static} against {bars}"


def test_it_converges():
    losses = with_documents(seed=0).fit(RAGRouterConfig()).losses
    assert losses[-1] < 0.8 * losses[0]


def test_without_documents_it_is_an_ordinary_estimator_and_reads_no_text():
    table, features = planted(240)
    table = table.only(table.targets.ids[:3])
    fitted = RAGRouterConfig(encoder="there is none").fit(table, features, np.random.default_rng(0))
    chosen = fitted.predict_many(features).quality.argmax(axis=1)
    gained = table.quality[np.arange(240), chosen].mean()
    assert gained > table.quality.mean(axis=0).max() + 0.2
    marked = replace(features, texts=[f"question {i}{MARK}and documents" for i in range(240)])
    assert np.array_equal(fitted.predict_many(marked).quality, fitted.predict_many(features).quality)


def test_text_is_taken_apart_at_the_marker():
    world = with_documents(seed=0, rows=20, test=1)
    vectors = world.features.embedding.astype(np.float64)
    found = parted(RAGRouterConfig(), vectors, world.features.texts, reads=True)
    given = np.array([MARK in text for text in world.features.texts])
    assert (found.signs[:, 0] == given).all()
    assert np.array_equal(found.query[~given], vectors[~given])
    assert not np.allclose(found.query[given], vectors[given])
    assert (np.abs(found.documents[~given]) == 0).all()
    assert found.signs[given, 1] == pytest.approx(np.sum(found.query * found.documents, axis=1)[given])


def test_the_same_query_with_and_without_documents_is_a_pair():
    assert partners(MARK, ["a", f"a{MARK}x", "b", f"a{MARK}y", f"c{MARK}z"]).tolist() == [1, 0, -1, 0, -1]


def test_another_encoder_is_refused():
    world = with_documents(seed=0, rows=40, test=1)
    with pytest.raises(UserError, match=r"ragrouter.encoder: 'lexical' makes vectors of"):
        world.fit(RAGRouterConfig(encoder="lexical", epochs=1))
    state = through_files(world.fit(RAGRouterConfig(epochs=1)).state())
    with pytest.raises(ArtefactError, match="another version of the encoder"):
        RAGShift.from_state(State({**state.config, "stamp": "0123"}, state.arrays))
    again = RAGShift.from_state(state)
    assert np.isfinite(again.predict_many(world.features).quality).all()


def test_a_newcomer_reads_like_the_others():
    world = with_documents(seed=0)
    ids = world.table.targets.ids
    old = RAGRouterConfig().fit(world.table.only(ids[:-1]), world.features, np.random.default_rng(0))
    new = old.onboard(ids[-1], world.table.take(range(200)), world.features.take(range(200)))
    found = new.predict_many(world.test).quality[:, -1]
    on_topic, misled = world.chance[:, -1] > 0.9, world.chance[:, -1] < 0.2
    assert found[on_topic].mean() > found[misled].mean() + 0.3


def test_settings_are_validated():
    for settings, said in (({"marker": ""}, "ragrouter.marker"), ({"contrast": -1.0}, "ragrouter.contrast")):
        with pytest.raises(ConfigError, match=said):
            RAGRouterConfig(**settings)
