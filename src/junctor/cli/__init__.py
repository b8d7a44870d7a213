"""The command line. One file per group of commands; what they do lives elsewhere.

Tables go to standard output, progress and errors to standard error, and `--json` gives the same content to machines. A
mistake of the caller's is one line and exit code 2; a failure of ours or of an upstream is one line and exit code 1.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

import junctor
from junctor.cli import (
    benching,
    demo,
    doctor,
    fitting,
    guarding,
    keys,
    layering,
    listing,
    logs,
    looking,
    serving,
    spending,
    trialling,
)
from junctor.cli.output import fail
from junctor.errors import JunctorError, UserError

# Typer carries its own copy of click; the base class of its usage errors has no public name there.
UsageErrors: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="junctor",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "One decision engine for which model, agent, tool or expert takes each piece of work: learned from recorded outcomes, "
        "served behind an OpenAI-compatible endpoint, explained decision by decision."
    ),
    epilog="Start with `junctor demo`, then `junctor bench YOUR_TABLE`, `junctor fit` and `junctor serve`.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"junctor {junctor.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    del version


GROUPS = (demo, benching, fitting, guarding, serving, listing, looking, logs, layering, keys, doctor, trialling, spending)

for group in GROUPS:
    group.register(app)


def main() -> None:
    """Entry point: run one command, turn typed errors into one line and an exit code."""
    try:
        code = app(standalone_mode=False)
    except UsageErrors as error:
        said = error.format_message()
        if "\n" in said:  # a command without any argument answers with its help
            sys.stderr.write(said + "\n")
            sys.exit(2)
        fail(f"{said.rstrip('.')} (see junctor --help)", 2)
    except (typer.Abort, KeyboardInterrupt):
        fail("interrupted", 130)
    except UserError as error:
        fail(str(error), 2)
    except JunctorError as error:
        fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)
