"""What the page and the Markdown file of the suite both say: which columns a table has, and how a figure reads."""

from __future__ import annotations

from collections.abc import Mapping

from junctor.bench.formats import TITLES, number
from junctor.bench.suite_document import ExperimentFacts, Figure, Standing, SuiteBoard, Table

MOST_COLUMNS = 7
STANDARD = ("quality", "cost_usd", "cost_at_equal_quality", "qnc", "hypervolume", "oracle_gap_closed", "fit_s", "decide_us_p50")
"""Shown beside the headline under the standard protocol, as far as a table has them."""
CLEARS = {"yes": "yes", "no": "no", "tied": "tied", "bar": "the best bar", "reference": "reference", "": "–"}
WORD = {"done": "", "skipped": "left out", "failed": "failed"}


def columns(suite: SuiteBoard, table: Table) -> list[str]:
    """The metrics of a table beside its headline."""
    there = {metric for row in table.rows for metric in row.figures}
    facts = next((one for one in suite.experiments if one.name == table.experiment), None)
    order = STANDARD if table.experiment in ("standard", "ood") else tuple(facts.metrics) if facts is not None else ()
    return [metric for metric in order if metric in there and metric != table.headline][:MOST_COLUMNS]


def title(metric: str) -> str:
    """How a metric is called in a table's head."""
    return TITLES.get(metric, metric.replace("_", " "))


def value(metric: str, figure: float) -> str:
    """A figure alone, in the metric's own unit."""
    if metric in TITLES:
        return number(metric, figure)
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3f}" if abs(figure) < 10 else f"{figure:.1f}"


def spread(metric: str, figure: Figure | None) -> str:
    """A figure with its interval, or a dash."""
    if figure is None:
        return "–"
    middle, low, high = (value(metric, f) for f in figure)
    return middle if low == high else f"{middle} [{low}, {high}]"


def signed(figure: Figure | None) -> str:
    """A difference with its interval, or a dash."""
    if figure is None:
        return "–"
    middle, low, high = (f"{f:+.3f}" if abs(f) < 10 else f"{f:+,.1f}" for f in figure)
    return f"{middle} [{low}, {high}]"


def place(row: Standing) -> str:
    """The rank, or nothing."""
    return "" if row.rank is None else f"{row.rank:g}"


def named(suite: SuiteBoard, table: Table) -> str:
    """A table's heading."""
    found = {one.name: one.title for one in suite.sets}
    return found.get(table.set, table.set) + (f": {table.side}" if table.side else "")


def called(suite: SuiteBoard, policy: str) -> str:
    """A policy's name, and that it is a simulation where a part of it stands in for what nobody recorded."""
    found = next((one for one in suite.policies if one.name == policy), None)
    return f"{policy} (simulated)" if found is not None and found.status == "simulated" else policy


def facts(suite: SuiteBoard) -> Mapping[str, ExperimentFacts]:
    """Experiments by name, in their order."""
    return {one.name: one for one in suite.experiments}


def lead(suite: SuiteBoard) -> str:
    """What was run, in a sentence or two."""
    policies = {row.policy for table in suite.tables for row in table.rows}
    took = f"{suite.seconds / 60:.0f} minutes" if suite.seconds > 90 else f"{suite.seconds:.0f} seconds"
    sets = {table.set for table in suite.tables}
    text = (
        f"{len(policies)} policies on {len(sets)} sets in {len(suite.experiments)} experiments: {suite.units:,} units, {took} "
        f"of one core's work; {suite.seeds} seeds and {suite.resamples} paired resamples, encoder {suite.encoder}, "
        f"junctor {suite.junctor}."
    )
    return text + (" A quick run on few rows: not to be quoted." if suite.quick else "")


def explained(table: Table) -> str:
    """What "clears the cheap bars?" compares with in this table."""
    bar = f"Best cheap bar: {table.best_bar}" if table.best_bar else "No cheap bar has the headline figure"
    blind = (
        f"; best of those that read no label: {table.best_blind_bar}"
        if table.best_blind_bar not in ("", table.best_bar)
        else ""
    )
    return f"{bar}{blind}. Ranked by {title(table.headline)}."
