"""A cascade over HTTP, in front of the embedded pool: whole and streamed, billed in the headers, explained afterwards."""

from __future__ import annotations

import json

import numpy as np
from typer.testing import CliRunner

from junctor.cli import app
from junctor.engine import Alias, Engine
from junctor.features import Features
from junctor.journal import Journal
from junctor.outcomes import OutcomeTable
from junctor.policies.acar import AcarConfig
from junctor.policy import Policy, State
from junctor.providers.embedded import EMBEDDED
from junctor.providers.embedded.provider import EmbeddedProvider
from junctor.types import Call, Cascade, Decision

EASY, OTHER = "What is 17 + 25?", "What is the capital of France?"


class FactsFirst(Policy):
    """The look-up model first; arithmetic when it says that it cannot."""

    name = "facts-first"

    def decide(self, request, targets, rng):
        plan = Cascade((Call("facts"), Call("arithmetic")), "scorer", {"tau": [0.4]})
        return Decision(id=request.id, plan=plan, target="facts", policy=self.name, reasons=("facts are cheap",))

    def decide_many(self, features, targets, rng):
        return np.zeros(len(features), dtype=np.intp), np.ones(len(features))

    def state(self):
        return State()

    @classmethod
    def from_state(cls, state):
        return cls()


def engine(tmp_path):
    nothing = OutcomeTable(texts=[], targets=EMBEDDED, quality=np.empty((0, len(EMBEDDED))))
    acar = AcarConfig(models=("arithmetic", "general@low")).fit(nothing, Features([]), np.random.default_rng(0))
    aliases = {
        "auto": Alias(name="auto", policy=FactsFirst(), targets=EMBEDDED),
        "panel": Alias(name="panel", policy=acar, targets=EMBEDDED),
    }
    return Engine(EMBEDDED, {"embedded": EmbeddedProvider()}, aliases, Journal(tmp_path / "j.journal", fsync="never"))


def ask(text):
    return {"messages": [{"role": "user", "content": text}]}


async def test_a_cascade_is_answered_billed_and_explained(gateway, tmp_path):
    """Facts declines a sum, arithmetic does it: both are in the cost header, the attempts and the journal."""
    served = await gateway(engine=engine(tmp_path))
    reply = await served.chat(**ask(EASY))
    body = await reply.json()
    assert "42" in body["choices"][0]["message"]["content"]
    assert reply.headers["x-junctor-target"] == "arithmetic"
    assert reply.headers["x-junctor-attempts"] == "2"
    ended = served.records()[-1]
    assert sum(a.outcome.cost_usd for a in ended.attempts) == ended.outcome.cost_usd
    assert abs(float(reply.headers["x-junctor-cost-usd"]) - ended.outcome.cost_usd) < 1e-12
    short = await served.chat(**ask(OTHER))
    assert (short.headers["x-junctor-target"], short.headers["x-junctor-attempts"]) == ("facts", "1")

    id_ = reply.headers["x-junctor-decision"]
    said = CliRunner().invoke(app, ["explain", id_, "--journal", str(served.journal)]).output
    assert "cascade: in this order, until scorer accepts (tau [0.4])" in said
    assert "call facts" in said
    assert "(stage 1)" in said
    assert "on to stage 2" in said


async def test_a_cascade_is_streamed_once_it_is_accepted(gateway, tmp_path):
    """The stream has the accepted answer only, and its headers know the cost."""
    served = await gateway(engine=engine(tmp_path))
    reply = await served.chat(stream=True, **ask(EASY))
    text = await reply.text()
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert float(reply.headers["x-junctor-cost-usd"]) > 0
    events = [line[6:] for line in text.strip().split("\n\n")]
    assert events[-1] == "[DONE]"
    said = "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in events[:-1])
    assert "42" in said
    assert "cannot" not in said
    assert served.records()[-1].error == ""


async def test_probes_of_a_panel_are_all_billed(gateway, tmp_path):
    """Three probes of a solver that never changes its mind agree: one model, three calls."""
    served = await gateway(engine=engine(tmp_path))
    reply = await served.chat("panel", **ask(EASY))
    assert (reply.headers["x-junctor-target"], reply.headers["x-junctor-attempts"]) == ("arithmetic", "3")
    ended = served.records()[-1]
    assert ended.outcome.cost_usd == sum(a.outcome.cost_usd for a in ended.attempts)
    assert "sigma 0.00 of 3 answers: accepted" in ended.steps[-1]
