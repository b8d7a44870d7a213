"""`junctor fit`: a policy learned from an outcome table, saved as a folder that the gateway loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from junctor.cli import benching
from junctor.cli.benching import DATA, open_table, ratio
from junctor.cli.output import Step, console, progress, write_json
from junctor.errors import ConfigError, NoTarget, TableError

if TYPE_CHECKING:
    from rich.console import Console

    from junctor.bench.holdout import Holdout
    from junctor.bench.resample import Interval
    from junctor.features import Features
    from junctor.fitting import Fit
    from junctor.outcomes import OutcomeTable, Split

NOT_TESTED = "nothing was judged: --no-test was given"
NO_TEST_ROWS = "nothing was judged: the split has no test rows; give a ratio such as --split 60/20/20"


@dataclass(frozen=True)
class Saved:
    """A fitted policy with what it was fitted on. `cost_weight` is what thrift set, or None where it had nothing to set."""

    fit: Fit
    split: Split
    features: Features
    cost_weight: float | None


def fit(
    data: Path = DATA,
    policy: str = typer.Option("stack", "--policy", "-p", help="Policy or estimator; see `junctor policies`."),
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
    test: bool = typer.Option(True, help="Judge the fitted policy on the test rows; --no-test leaves them alone."),
    json: str | None = typer.Option(None, "--json", metavar="FILE", help='Write what was judged as JSON; "-" is stdout.'),
) -> None:
    """Fit a policy on recorded outcomes: tuned on validation rows, then fitted on training and validation rows together.

    Test rows are never fitted on: on them the policy is judged, beside the best single target and the cheapest.

    --json FILE writes schema 1: policy, judged (false with `why`), test_rows, counted, quality and cost_usd (each value, low,
    high: 95% over queries), choices (target -> share), against (role, target, rows, quality, cost_usd, differ, pairs,
    difference, verdict: better, worse, open, same or unknown, record_more), sentences, members, summary, cost_weight, notes.

    Example: junctor fit outcomes.parquet --out policies/mine
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
    notes = warn(table)
    with progress(f"fitting {policy}") as step:
        made = fit_and_save(
            table, policy, out, encoder=encoder, seed=seed, split=ratio(split), settings=settings, thrift=thrift, step=step
        )
    for sentence in made.split.notes:
        note(sentence)
    shown = console(to_error=json == "-")
    report(made, policy, out, shown)
    found = judge(made, table, seed, shown) if test else NOT_TESTED
    if isinstance(found, str):
        shown.print(found)
    if json:
        write_json(_document(made, found, [*notes, *made.split.notes]), json)


def warn(table: OutcomeTable) -> list[str]:
    """Say what is doubtful about the data before anything is learned from it; raises TableError when nothing can be learned."""
    from junctor.outcomes.doubts import all_alike, doubts

    if all_alike(table):
        raise TableError(
            "every target has the same score on every row, so there is nothing to choose",
            field=table.source or "score",
            fix="record scores that tell good answers from bad ones",
        )
    notes = [*table.notes, *doubts(table)]
    for sentence in notes:
        note(sentence)
    return notes


def note(sentence: str) -> None:
    """One remark on standard error."""
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
) -> Saved:
    """Split, encode, tune, set the knob, fit, save. Raises TableError where texts are needed and there are none."""
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
    parts = split_table(table, split=split, seed=seed, judging=False)
    embedding, digest, weights = None, "", list[float]()
    if "embedding" in config.needs:
        _some_text(table, name)
        chosen = load_encoder(encoder)
        digest = chosen.digest
        embedding = EmbeddingCache(chosen).encode(table.texts, lambda done, total: step("encoding", done, total))
    features = table.features(embedding)

    def settle(winner: PolicyConfig) -> PolicyConfig:
        if not thrift or "cost_weight" in settings or not isinstance(winner, UtilityConfig):
            return winner
        found = thrifty(winner, table, features, parts.train, parts.validation, np.random.default_rng(seed))
        if table.cost_usd is not None and winner.quality_floor is None and len(parts.validation):
            weights.append(found.cost_weight)
        return found

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
    return Saved(made, parts, features, weights[0] if weights else None)


def _some_text(table: OutcomeTable, name: str) -> None:
    if not any(text.strip() for text in table.texts):
        raise TableError(
            f"no query has a text, and {name} looks at nothing else",
            field="--text",
            fix="name the column of queries with --text COLUMN, or take --policy best-single or label-table",
        )


def report(made: Saved, name: str, out: Path, shown: Console) -> None:
    """What was tried and what was kept, who is in it, and what the knob was set to."""
    fit = made.fit
    if len(fit.tried) > 1:
        best = max(score for _, score in fit.tried)
        shown.print(f"{name}: {len(fit.tried)} settings tried on validation rows, best score {best:.4f}")
    kept = ", ".join(f"{key} {value}" for key, value in fit.config.settings().items() if value not in (None, {}, ""))
    shown.print(f"{name}: kept {kept} -> {out}")
    if summary := _summary(fit):
        shown.print(escape(summary))
    if made.cost_weight is not None:
        why = (
            "the cheapest that validation rows cannot tell from the best" if made.cost_weight else "they show what is paid for"
        )
        shown.print(f"thrift: cost weight {made.cost_weight:.3g}, {why}")


def _summary(fit: Fit) -> str:
    """What a combination says of its members."""
    found: str = getattr(getattr(fit.policy, "estimator", None), "summary", "")
    return found


def judge(made: Saved, table: OutcomeTable, seed: int, shown: Console) -> Holdout | str:
    """Judge on the test rows and print it; a sentence instead where that cannot be done."""
    import numpy as np

    from junctor.bench.holdout import hold_out, sentences

    split = made.split
    if not len(split.test):
        return NO_TEST_ROWS
    fitted = np.concatenate([split.train, split.validation])
    try:
        found = hold_out(made.fit.policy, table, made.features, fitted, split.test, np.random.default_rng(seed))
    except NoTarget as error:
        return f"nothing was judged: {error}"
    shown.print(_table(found))
    for sentence in sentences(found):
        shown.print(escape(sentence))
    return found


def _table(found: Holdout) -> Any:
    from rich.table import Table

    made = Table(title=f"on {found.rows} test rows, with 95% intervals", title_justify="left", box=None, pad_edge=False)
    for column in ("", "quality", "USD per 1,000", "policy - this"):
        made.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    made.add_row(escape(found.policy), _figure(found.quality), _figure(found.cost_usd, ".3g", 1000.0), "")
    for one in found.against:
        quality, cost = _figure(one.quality), _figure(one.cost_usd, ".3g", 1000.0)
        made.add_row(escape(f"{one.role}: {one.target}"), quality, cost, _figure(one.difference, "+.3f"))
    return made


def _figure(found: Interval | None, digits: str = ".3f", unit: float = 1.0) -> str:
    if found is None:
        return ""
    value, low, high = (unit * each for each in (found.value, found.low, found.high))
    return escape(f"{value:{digits}} [{low:{digits}}, {high:{digits}}]")


def _document(made: Saved, found: Holdout | str, notes: list[str]) -> dict[str, Any]:
    from junctor.bench.holdout import SCHEMA, document

    policy = made.fit.policy
    judged = (
        {"schema": SCHEMA, "policy": policy.title, "judged": False, "why": found} if isinstance(found, str) else document(found)
    )
    members = dict(getattr(getattr(policy, "estimator", None), "members", {}))
    return {**judged, "members": members, "summary": _summary(made.fit), "cost_weight": made.cost_weight, "notes": notes}


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(no_args_is_help=True)(fit)
