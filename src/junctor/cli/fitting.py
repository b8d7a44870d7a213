"""`junctor fit`: a policy learned from an outcome table, saved as a folder that the gateway loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from junctor.cli import benching
from junctor.cli.benching import DATA, open_table, ratio
from junctor.cli.output import Step, console, progress
from junctor.errors import ConfigError

if TYPE_CHECKING:
    from junctor.fitting import Fit
    from junctor.outcomes import OutcomeTable


def fit(
    data: Path = DATA,
    policy: str = typer.Option("knn", "--policy", "-p", help="Policy or estimator; see `junctor policies`."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder to write the fitted policy to."),
    text: str | None = benching.TEXT,
    label: str | None = benching.LABEL,
    split: str | None = benching.SPLIT,
    gold: str | None = benching.GOLD,
    targets: Path | None = benching.TARGETS,
    queries: Path | None = benching.QUERIES,
    encoder: str = benching.ENCODER,
    clip: bool = benching.CLIP,
    drop_empty: bool = benching.DROP_EMPTY,
    seed: int = typer.Option(0, help="Seed of splits and of everything random in fitting."),
    thrift: bool = typer.Option(
        True, help="Set the cost weight so that quality within noise of the best is not paid for; --no-thrift: quality alone."
    ),
    setting: list[str] | None = typer.Option(None, "--set", help="Fix a hyper-parameter, as name=value; repeat for more."),
) -> None:
    """Fit a policy on recorded outcomes: tuned on validation rows, then fitted on training and validation rows together.

    Test rows are not touched. Example: junctor fit outcomes.parquet --policy knn --out policies/knn
    """
    table = open_table(
        data,
        text=text,
        label=label,
        gold=gold,
        targets=targets,
        queries=queries,
        split=split,
        clip=clip,
        drop_empty=drop_empty,
    )
    settings = dict(_setting(item) for item in setting or [])
    warn(table)
    with progress(f"fitting {policy}") as step:
        made = fit_and_save(
            table, policy, out, encoder=encoder, seed=seed, split=ratio(split), settings=settings, thrift=thrift, step=step
        )
    report(made, policy, out)


def warn(table: OutcomeTable) -> None:
    """Say what is doubtful about the data before anything is learned from it."""
    from junctor.outcomes.doubts import doubts

    for sentence in (*table.notes, *doubts(table)):
        console(to_error=True).print(f"[yellow]note:[/yellow] {escape(sentence)}")


def _setting(item: str) -> tuple[str, Any]:
    import tomllib

    name, equals, value = item.partition("=")
    if not equals or not name:
        raise ConfigError(f"{item!r} is not name=value", field="--set", fix="for example --set cost_weight=0.5")
    try:
        return name, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return name, value


def fit_and_save(
    table: OutcomeTable,
    name: str,
    out: Path,
    *,
    encoder: str,
    seed: int,
    split: str | None,
    settings: dict[str, Any],
    step: Step,
    thrift: bool = True,
) -> Fit:
    """Split, encode, tune, set the knob, fit, save; returns what was fitted."""
    import numpy as np

    from junctor.artefact import Provenance, save_policy
    from junctor.encoders import load_encoder
    from junctor.encoders.cache import EmbeddingCache
    from junctor.fitting import config_with, fit_policy
    from junctor.outcomes.splitting import split_table
    from junctor.policies.utility import UtilityConfig
    from junctor.policy import PolicyConfig
    from junctor.thrift import thrifty

    config = config_with(name, encoder, settings)
    parts = split_table(table, split=split, seed=seed)
    embedding, digest = None, ""
    if "embedding" in config.needs:
        chosen = load_encoder(encoder)
        digest = chosen.digest
        embedding = EmbeddingCache(chosen).encode(table.texts, lambda done, total: step("encoding", done, total))
    features = table.features(embedding)

    def settle(winner: PolicyConfig) -> PolicyConfig:
        if not thrift or "cost_weight" in settings or not isinstance(winner, UtilityConfig):
            return winner
        return thrifty(winner, table, features, parts.train, parts.validation, np.random.default_rng(seed))

    made = fit_policy(
        config,
        table,
        features,
        parts.train,
        parts.validation,
        np.random.default_rng(seed),
        progress=lambda done, total: step(f"fitting {name}", done, total),
        settle=settle,
    )
    provenance = Provenance(
        source=table.source, digest=table.digest(), split=split or "split column or 60/20/20", seed=seed, rows=len(parts.train)
    )
    save_policy(
        made.policy,
        out,
        targets=table.targets,
        encoder=encoder if digest else "",
        encoder_digest=digest,
        provenance=provenance,
    )
    return made


def report(made: Fit, name: str, out: Path) -> None:
    """What was tried and what was kept."""
    shown = console()
    if len(made.tried) > 1:
        best = max(score for _, score in made.tried)
        shown.print(f"{name}: {len(made.tried)} settings tried on validation rows, best score {best:.4f}")
    kept = ", ".join(f"{key} {value}" for key, value in made.config.settings().items() if value not in (None, {}, ""))
    shown.print(f"{name}: kept {kept} -> {out}")


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(no_args_is_help=True)(fit)
