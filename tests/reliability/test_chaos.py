"""Calls through upstreams that do everything wrong: none lost, none twice, all in the journal, budgets to the cent.

`make soak` runs the same with JUNCTOR_SOAK=1: 100,000 calls.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from junctor.build import build_service
from junctor.config import load_config
from junctor.gateway.app import Gateway
from junctor.gateway.serving import serve_async
from junctor.journal import DecisionRecord, OutcomeRecord, read
from junctor.providers.upstream import Upstream
from junctor.service import Service
from junctor.tenancy.accounts import NANO
from junctor.tenancy.gate import KeyedTenancy
from junctor.tenancy.keys import KeyRecord, digest_of, made
from junctor.tenancy.local_store import LocalStore

from .chaos import Chaos

SOAK = bool(os.environ.get("JUNCTOR_SOAK"))
CALLS = 100_000 if SOAK else 1_500
WIDE = 48
CONFIG = """
[gateway]
keys = "required"
deadline_s = 4.0
[journal]
path = "j.journal"
fsync = "never"
[state]
url = "sqlite:state.db"
[teams.crew]
budget_usd = 1000000.0
[retries]
most = 1
base_s = 0.001
cap_s = 0.01
[health]
failures = 1000000
[providers.a]
kind = "openai_compatible"
base_url = "{a}"
read_timeout_s = 0.3
[providers.b]
kind = "openai_compatible"
base_url = "{b}"
read_timeout_s = 0.3
[targets.first]
provider = "a"
price = {{ input_usd_per_mtok = 1.0, output_usd_per_mtok = 10.0 }}
[targets.second]
provider = "b"
price = {{ input_usd_per_mtok = 2.0, output_usd_per_mtok = 20.0 }}
[policies.order]
use = "fixed"
settings = {{ target = "first" }}
[aliases]
auto = "order"
"""


async def make_key(service: Service) -> str:
    """A key of the team, made where `junctor keys` makes it."""
    assert isinstance(service.tenancy, KeyedTenancy)
    record, key = made(KeyRecord(id="", name="chaos", team="crew"))
    await service.tenancy.store.create(record, digest_of(key.encode()))
    return key


class Bill:
    """Adds up what each run is billed, by the same rules as the store but in one place."""

    def __init__(self, service: Service) -> None:
        self.nano = 0
        self.tariffs = service.tenancy.tariffs
        service.engine.listen(self)

    def __call__(self, run: Any, record: OutcomeRecord) -> None:
        if record.attempts:
            self.nano += self.tariffs.billed(run, record, run.context.hold.sent)[0]


class Seen:
    """What the client saw of every call."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.ends: Counter[str] = Counter()
        self.decisions: list[str] = []


async def one(client: Upstream, key: str, number: int, stream: bool, seen: Seen) -> None:
    call = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": f"call {number}"}], "max_tokens": 64}
    head = {"authorization": f"Bearer {key}"}
    reply = await client.post("/v1/chat/completions", json.dumps(call).encode(), 30.0, "gateway", head)
    data = await reply.read()
    seen.statuses[reply.status] += 1
    if decision := reply.header("x-junctor-decision"):
        seen.decisions.append(decision)
    if reply.status != 200:
        assert json.loads(data)["error"]["message"]
        seen.ends["refused"] += 1
    elif stream:
        done, broke = b"data: [DONE]" in data, b'"error"' in data
        assert done != broke, data
        seen.ends["stream done" if done else "stream broke"] += 1
    else:
        assert json.loads(data)["choices"]
        seen.ends["whole"] += 1


@pytest.mark.slow
@pytest.mark.timeout(7200 if SOAK else 120)
async def test_nothing_is_lost_nothing_happens_twice_and_the_books_are_right(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    async with Chaos(1, ill=0.5, slow=0.002, stall_s=2.0) as first, Chaos(2, ill=0.5, slow=0.002, stall_s=2.0) as second:
        (tmp_path / "junctor.toml").write_text(CONFIG.format(a=first.url, b=second.url))
        service = build_service(load_config(tmp_path / "junctor.toml"))
        key = await make_key(service)
        bill = Bill(service)
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        serving = asyncio.create_task(
            serve_async(Gateway(service), port=0, on_ready=lambda _, port: ready.set_result(port), until=stop)
        )
        client = Upstream(f"http://127.0.0.1:{await ready}")
        seen, numbers, chance = Seen(), iter(range(CALLS)), random.Random(3)

        async def worker() -> None:
            for number in numbers:
                await one(client, key, number, chance.random() < 0.5, seen)

        await asyncio.gather(*(worker() for _ in range(WIDE)))
        await client.aclose()
        stop.set()
        await serving
    assert not [record for record in caplog.records if "a request failed with" in record.getMessage()]
    check_journal(tmp_path, seen, first.asked + second.asked)
    await check_books(tmp_path, bill.nano)
    assert sum(seen.statuses.values()) == CALLS
    assert set(first.acts) >= {"good", "kill", "reset", "truncated", "header_bomb", "lying_usage", "too_many"}
    assert seen.ends["whole"] > CALLS * 0.3
    assert seen.ends["stream done"] > CALLS * 0.2
    assert seen.ends["stream broke"] > 0


def check_journal(folder: Path, seen: Seen, asked: Counter[str]) -> None:
    """Every call has one decision and one outcome, every upstream call is an attempt of just that call."""
    decisions: dict[str, DecisionRecord] = {}
    outcomes: dict[str, OutcomeRecord] = {}
    for record in read(folder / "j.journal"):
        if isinstance(record, DecisionRecord):
            assert record.decision.id not in decisions
            decisions[record.decision.id] = record
        elif isinstance(record, OutcomeRecord):
            assert record.id not in outcomes
            outcomes[record.id] = record
    assert len(decisions) == len(outcomes) == CALLS
    assert set(outcomes) == set(decisions)
    assert set(seen.decisions) <= set(decisions)
    assert len(seen.decisions) == len(set(seen.decisions))
    attempts: dict[str, int] = defaultdict(int)
    for id_, outcome in outcomes.items():
        attempts[decisions[id_].text] += len(outcome.attempts)
        for attempt in outcome.attempts:
            cost = attempt.outcome.cost_usd
            assert cost is None or 0 <= cost < 1
    assert {text: count for text, count in attempts.items() if count} == dict(asked)


async def check_books(folder: Path, nano: int) -> None:
    """What key and team have spent is what their calls cost, to the nano-dollar; nothing is set aside any more."""
    costs = [
        attempt.outcome.cost_usd
        for record in read(folder / "j.journal")
        if isinstance(record, OutcomeRecord)
        for attempt in record.attempts
        if attempt.outcome.cost_usd is not None
    ]
    assert len(costs) > CALLS * 0.4
    store = LocalStore(folder / "state.db", flush_s=0.0)
    (found,) = await store.spent(["team:crew"])
    await store.aclose()
    assert (found.spent, found.reserved) == (nano, 0)
    assert found.spent >= round(float(np.sum(costs)) * NANO) - CALLS


def test_the_chaos_is_chaotic_and_the_same_for_a_seed() -> None:
    one, two, other = Chaos(5), Chaos(5), Chaos(6)
    drawn = [[chaos._pick().__name__ for _ in range(200)] for chaos in (one, two, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 13
