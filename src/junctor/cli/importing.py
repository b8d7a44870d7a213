"""`junctor import litellm`: another gateway's configuration file, written as ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from junctor.cli.output import console, write_text
from junctor.errors import ConfigError

if TYPE_CHECKING:
    from junctor.cli.from_litellm import Note, Translated

DEFAULT = Path("junctor.toml")


def import_litellm(source: Path, out: Path | None) -> None:
    """Translate, check that it loads, write, and say what is left to do. Raises ConfigError; never writes over a file."""
    import yaml

    from junctor.cli.from_litellm import translate
    from junctor.config import parse_config

    out = out or DEFAULT
    if out.exists():
        raise ConfigError("exists already", field=str(out), fix="name another file with --out")
    try:
        tree = yaml.safe_load(source.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:200]
        raise ConfigError(f"cannot be read as YAML: {what}", field=str(source), fix="name LiteLLM's config.yaml") from error
    if not isinstance(tree, Mapping):
        raise ConfigError("holds no settings", field=str(source), fix="name LiteLLM's config.yaml")
    made = translate(tree)
    parse_config(made.tree, out.parent)
    write_text(out, "\n".join(_lines(made, source)) + "\n")
    _tell(made, out)


def _lines(made: Translated, source: Path) -> Iterator[str]:
    yield f"# Made of {source.name} by `junctor import litellm`. Check it with `junctor doctor`."
    for title, notes in (("To do:", made.todo), ("Left out:", made.left_out)):
        if notes:
            yield f"#\n# {title}"
            yield from (f"#   {_one_line(note)}" for note in notes)
    yield ""
    yield toml_of(made.tree).rstrip()


def _one_line(note: Note) -> str:
    return " ".join(f"{note.where}: {note.said}".split())


def toml_of(tree: Mapping[str, Any]) -> str:
    """A tree as TOML; what is None is left out, because TOML has no word for it."""
    import tomli_w

    return tomli_w.dumps(_without_none(tree))


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(inner) for inner in value if inner is not None]
    return value


def _tell(made: Translated, out: Path) -> None:
    from rich.markup import escape

    shown = console(to_error=True)
    for title, notes in (("to do", made.todo), ("left out", made.left_out)):
        for note in notes:
            shown.print(f"[yellow]{title}[/yellow] {escape(_one_line(note))}", soft_wrap=True)
    targets, aliases = len(made.tree["targets"]), len(made.tree.get("aliases", {}))
    console().print(f"{targets} targets, {aliases} aliases -> {out}; check it: junctor doctor --config {out}", soft_wrap=True)
