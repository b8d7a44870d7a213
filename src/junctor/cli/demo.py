"""`junctor demo`: the main job on one page. Record, judge, fit, report, then serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from junctor.cli.output import console, progress, write_json, write_text

if TYPE_CHECKING:
    from rich.console import Console

    from junctor.outcomes import OutcomeTable

POLICIES = ("knn", "linear", "kmeans-table")
SERVED = "knn"
SHOWN = (
    "What is 17 * (23 + 4)?",
    "How many kilometres are 26.2 miles?",
    "Reverse the word 'switchboard'.",
    "What is the capital of France?",
    "Ann has 12 apples and buys 3 bags of 8 apples. How many apples has she now?",
)


def demo(
    folder: Path = typer.Option(Path("demo"), help="Where to write the table, policies, report and configuration."),
    serve: bool = typer.Option(True, help="Serve the gateway at the end; --no-serve exits instead."),
    port: int = typer.Option(8080, min=0, max=65535, help="Port of the gateway, on 127.0.0.1."),
    tasks: int = typer.Option(600, min=60, help="How many verifiable tasks to run through every local solver."),
    seeds: int = typer.Option(5, min=1, help="Repetitions of the bench."),
    seed: int = typer.Option(0, help="Seed of the workload and of everything after it."),
) -> None:
    """See it all at work, offline: record outcomes of a local pool, fit policies, judge them, serve the winner.

    The pool is a set of real solvers that ship with junctor; outcomes come from running them and checking their answers.
    """
    from junctor.cli.fitting import fit_and_save

    if serve:
        _port_is_free(port)
    out = console()
    table = _record(folder, tasks, seed)
    out.print(f"recorded {len(table):,} queries x {len(table.targets)} targets -> {folder}/outcomes.parquet")
    with progress("fitting") as step:
        for name in POLICIES:
            fit_and_save(
                table, name, folder / "policies" / name, encoder="static", seed=seed, split=None, settings={}, step=step
            )
    _judge(table, folder, seeds, out)
    write_config(table, folder / "junctor.toml", port)
    _ask(folder, out)
    _say_what_next(folder, port, out, serve=serve)
    if serve:
        from junctor.cli.serving import open_config, run_gateway

        run_gateway(open_config(folder / "junctor.toml"), None, None)


def _port_is_free(port: int) -> None:
    """Find out now, not after the work: raises ConfigError when the port is taken."""
    from junctor.gateway.serving import bind

    bind("127.0.0.1", port).close()


def _record(folder: Path, count: int, seed: int) -> OutcomeTable:
    import numpy as np

    from junctor.outcomes.reading import read_table
    from junctor.outcomes.writing import write_table
    from junctor.providers.embedded import EMBEDDED, EmbeddedProvider
    from junctor.providers.embedded.workload import make_tasks
    from junctor.recording import record_outcomes

    tasks = make_tasks(count, np.random.default_rng(seed))
    with progress("recording") as step:
        table = record_outcomes(
            tasks, EMBEDDED, EmbeddedProvider(), progress=lambda done, total: step("recording outcomes", done, total)
        )
    path = folder / "outcomes.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, path)
    return read_table(path)


def _judge(table: OutcomeTable, folder: Path, seeds: int, out: Console) -> None:
    from junctor.bench.board import board_document, print_board
    from junctor.bench.protocol import run_bench
    from junctor.bench.report import render_report

    with progress("judging") as step:
        board = run_bench(table, seeds=seeds, progress=step, dataset="the embedded pool")
    print_board(board, out)
    write_json(board_document(board), str(folder / "board.json"))
    write_text(folder / "report.html", render_report(board))
    out.print(f"report with plots: [bold]{folder}/report.html[/bold]")


def write_config(table: OutcomeTable, path: Path, port: int) -> None:
    """A configuration that serves the recorded targets; the shape to copy for targets of your own."""
    import tomli_w

    targets = {target.id: _target_section(target) for target in table.targets}
    tree = {
        "gateway": {"host": "127.0.0.1", "port": port},
        "journal": {"path": "junctor.journal"},
        "providers": {"embedded": {}},
        "targets": targets,
        "policies": {name: {"artefact": f"policies/{name}"} for name in POLICIES},
        "aliases": {"auto": SERVED} | {f"auto-{name}": name for name in POLICIES if name != SERVED},
    }
    write_text(path, "# Written by `junctor demo`.\n" + tomli_w.dumps(tree))


def _target_section(target: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(target)
    plain.pop("id")
    for table in ("limits", "price"):
        plain[table] = {name: value for name, value in (plain[table] or {}).items() if value is not None}
    full = plain | {"provider": "embedded", "capabilities": sorted(plain["capabilities"])}
    return {name: value for name, value in full.items() if value not in (None, "", {}, [])}


def _ask(folder: Path, out: Console) -> None:
    """A few requests through the engine, so that a decision is seen before any HTTP."""
    import asyncio
    import json

    from junctor.build import build_engine
    from junctor.cli.serving import open_config
    from junctor.types import Message, Request

    engine = build_engine(open_config(folder / "junctor.toml"))

    async def ask() -> None:
        for place, text in enumerate(SHOWN):
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            request = Request(id=f"demo-{place}", text=text, messages=(Message("user", text),), params=body)
            answer = await engine.complete(request, "auto")
            said = json.loads(answer.reply.body)["choices"][0]["message"]["content"]
            out.print(f"[dim]{text}[/dim]\n   -> [bold]{answer.target.id}[/bold]: {said}")
        await engine.aclose()

    asyncio.run(ask())


def _say_what_next(folder: Path, port: int, out: Console, *, serve: bool) -> None:
    url = f"http://127.0.0.1:{port}/v1"
    if not serve:
        out.print(f"serve it: junctor serve --config {folder}/junctor.toml")
    out.print("\n[bold]Try it[/bold]")
    body = '{"model": "auto", "messages": [{"role": "user", "content": "What is 12% of 80?"}]}'
    out.print(f"curl -i {url}/chat/completions -H 'content-type: application/json' -d '{body}'", soft_wrap=True)
    out.print("\nfrom openai import OpenAI")
    out.print(f'client = OpenAI(base_url="{url}", api_key="none")')
    out.print(
        'reply = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "What is 12% of 80?"}])'
    )
    out.print("print(reply.choices[0].message.content)\n", soft_wrap=True)
    out.print(f"explain any decision: junctor explain ID --config {folder}/junctor.toml")


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    options: dict[str, Any] = {"no_args_is_help": False}
    app.command(**options)(demo)
