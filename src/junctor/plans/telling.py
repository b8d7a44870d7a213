"""A plan in words, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from junctor.types import Call, Cascade, Panel, Plan

SHOWN = 60


def plan_lines(plan: Plan, indent: int = 0) -> Iterator[str]:
    """One line per part, nested parts indented; equal neighbours are counted: `3 x call small`."""
    room = "  " * indent
    if isinstance(plan, Call):
        yield f"{room}call {plan.target}"
        return
    yield room + _head(plan)
    for part, same in groupby(plan.plans):
        times = len(list(same))
        first, *rest = plan_lines(part, indent + 1)
        yield first if times == 1 else f"{room}  {times} x {first.strip()}"
        yield from rest


def _head(plan: Plan) -> str:
    if isinstance(plan, Cascade):
        return f"cascade: in this order, until {plan.accept} accepts{_settings(plan.settings)}"
    if isinstance(plan, Panel):
        return f"panel: all at once, then {plan.aggregate}{_settings(plan.settings)}"
    return "fallback: the first that answers"


def _settings(settings: Mapping[str, Any]) -> str:
    said = (f"{name} {_short(value)}" for name, value in settings.items())
    return f" ({', '.join(said)})" if settings else ""


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        text = "[" + ", ".join(_short(item) for item in value) + "]"
        return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return str(value)
