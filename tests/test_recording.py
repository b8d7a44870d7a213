"""Recording: real calls, measured and judged; failures are outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from junctor.errors import UserError
from junctor.providers.embedded import EMBEDDED, EmbeddedProvider
from junctor.providers.embedded.workload import make_tasks
from junctor.providers.scripted import ScriptedProvider, Step
from junctor.recording import answer_text, record, record_outcomes, run_task
from junctor.types import Catalogue, Price, Target


@dataclass(frozen=True)
class Question:
    id: str
    prompt: str
    category: str
    check: Callable[[str], float]


def says(word: str) -> Callable[[str], float]:
    return lambda answer: float(answer == word)


ASKED = [Question("q1", "first", "a", says("yes")), Question("q2", "second", "b", says("no"))]
PRICED = Target(id="good", price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=10.0, usd_per_call=0.5))


def test_quality_cost_and_tokens_are_those_of_the_calls() -> None:
    provider = ScriptedProvider({"good": Step(answer="yes", input_tokens=100, output_tokens=20)})
    table = record_outcomes(ASKED, Catalogue([PRICED]), provider, source="seed 1")
    assert table.quality.tolist() == [[1.0], [0.0]]
    assert table.cost_usd is not None
    assert table.cost_usd[0, 0] == pytest.approx(0.5 + 100e-6 + 200e-6)
    assert table.input_tokens is not None
    assert table.input_tokens[:, 0].tolist() == [100, 100]
    assert table.labels == {"category": ["a", "b"]}
    assert table.label_name == "category"
    assert table.ids == ("q1", "q2")
    assert table.source == "seed 1"


def test_a_stated_cost_and_quality_win_over_the_list_price_and_the_check() -> None:
    provider = ScriptedProvider({"good": Step(answer="whatever", cost_usd=0.25, quality=0.75)})
    table = record_outcomes(ASKED[:1], Catalogue([PRICED]), provider)
    assert table.cost_usd is not None
    assert (table.quality[0, 0], table.cost_usd[0, 0]) == (0.75, 0.25)


def test_without_a_price_the_cost_is_unknown_not_zero() -> None:
    table = record_outcomes(ASKED, Catalogue.of(["good"]), ScriptedProvider())
    assert table.cost_usd is not None
    assert np.isnan(table.cost_usd).all()


def test_a_failed_call_is_an_outcome_of_quality_zero() -> None:
    script = {"bad": [Step(status=500), Step(answer="no")], "good": Step(answer="yes")}
    table = record_outcomes(ASKED, Catalogue.of(["good", "bad"]), ScriptedProvider(script))
    assert table.quality.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert table.latency_s is not None
    assert not np.isnan(table.latency_s).any()
    assert table.output_tokens is not None
    assert np.isnan(table.output_tokens[0, 1])
    assert table.source == "recorded; 1 failed calls"


async def test_a_body_that_is_no_completion_counts_as_failed() -> None:
    class Odd(ScriptedProvider):
        async def complete(self, request, target, timeout_s):  # type: ignore[no-untyped-def]
            reply = await super().complete(request, target, timeout_s)
            return type(reply)(body=b"<html>")

    outcome, failed = await run_task(ASKED[0], PRICED, Odd())
    assert failed
    assert outcome.quality == 0


async def test_a_check_outside_the_scale_is_clipped() -> None:
    outcome, _ = await run_task(Question("q", "p", "", lambda _: 7.0), PRICED, ScriptedProvider())
    assert outcome.quality == 1.0


def test_a_body_without_choices_is_an_empty_answer() -> None:
    assert answer_text(b'{"choices": []}') == ""
    assert answer_text(b'{"choices": [{"message": {"content": null}}]}') == ""


def test_the_timeout_of_a_target_is_passed_on() -> None:
    provider = ScriptedProvider()
    record_outcomes(ASKED[:1], Catalogue([EMBEDDED[0]]), provider)
    assert provider.calls[0].timeout_s == EMBEDDED[0].limits.timeout_s
    assert provider.calls[0].request.text == "first"


def test_progress_counts_every_cell() -> None:
    seen: list[tuple[int, int]] = []
    record_outcomes(ASKED, Catalogue.of(["a", "b"]), ScriptedProvider(), progress=lambda *done: seen.append(done))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


async def test_several_calls_at_a_time_give_the_same_cells() -> None:
    tasks = make_tasks(20, np.random.default_rng(4))
    one, many = EmbeddedProvider(), EmbeddedProvider()
    first = await record(tasks, EMBEDDED, one)
    second = await record(tasks, EMBEDDED, many, concurrency=8)
    np.testing.assert_array_equal(first.quality, second.quality)
    np.testing.assert_array_equal(first.cost_usd, second.cost_usd)
    await one.aclose()
    await many.aclose()


@pytest.mark.parametrize(("tasks", "targets", "concurrency"), [([], ["a"], 1), (ASKED, [], 1), (ASKED, ["a"], 0)])
def test_nothing_to_record_is_a_user_error(tasks: list[Question], targets: list[str], concurrency: int) -> None:
    with pytest.raises(UserError):
        record_outcomes(tasks, Catalogue.of(targets), ScriptedProvider(), concurrency=concurrency)


@pytest.mark.slow
def test_the_embedded_pool_rewards_routing() -> None:
    """What the pool is for: specialists win at home and cost little, one target is best overall, the oracle is far above it."""
    tasks = make_tasks(300, np.random.default_rng(12))
    table = record_outcomes(tasks, EMBEDDED, EmbeddedProvider(), source="workload, seed 12")
    assert table.cost_usd is not None
    mean = dict(zip(table.targets.ids, table.quality.mean(axis=0), strict=True))
    cost = dict(zip(table.targets.ids, table.cost_usd.mean(axis=0), strict=True))
    assert max(mean, key=mean.__getitem__) == "general@high"
    assert mean["general@high"] < 0.85
    assert table.quality.max(axis=1).mean() > mean["general@high"] + 0.1
    assert mean["general@high"] > mean["general@low"] + 0.15
    assert cost["general@high"] > 5 * cost["general@low"] > 20 * cost["arithmetic"]
    labels = np.array(table.label)
    for id_, category in (("dates", "dates"), ("text", "text"), ("facts", "facts")):
        rows = table.quality[labels == category]
        assert rows[:, table.targets.position(id_)].mean() > rows[:, table.targets.position("general@high")].mean() + 0.2
    assert (table.quality[labels == "mixed"].max(axis=1) == 0).any()  # some questions are beyond all of them
