"""Figures as people read them; shared by the terminal and the HTML report."""

from __future__ import annotations

from junctor.bench.document import Row

TITLES = {
    "quality": "quality",
    "quality_macro": "macro quality",
    "cost_usd": "USD / 1k",
    "aiq": "AIQ",
    "aiq_released": "AIQ released",
    "area": "area",
    "hypervolume": "hypervolume",
    "qnc": "QNC",
    "cost_at_equal_quality": "USD / 1k at equal quality",
    "peak": "peak",
    "apgr": "APGR",
    "cpt50": "CPT50",
    "cpt80": "CPT80",
    "oracle_gap_closed": "gap closed",
    "routerarena": "RouterArena",
    "vl_rank": "VL rank",
    "vs_best_bar": "vs best bar",
    "decide_us_p50": "decide p50",
    "decide_us_p99": "decide p99",
    "fit_s": "fit",
}


def number(metric: str, value: float) -> str:
    """One value in the metric's own unit: USD per 1,000 queries, per cent, µs, s, or three decimals."""
    if metric in ("cost_usd", "cost_at_equal_quality"):
        return usd(value * 1000)
    if metric in ("qnc", "cpt50", "cpt80", "oracle_gap_closed"):
        return f"{round(value * 100, 1) + 0.0:.1f}%"
    if metric.startswith("decide_us"):
        return f"{value:.0f} µs" if value < 10_000 else f"{value / 1000:.1f} ms"
    if metric == "fit_s":
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    if metric == "vs_best_bar":
        return f"{value:+.3f}"
    return f"{value:.3f}"


def with_interval(row: Row) -> str:
    """`0.812 [0.797, 0.826]`; the value alone where the interval has no width."""
    value = number(row.metric, row.value)
    low, high = number(row.metric, row.low), number(row.metric, row.high)
    return value if low == high else f"{value} [{low}, {high}]"


def usd(value: float) -> str:
    """USD with about three significant digits, never in powers of ten, without a tail of zeros."""
    if value >= 100:
        return f"${value:,.0f}"
    decimals = 2 if value >= 1 else 3 if value >= 0.1 else 4 if value >= 0.01 else 6
    text = f"{value:.{decimals}f}"
    whole, _, rest = text.partition(".")
    return f"${whole}.{rest[:2]}{rest[2:].rstrip('0')}" if value else "$0"
