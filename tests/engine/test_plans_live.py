"""The whole way: answers are recorded, a cascade is learned from them, and run live it does what its replay said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.encoders import load_encoder
from junctor.engine import Alias, Engine
from junctor.fitting import policy_config
from junctor.plans.scoring import learn_weights, signs_of
from junctor.policies.frugalgpt import FrugalGPTConfig
from junctor.providers.embedded import EMBEDDED, EmbeddedProvider
from junctor.providers.embedded.workload import make_tasks
from junctor.recording import answer_text, record_outcomes
from junctor.types import Message, Request

pytestmark = pytest.mark.slow


class Kept(EmbeddedProvider):
    """Remembers what was said."""

    def __init__(self):
        super().__init__()
        self.said = []

    async def complete(self, request, target, timeout_s):
        reply = await super().complete(request, target, timeout_s)
        self.said.append((request.text, answer_text(reply.body), reply.finish_reason))
        return reply


def recorded(tasks, weights=None):
    """The table of these tasks with the score of every answer, and the scorer's weights: learned, unless they are given."""
    kept = Kept()
    table = record_outcomes(tasks, EMBEDDED, kept)
    queries, answers, ended = zip(*kept.said, strict=True)
    weights = weights or learn_weights(queries, answers, table.quality.ravel().tolist(), ended)
    signs = np.array(signs_of(queries, answers, weights, ended)).reshape(len(tasks), len(EMBEDDED), 1)
    table = replace(table, samples={"score": signs})
    return table, table.features(load_encoder("static").encode(table.texts)), weights


@pytest.fixture(scope="module")
def world():
    """Tasks to learn from, others to judge on, and the weights of the scorer."""
    tasks = make_tasks(340, np.random.default_rng(0))
    table, features, weights = recorded(tasks[:240])
    return table, features, weights, tasks[240:], *recorded(tasks[240:], weights)[:2]


async def run(policy, tasks):
    """[n] quality and [n] cost of the policy behind an engine."""
    alias = Alias(name="auto", policy=policy, targets=EMBEDDED, encoder=load_encoder("static"))
    engine = Engine(EMBEDDED, {"embedded": EmbeddedProvider()}, {"auto": alias})
    quality, cost = [], []
    for task in tasks:
        request = Request(text=task.prompt, messages=(Message("user", task.prompt),))
        answer = await engine.complete(request, "auto")
        quality.append(task.check(answer_text(answer.reply.body)))
        cost.append(answer.outcome.cost_usd)
    await engine.aclose()
    return np.array(quality), np.array(cost)


async def test_a_replay_says_what_the_engine_does_to_the_cent(world):
    """Same answers, same scores, same thresholds: query by query the same quality and the same bill."""
    table, features, weights, tasks, test, there = world
    policy = FrugalGPTConfig(weights=weights).fit(table, features, np.random.default_rng(0))
    assert len(policy.chain) > 1
    replay = policy.replay(test, there, np.random.default_rng(0))
    quality, cost = await run(policy, tasks)
    assert quality == pytest.approx(replay.quality[0])
    assert cost == pytest.approx(replay.cost_usd[0])


async def test_a_learned_cascade_beats_the_best_single_model_at_a_lower_cost(world):
    """And not with a scorer that sees nothing in the answers: the key part is the look at the answer."""
    table, features, weights, tasks, _, _ = world
    best = policy_config("best-single").fit(table, features, np.random.default_rng(0))
    quality, cost = await run(best, tasks)
    policy = FrugalGPTConfig(weights=weights).fit(table, features, np.random.default_rng(0))
    better, cheaper = await run(policy, tasks)
    assert better.mean() > quality.mean() + 0.04
    assert cheaper.mean() < cost.mean()
    noise = np.random.default_rng(0).standard_normal(table.samples["score"].shape)
    blind = FrugalGPTConfig(weights=(0.0,)).fit(replace(table, samples={"score": noise}), features, np.random.default_rng(0))
    assert (await run(blind, tasks))[0].mean() < better.mean() - 0.04
