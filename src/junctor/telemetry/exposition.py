"""The figures as text, in the exposition format that Prometheus and everything like it reads (version 0.0.4).

Written here: it is a page of text, made when somebody asks, and needs no library.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import junctor
from junctor.telemetry.metrics import DECISION_S, LATENCY_S, Snapshot

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
BUDGET = "insufficient_quota"
Sample = tuple[str, str, float]
"""Name, labels as they are written, value."""


def exposition(snapshot: Snapshot) -> bytes:
    """The whole page."""
    lines: list[str] = []
    for name, kind, about, samples in _families(snapshot):
        found = list(samples)
        if found:
            lines += (f"# HELP {name} {about}", f"# TYPE {name} {kind}")
            lines += [
                f"{sample}{{{labels}}} {_number(value)}" if labels else f"{sample} {_number(value)}"
                for sample, labels, value in found
            ]
    return ("\n".join(lines) + "\n").encode()


def _families(shot: Snapshot) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    names = ("alias", "target", "tenant", "code")
    for place, (name, about) in enumerate(
        (
            ("junctor_requests_total", "Calls that were decided; code is empty when they were answered."),
            ("junctor_input_tokens_total", "Tokens sent, as the upstreams counted them."),
            ("junctor_output_tokens_total", "Tokens received."),
            ("junctor_cost_usd_total", "US dollars, failed attempts, checks and cascaded calls included."),
        )
    ):
        yield name, "counter", about, _counters(name, names, shot, "calls", place)
    yield "junctor_errors_total", "counter", "Calls that ended without an answer, by code.", _errors(shot)
    refused = "junctor_refused_total"
    yield refused, "counter", "Calls turned away before a decision, by code.", _counters(refused, ("code",), shot, "refused")
    yield "junctor_budget_refusals_total", "counter", "Calls turned away for want of budget.", _budget(shot)
    for kind, name, about, bounds, labels in (
        ("latency", "junctor_latency_seconds", "From arrival to the end of the answer.", LATENCY_S, names[:2]),
        ("first_byte", "junctor_first_byte_seconds", "From arrival to the first event of a stream.", LATENCY_S, names[:2]),
        (
            "decision",
            "junctor_decision_seconds",
            "From arrival to the first call: encode, decide, write.",
            DECISION_S,
            names[:1],
        ),
    ):
        yield name, "histogram", about, _histograms(name, labels, shot, kind, bounds)
    failed = "junctor_attempts_failed_total"
    yield failed, "counter", "Calls of an upstream that failed.", _counters(failed, ("target", "code"), shot, "failed")
    again = "junctor_attempts_again_total"
    about = "Further calls for one request: retry (same target), next (fallback), hedge, plan (a cascade or panel)."
    yield again, "counter", about, _counters(again, ("why",), shot, "again")
    hits = "junctor_cache_hits_total"
    yield hits, "counter", "Replies given from a cache.", _counters(hits, ("alias", "kind"), shot, "cache_hits")
    yield from _gauges(shot)


def _gauges(shot: Snapshot) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    cpu = "junctor_cpu_seconds_total"
    yield cpu, "counter", "Processor time of all workers.", _counters(cpu, (), shot, "cpu")
    for label, name, about in (
        ("memory_bytes", "junctor_memory_bytes", "Resident memory."),
        ("waiting", "junctor_queue_waiting", "Calls that wait for their turn."),
        ("running", "junctor_queue_running", "Calls that have a place."),
    ):
        found = [(name, _labels(("worker",), (worker,)), value) for worker, labels, value in shot.gauges if labels == (label,)]
        yield name, "gauge", about, found
    for label, name, about in (
        ("breaker", "junctor_breaker_state", "0 closed, 1 half-open, 2 open, 3 ejected."),
        ("cooling_seconds", "junctor_breaker_open_seconds", "Seconds until the place may be tried again; 0 when it may."),
        ("outstanding", "junctor_outstanding_calls", "Calls of an upstream that are on their way."),
    ):
        places = [
            (name, _labels(("worker", "target", "deployment"), (worker, *labels[1:])), value)
            for worker, labels, value in shot.gauges
            if labels[0] == label
        ]
        yield name, "gauge", about, places
    yield "junctor_workers", "gauge", "Worker processes that live.", [("junctor_workers", "", shot.workers)]
    build = [("junctor_build_info", _labels(("version",), (junctor.__version__,)), 1.0)]
    yield "junctor_build_info", "gauge", "The version that runs.", build


def _counters(name: str, labels: tuple[str, ...], shot: Snapshot, kind: str, place: int = 0) -> Iterator[Sample]:
    for values, numbers in sorted(shot.of(kind)):
        yield name, _labels(labels, values), numbers[place]


def _errors(shot: Snapshot) -> Iterator[Sample]:
    found: dict[tuple[str, str], float] = {}
    for (alias, _, _, code), numbers in shot.of("calls"):
        if code:
            found[alias, code] = found.get((alias, code), 0.0) + numbers[0]
    for (alias, code), count in sorted(found.items()):
        yield "junctor_errors_total", _labels(("alias", "code"), (alias, code)), count


def _budget(shot: Snapshot) -> Iterator[Sample]:
    count = sum(numbers[0] for labels, numbers in shot.of("refused") if labels[0] == BUDGET)
    count += sum(numbers[0] for labels, numbers in shot.of("calls") if labels[3] == BUDGET)
    yield "junctor_budget_refusals_total", "", count


def _histograms(name: str, labels: tuple[str, ...], shot: Snapshot, kind: str, bounds: tuple[float, ...]) -> Iterator[Sample]:
    bucket, edges = f"{name}_bucket", [f'le="{bound:g}"' for bound in bounds]
    for values, numbers in sorted(shot.of(kind)):
        named = _labels(labels, values)
        count = 0.0
        for edge, inside in zip(edges, numbers, strict=False):
            count += inside
            yield bucket, f"{named},{edge}", count
        count += numbers[len(bounds)]
        yield bucket, f'{named},le="+Inf"', count
        yield f"{name}_sum", named, numbers[-1]
        yield f"{name}_count", named, count


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)])


def _escaped(value: str) -> str:
    if value.isalnum() and value.isascii():
        return value
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").encode("utf-8", "replace").decode()


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
