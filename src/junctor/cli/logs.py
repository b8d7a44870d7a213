"""`junctor logs`: what was decided and what came of it, a line each, from the journal."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from msgspec import Struct

from junctor.cli.output import console
from junctor.cli.serving import CONFIG, open_config
from junctor.errors import JournalError, UserError
from junctor.journal import DecisionRecord, OutcomeRecord, Record, parse_line
from junctor.tenancy.keys import seconds_of

if TYPE_CHECKING:
    from rich.console import Console

LOOK_EVERY_S = 0.2
MOST_OPEN = 10_000
"""Decisions that may wait for their outcome."""
PIECE_BYTES = 1 << 20
LENGTH = re.compile(r"[\d.]+[smhdw]")
TEXT_CHARS = 60
CACHE = "cache"


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision and its outcome; `open` while there is none. `text` only where it was asked for."""

    at: float
    id: str
    alias: str
    target: str
    policy: str
    tenant: str = ""
    key: str = ""
    open: bool = False
    error: str = ""
    failed: tuple[str, ...] = ()
    cost_usd: float | None = None
    latency_s: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    text: str = ""


class Wanted(Struct, frozen=True, kw_only=True):
    """Which decisions are shown."""

    alias: str = ""
    tenant: str = ""
    errors: bool = False
    since: float = 0.0
    text: bool = False

    def takes(self, line: Line) -> bool:
        """Whether this is one of them. What was tried in vain on the way counts as an error."""
        return (
            line.at >= self.since
            and (not self.alias or line.alias == self.alias)
            and (not self.tenant or line.tenant == self.tenant)
            and (not self.errors or bool(line.error or line.failed))
        )


def logs(
    config: Path | None = CONFIG,
    journal: Path | None = typer.Option(None, help="Journal file; default: the one that the configuration names."),
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on with what comes, until Ctrl-C."),
    last: int = typer.Option(50, "--last", "-n", min=0, help="How many at most, the latest; 0: all."),
    alias: str = typer.Option("", help="Only what was asked of this alias, or of this target by its own id."),
    tenant: str = typer.Option("", help="Only what this tenant asked."),
    errors: bool = typer.Option(False, "--errors", help="Only where something failed, on the way or in the end."),
    since: str = typer.Option("", help="Only since then: 90s, 10m, 2h, 1d, or a time such as 2025-01-31T12:00."),
    text: bool = typer.Option(False, "--text", help="Show the prompts too, where the journal keeps them."),
    json: bool = typer.Option(False, "--json", help="Print a JSON object a line."),
) -> None:
    """Show decisions as they were made: when, of whom, who answered, how long, for how much, and what failed.

    Prompts are never shown without --text.

    Example: junctor logs --follow --errors
    """
    if journal is None:
        opened = open_config(config)
        if not opened.journal.path:
            raise UserError("keeps no journal", field="journal.path", fix="name a file in it: [journal] path")
        journal = opened.path(opened.journal.path)
    wanted = Wanted(alias=alias, tenant=tenant, errors=errors, since=moment(since, time.time()), text=text)
    show = _as_json if json else _painter(console())
    try:
        for line in chosen(journal, wanted, last=last, follow=follow):
            show(line)
    except KeyboardInterrupt:
        if not follow:
            raise


def moment(said: str, now: float) -> float:
    """Unix seconds of `10m` (ago) or of an ISO time, local where it names no zone; 0 for nothing. Raises UserError."""
    if not said:
        return 0.0
    try:
        return now - seconds_of(said, "--since") if LENGTH.fullmatch(said) else datetime.fromisoformat(said).timestamp()
    except (ValueError, OverflowError, OSError, UserError) as error:
        raise UserError(f"{said!r} is no time", field="--since", fix="for example 10m, 2h, 1d or 2025-01-31T12:00") from error


def chosen(path: Path, wanted: Wanted, *, last: int, follow: bool, until: Callable[[], bool] = lambda: False) -> Iterator[Line]:
    """The lines that are wanted: the last ones of what is there, then what comes. `until` ends the following."""
    journal = Tail(path)
    joined = Joined(text=wanted.text)
    found = (line for line in joined.lines(journal.new()) if wanted.takes(line))
    kept: Iterable[Line] = deque(found, maxlen=last) if last else found
    yield from kept
    if not follow:
        yield from (line for line in joined.still_open() if wanted.takes(line))
        return
    while not until():
        yield from (line for line in joined.lines(journal.new()) if wanted.takes(line))
        time.sleep(LOOK_EVERY_S)


class Tail:
    """The records of a journal that have come since the last look. A file that was cut or replaced is read from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0
        self._inode = 0
        self._rest = b""
        if not path.is_file():
            raise JournalError("does not exist", field=str(path), fix="name the journal with --journal")

    def new(self) -> Iterator[Record]:
        """What is new and whole."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._at:
                    self._at, self._inode, self._rest = 0, found.st_ino, b""
                file.seek(self._at)
                while piece := file.read(PIECE_BYTES):
                    self._at += len(piece)
                    *whole, self._rest = (self._rest + piece).split(b"\n")
                    yield from filter(None, map(parse_line, whole))
        except FileNotFoundError:
            return  # between two files
        except OSError as error:
            raise JournalError(f"cannot be read: {error.strerror}", field=str(self.path)) from error


class Joined:
    """Decisions with their outcomes, in the order in which they ended."""

    def __init__(self, *, text: bool) -> None:
        self._text = text
        self._open: OrderedDict[str, DecisionRecord] = OrderedDict()

    def lines(self, records: Iterable[Record]) -> Iterator[Line]:
        """A line for each that has ended."""
        for record in records:
            if isinstance(record, DecisionRecord):
                self._open[record.decision.id] = record
                if len(self._open) > MOST_OPEN:
                    yield self._line(self._open.popitem(last=False)[1], None)
            elif isinstance(record, OutcomeRecord) and (decided := self._open.pop(record.id, None)) is not None:
                yield self._line(decided, record)

    def still_open(self) -> Iterator[Line]:
        """Those that have not."""
        for decided in self._open.values():
            yield self._line(decided, None)

    def _line(self, decided: DecisionRecord, ended: OutcomeRecord | None) -> Line:
        decision = decided.decision
        known: dict[str, Any] = {"open": True}
        if ended is not None:
            figures = ("cost_usd", "latency_s", "input_tokens", "output_tokens")
            known = {name: getattr(ended.outcome, name) for name in figures}
            known["error"] = ended.error
            known["failed"] = tuple(f"{tried.target}: {tried.error}" for tried in ended.attempts if tried.error)
        return Line(
            at=decided.at,
            id=decision.id,
            alias=decided.alias or decision.target,
            target=(ended.target if ended is not None else "") or decision.target,
            policy=decision.policy,
            tenant=decided.tenant,
            key=decided.key,
            text=decided.text if self._text else "",
            **known,
        )


def _as_json(line: Line) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


def _painter(out: Console) -> Callable[[Line], None]:
    from rich.markup import escape

    def paint(line: Line) -> None:
        when = datetime.fromtimestamp(line.at).astimezone().strftime("%m-%d %H:%M:%S")
        who = f" [dim]{escape(line.tenant)}[/dim]" if line.tenant else ""
        end = _end(line)
        failed = "".join(f" [yellow]({escape(what)})[/yellow]" for what in line.failed if not line.error)
        text = f" [dim]{escape(repr(line.text[:TEXT_CHARS]))}[/dim]" if line.text else ""
        target = f"[bold]{escape(line.target)}[/bold]" if line.policy != CACHE else f"[cyan]{escape(line.target)}[/cyan]"
        behind = f"[dim]{escape(line.policy)} {line.id}[/dim]{text}"
        said = f"[dim]{when}[/dim]{who} {escape(line.alias)} -> {target} {end}{failed} {behind}"
        out.print(said, soft_wrap=True, highlight=False)

    return paint


def _end(line: Line) -> str:
    if line.open:
        return "[yellow]open[/yellow]"
    if line.error:
        return f"[red]{line.error}[/red]"
    parts = [] if line.latency_s is None else [f"{line.latency_s * 1e3:,.0f} ms"]
    if line.cost_usd is not None:
        parts.append(f"${line.cost_usd:.6f}")
    if line.input_tokens is not None and line.output_tokens is not None:
        parts.append(f"{line.input_tokens:.0f}+{line.output_tokens:.0f} tokens")
    return f"[green]{', '.join(parts) or 'answered'}[/green]"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(no_args_is_help=False)(logs)
