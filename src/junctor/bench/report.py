"""The HTML report: one file, no outside asset, readable in light and dark, on a desk and on a phone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path

from junctor.bench import plots
from junctor.bench.document import METRICS, Board, CardNote, Row, Tuned
from junctor.bench.formats import TITLES, number, usd, with_interval

_SHOWN_WITH_INTERVAL = frozenset({"quality", "quality_macro", "aiq", "apgr", "vs_best_bar"})


def render_report(board: Board) -> str:
    """The whole page as text. Raises MissingExtra without matplotlib."""
    parts = [
        f"<h1>{escape(board.dataset or 'Bench')}</h1>",
        f'<p class="lead">{summary_sentence(board)}</p>',
        _section("Leaderboard", _leaderboard(board)),
        _frontier(board),
        _section(f"Intervals: {TITLES[board.headline]}", _both(board, "forest", METRICS[board.headline])),
        _heat_map("Quality per dataset", board, board.per_dataset, board.dataset_sizes),
        *_extras(board),
        _card(board.card),
        _tuning(board.tuned),
        _provenance(board),
    ]
    style = files(__package__).joinpath("report.css").read_text("utf-8")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style>'
    title = escape(f"{board.dataset or 'bench'}: junctor bench")
    body = f"<body><main>{''.join(parts)}</main></body>"
    return f'<!doctype html>\n<html lang="en"><head><title>{title}</title>{head}</head>{body}</html>\n'


def write_report(board: Board, path: str | Path) -> None:
    """Write the page to a file."""
    Path(path).write_text(render_report(board), "utf-8")


def summary_sentence(board: Board) -> str:
    """What came out, in a few sentences: who leads, by how much over the cheap bars, and what it saves."""
    lead = next((name for name in board.policies() if name in board.judged and board.find(name, board.headline)), None)
    if lead is None:
        return "No policy has the headline figure."
    row = board.find(lead, board.headline)
    assert row is not None
    text = [f"Of the policies asked about, <b>{escape(lead)}</b> is first: {_named(board.headline, row)} on {_queries(board)}"]
    text.append(_against_bar(board, lead))
    return " ".join(part for part in (*text, _against_single(board, lead)) if part)


def _named(metric: str, row: Row) -> str:
    return f"{TITLES[metric]} {with_interval(row)}"


def _queries(board: Board) -> str:
    return f"{board.split.get('test', 0):,} test queries ({board.seeds} seeds)."


def _against_bar(board: Board, lead: str) -> str:
    if board.best_bar == lead:
        rest = [n for n in board.policies() if n not in (lead, "oracle") and board.find(n, board.headline)]
        return f"It is itself one of the cheap bars; next comes {escape(rest[0])}." if rest else ""
    row = board.find(lead, "vs_best_bar")
    if row is None:
        return ""
    bar = escape(board.best_bar)
    if row.low > 0:
        return f"That is {with_interval(row)} above the best cheap bar, {bar}."
    if row.high < 0:
        return f"That is below the best cheap bar, {bar}: {with_interval(row)}."
    return f"It cannot be told from the best cheap bar, {bar}: the difference is {with_interval(row)}."


def _against_single(board: Board, lead: str) -> str:
    ours, theirs = board.value(lead, "cost_usd"), board.value("best-single", "cost_usd")
    quality, single = board.value(lead, "quality"), board.value("best-single", "quality")
    if quality is None or single is None:
        return ""
    name = escape(board.best_single)
    if ours is None or theirs is None:
        metric = "quality_macro" if board.headline == "quality_macro" else "quality"
        return f"The best single target, {name}, has {TITLES[metric]} {board.value('best-single', metric) or single:.3f}."
    change = 100 * (ours / theirs - 1) if theirs else 0.0
    return (
        f"Where validation rows put its knob it has quality {quality:.3f} at {usd(ours * 1000)} per 1,000 queries; the best "
        f"single target, {name}, has {single:.3f} at {usd(theirs * 1000)} ({change:+.0f}% cost)."
    )


def _leaderboard(board: Board) -> str:
    metrics = [m for m in METRICS if any(row.metric == m for row in board.rows)]
    metrics.sort(key=lambda m: (m != board.headline, m != "vs_best_bar"))
    head = "".join(f'<th title="{escape(METRICS[m])}">{escape(TITLES[m])}</th>' for m in metrics)
    body, rank = [], 0
    for policy in board.policies():
        rank += policy != "oracle"
        cells = "".join(f"<td>{_figure(board.find(policy, m))}</td>" for m in metrics)
        kind = "" if policy in board.judged else ' class="reference"'
        body.append(f"<tr{kind}><th>{'' if policy == 'oracle' else rank}</th><th>{escape(policy)}</th>{cells}</tr>")
    table = f"<table><thead><tr><th>#</th><th>policy</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    key = "Grey rows are references. Brackets: 95% intervals over queries and seeds. A dash: this table cannot give the figure."
    return f'<div class="scroll ranked">{table}</div><p class="note">{key}</p>'


def _figure(row: Row | None) -> str:
    if row is None:
        return '<span class="none">–</span>'
    value = number(row.metric, row.value)
    if row.metric not in _SHOWN_WITH_INTERVAL or row.low == row.high:
        reached = "" if row.reached == 1 else f' <small title="share of resamples that reach it">({row.reached:.0%})</small>'
        return value + reached
    return f"{value} <small>[{number(row.metric, row.low)}, {number(row.metric, row.high)}]</small>"


def _frontier(board: Board) -> str:
    if not plots.has_costs(board):
        return ""
    note = (
        "Lines are hulls: any point on one can be had by mixing two settings of the knob. Filled marks are operating points "
        "chosen on validation rows; rings are single targets."
    )
    return _section("Cost and quality", _both(board, "frontier", "quality against cost") + f'<p class="note">{note}</p>')


def _both(board: Board, plot: str, label: str) -> str:
    draw = plots.frontier if plot == "frontier" else plots.forest
    wide, narrow = draw(board, plots.WIDE), draw(board, plots.NARROW)
    return f'<figure class="wide" aria-label="{escape(label)}">{wide}</figure><figure class="narrow">{narrow}</figure>'


def _heat_map(title: str, board: Board, per_dataset: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]) -> str:
    names = [name for name in board.policies() if name in per_dataset]
    datasets = list(dict.fromkeys(d for name in names for d in per_dataset[name]))
    if len(datasets) < 2 or not names:
        return ""
    base = per_dataset.get("best-single", {})
    reach = (
        max((abs(v - base.get(d, v)) for n in names if n != "oracle" for d, v in per_dataset[n].items()), default=0.0) or 1.0
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for dataset in datasets:
        size = f" <small>{sizes[dataset]:,}</small>" if dataset in sizes else ""
        cells = "".join(_heat_cell(per_dataset[name].get(dataset), base.get(dataset), reach) for name in names)
        rows.append(f"<tr><th>{escape(dataset)}{size}</th>{cells}</tr>")
    table = f"<table><thead><tr><th>dataset</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    key = '<span class="chip up">better</span> or <span class="chip down">worse</span> than the best single target there'
    return _section(title, f'<div class="scroll heat">{table}</div><p class="note">{key}; small figures: test queries.</p>')


def _heat_cell(value: float | None, base: float | None, reach: float) -> str:
    if value is None:
        return '<td class="none">–</td>'
    change = 0.0 if base is None else value - base
    share = round(min(1.0, abs(change) / reach) * 65)
    tone = "up" if change > 0 else "down"
    return f'<td style="--share:{share}%" class="{tone}" title="{change:+.3f}">{value:.3f}</td>'


def _extras(board: Board) -> Iterable[str]:
    for side, part in board.extra_splits.items():
        has = {row.metric for row in part.rows}
        headline = board.headline if board.headline in has else "quality"
        other = Board(
            dataset=side,
            rows=part.rows,
            headline=headline,
            judged=board.judged,
            split={"test": part.queries},
            seeds=board.seeds,
        )
        title = f"{side}: {part.queries:,} queries, the same fitted policies"
        yield _section(title, _leaderboard(other))
        yield _heat_map(f"{side}: quality per dataset", other, part.per_dataset, {})


def _card(card: CardNote | None) -> str:
    if card is None:
        return ""
    rows = []
    for bar in card.bars:
        measured = "–" if bar.measured is None else number(bar.metric, bar.measured)
        label = f"{bar.policy}, {TITLES.get(bar.metric, bar.metric)}, {bar.split}"
        why = bar.why or "should come out as noted"
        noted = number(bar.metric, bar.noted)
        texts = f'<td class="text">{escape(bar.source)}</td><td class="text">{escape(why)}</td>'
        rows.append(f"<tr><th>{escape(label)}</th><td>{noted}</td><td>{measured}</td>{texts}</tr>")
    head = '<th>bar</th><th>noted</th><th>measured</th><th class="text">source</th><th class="text">why they differ</th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in card.notes)
    return _section(f"Dataset card: {card.title}", f'<ul>{notes}</ul><div class="scroll first">{table}</div>')


def _tuning(tuned: Iterable[Tuned]) -> str:
    rows = []
    for entry in tuned:
        counted = Counter(", ".join(f"{k} = {_short(v)}" for k, v in s.items()) or "defaults" for s in entry.settings)
        won = "; ".join(f"{text} ({times} of {len(entry.settings)} seeds)" for text, times in counted.most_common())
        rows.append(f'<tr><th>{escape(entry.policy)}</th><td>{entry.tried}</td><td class="text">{escape(won)}</td></tr>')
    if not rows:
        return ""
    head = '<th>policy</th><th>tried</th><th class="text">won on validation rows</th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return _section("Tuning", f'<div class="scroll first">{table}</div>')


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _provenance(board: Board) -> str:
    split = ", ".join(f"{count:,} {name}" for name, count in board.split.items())
    facts = {
        "data": f"{board.data.get('source') or 'in memory'}, {board.data.get('queries', 0):,} queries x "
        f"{len(board.data.get('targets', ()))} targets",
        "digest": str(board.data.get("digest", ""))[:16],
        "split of seed 0": split,
        "encoder": " ".join(str(v) for v in board.encoder.values()) or "none needed",
        "seeds and resamples": f"{board.seeds} and {board.resamples:,}",
        "junctor": board.junctor,
        "wall time": f"{board.elapsed_s:.1f} s",
    }
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items() if v)
    notes = "".join(f"<li>{escape(note)}</li>" for note in board.notes)
    return _section("Provenance", f"<dl>{items}</dl><ul>{notes}</ul>")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""
