"""Guarded routing: the metrics by hand, the experiment on a planted world, the readers of the published sets."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.guarded import FITTED, KNN, LOSS, Guarded, auroc, ground_of
from junctor.bench.prepare import prepare
from junctor.bench.resample import Resamples
from junctor.bench.sets.intents import HELD_OUT, clinc150, hwu64
from junctor.errors import TableError
from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue

WORDS = {
    "law": ("judge court contract sue", "divorce custody alimony spouse"),
    "money": ("stock bond loan tax", "invoice refund receipt payment"),
    "health": ("fever drug nurse cough", "tooth dentist filling gum"),
}
STRANGE = {"food": "soup pasta oven salt butter", "space": "comet planet rocket orbit moon"}


def table(rows=420, away=60, seed=0, known_strangers=0):
    """Three domains of two intents each in train, validation and test, and two sets of strangers in test alone."""
    rng = np.random.default_rng(seed)
    texts, split, domain, policy, outside = [], [], [], [], []
    for i in range(rows):
        name = ("law", "money", "health")[i % 3]
        part = int(rng.integers(2))
        texts.append(" ".join(rng.choice(WORDS[name][part].split(), 4)) + f" please {i}")
        split.append("train" if i < rows * 0.5 else "validation" if i < rows * 0.6 else "test")
        domain.append(name)
        policy.append(f"{name}: intent {part}")
        outside.append("")
    for name, words in STRANGE.items():
        for i in range(away):
            texts.append(" ".join(rng.choice(words.split(), 4)) + f" {name} {i}")
            split.append("train" if i < known_strangers else "test")
            domain.append("")
            policy.append("")
            outside.append(name)
    names = ("law", "money", "health", "none")
    quality = np.zeros((len(texts), 4))
    quality[np.arange(len(texts)), [names.index(d or "none") for d in domain]] = 1.0
    return OutcomeTable(
        texts,
        Catalogue.of(names),
        quality,
        labels={"domain": domain, "policy": policy, "outside": outside},
        label_name="domain",
        split=split,
    )


@pytest.fixture(scope="module")
def setup():
    return prepare(table(), None, "static", True, None)


def test_auroc_is_the_share_of_ordered_pairs_also_in_resamples():
    score = np.array([3.0, 2.0, 2.0, 1.0, 9.0])
    inside, outside = np.array([1, 1, 0, 0, 0], bool), np.array([0, 0, 1, 1, 0], bool)
    counts = np.array([[2, 0, 1, 1, 1], [0, 1, 1, 0, 5], [1, 1, 0, 0, 1]], np.uint8)
    # pairs: 3>2, 3>1, 2=2, 2>1; then twice the first row against both; then 2 against 2; then nobody to compare with
    assert auroc(score, inside, outside, Resamples(counts)) == pytest.approx([3.5 / 4, 1.0, 0.5, np.nan], nan_ok=True)


def test_strangers_are_averaged_over_sets_and_never_learned_from(setup):
    trial = ground_of(setup, 1, 10)[0]
    assert sorted(trial.strangers) == ["food", "space"]
    assert trial.inside.sum() == 168
    assert not any(setup.table.labels["outside"][i] for i in trial.known.tolist())


@pytest.mark.slow
def test_guards_beat_an_open_door_and_bars_are_there(setup):
    asked = Guarded().policies(setup)
    assert set(Guarded.bars) <= set(asked)
    assert "gqr:told" not in asked  # there is no stranger on the training side
    scores = {}
    for name in ("gqr", "gqr:fasttext", "arch-router:hierarchy", "arch-router:words", *Guarded.bars):
        found = Guarded().run(setup, name, seeds=1, resamples=20)
        assert not found.skipped, found.skipped
        assert set(found.figures) == set(Guarded.metrics) - ({"decide_us"} if name == KNN else set())
        assert all(values.shape == (1, 21) for values in found.figures.values())
        scores[name] = float(found.figures["gqr_score"][0, 0])
        accuracy, rejection = (float(found.figures[key][0, 0]) for key in ("id_accuracy", "rejection"))
        expected = 2 * accuracy * rejection / (accuracy + rejection) if accuracy + rejection else 0.0
        assert scores[name] == pytest.approx(expected)
    assert scores["gqr"] > 0.85
    assert scores["gqr:fasttext"] > 0.85


def test_without_the_guard_nothing_is_rejected(setup, monkeypatch):
    monkeypatch.setitem(FITTED, "gqr", ("gqr", {"loss": 0.0}))
    monkeypatch.setattr("junctor.policies.gqr.threshold_at", lambda scores, loss: -np.inf)
    found = Guarded().run(setup, "gqr", seeds=1, resamples=0)
    assert found.figures["rejection"][0, 0] == found.figures["gqr_score"][0, 0] == 0.0
    assert found.figures["id_accuracy"][0, 0] > 0.9


def test_those_that_are_told_say_so():
    made = prepare(table(known_strangers=20), None, "static", True, None)
    assert {"gqr:told", "gqr:fine+told"} <= set(Guarded().policies(made))
    found = Guarded().run(made, "gqr:told", seeds=1, resamples=0)
    assert found.notes == ("its threshold was set with out-of-domain rows of the training side",)
    assert Guarded().run(made, "gqr", seeds=1, resamples=0).notes == ()
    assert all(settings.get("loss") == LOSS for _, settings in FITTED.values())


def test_tables_without_strangers_are_not_asked():
    whole = table()
    inner = [i for i, name in enumerate(whole.labels["outside"]) if not name]
    assert Guarded().policies(prepare(whole.take(inner), None, "static", True, None)) == ()
    assert Guarded().policies(prepare(whole.only(["law", "money", "health"]), None, "static", True, None)) == ()


def test_seeds_pair_across_policies(setup):
    one, other = (Guarded().run(setup, "centroid", seeds=2, resamples=30).figures["id_accuracy"] for _ in range(2))
    assert np.array_equal(one, other)
    assert one.shape == (2, 31)


def test_a_file_without_its_columns_is_refused(tmp_path):
    (tmp_path / "hwu64").mkdir()
    (tmp_path / "hwu64" / "hwu64_fold1.csv").write_text("split,text\ntrain,x\n")
    with pytest.raises(TableError, match="has no column 'scenario'"):
        hwu64(tmp_path)
    with pytest.raises(TableError):
        clinc150(tmp_path)


@pytest.mark.data
def test_published_sets_are_read_as_they_are_described(data):
    found = clinc150(data)
    assert (len(found), len(found.targets)) == (23_700, 11)
    assert sum(name == "oos" for name in found.labels["outside"]) == 1200
    assert len(set(found.labels["policy"])) == 151
    assert (found.quality.sum(axis=1) == 1).all()
    other = hwu64(data)
    assert len(other) == 11_036
    assert set(other.labels["outside"]) == {"", *HELD_OUT}
    away = [side for side, name in zip(other.split, other.labels["outside"], strict=True) if name]
    assert set(away) == {"test"}
    assert len(other.targets) == 14
