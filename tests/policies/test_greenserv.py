"""greenserv: kinds of work, reading ease, accuracy against energy; each part of the context earns its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.bench.worlds import live, requests, world_of
from junctor.policies.greenserv import GreenServConfig, flesch
from junctor.policies.thompson import ThompsonConfig

from .specialists import SKILL, TOPICS, stream

ENERGY = np.array([40.0, 40.0, 40.0, 400.0])
COLD = GreenServConfig(warm=0.0)
EASY = "The cat sat on the mat. The dog ran to it. They had fun."
HARD = (
    "Epistemological considerations necessitate methodological individualism notwithstanding institutional interdependencies."
)


def reward(world, chosen, weight=0.5):
    rows = np.arange(len(world))
    energy = world.table.energy_j[rows, chosen] / world.table.energy_j.mean(axis=0).max()
    return float(((1 - weight) * world.quality[rows, chosen] + weight * (1 - energy)).mean())


def best_fixed(world, weight=0.5):
    return max(reward(world, np.full(len(world), place), weight) for place in range(4))


def lived(config, world, seed=0):
    learner = config.fit(world.table, world.features, np.random.default_rng(seed))
    return learner, live(learner, world, np.random.default_rng(seed))


def green(rows=1500, **more):
    return stream(rows, energy_j=np.tile(ENERGY, (rows, 1)), **more)


@pytest.mark.parametrize("algorithm", ["linucb", "thompson", "epsilon-greedy"])
def test_it_beats_the_best_single_target_by_reward(algorithm):
    world = green()
    _, chosen = lived(replace(COLD, algorithm=algorithm), world)
    assert reward(world, chosen) > best_fixed(world) + 0.1


def test_without_task_and_cluster_it_does_not():
    world = green()
    _, chosen = lived(replace(COLD, task=False, cluster=False), world)
    assert reward(world, chosen) < best_fixed(world) + 0.02


@pytest.mark.parametrize("part", ["task", "cluster"])
def test_either_of_the_two_tells_the_topics_apart(part):
    world = green()
    _, chosen = lived(replace(COLD, **{part: False}), world)
    assert reward(world, chosen) > best_fixed(world) + 0.08


def by_ease(rows=1500):
    """What a target can do depends on how hard the prompt reads, and on nothing else."""
    rng = np.random.default_rng(7)
    hard = rng.integers(2, size=rows)
    world = green(rows)
    quality = (rng.random((rows, 4)) < np.array([[0.9, 0.2, 0.2, 0.5], [0.2, 0.9, 0.2, 0.5]])[hard]).astype(np.float64)
    texts = [f"{HARD if h else EASY} {i}" for i, h in enumerate(hard.tolist())]
    table = replace(world.table, texts=texts, quality=quality)
    return world_of(table, table.features(world.features.embedding), 0.0, rng)


def test_reading_ease_is_used_where_it_decides():
    world = by_ease()
    _, chosen = lived(COLD, world)
    _, without = lived(replace(COLD, complexity=False), world)
    assert reward(world, chosen) > best_fixed(world) + 0.08
    assert reward(world, without) < best_fixed(world) + 0.02


def test_flesch_by_hand():
    # 3 sentences, 14 words of one syllable each: 206.835 - 1.015 * 14 / 3 - 84.6
    assert flesch(EASY) == pytest.approx(206.835 - 1.015 * 14 / 3 - 84.6)
    assert flesch(HARD) < 0
    assert flesch("") == flesch("12 + 30 = ?") == pytest.approx(206.835)
    assert flesch("a large cave") == pytest.approx(206.835 - 1.015 * 3 - 84.6)
    assert flesch("apple table") == pytest.approx(206.835 - 1.015 * 2 - 84.6 * 4 / 2)


@pytest.mark.slow
def test_energy_weighs_as_told():
    skill = np.tile([0.3, 0.3, 0.3, 0.95], (3, 1))
    world = green(skill=skill)
    often = []
    for weight in (0.0, 0.5, 0.9):
        learner, _ = lived(replace(COLD, energy_weight=weight), world)
        chosen, _ = learner.frozen().decide_many(world.features, world.before, np.random.default_rng(0))
        often.append(float((chosen == 3).mean()))
    assert often[0] > 0.9
    assert often[2] < 0.1
    assert often[0] >= often[1] >= often[2]


def test_costs_stand_in_for_energy_that_was_not_recorded():
    world = stream(600, weight=0.5)
    learner, chosen = lived(COLD.priced(0.5), world)
    assert learner.energy_j == 0.0
    assert learner.config.energy_weight == pytest.approx(1 / 3)
    made = learner.decide(_first(world), world.before, np.random.default_rng(0))
    assert made.ranked[0].predicted.cost_usd is not None
    told, _ = lived(COLD, green(300))
    assert told.decide(_first(world), world.before, np.random.default_rng(0)).ranked[0].predicted.energy_j is not None
    assert len(chosen) == 600


def _first(world):
    return requests(world.features.without_labels())[0]


def test_the_context_is_one_of_each_kind():
    world = green(200)
    context = COLD.context(world.table, world.features, np.random.default_rng(0))
    found = context.matrix(world.features.without_labels())
    assert found.shape == (200, 1 + len(TOPICS) + 3 + 3)
    assert set(np.unique(found).tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(found.sum(axis=1), 4.0)
    told = found[:, 1 : 1 + len(TOPICS)].argmax(axis=1)
    names = np.array(world.table.label)
    assert all(len(set(names[told == task].tolist())) <= 1 for task in range(3)), "tasks are told without looking at labels"


def test_many_labels_fit_into_a_decision():
    world = green(400)
    labels = [f"task {i % 60}" for i in range(400)]
    table = replace(world.table, labels={"topic": labels})
    assert COLD.context(table, world.features, np.random.default_rng(0)).dims <= 32


def test_it_draws_as_the_plain_ones_do():
    world = green(300)
    learner, _ = lived(replace(COLD, algorithm="thompson"), world)
    look = learner._look(learner.context.matrix(world.features), learner._view(world.before))
    plain = ThompsonConfig(warm=0.0, dims=4, sigma=0.25).fit(world.table, world.features, np.random.default_rng(0))
    one, other = (policy.draw(look, np.random.default_rng(3))[0] for policy in (learner, plain))
    np.testing.assert_array_equal(one, other)
    assert SKILL.shape == (3, 4)
