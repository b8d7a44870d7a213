"""`junctor import litellm`: another gateway's configuration file, written as ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from junctor.cli.output import console, write_text
from junctor.errors import ConfigError

if TYPE_CHECKING:
    from junctor.cli.from_litellm import Note, Translated

DEFAULT = Path("junctor.toml")
BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


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
    for section, tables in made.tree.items():
        yield from toml_tables((section,), tables)


def _one_line(note: Note) -> str:
    return " ".join(f"{note.where}: {note.said}".split())


def toml_tables(path: Sequence[str], table: Mapping[str, Any]) -> Iterator[str]:
    """A table as TOML: its plain values, then the tables in it."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    inline = len(path) > 1
    if plain or (inline and inner):
        yield ""
        yield f"[{'.'.join(map(_key, path))}]"
        yield from (f"{_key(key)} = {toml_value(value)}" for key, value in plain.items())
        if inline:
            yield from (f"{_key(key)} = {toml_value(value)}" for key, value in inner.items() if value)
    if not inline:
        for key, value in inner.items():
            yield from toml_tables((*path, key), value)


def toml_value(value: Any) -> str:
    """A value as TOML, tables inline. What TOML has no word for is left out of tables, and refused elsewhere."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(k))} = {toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, Mapping) for item in value):
            return "[\n" + "".join(f"  {toml_value(item)},\n" for item in value) + "]"
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, (bool, int, float)):
        return repr(value).lower() if isinstance(value, bool) else repr(value)
    raise ConfigError(f"a value of type {type(value).__name__} cannot be written", field="litellm_params", fix="take it out")


def _key(key: str) -> str:
    return key if key and set(key) <= BARE else json.dumps(key, ensure_ascii=False)


def _tell(made: Translated, out: Path) -> None:
    from rich.markup import escape

    shown = console(to_error=True)
    for title, notes in (("to do", made.todo), ("left out", made.left_out)):
        for note in notes:
            shown.print(f"[yellow]{title}[/yellow] {escape(_one_line(note))}", soft_wrap=True)
    targets, aliases = len(made.tree["targets"]), len(made.tree.get("aliases", {}))
    console().print(f"{targets} targets, {aliases} aliases -> {out}; check it: junctor doctor --config {out}", soft_wrap=True)
