#!/usr/bin/env python3
"""Write docs/policies: a page for every estimator and policy of ours, and an index by family.

The upper part of a page is made from the code: `about`, the settings with their docstrings, what the classes can do. The lower
part is what it got here, from docs/board/board.json (`junctor bench --suite published --board docs/board`). Loss curves are
those of the board; a part that is trained and has none there is trained here, on a planted table with a fixed seed.

    make pages
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from junctor import registry
from junctor.about import FAMILIES
from junctor.bench.suite_document import SuiteBoard
from junctor.bench.suite_policy import MAKE, best_of, found_of, gone_of, losses_of, mean_rank, open_board
from junctor.describing import CHOOSING, Description, described, shown
from junctor.testing.planted import planted

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "policies"
MARK = "<!-- Made from the code above this line, from the board below it, by `make pages`. -->"
ROWS = 2000
"""Of the planted table that loss curves are shown on where the board has none."""
TRAINED = ("routerbench-mlp",)
"""Trained by gradient descent, though not with torch."""
STATUS = {
    "faithful": "**Faithful**: the published rule, on our encoder.",
    "adapted": "**Adapted**: what was published, with these parts replaced.",
    "simulated": "**Simulated**: it needs data that is recorded nowhere we could read; this stands in for it.",
    "ours": "**Ours**: not published elsewhere, or folklore.",
}
SURE = {
    "read": "read in the paper or its code",
    "abstract": "read in the abstract",
    "notes": "from notes that agree",
    "unverified": "not verified",
}
HERE = "measured before the board was"
FIRST_SETTING = {"fixed": " --set target=TARGET", "utility": " --set estimator=linear"}
"""What `junctor fit` cannot do without, or is pointless without."""
BY_HAND = {"rules": "Rules are written in the configuration: see [configuration](../configuration.md)."}


def parts_of_ours() -> list[Description]:
    """Every built-in estimator and policy, without plug-ins."""
    names = {entry.name for entry in registry.BUILTIN if entry.kind in CHOOSING}
    return [one for one in described() if one.name in names]


def page(one: Description, suite: SuiteBoard | None, curve: Curve | None = None) -> str:
    """A whole page as Markdown."""
    return "\n".join([head_of(one), *figures_of(one, suite), *([] if curve is None else curve.words())]).rstrip() + "\n"


def head_of(one: Description) -> str:
    """The part that is made from the code, with the mark that ends it."""
    lines = [f"# {plain(one.title)} (`{one.name}`)", "", f"{plain(one.summary[:1].upper() + one.summary[1:])}.", ""]
    lines += [f"{one.kind.capitalize()}, {one.family}. Code: {code(one)}.", ""]
    lines += [
        "## Source",
        "",
        f"{plain(one.source.rstrip('.'))}.{f' <{one.link}>' if one.link else ''}",
        "",
        STATUS[one.status],
        "",
    ]
    lines += listed(one.adapted)
    if one.unverified:
        lines += ["Not verified:", "", *listed(one.unverified)]
    lines += ["## Rule", "", "```text", one.formula, "```", "", f"Complexity: {plain(one.complexity.rstrip('.'))}.", ""]
    lines += [*needs(one), *settings(one), *use(one), "## Figures", "", *claims(one)]
    return "\n".join([*lines, MARK, ""])


def code(one: Description) -> str:
    """A link to the file."""
    path = one.where.partition(":")[0].replace(".", "/")
    return f"[{path}.py](../../src/{path}.py)"


def needs(one: Description) -> list[str]:
    """What it reads, what a fit needs, what else it can do."""
    if one.needs is None:
        reads = "what its settings name"
    else:
        reads = " and ".join({"embedding": "the query's embedding", "labels": "its labels"}.get(n, n) for n in one.needs) or (
            "nothing of the query that is encoded"
        )
    lines = [
        f"Deciding reads {reads}.",
        f"A fit needs {f'the extra `[{one.extra}]`' if one.extra else 'the core install only'}.",
    ]
    said = {
        "It learns from feedback while it serves.": one.learns,
        "It takes a new target from a few rows, without being fitted anew.": one.onboards,
        "Its plans look at answers before they stop: the bench replays every call and bills it.": one.replays,
        "As a policy it is the [utility](utility.md) over it, so cost can be traded.": one.kind == "estimator",
    }
    return ["## Needs", "", *listed([*lines, *(words for words, true in said.items() if true)])]


def settings(one: Description) -> list[str]:
    """The hyper-parameters as a table."""
    if not one.settings:
        return ["## Settings", "", "None.", ""]
    tried = any(setting.tried for setting in one.settings)
    head = ["setting", "default", "meaning", *(["tried on validation rows"] if tried else [])]
    rows = [
        [
            f"`{setting.name}`",
            "required" if setting.required else f"`{shown(setting.default)}`",
            setting.meaning,
            *([", ".join(map(shown, setting.tried))] if tried else []),
        ]
        for setting in one.settings
    ]
    return ["## Settings", "", *grid(head, rows), ""]


def use(one: Description) -> list[str]:
    """Command lines."""
    lines = [f"junctor bench outcomes.parquet --policies {one.name}"]
    if one.name in FIRST_SETTING:
        lines = []
    lines.append(f"junctor fit outcomes.parquet --policy {one.name}{FIRST_SETTING.get(one.name, '')} --out policies/{one.name}")
    if one.name in BY_HAND:
        return ["## Use", "", BY_HAND[one.name], ""]
    return ["## Use", "", "```sh", *lines, "```", ""]


def claims(one: Description) -> list[str]:
    """What others published."""
    if not one.claims:
        return ["No figure is claimed for it.", ""]
    rows = [[c.figure, c.on, HERE if "measured here" in c.on else SURE[c.sure]] for c in one.claims]
    return ["Claimed:", "", *grid(["figure", "on", "how sure"], rows), ""]


def figures_of(one: Description, suite: SuiteBoard | None) -> list[str]:
    """What it got here."""
    if suite is None:
        return [f"Found here: nothing yet, there is no board. `{MAKE}` makes it, then `make pages`.", ""]
    found = found_of(suite, one.name)
    head = ["experiment", "set", "figure", "against the best cheap bar", "clears the cheap bars?", "rank"]
    rows = [
        [
            f.experiment,
            f.set,
            f"{f.metric} {f.figure}",
            f"{f.difference} ({f.bar})" if f.bar else f.difference,
            f.clears,
            f.rank,
        ]
        for f in found
    ]
    quick = " **A quick run on few rows: not to be quoted.**" if suite.quick else ""
    told = f"Found here ([the board](../board/README.md): {suite.seeds} seeds, 95% intervals, encoder {suite.encoder}):{quick}"
    lines = [told, "", *grid(head, rows), ""] if rows else [f"Found here: no figure on the board.{quick}", ""]
    return lines + listed(gone_of(suite, one.name))


class Curve:
    """A loss curve: where it was found, its values, and the drawing that goes beside the page."""

    def __init__(self, name: str, where: str, losses: Sequence[float]) -> None:
        self.name, self.where, self.losses = name, where, list(losses)

    def words(self) -> list[str]:
        """Its part of the page."""
        first, last, most = self.losses[0], self.losses[-1], min(self.losses)
        late = self.losses[len(self.losses) * 3 // 4]
        share = abs(late - last) / max(first - most, 1e-12)
        told = f"Mean training loss per epoch on {self.where}: {first:.3g} to {last:.3g} in {len(self.losses)} epochs"
        told += f"; the last quarter of them makes {share:.0%} of the way."
        return ["## Loss", "", f"![Training loss per epoch](losses/{self.name}.svg)", "", plain(told), ""]

    def drawing(self, width: int = 320, height: int = 120) -> str:
        """A small SVG that can be read on light and on dark ground."""
        left, right, top, bottom = 44, 8, 8, 22
        low, high = min(self.losses), max(self.losses)
        span = high - low or 1.0
        across = (width - left - right) / max(len(self.losses) - 1, 1)
        down = height - top - bottom
        points = " ".join(
            f"{left + i * across:.1f},{top + (high - loss) / span * down:.1f}" for i, loss in enumerate(self.losses)
        )
        base = height - bottom
        ink = 'fill="#808080" font-family="sans-serif" font-size="10"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'role="img" aria-label="training loss per epoch of {self.name}">\n'
            f'<path d="M{left} {top}V{base}H{width - right}" fill="none" stroke="#808080"/>\n'
            f'<polyline points="{points}" fill="none" stroke="#3b82c4" stroke-width="1.8"/>\n'
            f'<text x="{left - 4}" y="{top + 8}" text-anchor="end" {ink}>{high:.3g}</text>\n'
            f'<text x="{left - 4}" y="{base}" text-anchor="end" {ink}>{low:.3g}</text>\n'
            f'<text x="{left}" y="{height - 6}" {ink}>epoch 1</text>\n'
            f'<text x="{width - right}" y="{height - 6}" text-anchor="end" {ink}>{len(self.losses)}</text>\n</svg>\n'
        )


def curve_of(one: Description, suite: SuiteBoard | None) -> Curve | None:
    """From the board; where it has none, by training on the planted table; None for a part that is not trained so."""
    where, losses = ("", ()) if suite is None else losses_of(suite, one.name)
    if losses:
        return Curve(one.name, where, losses)
    if one.extra != "neural" and one.name not in TRAINED:
        return None
    table, features = planted(ROWS)
    fitted = registry.load(one.kind, one.name)().fit(table, features, np.random.default_rng(0))
    found = tuple(getattr(fitted, "losses", ()))
    return Curve(one.name, f"a planted table of {ROWS:,} rows", found) if found else None


def index(parts: Sequence[Description], suite: SuiteBoard | None) -> str:
    """The table of all pages, by family."""
    lines = ["# Every way to choose that is built in", ""]
    lines += [
        "A page each: where it comes from, what we changed, its settings, what was claimed for it and what it got here.",
        "",
    ]
    lines += [*listed([STATUS["faithful"], STATUS["adapted"], STATUS["simulated"], STATUS["ours"]])]
    if suite is None:
        lines += [f"There is no board yet: `{MAKE}` makes it, then `make pages`.", ""]
    else:
        told = (
            "Mean rank is over the sets of the standard protocol (1 is best; \\*: not on all sets). Best is the largest "
            "difference to the best cheap bar among them, with its 95% interval ([the board](../board/README.md))."
        )
        lines += [told + (" A quick run on few rows: not to be quoted." if suite.quick else ""), ""]
    for family in FAMILIES:
        rows = [row_of(one, suite) for one in parts if one.family == family]
        if rows:
            lines += [f"## {family.capitalize()}", "", *grid(["name", "status", "what it does", "mean rank", "best"], rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def row_of(one: Description, suite: SuiteBoard | None) -> list[str]:
    """Its line in the index: the first three cells are made from the code."""
    rank = None if suite is None else mean_rank(suite, one.name)
    shown_rank = "–" if rank is None else f"{rank.mean_rank:.1f}{'' if rank.sets == rank.of else '*'}"
    best = "" if suite is None else best_of(suite, one.name)
    return [f"[{one.name}]({one.name}.md)", one.status, one.summary, shown_rank, best or "–"]


def listed(texts: Sequence[str]) -> list[str]:
    """As bullets, with an empty line after them."""
    return [*(f"- {plain(text) if not text.startswith('**') else text}" for text in texts), ""] if texts else []


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    cells = [[plain(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines]


def plain(text: str) -> str:
    """Text whose signs are not read as Markdown: outside of `code`, stars, dollars and angle brackets are escaped."""
    pieces = text.split("`")
    for place in range(0, len(pieces), 2):
        for sign in ("*", "$"):
            pieces[place] = pieces[place].replace(sign, f"\\{sign}")
        pieces[place] = pieces[place].replace("<", "&lt;")
    return "`".join(pieces)


def pages(suite: SuiteBoard | None, only: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Every file, by its path under docs/policies, and its text."""
    parts = parts_of_ours()
    yield "README.md", index(parts, suite)
    for one in parts:
        if only and one.name not in only:
            continue
        curve = curve_of(one, suite)
        yield f"{one.name}.md", page(one, suite, curve)
        if curve is not None:
            yield f"losses/{one.name}.svg", curve.drawing()


def main(words: Sequence[str] | None = None) -> int:
    """Write what was asked for, and remove pages of parts that are no more."""
    parser = argparse.ArgumentParser(description="Write docs/policies from the code and the board.")
    parser.add_argument("names", nargs="*", help="only these pages (and the index); default: all")
    parser.add_argument("--board", type=Path, help="the suite's board.json; default: docs/board/board.json")
    parser.add_argument("--out", type=Path, default=PAGES, help="the folder; default: docs/policies")
    asked = parser.parse_args(words)
    written = set()
    for name, text in pages(open_board(asked.board), asked.names):
        path = asked.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        written.add(path)
    if not asked.names:
        for path in [*asked.out.glob("*.md"), *asked.out.glob("losses/*.svg")]:
            if path not in written:
                path.unlink()
    sys.stderr.write(f"{len(written)} files in {asked.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
