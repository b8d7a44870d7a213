"""`junctor serve`: the gateway. `junctor route`: the same decision without the call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from junctor.cli.output import console, write_json
from junctor.errors import ConfigError

if TYPE_CHECKING:
    from junctor.config import Config
    from junctor.engine import Routed
    from junctor.gateway.seeing import Prepared

CONFIG = typer.Option(None, "--config", "-c", help="Configuration file; default: $JUNCTOR_CONFIG, else junctor.toml.")


def config_path(path: Path | None) -> Path:
    """The configuration file that the command line, the environment or the current folder names."""
    found = path or Path(os.environ.get("JUNCTOR_CONFIG", "junctor.toml"))
    if not found.exists():
        raise ConfigError("does not exist", field=str(found), fix="name it with --config, or make one with `junctor demo`")
    return found


def open_config(path: Path | None) -> Config:
    """Load it."""
    from junctor.config import load_config

    return load_config(config_path(path))


def serve(
    config: Path | None = CONFIG,
    host: str | None = typer.Option(None, help="Address to listen on; default from [gateway], 127.0.0.1."),
    port: int | None = typer.Option(None, min=0, max=65535, help="Port to listen on; default from [gateway], 8080."),
) -> None:
    """Serve the gateway: an OpenAI-compatible endpoint whose model names are your targets and aliases.

    Example: junctor serve --config junctor.toml
    """
    from junctor.config import load_config

    path = config_path(config)
    run_gateway(load_config(path), host, port, path)


def run_gateway(config: Config, host: str | None, port: int | None, path: Path | None = None) -> None:
    """Build everything and serve until the process is told to stop, in as many workers as [gateway] says.

    `path` is the file that is watched for changes; None: nothing is.
    """
    import msgspec

    gateway = config.gateway
    given = {"host": host or gateway.host, "port": gateway.port if port is None else port}
    config = msgspec.structs.replace(config, gateway=msgspec.structs.replace(gateway, **given))
    count = config.gateway.workers
    if count == 1:
        serve_one(config, path)
        return
    from junctor.gateway.seeing import prepare
    from junctor.gateway.workers import Workers

    if not config.gateway.port:
        raise ConfigError("is 0, but several workers share one port", field="gateway.port", fix="name a port")
    prepared = prepare(config)
    try:
        code = Workers(count, lambda number: one_of_several(config, path, number, prepared)).run()
    finally:
        prepared.remove()
    if code:
        raise typer.Exit(code)


def one_of_several(config: Config, path: Path | None, number: int, prepared: Prepared | None = None) -> int:
    """A worker process: the same as a gateway of its own, its errors on one line; its exit code."""
    from junctor.cli.output import complain
    from junctor.errors import JunctorError, UserError

    try:
        serve_one(config, path, number, prepared)
    except JunctorError as error:
        complain(str(error))
        return 2 if isinstance(error, UserError) else 1
    return 0


def serve_one(config: Config, path: Path | None, number: int = 0, prepared: Prepared | None = None) -> None:
    """One process that serves; `prepared` is what the workers of one gateway share."""
    from junctor.gateway.assembly import assemble
    from junctor.gateway.serving import serve as serve_app

    assembled = assemble(config, path, number, prepared)
    out = console()

    def ready(at: str, on: int) -> None:
        if number == 0:
            out.print(f"serving [bold]http://{at}:{on}/v1[/bold], models: {', '.join([*config.aliases, *config.targets])}")
            for line in assembled.lines(at, on):
                out.print(line, soft_wrap=True)
            out.print("Ctrl-C ends it")

    serve_app(
        assembled.gateway,
        host=config.gateway.host,
        port=config.gateway.port,
        max_body_bytes=config.gateway.max_body_bytes,
        on_ready=ready,
        alongside=assembled.alongside,
        on_hangup=assembled.on_hangup,
        shared_port=config.gateway.workers > 1,
    )


def route(
    text: str = typer.Argument(help="What the user would send."),
    config: Path | None = CONFIG,
    model: str = typer.Option("auto", "--model", "-m", help="Alias (or target) to ask."),
    label: list[str] | None = typer.Option(None, "--label", help="A label of the request, as name=value; repeat for more."),
    budget_usd: float | None = typer.Option(None, min=0, help="Most USD for this request."),
    quality_floor: float | None = typer.Option(None, min=0, max=1, help="Least predicted quality."),
    json: bool = typer.Option(False, "--json", help="Print the decision as JSON."),
) -> None:
    """Decide without calling anybody: which target would take this text, with every score and the reasons.

    Example: junctor route "what is 12% of 80?" --config demo/junctor.toml
    """
    from junctor.build import build_engine
    from junctor.types import Constraints, Message, Request

    engine = build_engine(open_config(config), dry_run=True)
    labels = dict(_pair(item) for item in label or [])
    constraints = Constraints(budget_usd=budget_usd, quality_floor=quality_floor)
    request = Request(id="dry-run", text=text, messages=(Message("user", text),), labels=labels, constraints=constraints)
    routed = engine.route(request, model)
    if json:
        write_json({"decision": routed.decision, "refusals": dict(routed.refusals)}, "-")
    else:
        print_routed(routed, text)


def _pair(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise ConfigError(f"{item!r} is not name=value", field="--label", fix="for example --label dataset=gsm8k")
    return name, value


def print_routed(routed: Routed, text: str) -> None:
    """The decision as people read it: the choice, why, and the table of scores."""
    from junctor.cli.looking import print_decision

    out = console()
    shown = text if len(text) <= 70 else text[:69] + "…"
    out.print(f"[dim]{shown!r}[/dim]")
    print_decision(out, routed.decision, dict(routed.refusals))


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    options: dict[str, Any] = {"no_args_is_help": False}
    app.command(**options)(serve)
    app.command(**options)(route)
