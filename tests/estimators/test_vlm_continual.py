"""vlm-continual: new tasks leave the old ones as they were, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ArtefactError, ConfigError, UserError
from junctor.estimators.regression import ridge
from junctor.estimators.vlm_continual import VLMContinual, VLMContinualConfig, picture_of
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policy import State
from junctor.testing.planted import planted, through_files
from junctor.types import Catalogue

RNG = np.random.default_rng(0)


def task(kind, rows=300, seed=0):
    """One task: queries around its own centre, in which a shared direction speaks for target a, or against it."""
    rng = np.random.default_rng([seed, kind])
    inner = rng.standard_normal((rows, 8))
    vectors = np.hstack([3.0 * np.tile(np.eye(5)[kind], (rows, 1)) + 0.2 * rng.standard_normal((rows, 5)), inner])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sign = (1.0 if kind % 2 == 0 else -1.0) * np.sign(inner[:, 0])
    chance = np.stack([0.5 + 0.4 * sign, 0.5 - 0.4 * sign], axis=1)
    quality = (rng.random(chance.shape) < chance).astype(float)
    names = [f"task {kind}"] * rows
    table = OutcomeTable(
        [f"{kind}/{i}" for i in range(rows)], Catalogue.of(["a", "b"]), quality, labels={"t": names}, label_name="t"
    )
    return table, table.features(vectors.astype(np.float32)), chance


def together(seed=0, kinds=4):
    parts = [task(kind, seed=seed) for kind in range(kinds)]
    names = [name for table, _, _ in parts for name in table.label]
    table = OutcomeTable(
        [text for t, _, _ in parts for text in t.texts],
        Catalogue.of(["a", "b"]),
        np.concatenate([t.quality for t, _, _ in parts]),
        labels={"t": names},
        label_name="t",
    )
    vectors = np.concatenate([f.embedding for _, f, _ in parts])
    return table, table.features(vectors), np.concatenate([c for _, _, c in parts])


def worth(quality, chance):
    return float(chance[np.arange(len(chance)), quality.argmax(axis=1)].mean())


def test_planted_world_experts_by_task_win_where_one_model_and_a_table_must_lose(monkeypatch):
    table, features, _ = together(seed=1)
    later, seen, chance = together(seed=2)
    fitted = VLMContinualConfig(alpha=3.0).fit(table, features, RNG)
    ours = worth(fitted.predict_many(seen).quality, chance)
    assert ours > 0.8
    for bar in ("linear", "label-table", "kmeans-table"):
        policy = policy_config(bar).fit(table, features, np.random.default_rng(0))
        choices, _ = policy.decide_many(seen, later.targets, RNG)
        assert float(chance[np.arange(len(chance)), choices].mean()) < ours - 0.15
    # the key part removed: tasks are not recognised, so that the base answers
    monkeypatch.setattr(VLMContinual, "tasks_of", lambda self, f: np.full(len(f), len(self.tasks)))
    assert worth(fitted.predict_many(seen).quality, chance) < ours - 0.15


def test_one_head_that_is_trained_on_task_after_task_forgets_and_this_does_not():
    parts = [task(kind, seed=3) for kind in range(4)]
    later, seen, chance = task(0, seed=4)
    last_only, bias = ridge(parts[-1][1].embedding.astype(float), parts[-1][0].quality, 3.0)
    forgot = worth(seen.embedding @ last_only + bias, chance)
    first = VLMContinualConfig(alpha=3.0).fit(parts[0][0], parts[0][1], RNG)
    grown = first
    for kind in (1, 2, 3):
        grown = grown.add_task(f"task {kind}", parts[kind][0], parts[kind][1])
    assert len(later) == 300
    assert forgot < 0.4
    assert worth(grown.predict_many(seen).quality, chance) == worth(first.predict_many(seen).quality, chance) > 0.8


def test_old_tasks_are_the_same_to_the_bit_after_new_ones_have_come():
    (one, one_seen, _), (two, two_seen, _) = task(0), task(1)
    before = VLMContinualConfig().fit(one, one_seen, RNG)
    kept = {name: values.tobytes() for name, values in before.state().arrays.items()}
    after = before.add_task("task 1", two, two_seen)
    assert {name: values.tobytes() for name, values in before.state().arrays.items()} == kept
    for name, values in before.state().arrays.items():
        if name == "bounds":
            assert np.array_equal(values, after.state().arrays[name])
            continue
        rows = len(before.tasks)
        assert np.array_equal(values[:rows], after.state().arrays[name][:rows]), name
    _, fresh, _ = task(0, seed=9)
    old, new = before.predict_many(fresh).quality, after.predict_many(fresh).quality
    assert old.tobytes() == new.tobytes()
    assert (after.tasks_of(two_seen) == 1).mean() > 0.95
    assert (before.tasks_of(two_seen) == 1).all()  # the base, before


def test_what_no_task_knows_goes_to_the_base():
    table, features, _ = together()
    fitted = VLMContinualConfig().fit(table, features, RNG)
    stranger = np.zeros((1, 13), np.float32)
    stranger[0, 4] = 1.0
    far = type(features)([""], stranger)
    assert fitted.tasks_of(far).tolist() == [4]
    assert fitted.predict_many(far).quality[0] == pytest.approx(table.quality.mean(axis=0))
    open_ = VLMContinualConfig(beyond=0.0).fit(table, features, RNG)
    assert open_.tasks_of(far)[0] < 4


def test_pictures_of_few_rows_are_round():
    few = picture_of(np.array([[1.0, 0.0], [1.0, 0.1]], np.float32), 0.0)
    assert few.precision[0] / few.precision[1] < 1.3
    assert np.isfinite(few.volume)
    same = picture_of(np.ones((3, 2), np.float32), 0.01)
    assert np.isfinite(same.precision).all()


def test_a_task_may_lack_targets_and_a_new_task_must_bring_some():
    one, one_seen, _ = task(0)
    fitted = VLMContinualConfig().fit(one, one_seen, RNG)
    two, two_seen, _ = task(1)
    grown = fitted.add_task("task 1", two.only(["b"]), two_seen)
    assert np.isfinite(grown.predict_many(two_seen).quality).all()
    assert grown.predict_many(two_seen).quality[:, 0] == pytest.approx(one.quality[:, 0].mean(), abs=1e-6)
    with pytest.raises(UserError, match="already a task"):
        grown.add_task("task 1", two, two_seen)
    stranger = OutcomeTable(two.texts, Catalogue.of(["x"]), two.quality[:, :1])
    with pytest.raises(UserError, match="none of the known targets"):
        grown.add_task("other", stranger, two_seen)


def test_state_round_trip_without_labels_and_damage():
    table, features = planted()
    bare = OutcomeTable(table.texts, table.targets, table.quality)
    fitted = VLMContinualConfig(clusters=3).fit(bare, features, RNG)
    assert fitted.tasks == ("cluster 0", "cluster 1", "cluster 2")
    again = VLMContinual.from_state(through_files(fitted.state()))
    assert np.array_equal(again.tasks_of(features), fitted.tasks_of(features))
    state = fitted.state()
    with pytest.raises(ArtefactError, match="tasks"):
        VLMContinual.from_state(State({**state.config, "tasks": ["one"]}, state.arrays))
    with pytest.raises(ConfigError, match=r"vlm-continual\.beyond"):
        VLMContinualConfig(beyond=1.0)
