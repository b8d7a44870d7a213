"""The whole path in one process, without HTTP: record outcomes, fit a policy, decide, answer, explain.

python examples/in_process.py
"""

from __future__ import annotations

import asyncio
import json

import numpy as np

from junctor import Message, Request
from junctor.encoders import load_encoder
from junctor.engine import Alias, Engine
from junctor.fitting import fit_policy, policy_config
from junctor.providers.embedded import EMBEDDED, EmbeddedProvider
from junctor.providers.embedded.workload import make_tasks
from junctor.recording import record


async def main() -> None:
    """Ask three questions and say who answered, and why."""
    provider = EmbeddedProvider()
    table = await record(make_tasks(200, np.random.default_rng(0)), EMBEDDED, provider)

    encoder = load_encoder("static")
    features = table.features(encoder.encode(table.texts))
    rows = np.random.default_rng(0).permutation(len(table))
    config = policy_config("knn", {"cost_weight": 0.05})
    policy = fit_policy(config, table, features, rows[:150], rows[150:], np.random.default_rng(0)).policy

    auto = Alias(name="auto", policy=policy, targets=EMBEDDED, encoder=encoder)
    engine = Engine(EMBEDDED, {"embedded": provider}, {"auto": auto})
    for text in ("What is 7 * 6?", "Reverse the word 'junction'.", "What is the capital of France?"):
        answer = await engine.complete(Request(text=text, messages=(Message("user", text),)), "auto")
        said = json.loads(answer.reply.body)["choices"][0]["message"]["content"]
        print(f"{text}  ->  {answer.target.id}: {said}  ({answer.decision.reasons[1]})")
    await engine.aclose()


if __name__ == "__main__":
    asyncio.run(main())
