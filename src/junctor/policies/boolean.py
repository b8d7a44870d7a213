"""Boolean expressions over named signals: `code and not (short or german)`. Parsing, evaluating lazily, truth tables.

A signal has a confidence in [0, 1]; 0 means that it does not match. AND takes the least of its parts, OR the greatest, NOT is 1
where its part does not match and 0 elsewhere. So a whole expression matches exactly where plain Boolean logic says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.errors import ConfigError
from junctor.policy import Array

_TOKEN = re.compile(r"\s*(?:(?P<open>\()|(?P<close>\))|(?P<word>[\w.:/@-]+))")
MOST_SIGNALS = 16
"""A truth table has at most two to this power rows."""

Read = Callable[[str], float]


@dataclass(frozen=True, slots=True)
class Expression:
    """kind: "name", "not", "and", "or" or "true"; name: of the signal; parts: what is negated or joined."""

    kind: str
    name: str = ""
    parts: tuple[Expression, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The signals it reads, each once, in order."""
        found = [self.name] if self.kind == "name" else [name for part in self.parts for name in part.names]
        return tuple(dict.fromkeys(found))

    def value(self, read: Read) -> float:
        """Confidence for one request. Reads no signal that cannot change the outcome."""
        if self.kind == "name":
            return read(self.name)
        if self.kind == "true":
            return 1.0
        if self.kind == "not":
            return 0.0 if self.parts[0].value(read) > 0 else 1.0
        return self._joined(read)

    def _joined(self, read: Read) -> float:
        end = 0.0 if self.kind == "and" else 1.0
        found = 1.0 - end
        for part in self.parts:
            value = part.value(read)
            found = min(found, value) if self.kind == "and" else max(found, value)
            if found == end:
                break
        return found

    def values(self, columns: Mapping[str, Array], rows: int) -> Array:
        """[N] confidences from the signals' own [N]."""
        if self.kind == "name":
            return columns[self.name]
        if self.kind == "true":
            return np.ones(rows)
        parts = [part.values(columns, rows) for part in self.parts]
        if self.kind == "not":
            return np.where(parts[0] > 0, 0.0, 1.0)
        return np.asarray(np.min(parts, axis=0) if self.kind == "and" else np.max(parts, axis=0))

    def __str__(self) -> str:
        if self.kind in ("name", "true"):
            return self.name or "always"
        if self.kind == "not":
            return f"not {self.parts[0]}" if self.parts[0].kind in ("name", "not") else f"not ({self.parts[0]})"
        inner = [f"({part})" if part.kind in ("and", "or") and part.kind != self.kind else str(part) for part in self.parts]
        return f" {self.kind} ".join(inner)


ALWAYS = Expression("true")


def parse(text: str, where: str) -> Expression:
    """From text; "" always matches. NOT binds closest, then AND, then OR. Raises ConfigError in the name of `where`."""
    if not text.strip():
        return ALWAYS
    return _Parser(text, where).parsed()


def truth_table(expression: Expression) -> tuple[tuple[str, ...], NDArray[np.bool_], NDArray[np.bool_]]:
    """The signals' names, all 2^n assignments of them [2^n, n], and where the expression matches [2^n].

    Raises ConfigError for more than MOST_SIGNALS signals.
    """
    names = expression.names
    if len(names) > MOST_SIGNALS:
        raise ConfigError(f"reads {len(names)} signals", field=str(expression)[:60], fix=f"at most {MOST_SIGNALS} in a table")
    table = np.array(list(product([False, True], repeat=len(names))), dtype=bool).reshape(2 ** len(names), len(names))
    columns = {name: table[:, i].astype(np.float64) for i, name in enumerate(names)}
    return names, table, expression.values(columns, len(table)) > 0


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str, where: str) -> None:
        self._text, self._where = text, where
        self._tokens: list[str] = []
        place = 0
        while place < len(text.rstrip()):
            found = _TOKEN.match(text, place)
            if found is None:
                raise self._wrong(f"does not read at {text[place:].strip()[:20]!r}")
            self._tokens.append(found.group().strip())
            place = found.end()
        self._at = 0

    def parsed(self) -> Expression:
        found = self._joined("or")
        if self._at < len(self._tokens):
            raise self._wrong(f"has {self._tokens[self._at]!r} where an operator should be")
        return found

    def _joined(self, operator: str) -> Expression:
        below: Callable[[], Expression] = self._negated if operator == "and" else self._conjunction
        parts = [below()]
        while self._peek() == operator:
            self._at += 1
            parts.append(below())
        return parts[0] if len(parts) == 1 else Expression(operator, parts=tuple(parts))

    def _conjunction(self) -> Expression:
        return self._joined("and")

    def _negated(self) -> Expression:
        if self._peek() == "not":
            self._at += 1
            return Expression("not", parts=(self._negated(),))
        return self._atom()

    def _atom(self) -> Expression:
        word = self._tokens[self._at] if self._at < len(self._tokens) else ""
        self._at += 1
        if word == "(":
            inner = self._joined("or")
            if self._peek() != ")":
                raise self._wrong("lacks a closing bracket")
            self._at += 1
            return inner
        if not word or word == ")" or word.lower() in ("and", "or", "not"):
            raise self._wrong(f"has {word!r} where a signal should be" if word else "ends where a signal should be")
        return Expression("name", name=word)

    def _peek(self) -> str:
        return self._tokens[self._at].lower() if self._at < len(self._tokens) else ""

    def _wrong(self, message: str) -> ConfigError:
        return ConfigError(message, field=self._where, fix='for example "code and not (short or german)"')


def columns_of(names: tuple[str, ...], worlds: NDArray[Any]) -> dict[str, Array]:
    """Signal -> its truth in each world [W], as confidences."""
    return {name: worlds[:, i].astype(np.float64) for i, name in enumerate(names)}
