"""Where a command's words go: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from junctor.errors import UserError

Step = Callable[[str, int, int], None]


def complain(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")


def fail(message: str, code: int) -> NoReturn:
    """One line on standard error, and the exit code."""
    complain(message)
    sys.exit(code)


def console(*, to_error: bool = False) -> Console:
    """A console as wide as the terminal, or 100 columns where there is none."""
    made = Console(stderr=to_error, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made = Console(stderr=to_error, highlight=False, width=100)
    return made


@contextmanager
def progress(title: str) -> Iterator[Step]:
    """A progress bar on standard error; call the given function with (what, done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(to_error=True), transient=False) as bar:
        task = bar.add_task(title, total=None)

        def step(what: str, done: int, total: int) -> None:
            bar.update(task, description=what or title, completed=done, total=total)

        yield step
        bar.update(task, completed=bar.tasks[0].total)


def write_json(value: Any, where: str) -> None:
    """Write JSON to a file, or to standard output for "-"; raises UserError when the file cannot be written."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if where == "-":
        sys.stdout.write(text + "\n")
        return
    write_text(Path(where), text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole, with its folders; raises UserError when that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", field=str(path), fix="name another file") from error
