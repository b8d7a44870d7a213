"""Lists of weighted patterns in text files that ship with junctor: one pattern a line, macros for what comes again."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
MACRO = re.compile(r"\{([A-Z_]+)\}")


class Sign(NamedTuple):
    """A pattern with its family and weight; one of `words` must be in the text for it to be tried (none: always).

    `lines`: where a line ends matters to it.
    """

    family: str
    weight: float
    words: tuple[str, ...]
    pattern: re.Pattern[str]
    lines: bool = False


@cache
def read_signs(name: str) -> tuple[Sign, ...]:
    """The patterns of a file beside this one, compiled; each begins and ends at a border of a word where it has words."""
    macros: dict[str, str] = {}
    found: list[Sign] = []
    for line in (HERE / name).read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        parts = line.split("\t")
        if len(parts) == 1:
            macro, _, value = line.partition(" = ")
            macros[macro] = value
            continue
        family, weight, words, pattern = parts
        whole = MACRO.sub(lambda m: macros[m[1]], pattern)
        found.append(Sign(family, float(weight), tuple(filter(None, words.split("|"))), re.compile(whole), r"\n" in whole))
    return tuple(found)
