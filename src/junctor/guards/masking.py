"""Personal data is replaced by placeholders before anybody sees it, and put back into the reply.

`ana@example.org` is sent, journalled and cached as `<EMAIL_1>`; where the answer says `<EMAIL_1>` the caller reads the address.
One value has one placeholder in the whole conversation; numbers follow the order in which values are first said, so a longer
conversation keeps those of its beginning (and the upstream its prompt cache).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Literal, Self

import msgspec
from msgspec import Struct, field

from junctor.errors import ConfigError, GuardRefused
from junctor.guards import pii
from junctor.guards.contracts import Guard, Noticed, settings_of
from junctor.guards.events import TEXTS, Channel, Weave
from junctor.guards.pii.spans import Span, settled
from junctor.guards.texts import (
    changed_message,
    changed_request,
    content_texts,
    json_strings,
    message_texts,
    messages_of,
    with_json_strings,
)
from junctor.types import Request

Modes = Literal["mask", "block", "annotate", "off"]
MILD = frozenset({"date", "place", "organisation", "url"})
REMEMBERED = 512
SHORT = 512
LEAST_SPREAD = 4
MOST_SPREAD = 100
LONGEST = 40
PLACEHOLDER = re.compile(r"(?:<|\\u003[cC]|&lt;)([A-Z]{2,12}_\d{1,6})(?:>|\\u003[eE]|&gt;)")
WRITTEN = re.compile(r"<[A-Z]{2,12}_\d{1,6}>")
BEGUN = re.compile(
    r"(?:(?:<|\\u003[cC]|&lt;)(?:[A-Z]{1,12}(?:_\d{0,6})?(?:\\(?:u(?:0(?:03?)?)?)?|&(?:gt?)?)?)?|\\(?:u(?:0(?:03?)?)?)?|&(?:lt?)?)\Z"
)
_word = re.compile(r"\w")


class PiiSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[guards.NAME.settings]` of use = "pii".

    mode    what is done with what is found: "mask", "block" (400) or "annotate" (it is only said in a header)
    kinds   kind -> mode, where it differs; "off": not looked for. What says little of a person is off unless it is named here:
            date, place, organisation, url
    least   how sure the rules must be, 0 to 1
    most_characters   texts of more together are refused: what is not read might hold anything
    """

    mode: Modes = "mask"
    kinds: Mapping[str, Modes] = field(default_factory=dict)
    least: float = pii.LEAST
    most_characters: int = 1_000_000


class Masks:
    """The placeholders of one conversation, both ways."""

    __slots__ = ("_counts", "_taken", "values", "words")

    def __init__(self, taken: AbstractSet[str] = frozenset()) -> None:
        self.words: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._taken = taken

    def word(self, value: str, kind: str) -> str:
        """The placeholder of a value; a new one is one that nobody has written in this conversation."""
        found = self.words.get(value)
        while found is None:
            self._counts[kind] += 1
            fresh = f"<{kind.upper()}_{self._counts[kind]}>"
            if fresh not in self._taken:
                found = self.words[value] = fresh
                self.values[fresh] = value
        return found

    def mask(self, text: str, spans: Sequence[Span]) -> str:
        """A text with what was found in it, and every value that is known from elsewhere, replaced."""
        if not self.words:
            return text
        everywhere = settled([*spans, *self._known(text)]) if len(text) <= SHORT or spans or self._any(text) else []
        out, at = [], 0
        for span in everywhere:
            value = text[span.start : span.end]
            out += [text[at : span.start], self.words.get(value) or self.word(value, span.kind)]
            at = span.end
        return "".join([*out, text[at:]]) if at else text

    def _any(self, text: str) -> bool:
        return any(value in text for value in list(self.words)[:MOST_SPREAD])

    def _known(self, text: str) -> Iterator[Span]:
        for value in list(self.words)[:MOST_SPREAD]:
            if len(value) < LEAST_SPREAD:
                continue
            start = text.find(value)
            while start >= 0:
                end = start + len(value)
                if not (_word.match(text, end) or (start and _word.match(text, start - 1))):
                    yield Span(start, end, "", 0.01)
                start = text.find(value, end)


class PiiGuard(Guard):
    """Personal data: masked and put back into the reply, refused, or only noticed."""

    name: ClassVar[str] = "pii"

    def __init__(self, settings: PiiSettings | None = None) -> None:
        found = settings or PiiSettings()
        for kind in found.kinds:
            if kind not in pii.ALL:
                raise ConfigError(f"{kind!r} is no kind of personal data", field="kinds", fix=f"kinds: {', '.join(pii.KINDS)}")
        if not 0 <= found.least <= 1:
            raise ConfigError("is not a number from 0 to 1", field="least", fix=f"for example {pii.LEAST}")
        self._modes = {kind: found.kinds.get(kind, "off" if kind in MILD else found.mode) for kind in pii.KINDS}
        self._wanted = frozenset(kind for kind, mode in self._modes.items() if mode != "off")
        self._least = found.least
        self._most = found.most_characters
        self._seen: OrderedDict[bytes, list[Span]] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """See PiiSettings; raises ConfigError."""
        return cls(settings_of(PiiSettings, settings))

    def before(self, request: Request, noticed: Noticed) -> Request:
        """Mask what is said. Raises GuardRefused for what is to be blocked."""
        texts = list(_texts(request))
        self._bound(texts)
        found = {text: self.find(text) for text in texts}
        kinds = Counter(span.kind for text in texts for span in found[text])
        if not kinds:
            return request
        self._refuse(kinds)
        said = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        noticed.findings.append(f"{self.label or self.name}: {said}")
        masks = Masks({word for text in texts if "<" in text for word in WRITTEN.findall(text)})
        for text in texts:
            for span in found[text]:
                if self._modes[span.kind] == "mask":
                    masks.word(text[span.start : span.end], span.kind)
        if not masks.words:
            return request
        noticed.state[self._key] = masks

        def plain(text: str) -> str:
            spans = found[text] if text in found else self.find(text)
            return masks.mask(text, [span for span in spans if self._modes[span.kind] == "mask"])

        return changed_request(request, plain, lambda text: with_json_strings(text, plain))

    @property
    def _key(self) -> str:
        return f"masks of {self.label or self.name}"

    def find(self, text: str) -> list[Span]:
        """What is looked for in a text. Places in long texts are remembered by its digest: conversations are sent again."""
        if len(text) < SHORT:
            return pii.find(text, self._wanted, self._least)
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self._seen.get(key)
        if known is None:
            known = self._seen[key] = pii.find(text, self._wanted, self._least)
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return known

    def _bound(self, texts: Sequence[str]) -> None:
        size = sum(map(len, texts))
        if size > self._most:
            said = f"have {size} characters, over {self._most} that can be looked through"
            raise GuardRefused(said, guard=self.label or self.name, findings=("length",), field="messages", fix="send less")

    def _refuse(self, kinds: Counter[str]) -> None:
        barred = [kind for kind in sorted(kinds) if self._modes[kind] == "block"]
        if barred:
            raise GuardRefused(
                f"holds personal data: {', '.join(barred)}",
                guard=self.label or self.name,
                findings=barred,
                field="messages",
                fix="leave it out",
            )

    def after(self, request: Request, body: bytes, noticed: Noticed) -> bytes:
        """Put the values back."""
        masks = noticed.state.get(self._key)
        if masks is None or not _may_hold(body):
            return body
        try:
            found = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return body
        undo = Unmasker(masks.values)
        plain = undo.json if _speaks_json(request) else undo.plain
        for choice in found.get("choices", ()) if isinstance(found, dict) else ():
            if isinstance(choice, dict) and isinstance(choice.get("message"), dict):
                choice["message"] = changed_message(choice["message"], plain, undo.json)
        return msgspec.json.encode(found)

    def stream(self, request: Request, noticed: Noticed) -> Unmasking | None:
        """Put the values back as the words come."""
        masks = noticed.state.get(self._key)
        return None if masks is None else Unmasking(Unmasker(masks.values), _speaks_json(request))


def _texts(request: Request) -> Iterator[str]:
    """Everything that may be masked; of JSON the strings in it."""
    for message in messages_of(request):
        if isinstance(message, dict):
            for text, is_json in message_texts(message):
                if is_json:
                    yield from json_strings(text)
                else:
                    yield text
    if isinstance(request.params.get("user"), str):
        yield request.params["user"]
    prediction = request.params.get("prediction")
    if isinstance(prediction, dict):
        yield from content_texts(prediction.get("content"))


def _speaks_json(request: Request) -> bool:
    wanted = request.params.get("response_format")
    return isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema")


def _may_hold(data: bytes) -> bool:
    return b"<" in data or b"\\u003" in data or b"&lt;" in data


class Unmasker:
    """Undoes the masks of a text, also where an upstream wrote the brackets as JSON or HTML does."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {word[1:-1]: value for word, value in values.items()}

    def plain(self, text: str) -> str:
        """In a text."""
        return PLACEHOLDER.sub(lambda m: self._values.get(m[1], m[0]), text)

    def json(self, text: str) -> str:
        """In JSON: values are escaped as strings are."""
        return PLACEHOLDER.sub(lambda m: _escaped(self._values[m[1]]) if m[1] in self._values else m[0], text)


def _escaped(value: str) -> str:
    return msgspec.json.encode(value)[1:-1].decode()


def open_at(text: str) -> int:
    """Where the end of a text may be the beginning of a placeholder; its length when it cannot."""
    found = BEGUN.search(text, max(0, len(text) - LONGEST))
    return len(text) if found is None else found.start()


class Unmasking(Weave):
    """Undoes masks in a stream; a placeholder that comes in pieces is held back until it is whole."""

    def __init__(self, undo: Unmasker, speaks_json: bool) -> None:
        super().__init__()
        self._undo = undo
        self._json = speaks_json

    def touches(self, events: bytes) -> bool:
        """Whether a placeholder may begin in them."""
        return b"<" in events or b"\\u003" in events or b"&" in events or b"\\\\" in events

    def change(self, text: str, channel: Channel) -> tuple[str, str]:
        """Undo whole placeholders, hold back the beginning of one."""
        at = open_at(text)
        return self.finish(text[:at], channel), text[at:]

    def finish(self, text: str, channel: Channel) -> str:
        """Undo what is whole."""
        return self._undo.json(text) if self._json or channel[1] not in TEXTS else self._undo.plain(text)
