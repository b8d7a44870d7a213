"""The suite's page: one HTML file, no outside asset. A table per experiment and set, frontiers, curves, and mean ranks."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files

from junctor.bench import suite_plots
from junctor.bench.formats import TITLES, number
from junctor.bench.suite_document import ExperimentFacts, MeanRank, Standing, SuiteBoard, Table
from junctor.bench.suite_words import (
    CLEARS,
    WORD,
    called,
    columns,
    explained,
    facts,
    lead,
    named,
    place,
    signed,
    spread,
    title,
    value,
)

STYLE = """
nav { font-size: 13.5px; margin: 14px 0 0; line-height: 1.9; } nav a { color: var(--s0); margin-right: 12px; }
h3 { font-size: 15.5px; margin: 26px 0 8px; }
summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
td.yes { background: color-mix(in srgb, var(--s2) 30%, transparent); }
td.no { background: color-mix(in srgb, var(--down) 22%, transparent); }
td.bar, td.reference { color: var(--soft); }
.tall { max-height: 640px; overflow-y: auto; }
@media print { .tall { max-height: none; overflow: visible; } }
.curve { max-width: 760px; margin: 10px 0; }
"""


def render_suite(suite: SuiteBoard) -> str:
    """The whole page as text. Raises MissingExtra without matplotlib."""
    known = facts(suite)
    parts = [
        "<h1>Published sets: the board</h1>",
        f'<p class="lead">{escape(lead(suite))}</p>',
        _contents(suite),
        _section("Mean ranks", "ranks", _ranks(suite)),
        *(_experiment(suite, one) for one in known.values()),
        _section("What is not on the board", "missing", _missing(suite)),
        _section("The sets", "sets", _sets(suite)),
    ]
    style = files(__package__).joinpath("report.css").read_text("utf-8") + STYLE
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style>'
    body = f"<body><main>{''.join(parts)}</main></body>"
    return f'<!doctype html>\n<html lang="en"><head><title>junctor: the board</title>{head}</head>{body}</html>\n'


def _contents(suite: SuiteBoard) -> str:
    links = [
        ("ranks", "mean ranks"),
        *((one.name, one.title) for one in suite.experiments),
        ("missing", "left out"),
        ("sets", "sets"),
    ]
    return "<nav>" + " ".join(f'<a href="#{_anchor(name)}">{escape(text)}</a>' for name, text in links) + "</nav>"


def _anchor(name: str) -> str:
    return escape(name.replace("+", "-and-"))


def _section(heading: str, name: str, body: str) -> str:
    return f'<section id="{_anchor(name)}"><h2>{escape(heading)}</h2>{body}</section>' if body else ""


def _ranks(suite: SuiteBoard) -> str:
    """A row per policy, a column pair per experiment: mean rank, and on how many sets it clears the cheap bars."""
    names = list(facts(suite))
    found: dict[str, dict[str, MeanRank]] = {}
    for rank in suite.ranks:
        found.setdefault(rank.policy, {})[rank.experiment] = rank
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = [
        f"<tr><th>{escape(called(suite, policy))}</th>{''.join(_rank_cell(ranks.get(n)) for n in names)}</tr>"
        for policy, ranks in found.items()
    ]
    key = (
        "Mean rank over sets by each set's headline, 1 is best; in brackets: sets where it clears the best cheap bar, cannot "
        "be told from it, is below it. A star: not on all sets of the experiment."
    )
    table = f"<table><thead><tr><th>policy</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll first">{table}</div><p class="note">{key}</p>'


def _rank_cell(rank: MeanRank | None) -> str:
    if rank is None:
        return '<td class="none">–</td>'
    star = "" if rank.sets == rank.of else f'<span title="on {rank.sets} of {rank.of} sets">*</span>'
    return f"<td>{rank.mean_rank:.1f}{star} <small>({rank.yes}/{rank.tied}/{rank.no})</small></td>"


def _experiment(suite: SuiteBoard, asked: ExperimentFacts) -> str:
    tables = "".join(_table(suite, table) for table in suite.of(asked.name))
    meanings = "".join(f"<dt>{escape(title(name))}</dt><dd>{escape(text)}</dd>" for name, text in asked.metrics.items())
    key = f"<details><summary>What the figures mean</summary><dl>{meanings}</dl></details>"
    return _section(asked.title, asked.name, f'<p class="note">{escape(asked.question)}</p>{key}{tables}')


def _table(suite: SuiteBoard, table: Table) -> str:
    shown = columns(suite, table)
    head = "".join(f"<th>{escape(title(metric))}</th>" for metric in (table.headline,))
    head += "<th>vs best bar</th><th>clears the cheap bars?</th>" + "".join(f"<th>{escape(title(m))}</th>" for m in shown)
    body = "".join(_row(suite, table, row, shown) for row in table.rows if row.figures)
    made = f"<table><thead><tr><th>#</th><th>policy</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    notes = "".join(f"<li>{escape(note)}</li>" for note in (explained(table), *table.notes))
    parts = [
        f'<div class="scroll ranked tall">{made}</div><ul>{notes}</ul>',
        _drawings(suite, table),
        _card(table),
        _gone(table),
    ]
    return f"<h3>{escape(named(suite, table))}</h3>{''.join(parts)}"


def _row(suite: SuiteBoard, table: Table, row: Standing, shown: Iterable[str]) -> str:
    cells = [
        f"<td>{_small(spread(table.headline, row.figures.get(table.headline)))}</td>",
        f"<td>{_small(signed(row.vs_best_bar))}</td>",
    ]
    mark = row.clears_the_cheap_bars
    blind = row.clears_the_blind_bars
    hint = f"without labels: {CLEARS[blind]}" if blind not in ("", "reference") else ""
    cells.append(f'<td class="{mark}" title="{hint}">{CLEARS[mark]}</td>')
    for metric in shown:
        figure = row.figures.get(metric)
        cells.append(
            "<td>–</td>" if figure is None else f'<td title="{spread(metric, figure)}">{value(metric, figure[0])}</td>'
        )
    kind = ' class="reference"' if mark in ("reference", "bar") else ""
    title_ = escape("; ".join(note for note in row.notes if note not in table.notes))
    return f'<tr{kind}><th>{place(row)}</th><th title="{title_}">{escape(called(suite, row.policy))}</th>{"".join(cells)}</tr>'


def _small(text: str) -> str:
    head, bracket, rest = text.partition(" [")
    return head + (f" <small>[{rest}</small>" if bracket else "")


def _drawings(suite: SuiteBoard, table: Table) -> str:
    if table.side:
        return ""
    drawn = [suite_plots.frontier_of(table, suite) if table.experiment == "standard" else ""]
    drawn += [suite_plots.onboarding_of(table), suite_plots.regret_of(table)]
    return "".join(f'<figure class="{"wide" if i == 0 else "curve"}">{svg}</figure>' for i, svg in enumerate(drawn) if svg)


def _card(table: Table) -> str:
    """Noted figures beside ours, and the reason where ours is not within its interval of them."""
    if table.card is None or not table.card.bars:
        return ""
    rows = []
    for bar in table.card.bars:
        measured = "–" if bar.measured is None else number(bar.metric, bar.measured)
        inside = bar.low is not None and bar.high is not None and bar.low <= bar.noted <= bar.high
        why = "within the interval" if inside else bar.why or "should come out as noted"
        label = f"{bar.policy}, {TITLES.get(bar.metric, bar.metric)}, {bar.split}"
        texts = f'<td class="text">{escape(bar.source)}</td><td class="text">{escape(why)}</td>'
        rows.append(f"<tr><th>{escape(label)}</th><td>{number(bar.metric, bar.noted)}</td><td>{measured}</td>{texts}</tr>")
    head = '<th>bar</th><th>noted</th><th>measured</th><th class="text">source</th><th class="text">why they differ</th>'
    made = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.card.notes)
    return f'<h4>Noted figures: {escape(table.card.title)}</h4><div class="scroll first">{made}</div><ul>{notes}</ul>'


def _gone(table: Table) -> str:
    """Who is not in the table, and why."""
    gone = [row for row in table.rows if row.status != "done"]
    if not gone or table.side:
        return ""
    items = "".join(f"<li>{escape(row.policy)} ({WORD[row.status]}): {escape(row.why)}</li>" for row in gone)
    return f"<details><summary>{len(gone)} not in this table</summary><ul>{items}</ul></details>"


def _missing(suite: SuiteBoard) -> str:
    kinds = {"Sets": suite.absent, "Experiments": suite.unloaded, "Policies": suite.left_out}
    return "".join(
        f"<h3>{kind}</h3><ul>{''.join(f'<li>{escape(name)}: {escape(why)}</li>' for name, why in found.items())}</ul>"
        for kind, found in kinds.items()
        if found
    )


def _sets(suite: SuiteBoard) -> str:
    rows = []
    for one in suite.sets:
        notes = escape("; ".join(one.notes))
        datasets = f"{one.datasets} ({escape(one.label)})" if one.label else "–"
        cells = f"<td>{one.queries:,}</td><td>{one.targets}</td><td>{datasets}</td><td>{'yes' if one.costs else '–'}</td>"
        rows.append(f'<tr><th>{escape(one.title)}</th>{cells}<td class="text">{notes}</td><td>{one.digest}</td></tr>')
    head = (
        '<th>set</th><th>queries</th><th>targets</th><th>datasets</th><th>costs</th><th class="text">notes</th><th>digest</th>'
    )
    return f'<div class="scroll first"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
