"""Runs that end without a network: real engines over scripted providers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from junctor.engine import Alias, Engine, Health
from junctor.errors import UpstreamRefused
from junctor.journal import Journal
from junctor.policy import Policy, State
from junctor.providers.base import Provider, Reply, Usage
from junctor.types import Call, Catalogue, Decision, Fallback, Message, Outcome, Price, Ranked, Request, Target

QUALITY = {"good": 0.9, "cheap": 0.6}
COST = {"good": 0.02, "cheap": 0.001}


class Cheap(Policy):
    """Takes the cheap one, the good one when it fails; says what it expects of both."""

    name = "cheap-first"

    def decide(self, request, targets, rng):
        order = sorted(targets.ids)
        ranked = tuple(
            Ranked(target=id_, score=1.0, predicted=Outcome(quality=QUALITY[id_], cost_usd=COST[id_])) for id_ in order
        )
        plan = Fallback(tuple(Call(id_) for id_ in order))
        return Decision(
            id=request.id, plan=plan, target=order[0], ranked=ranked, policy=self.name, reasons=("the cheapest", "<b>bold</b>")
        )

    def decide_many(self, features, targets, rng):
        return np.zeros(len(features), dtype=np.intp), np.ones(len(features))

    def state(self):
        return State()

    @classmethod
    def from_state(cls, state):
        return cls()


class Says(Provider):
    """Answers with ten tokens in and five out, or refuses what is in `down`."""

    name = "says"

    def __init__(self) -> None:
        self.down: set[str] = set()

    async def complete(self, request, target, timeout_s):
        if target.id in self.down:
            raise UpstreamRefused("is down", target=target.id)
        return Reply(body=b"{}", usage=Usage(input_tokens=10, output_tokens=5))

    async def stream(self, request, target, timeout_s):
        raise UpstreamRefused("does not stream", target=target.id)


def request(text: str = "a secret prompt", tenant: str = "", **more: Any) -> Request:
    return Request(text=text, messages=(Message("user", text),), params={"model": "auto"}, tenant=tenant, **more)


@pytest.fixture
def engine(tmp_path: Path) -> Callable[..., Engine]:
    def make(journal: bool = True, **more: Any) -> Engine:
        prices = {"cheap": Price(input_usd_per_mtok=10, output_usd_per_mtok=20), "good": Price(input_usd_per_mtok=1000)}
        targets = Catalogue([Target(id=id_, provider="says", model=f"m-{id_}", price=prices[id_]) for id_ in prices])
        alias = Alias(name="auto", policy=Cheap(), targets=targets)
        kept = Journal(tmp_path / "j.journal", fsync="never") if journal else None
        more.setdefault("health", Health(threshold=100))
        return Engine(targets, {"says": Says()}, {"auto": alias}, kept, **more)

    return make
