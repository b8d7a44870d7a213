"""What may not pass by its size or by its words: lengths, numbers of messages, forbidden words and patterns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import msgspec
from msgspec import Struct

from junctor.errors import ConfigError, GuardRefused, ReplyRefused
from junctor.guards.contracts import Guard, Noticed, settings_of
from junctor.guards.texts import message_texts, messages_of, words_of
from junctor.types import Request

MOST_PATTERN_CHARS = 2_000


class LengthSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[guards.NAME.settings]` of use = "length". 0: no limit. Characters of all texts together; images and audio do not count.

    reply_characters   of the whole reply: streams are held back then
    """

    characters: int = 0
    message_characters: int = 0
    messages: int = 0
    reply_characters: int = 0


class LengthGuard(Guard):
    """Refuses what is too long."""

    name: ClassVar[str] = "length"

    def __init__(self, settings: LengthSettings | None = None) -> None:
        self._most = found = settings or LengthSettings()
        for field in found.__struct_fields__:
            if getattr(found, field) < 0:
                raise ConfigError("is under 0", field=field, fix="0 is no limit")
        self.needs_whole = found.reply_characters > 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """See LengthSettings; raises ConfigError."""
        return cls(settings_of(LengthSettings, settings))

    def before(self, request: Request, noticed: Noticed) -> Request:
        """Raises GuardRefused."""
        del noticed
        most = self._most
        messages = messages_of(request)
        if most.messages and len(messages) > most.messages:
            raise self._refused(f"are {len(messages)}, over {most.messages}", "messages")
        if not (most.characters or most.message_characters):
            return request
        total = 0
        for place, message in enumerate(messages):
            size = sum(len(text) for text, _ in message_texts(message)) if isinstance(message, dict) else 0
            total += size
            if most.message_characters and size > most.message_characters:
                raise self._refused(f"has {size} characters, over {most.message_characters}", f"messages[{place}]")
        if most.characters and total > most.characters:
            raise self._refused(f"have {total} characters together, over {most.characters}", "messages")
        return request

    def _refused(self, problem: str, field: str) -> GuardRefused:
        return GuardRefused(problem, guard=self.label or self.name, findings=("length",), field=field, fix="send less")

    def after(self, request: Request, body: bytes, noticed: Noticed) -> bytes:
        """Raises ReplyRefused."""
        del request, noticed
        if self._most.reply_characters:
            size = sum(map(len, reply_texts(body)))
            if size > self._most.reply_characters:
                said = f"the reply has {size} characters, over {self._most.reply_characters}"
                raise ReplyRefused(said, guard=self.label or self.name, findings=("length",), fix="ask for less: max_tokens")
        return body


class WordsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[guards.NAME.settings]` of use = "words".

    words      whole words and phrases, small and capital letters alike
    patterns   regular expressions of Python, written by whoever runs the gateway; keep them simple, they are run on every text
    roles      whose words of a request are read; empty: everybody's
    replies    whether replies are read too; streams are held back then
    """

    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    replies: bool = False


class WordsGuard(Guard):
    """Refuses texts in which a forbidden word stands. The error says which entry of the list it was, never the text."""

    name: ClassVar[str] = "words"

    def __init__(self, settings: WordsSettings) -> None:
        if not (settings.words or settings.patterns):
            raise ConfigError("is empty, and so is patterns", field="words", fix='for example words = ["project falcon"]')
        sources = [*(rf"(?<!\w){re.escape(word)}(?!\w)" for word in settings.words), *settings.patterns]
        self._patterns = [self._compiled(source, place - len(settings.words)) for place, source in enumerate(sources)]
        self._names = [f"words[{i}]" for i in range(len(settings.words))]
        self._names += [f"patterns[{i}]" for i in range(len(settings.patterns))]
        self._roles = frozenset(settings.roles) or None
        self.needs_whole = settings.replies

    @staticmethod
    def _compiled(source: str, place: int) -> re.Pattern[str]:
        try:
            if len(source) > MOST_PATTERN_CHARS:
                raise re.error("is over 2,000 characters")
            return re.compile(source, re.IGNORECASE)
        except re.error as error:
            raise ConfigError(f"is no pattern: {error}", field=f"patterns[{place}]", fix="mend it") from error

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """See WordsSettings; raises ConfigError."""
        return cls(settings_of(WordsSettings, settings))

    def _found(self, text: str) -> str:
        """The entry that is in a text; "" for none."""
        hits = (name for name, pattern in zip(self._names, self._patterns, strict=True) if pattern.search(text))
        return next(hits, "")

    def before(self, request: Request, noticed: Noticed) -> Request:
        """Raises GuardRefused."""
        del noticed
        for text, _ in words_of(request, self._roles):
            if entry := self._found(text):
                said = f"holds what may not be sent ({entry} of the guard {self.label or self.name})"
                raise GuardRefused(said, guard=self.label or self.name, findings=(entry,), field="messages", fix="leave it out")
        return request

    def after(self, request: Request, body: bytes, noticed: Noticed) -> bytes:
        """Raises ReplyRefused."""
        del request, noticed
        if self.needs_whole:
            for text in reply_texts(body):
                if entry := self._found(text):
                    said = f"the reply holds what may not be said ({entry} of the guard {self.label or self.name})"
                    raise ReplyRefused(said, guard=self.label or self.name, findings=(entry,))
        return body


def reply_texts(body: bytes) -> list[str]:
    """Every text of a chat.completion body."""
    found = msgspec.json.decode(body)
    messages = [c.get("message") for c in found.get("choices") or () if isinstance(c, dict)]
    return [text for message in messages if isinstance(message, dict) for text, _ in message_texts(message)]
