"""Text to distil on: requests, questions, tasks and tool descriptions from a grammar, and the documentation in every Python.

Distilling needs sentences whose vectors the teacher can show, labelled by nobody; none of them is shipped. The grammar's word
lists span what people ask assistants, tools and models for.
Used by distill_encoder.py; run alone, it prints a few samples.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LONGEST = 500
"""Characters of one text from the documentation."""

_SLOT = re.compile(r"\{(\w)\}")


@dataclass(frozen=True, slots=True)
class Grammar:
    """The word lists and forms of distill_grammar.toml."""

    names: list[str]
    numbers: list[str]
    qualities: list[str]
    kinds: list[list[str]]
    shares: list[float]
    domains: dict[str, tuple[list[str], list[str], list[str]]]

    @classmethod
    def read(cls) -> Grammar:
        """From the file beside this one."""
        raw = tomllib.loads(Path(__file__).with_name("distill_grammar.toml").read_text("utf-8"))
        kinds = raw["kinds"].values()
        domains = {name: (d["verbs"], d["objects"], d["circumstances"]) for name, d in raw["domains"].items()}
        shares = [kind["share"] for kind in kinds]
        return cls(raw["names"], raw["numbers"], raw["qualities"], [kind["forms"] for kind in kinds], shares, domains)


def grammar_texts(count: int, rng: np.random.Generator) -> list[str]:
    """So many different texts from the grammar."""
    grammar = Grammar.read()
    found: dict[str, None] = {}
    while len(found) < count:
        found[_text(grammar, rng)] = None
    return list(found)


def _text(grammar: Grammar, rng: np.random.Generator) -> str:
    forms = grammar.kinds[rng.choice(len(grammar.kinds), p=grammar.shares)]
    names = list(grammar.domains)
    domain = _pick(names, rng)
    fixed = {"N": grammar.names, "n": grammar.numbers, "q": grammar.qualities}

    def fill(match: re.Match[str]) -> str:
        slot = match[1]
        if slot == "d":
            return domain
        if slot in fixed:
            return _pick(fixed[slot], rng)
        other = _pick(names, rng) if rng.random() < 0.15 else domain
        return _pick(grammar.domains[other]["voc".index(slot)], rng)

    text = _SLOT.sub(fill, _pick(forms, rng))
    return text if rng.random() < 0.6 else text[0].upper() + text[1:]


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def documentation_texts() -> list[str]:
    """Sentences and short paragraphs of the documentation that lies in every Python: docstrings and the language reference."""
    found: dict[str, None] = {}
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not {"site-packages", "dist-packages", "test", "tests"} & set(path.relative_to(root).parts):
            for text in _docstrings(path):
                found.update(dict.fromkeys(_sentences(text)))
    from pydoc_data.topics import topics

    for text in topics.values():
        found.update(dict.fromkeys(_sentences(text)))
    return list(found)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # some files of the library are broken on purpose
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            yield ast.get_docstring(node) or ""


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", re.sub(r">>>.*", "", text)):
        whole = " ".join(paragraph.split())
        if 12 <= len(whole.split()) <= 90:
            yield from filter(_is_prose, [whole[:LONGEST]])
        for sentence in re.split(r"(?<=[.!?:])\s+", whole):
            if 4 <= len(sentence.split()) <= 45:
                yield from filter(_is_prose, [sentence[:LONGEST]])


def _is_prose(text: str) -> bool:
    return sum(c.isalpha() or c == " " for c in text) > 0.8 * len(text)


if __name__ == "__main__":
    for line in grammar_texts(40, np.random.default_rng(0)) + documentation_texts()[::2000]:
        print(line)
