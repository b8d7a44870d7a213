"""JSON as models damage it, read all the same where there is one way to read it.

Mended: words and code fences around it, comments, trailing and missing commas, single and curly quotes, bare keys, Python's
True, False and None, raw line breaks in strings, and an end that is missing. Of what was cut off, whole values
stay, and texts as far as they go; a number or a word without its end is left out, because nobody knows how it went on. What may
be read in two ways is refused.
"""

from __future__ import annotations

import json
import re
from typing import Any

MOST_DEPTH = 64
MOST_CHARS = 2_000_000
FENCE = re.compile(r"```[a-zA-Z0-9]{0,12}[ \t]*\r?\n?(.*?)(?:```|\Z)", re.DOTALL)
GAP = re.compile(r"(?:\s+|//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z))*", re.DOTALL)
NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
NUMBER_TAIL = re.compile(r"(?:\.|[eE][+-]?)\Z")
BARE = re.compile(r"[A-Za-z_$][\w$\-]*")
WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}
AFTER_STRING = re.compile(r"\s*(?:[,}\]:]|//|/\*|#|\Z)")
ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\", "/": "/", "`": "`"}
HEX = re.compile(r"[0-9a-fA-F]{4}")


class Unmendable(ValueError):
    """There is no one way to read it."""


class _Cut(Exception):
    """The text ended here; `value` is what is whole (or NOTHING)."""

    def __init__(self, value: Any) -> None:
        self.value = value


NOTHING = object()


def mend(text: str) -> tuple[Any, list[str]]:
    """(value, what was mended) of JSON that may be damaged; raises Unmendable."""
    try:
        return json.loads(text), []
    except (ValueError, RecursionError):
        pass
    if len(text) > MOST_CHARS:
        raise Unmendable("is too long to be mended")
    mends: list[str] = []
    inner = _unwrapped(text, mends)
    reader = _Reader(inner, mends)
    try:
        value = reader.value(0)
    except _Cut as cut:
        reader.note("end")
        value = cut.value
    else:
        if (rest := inner[reader.at :].strip()) and (rest[0] in "{[" or rest[-1] in "}]"):
            raise Unmendable("holds more than one value")
    if value is NOTHING:
        raise Unmendable("holds no JSON")
    return value, mends


def _unwrapped(text: str, mends: list[str]) -> str:
    """The text without code fences and words around its first object or list."""
    fences = FENCE.findall(text) if "```" in text and not text.lstrip().startswith(("{", "[")) else []
    fences = [fence for fence in fences if fence.strip()[:1] in ("{", "[", '"')]
    if len(fences) > 1:
        raise Unmendable("holds more than one value")
    if fences:
        mends.append("fence")
        text = fences[0]
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    if not starts:
        raise Unmendable("holds no JSON")
    if text[: min(starts)].strip():
        mends.append("words around")
    return text[min(starts) :]


class _Reader:
    """Reads one value, leniently."""

    def __init__(self, text: str, mends: list[str]) -> None:
        self.text = text
        self.at = 0
        self._mends = mends

    def note(self, what: str) -> None:
        """Remember what was mended, once."""
        if what not in self._mends:
            self._mends.append(what)

    def _skip(self) -> str:
        """Over blanks and comments; the next character, "" at the end."""
        gap = GAP.match(self.text, self.at)
        if gap is not None and gap.end() > self.at:
            if gap[0].strip():
                self.note("comment")
            self.at = gap.end()
        return self.text[self.at : self.at + 1]

    def value(self, depth: int) -> Any:
        """Any value; raises _Cut where the text ends inside of it."""
        if depth > MOST_DEPTH:
            raise Unmendable("is nested too deeply")
        first = self._skip()
        if not first:
            raise _Cut(NOTHING)
        if first in "{[":
            return self._holder(first, depth)
        if first in QUOTES:
            return self._string(first)
        return self._plain()

    def _holder(self, first: str, depth: int) -> Any:
        """An object or a list."""
        self.at += 1
        close = "}" if first == "{" else "]"
        fields: dict[str, Any] = {}
        items: list[Any] = []
        out: Any = fields if first == "{" else items
        while True:
            following = self._skip()
            if not following:
                raise _Cut(out)
            if following == close:
                self.at += 1
                return out
            if following in "}]":
                raise Unmendable("closes what was not opened")
            try:
                self._entry(fields if first == "{" else None, items, depth)
            except _Cut as cut:
                raise _Cut(out) from cut
            self._separate(close)

    def _entry(self, fields: dict[str, Any] | None, items: list[Any], depth: int) -> None:
        """One field or item; what is whole of it stays when the text ends."""
        key = None if fields is None else self._key()
        try:
            value = self.value(depth + 1)
        except _Cut as cut:
            if cut.value is not NOTHING:
                self._put(fields, items, key, cut.value)
            raise
        self._put(fields, items, key, value)

    def _put(self, fields: dict[str, Any] | None, items: list[Any], key: str | None, value: Any) -> None:
        if fields is None:
            items.append(value)
        elif key in fields and fields[key] != value:
            raise Unmendable("gives a field twice")
        elif key is not None:
            fields[key] = value

    def _key(self) -> str:
        first = self._skip()
        bare = BARE.match(self.text, self.at)
        if first in QUOTES:
            try:
                key = self._string(first, key=True)
            except _Cut as cut:
                raise _Cut(NOTHING) from cut
        elif bare is not None:
            self.note("bare key")
            key, self.at = bare[0], bare.end()
        else:
            raise Unmendable("has no name for a field")
        following = self._skip()
        if not following:
            raise _Cut(NOTHING)
        if following != ":":
            raise Unmendable("has a name without a value")
        self.at += 1
        return key

    def _separate(self, close: str) -> None:
        following = self._skip()
        if following == ",":
            self.at += 1
            if self._skip() == close:
                self.note("trailing comma")
            elif self._skip() == ",":
                raise Unmendable("has an empty place")
        elif following and following not in "}]":
            if "\n" not in self.text[self.text.rfind("\n", 0, self.at) :] or following not in "\"'{[":
                raise Unmendable("has no comma where one belongs")
            self.note("missing comma")

    def _string(self, opening: str, *, key: bool = False) -> str:
        """A string; a quote ends it only where something of the structure follows. Names hold no quotes."""
        if opening != '"':
            self.note("quotes")
        closing = QUOTES[opening]
        self.at += 1
        out: list[str] = []
        inside = False
        while self.at < len(self.text):
            char = self.text[self.at]
            self.at += 1
            if char == "\\":
                out.append(self._escaped())
            elif char == closing:
                if key or AFTER_STRING.match(self.text, self.at) or "\n" in self._gap():
                    return "".join(out)
                self.note("quotes")
                inside = True
                out.append(char)
            else:
                if char in "\r\n\t":
                    self.note("line break")
                out.append(char)
        if inside:
            raise Unmendable("has quotes in a string without an end")
        raise _Cut("".join(out))

    def _gap(self) -> str:
        gap = GAP.match(self.text, self.at)
        return gap[0] if gap is not None else ""

    def _escaped(self) -> str:
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char == "u":
            found = HEX.match(self.text, self.at)
            if found is None:
                if self.at + 4 > len(self.text):
                    self.at = len(self.text)
                    return ""
                raise Unmendable("has a broken escape")
            self.at = found.end()
            return self._character(int(found[0], 16))
        if char and char not in ESCAPES:
            raise Unmendable("has a broken escape")
        return ESCAPES.get(char, "")

    def _character(self, code: int) -> str:
        """A character by its number; of two halves both."""
        if not 0xD800 <= code < 0xE000:
            return chr(code)
        other = HEX.match(self.text, self.at + 2) if self.text.startswith("\\u", self.at) else None
        low = int(other[0], 16) if other is not None else 0
        if other is None or not (code < 0xDC00 <= low < 0xE000):
            return "�"
        self.at = other.end()
        return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))

    def _plain(self) -> Any:
        """A number or a word."""
        found = NUMBER.match(self.text, self.at)
        word = BARE.match(self.text, self.at)
        match = found or word
        if match is None:
            if self.text[self.at] in "+-" and self.at + 1 >= len(self.text):
                raise _Cut(NOTHING)
            raise Unmendable("holds something that is no value")
        end = match.end()
        if end >= len(self.text) or (found and NUMBER_TAIL.match(self.text, end)):
            self.at = len(self.text)
            raise _Cut(WORDS.get(match[0], NOTHING))
        self.at = end
        if found is not None:
            return _number(found[0])
        if match[0] not in WORDS:
            raise Unmendable("holds a word that is no value")
        if match[0][0].isupper():
            self.note("Python's words")
        return WORDS[match[0]]


def _number(text: str) -> Any:
    try:
        return json.loads(text.removeprefix("+"))
    except ValueError as error:
        raise Unmendable("holds something that is no value") from error
