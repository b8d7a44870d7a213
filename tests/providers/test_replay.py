"""The replay provider: recorded outcomes as answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from junctor.errors import ConfigError, TableError, UpstreamStatus, UpstreamTimeout
from junctor.outcomes import OutcomeTable, write_table
from junctor.providers.replay import ReplayProvider
from junctor.registry import load
from junctor.testing.providers import check_provider
from junctor.types import Catalogue, Request, Target

NAN = float("nan")


@pytest.fixture
def table() -> OutcomeTable:
    return OutcomeTable(
        texts=["What is 2 + 2?", "Hello  there", "what is 2 + 2? "],
        targets=Catalogue.of(["small", "large"]),
        quality=np.array([[0.25, NAN], [NAN, 1.0], [0.75, 0.5]]),
        cost_usd=np.array([[0.001, NAN], [NAN, 0.5], [0.002, 0.4]]),
        latency_s=np.array([[0.01, NAN], [NAN, 30.0], [0.01, 0.01]]),
        input_tokens=np.array([[7.0, NAN], [NAN, 9.0], [7.0, 7.0]]),
        output_tokens=np.array([[3.0, NAN], [NAN, NAN], [3.0, 3.0]]),
    )


ASK = Request(text="what is  2 + 2?")


async def test_it_keeps_the_contract(table: OutcomeTable) -> None:
    await check_provider(ReplayProvider(table), Target(id="small"), ASK)


async def test_an_answer_carries_the_recorded_cell(table: OutcomeTable) -> None:
    reply = await ReplayProvider(table).complete(ASK, Target(id="small"), None)
    assert (reply.quality, reply.cost_usd) == (0.25, 0.001)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 3)
    content = json.loads(reply.body)["choices"][0]["message"]["content"]
    assert "small" in content
    assert "0.25" in content


async def test_the_first_recorded_row_of_a_prompt_counts(table: OutcomeTable) -> None:
    """Rows 0 and 2 are one prompt; `large` was recorded on the second only."""
    assert (await ReplayProvider(table).complete(ASK, Target(id="large"), None)).quality == 0.5


async def test_prompts_are_matched_by_their_normalised_text(table: OutcomeTable) -> None:
    reply = await ReplayProvider(table).complete(Request(text=" HELLO there\n"), Target(id="large"), None)
    assert reply.quality == 1.0
    assert reply.usage.output_tokens is None


async def test_a_target_may_be_found_by_its_model_name(table: OutcomeTable) -> None:
    reply = await ReplayProvider(table).complete(ASK, Target(id="mine", model="small"), None)
    assert reply.quality == 0.25


@pytest.mark.parametrize(
    ("text", "id_", "status", "code", "retryable"),
    [
        ("never asked", "small", 404, "prompt_not_recorded", False),
        ("Hello there", "small", 501, "cell_not_recorded", True),
        ("Hello there", "other", 404, "model_not_found", False),
    ],
)
async def test_what_was_not_recorded_is_a_typed_error(
    table: OutcomeTable, text: str, id_: str, status: int, code: str, retryable: bool
) -> None:
    for call in (ReplayProvider(table).complete, ReplayProvider(table).stream):
        with pytest.raises(UpstreamStatus) as refused:
            await call(Request(text=text), Target(id=id_), None)
        assert refused.value.upstream_status == status
        assert refused.value.retryable is retryable
        assert json.loads(refused.value.body)["error"]["code"] == code


async def test_latency_is_replayed_only_at_a_speed(table: OutcomeTable) -> None:
    hello = Request(text="hello there")
    assert (await ReplayProvider(table).complete(hello, Target(id="large"), 0.01)).quality == 1.0
    with pytest.raises(UpstreamTimeout):
        await ReplayProvider(table, speed=1.0).complete(hello, Target(id="large"), 0.01)
    assert (await ReplayProvider(table, speed=30_000).complete(hello, Target(id="large"), 0.5)).quality == 1.0


async def test_it_reads_a_table_from_a_file(table: OutcomeTable, tmp_path: Path) -> None:
    write_table(table, tmp_path / "outcomes.parquet")
    provider = ReplayProvider.from_settings({"table": str(tmp_path / "outcomes.parquet"), "speed": 0})
    assert (await provider.complete(ASK, Target(id="small"), None)).quality == 0.25


def test_a_missing_file_is_a_table_error(tmp_path: Path) -> None:
    with pytest.raises(TableError):
        ReplayProvider(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "table"),
        ({"table": 3}, "table"),
        ({"table": "x", "sped": 1}, "sped"),
    ],
)
def test_wrong_settings_name_the_key(settings: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        ReplayProvider.from_settings(settings)
    assert wrong.value.field == field


@pytest.mark.parametrize("speed", [-1, float("inf"), "fast", True])
def test_a_wrong_speed_is_refused(table: OutcomeTable, speed: object) -> None:
    with pytest.raises(ConfigError, match="speed"):
        ReplayProvider(table, speed=speed)  # type: ignore[arg-type]


def test_the_registry_finds_it() -> None:
    assert load("provider", "replay") is ReplayProvider
