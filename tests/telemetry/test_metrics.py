"""What is counted of runs, and how it reads."""

from __future__ import annotations

import re

import pytest

from junctor.engine.hedging import HEDGE, LOST
from junctor.errors import UpstreamError
from junctor.telemetry.exposition import exposition
from junctor.telemetry.metrics import LATENCY_S, MOST_TENANTS, OTHER, Metrics, quantile
from junctor.types import Attempt, Message, Request

LINE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.e+-]+|\+Inf)$')


def request(text="a secret prompt", tenant="", **more):
    return Request(text=text, messages=(Message("user", text),), params={"model": "auto"}, tenant=tenant, **more)


def samples(metrics: Metrics) -> dict[str, float]:
    """The page, read as strictly as Prometheus does."""
    found: dict[str, float] = {}
    typed: set[str] = set()
    for line in exposition(metrics.read()).decode().splitlines():
        if line.startswith("# TYPE "):
            assert line.split()[2] not in typed, "a family stands there twice"
            typed.add(line.split()[2])
        elif not line.startswith("#"):
            match = LINE.match(line)
            assert match, line
            assert re.sub("_(bucket|sum|count)$", "", match[1]) in typed or match[1] in typed
            key = line.rpartition(" ")[0]
            assert key not in found, f"{key} stands there twice"
            found[key] = float(match[3])
    return found


async def test_a_run_is_counted_once_with_all_its_figures(engine) -> None:
    metrics, made = Metrics(), engine()
    metrics.attach(made)
    for _ in range(3):
        await made.complete(request(tenant="acme"), "auto")
    await made.complete(request(), "good")
    found = samples(metrics)
    assert found['junctor_requests_total{alias="auto",target="cheap",tenant="acme",code=""}'] == 3
    assert found['junctor_requests_total{alias="",target="good",tenant="",code=""}'] == 1
    assert found['junctor_input_tokens_total{alias="auto",target="cheap",tenant="acme",code=""}'] == 30
    assert found['junctor_output_tokens_total{alias="auto",target="cheap",tenant="acme",code=""}'] == 15
    assert found['junctor_cost_usd_total{alias="auto",target="cheap",tenant="acme",code=""}'] == pytest.approx(3 * 0.0002)
    assert found['junctor_latency_seconds_count{alias="auto",target="cheap"}'] == 3
    assert found['junctor_decision_seconds_count{alias="auto"}'] == 3
    await made.aclose()


async def test_failures_fallbacks_and_errors_are_told_apart(engine) -> None:
    metrics, made = Metrics(), engine()
    metrics.attach(made)
    made.providers["says"].down = {"cheap"}
    await made.complete(request(), "auto")
    made.providers["says"].down = {"cheap", "good"}
    with pytest.raises(UpstreamError):
        await made.complete(request(), "auto")
    found = samples(metrics)
    assert found['junctor_attempts_failed_total{target="cheap",code="upstream_refused"}'] == 2
    assert found['junctor_attempts_failed_total{target="good",code="upstream_refused"}'] == 1
    assert found['junctor_attempts_again_total{why="next"}'] == 2
    assert found['junctor_errors_total{alias="auto",code="upstream_refused"}'] == 1
    assert found['junctor_requests_total{alias="auto",target="good",tenant="",code=""}'] == 1
    await made.aclose()


def test_why_there_was_another_call() -> None:
    """Who lost a race did not fail; a hedge is no retry; what a plan wants is none either."""
    metrics = Metrics()

    def called(target, **more):
        return Attempt(target=target, started_s=0.0, ended_s=0.1, **more)

    metrics._several([called("a", error="cancelled", detail=LOST), called("b", role=HEDGE)])
    metrics._several([called("a", error="upstream_timeout"), called("a")])
    metrics._several([called("a", role="stage 1"), called("b", role="stage 2")])
    found = {name: value for name, value in samples(metrics).items() if name.startswith("junctor_attempts")}
    assert found == {
        'junctor_attempts_again_total{why="hedge"}': 1,
        'junctor_attempts_again_total{why="retry"}': 1,
        'junctor_attempts_again_total{why="plan"}': 1,
        'junctor_attempts_failed_total{target="a",code="upstream_timeout"}': 1,
    }


async def test_histograms_are_cumulative_and_end_in_the_count(engine) -> None:
    metrics, made = Metrics(), engine()
    metrics.attach(made)
    for _ in range(5):
        await made.complete(request(), "auto")
    buckets = [v for k, v in samples(metrics).items() if k.startswith("junctor_latency_seconds_bucket")]
    assert len(buckets) == len(LATENCY_S) + 1
    assert buckets == sorted(buckets)
    assert buckets[-1] == 5
    await made.aclose()


async def test_tenants_are_bounded_and_the_rest_share_a_name(engine) -> None:
    metrics, made = Metrics(), engine(journal=False)
    metrics.attach(made)
    for number in range(MOST_TENANTS + 20):
        await made.complete(request(tenant=f"t{number}"), "auto")
    found = {k: v for k, v in samples(metrics).items() if k.startswith("junctor_requests_total")}
    assert len(found) == MOST_TENANTS + 1
    assert found[f'junctor_requests_total{{alias="auto",target="cheap",tenant="{OTHER}",code=""}}'] == 20
    assert sum(found.values()) == MOST_TENANTS + 20
    await made.aclose()


async def test_names_cannot_break_a_line(engine) -> None:
    metrics, made = Metrics(), engine(journal=False)
    metrics.attach(made)
    await made.complete(request(tenant='a"b\\c\nd{} 1\nevil_total 9'), "auto")
    found = samples(metrics)
    assert not any(name.startswith("evil") for name in found)
    assert any('tenant="a\\"b\\\\c\\nd{} 1\\nevil_total 9"' in name for name in found)
    await made.aclose()


def test_refusals_and_budgets() -> None:
    metrics = Metrics()
    metrics.refused("insufficient_quota")
    metrics.refused("rate_limit_exceeded")
    found = samples(metrics)
    assert found['junctor_refused_total{code="rate_limit_exceeded"}'] == 1
    assert found["junctor_budget_refusals_total"] == 1


def test_gauges_come_from_whoever_is_asked() -> None:
    metrics, waiting = Metrics(), [3.0]
    metrics.watch(lambda: [(("waiting",), waiting[0])])
    assert samples(metrics)['junctor_queue_waiting{worker="0"}'] == 3
    waiting[0] = 0.0
    assert samples(metrics)['junctor_queue_waiting{worker="0"}'] == 0
    assert samples(metrics)['junctor_memory_bytes{worker="0"}'] > 1e6


async def test_the_history_says_how_fast_it_went(engine) -> None:
    metrics, made = Metrics(), engine(journal=False)
    metrics.attach(made)
    metrics.history.add(metrics.read())
    for _ in range(4):
        await made.complete(request(), "auto")
    metrics.history.add(metrics.read())
    (_, before, _, _), (_, after, _, _) = metrics.history.points
    assert after[0] - before[0] == 4
    assert sum(metrics.history.latency_of("cheap", metrics.read())) == 4
    await made.aclose()


def test_quantiles_lie_straight_in_their_bucket() -> None:
    assert quantile([0.0, 0.0], (1.0,), 0.5) is None
    assert quantile([10.0, 0.0, 0.0], (1.0, 2.0), 0.5) == pytest.approx(0.5)
    assert quantile([0.0, 10.0, 0.0], (1.0, 2.0), 0.9) == pytest.approx(1.9)
    assert quantile([0.0, 0.0, 5.0], (1.0, 2.0), 0.5) == 2.0


async def test_after_close_nothing_breaks(engine, tmp_path) -> None:
    metrics, made = Metrics(tmp_path / "run", 0), engine(journal=False)
    metrics.attach(made)
    metrics.close()
    metrics.close()
    await made.complete(request(), "auto")
    await made.aclose()
