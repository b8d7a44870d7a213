"""`junctor guards`: which there are, what they see in a text, and a scorer fitted on labels of yours."""

from __future__ import annotations

from pathlib import Path

import typer

from junctor.cli.output import console, write_json

guards = typer.Typer(no_args_is_help=True, help="Guards: list them, try them on a text, fit a scorer on labelled texts.")


@guards.command("list")
def list_guards() -> None:
    """The guards that an alias may name.

    Example: junctor guards list
    """
    from rich.table import Table

    from junctor import registry

    table = Table("use", "what", box=None)
    for entry in registry.entries("guard"):
        table.add_row(entry.name, entry.summary + (f" (extra: {entry.extra})" if entry.extra else ""))
    console().print(table)


@guards.command("try")
def try_text(
    text: str = typer.Argument(help="What somebody would send."),
    json: bool = typer.Option(False, "--json", help="Print it as JSON."),
) -> None:
    """What the built-in detectors see in a text: personal data, attempts to take over the model, unsafe words.

    Example: junctor guards try "my mail is ana@example.org"
    """
    from junctor.guards import injection, pii, unsafe

    spans = [{"kind": s.kind, "text": text[s.start : s.end], "score": round(s.score, 2)} for s in pii.find(text)]
    scores = {name: round(score, 2) for name, score in unsafe.scores(text).items() if score}
    seen = {"pii": spans, "injection": round(injection.score(text), 2), "unsafe": scores}
    if json:
        write_json(seen, "-")
        return
    out = console()
    for span in spans:
        out.print(f"{span['kind']}: {span['text']} ({span['score']})", markup=False)
    said = ", ".join(injection.families(text))
    out.print(f"injection: {seen['injection']}" + (f" ({said})" if said else ""), markup=False)
    out.print("unsafe: " + (", ".join(f"{name} {score}" for name, score in scores.items()) or "0"), markup=False)


@guards.command("fit")
def fit(
    data: Path = typer.Argument(help="Labelled texts: .csv, .jsonl or .parquet."),
    text: str = typer.Option("text", help="Column of the texts."),
    label: str = typer.Option(..., help="Column of the labels: 0 or 1; rows without one are left out."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder to write the scorer to."),
    seed: int = typer.Option(0, help="Seed of the folds."),
    json: bool = typer.Option(False, "--json", help="Print what was measured as JSON."),
) -> None:
    """Fit a scorer on labelled texts, for use = "scorer". It holds numbers, no text.

    What is printed was measured on folds that the weights were not fitted on; the threshold is that of the best F1 there.

    Example: junctor guards fit labelled.csv --label unsafe --out guards/unsafe
    """
    from junctor.guards.labelled import read_labelled
    from junctor.guards.scorer import fit_scorer

    scorer = fit_scorer(*read_labelled(data, text, label), label=label, seed=seed)
    scorer.save(out)
    measured = scorer.saved.measured
    if json:
        write_json({"threshold": scorer.threshold, "ridge": scorer.saved.ridge, "measured": measured}, "-")
        return
    said = console()
    said.print(f"{measured.rows} texts, {measured.positives} of them {label}; each scored by weights that never saw it:")
    said.print(f"AUROC {measured.auroc:.3f}, AUPRC {measured.auprc:.3f}")
    said.print(f"at the threshold {scorer.threshold:.3f}: precision {measured.precision:.3f}, recall {measured.recall:.3f}")
    said.print(f'written to {out}; use it so: use = "scorer", settings = {{artefact = "{out}"}}', markup=False)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(guards, name="guards")
