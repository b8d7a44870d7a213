"""exp3: it finds the better target when the world turns against it, and not without weighing by the propensity."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from junctor.bench.worlds import World, live
from junctor.policies.exp3 import Exp3, Exp3Config
from junctor.testing import planted
from junctor.types import Catalogue, Price, Target

from .specialists import stream

COLD = Exp3Config(warm=0.0, gamma=0.15)


def turning(rows=3000) -> World:
    """The last target leads at first; then it never is right again, and the first one nearly always."""
    world = stream(rows)
    rng = np.random.default_rng(1)
    chance = np.full((rows, 4), 0.3)
    chance[: rows // 6, 3], chance[rows // 6 :, 3] = 0.9, 0.2
    chance[rows // 6 :, 0] = 0.9
    quality = (rng.random((rows, 4)) < chance).astype(np.float64)
    return replace(world, table=replace(world.table, quality=quality), quality=quality)


def earned_late(world, seed=0):
    learner = COLD.fit(world.table, world.features, np.random.default_rng(seed))
    chosen = live(learner, world, np.random.default_rng(seed))
    late = slice(len(world) // 2, None)
    return float(world.quality[np.arange(len(world)), chosen][late].mean())


def test_it_turns_round_with_the_world():
    assert earned_late(turning()) > 0.65


def test_without_weighing_by_the_propensity_it_turns_late(monkeypatch):
    taken = Exp3.take

    def unweighted(self, row, x, quality, bill, propensity):
        taken(self, row, x, quality, bill, 1.0)

    monkeypatch.setattr(Exp3, "take", unweighted)
    assert earned_late(turning()) < 0.55


@pytest.mark.slow
def test_gains_are_unbiased_whatever_was_chosen():
    world = stream(4000, skill=np.tile([0.2, 0.4, 0.6, 0.8], (3, 1)))
    learner = COLD.fit(world.table, world.features, np.random.default_rng(0))
    live(learner, world, np.random.default_rng(0))
    np.testing.assert_allclose(learner.gains / learner.arms.total, [0.2, 0.4, 0.6, 0.8], atol=0.1)


def test_a_new_price_moves_the_weights_and_leaves_the_gains():
    table, features = planted(200)
    learner = Exp3Config(cost_weight=1.0).fit(table, features, np.random.default_rng(0))
    gains = learner.gains.copy()
    dear = msgspec.structs.replace(table.targets[1], price=Price(usd_per_call=1.0))
    turned = Catalogue([dear if target.id == dear.id else target for target in table.targets])
    before, after = (learner.chances(learner._look(np.ones((1, 1)), learner._view(t)))[0] for t in (table.targets, turned))
    assert after[1] < before[1]
    np.testing.assert_array_equal(learner.gains, gains)
    assert before.sum() == pytest.approx(1.0)


def test_a_newcomer_begins_level_with_the_best():
    table, features = planted(200)
    learner = Exp3Config().fit(table, features, np.random.default_rng(0))
    wider = Catalogue([*table.targets, Target(id="newcomer")])
    chances = learner.chances(learner._look(np.ones((1, 1)), learner._view(wider)))[0]
    assert chances[4] == pytest.approx(chances[:4].max())
