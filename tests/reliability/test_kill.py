"""`kill -9` at random points: whatever was acknowledged is in the journal and in the books, and the next one starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from junctor.errors import UpstreamError
from junctor.journal import DecisionRecord, OutcomeRecord, Reading
from junctor.providers.upstream import Upstream
from junctor.tenancy.accounts import NANO
from junctor.tenancy.keys import KeyRecord, digest_of, made
from junctor.tenancy.local_store import LocalStore

from .chaos import Chaos

ROUNDS = 40 if os.environ.get("JUNCTOR_SOAK") else 4
WIDE = 12
CONFIG = """
[gateway]
keys = "required"
port = 0
watch_s = 0
dashboard = false
[journal]
path = "j.journal"
[state]
url = "sqlite:state.db"
[teams.crew]
budget_usd = 1000000.0
[providers.up]
kind = "openai_compatible"
base_url = "{url}"
[targets.t]
provider = "up"
price = {{ input_usd_per_mtok = 1.0, output_usd_per_mtok = 10.0 }}
[policies.only]
use = "fixed"
settings = {{ target = "t" }}
[aliases]
auto = "only"
"""


async def start(folder: Path) -> tuple[asyncio.subprocess.Process, int]:
    command = [sys.executable, "-m", "junctor", "serve", "--config", str(folder / "junctor.toml"), "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    while line := await asyncio.wait_for(process.stdout.readline(), 60):
        if b"http://127.0.0.1:" in line:
            return process, int(line.split(b"127.0.0.1:")[1].split(b"/")[0])
    raise AssertionError("it did not start")


async def call(client: Upstream, key: str, said: dict[str, float]) -> None:
    """Call until the gateway is gone; remember what was acknowledged, and what it cost."""
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "ping"}], "max_tokens": 32}).encode()
    with contextlib.suppress(UpstreamError):
        while True:
            reply = await client.post("/v1/chat/completions", body, 10.0, "gateway", {"authorization": f"Bearer {key}"})
            if reply.status == 200 and await reply.read():
                said[reply.header("x-junctor-decision")] = float(reply.header("x-junctor-cost-usd"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    chance, said = random.Random(4), {}
    async with Chaos(1, ill=0.0) as up:
        (tmp_path / "junctor.toml").write_text(CONFIG.format(url=up.url))
        store = LocalStore(tmp_path / "state.db", flush_s=0.0)
        record, key = made(KeyRecord(id="", name="k", team="crew"))
        await store.create(record, digest_of(key.encode()))
        await store.aclose()
        for _ in range(ROUNDS):
            process, port = await start(tmp_path)
            client = Upstream(f"http://127.0.0.1:{port}")
            calls = [asyncio.create_task(call(client, key, said)) for _ in range(WIDE)]
            await asyncio.sleep(chance.uniform(0.05, 0.8))
            process.send_signal(signal.SIGKILL)
            await asyncio.gather(*calls)
            await process.wait()
            await client.aclose()
        process, port = await start(tmp_path)
        client = Upstream(f"http://127.0.0.1:{port}")
        last = asyncio.create_task(call(client, key, said))
        await asyncio.sleep(2.5)  # within a second of its first call the next one lets go of what the dead had set aside
        process.terminate()
        assert await process.wait() == 0
        await last
        await client.aclose()
    reading = Reading(tmp_path / "j.journal")
    decisions, outcomes = set(), {}
    for found in reading:
        if isinstance(found, DecisionRecord):
            decisions.add(found.decision.id)
        elif isinstance(found, OutcomeRecord):
            outcomes[found.id] = found.outcome.cost_usd
    assert len(said) > 20 * ROUNDS
    assert set(said) <= decisions
    assert set(said) <= set(outcomes)
    assert reading.torn <= ROUNDS
    store = LocalStore(tmp_path / "state.db", flush_s=0.0)
    (spent,) = await store.spent(["team:crew"])
    await store.aclose()
    assert spent.spent >= round(sum(said.values()) * NANO) - len(said)
    assert spent.reserved == 0
