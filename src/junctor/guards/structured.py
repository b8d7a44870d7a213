"""Replies that must be JSON are: checked against the schema that the request (or the alias) gives, mended where that is
unambiguous, refused otherwise.

A stream is held back until it is complete, or passed on and checked at its end (`streams = "check"`), when nothing can be
mended any more. A reply that calls tools, or declines (`refusal`), is no JSON and passes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import msgspec
from msgspec import Struct

from junctor.engine.run import EventFilter
from junctor.errors import ConfigError, MissingExtra, ReplyRefused, RequestError
from junctor.guards.contracts import Guard, Noticed, settings_of
from junctor.guards.fitting_json import fit_to
from junctor.guards.holding import Checked, HeldBack
from junctor.guards.mending import Unmendable, mend
from junctor.types import Request

ANY_OBJECT = '{"type":"object"}'
BACKTRACKS = 10_000
MOST_SCHEMA_CHARS = 256_000
MOST_STEPS = 6


class JsonSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[guards.NAME.settings]` of use = "json".

    schema       a JSON schema, as a table or the name of a file; empty: that of the request's response_format, if it has one
    mend         mend damaged JSON
    coerce       change values where the schema leaves one way to do it ("3" where a number must be)
    streams      "hold" streams back until they are complete, or "check" them at their end
    """

    schema: dict[str, Any] | str = ""
    mend: bool = True
    coerce: bool = True
    streams: Literal["hold", "check"] = "hold"


class JsonGuard(Guard):
    """Replies hold to their JSON schema: checked, mended, or refused with 502."""

    name: ClassVar[str] = "json"
    paths: ClassVar[tuple[str, ...]] = ("schema",)

    def __init__(self, settings: JsonSettings | None = None) -> None:
        self._settings = found = settings or JsonSettings()
        self.needs_whole = found.streams == "hold"
        self._schema = _read(found.schema) if isinstance(found.schema, str) and found.schema else found.schema
        self._text = json.dumps(self._schema) if self._schema else ""
        try:
            compiled(self._text or ANY_OBJECT)
        except ValueError as error:
            raise ConfigError(
                "is no JSON schema", field="schema", fix="write one of drafts 4 to 2020-12, without remote $ref"
            ) from error

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """See JsonSettings; raises ConfigError, and MissingExtra without the extra `guards`."""
        return cls(settings_of(JsonSettings, settings))

    @property
    def _key(self) -> str:
        return f"schema of {self.label or self.name}"

    def before(self, request: Request, noticed: Noticed) -> Request:
        """Read the schema that the request asks for; raises RequestError when it is none."""
        text = self._text or _asked_schema(request)
        if text:
            try:
                noticed.state[self._key] = compiled(text)
            except ValueError as error:
                raise RequestError(
                    "is no JSON schema that can be checked",
                    field="response_format.json_schema.schema",
                    fix="mend it; a $ref may only point into the schema itself",
                ) from error
        return request

    def after(self, request: Request, body: bytes, noticed: Noticed) -> bytes:
        """The reply, mended if it must be; raises ReplyRefused."""
        del request
        validator = noticed.state.get(self._key)
        if validator is None:
            return body
        found = msgspec.json.decode(body)
        changed = False
        for choice in found.get("choices") or ():
            message = choice.get("message") if isinstance(choice, dict) else None
            if not isinstance(message, dict) or _says_something_else(message):
                continue
            content = self._held(message.get("content"), validator, noticed)
            changed = changed or content != message["content"]
            message["content"] = content
        return msgspec.json.encode(found) if changed else body

    def _held(self, content: Any, validator: Any, noticed: Noticed) -> str:
        """A content that holds to the schema."""
        if not isinstance(content, str):
            raise self._refused("holds no text")
        try:
            value, mends = mend(content) if self._settings.mend else (json.loads(content), [])
        except Unmendable as error:
            raise self._refused(f"{error}") from error
        except (ValueError, RecursionError) as error:
            raise self._refused("is not JSON") from error
        if validator.is_valid(value):
            if mends:
                noticed.findings.append(f"{self.label or self.name}: mended {', '.join(mends)}")
            return content if not mends else json.dumps(value, ensure_ascii=False)
        if self._settings.coerce:
            fitted = fit_to(value, validator)
            if fitted is not value and validator.is_valid(fitted):
                return json.dumps(fitted, ensure_ascii=False)
        # The place in the schema is the caller's own text; the place in the reply might be the model's.
        places = sorted({_place(error) for error, _ in zip(validator.iter_errors(value), range(MOST_STEPS), strict=False)})
        raise self._refused(f"does not hold to its JSON schema, at: {', '.join(places)}", places)

    def _refused(self, problem: str, findings: list[str] | None = None) -> ReplyRefused:
        return ReplyRefused(
            f"the reply {problem}",
            guard=self.label or self.name,
            findings=findings or (),
            fix="ask again, or of a target that keeps to schemas",
        )

    def stream(self, request: Request, noticed: Noticed) -> EventFilter | None:
        """Nothing where there is no schema to hold to."""
        if noticed.state.get(self._key) is None:
            return None
        return HeldBack(self, request, noticed) if self.needs_whole else Checked(self, request, noticed)


def _says_something_else(message: dict[str, Any]) -> bool:
    """Whether a message calls tools, or declines."""
    return bool(message.get("tool_calls") or message.get("function_call") or message.get("refusal"))


def _place(error: Any) -> str:
    return ".".join(str(step) for step in error.schema_path)[:200] or "the schema"


def _asked_schema(request: Request) -> str:
    wanted = request.params.get("response_format")
    if not isinstance(wanted, Mapping):
        return ""
    if wanted.get("type") == "json_object":
        return ANY_OBJECT
    inner = wanted.get("json_schema")
    schema = inner.get("schema") if wanted.get("type") == "json_schema" and isinstance(inner, Mapping) else None
    return json.dumps(schema) if isinstance(schema, (dict, bool)) else ""


def _read(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", field="schema", fix="name a file with a JSON schema") from error
    except ValueError as error:
        raise ConfigError("is not JSON", field="schema", fix="mend the file") from error
    if not isinstance(found, dict):
        raise ConfigError("is not an object", field="schema", fix="name a file with a JSON schema")
    return found


@lru_cache(maxsize=256)
def compiled(text: str) -> Any:
    """A validator for a schema; raises ValueError for what is none. Nothing is ever fetched: a remote $ref is refused.

    Its patterns run with a bound on backtracking, because callers write them.
    """
    try:
        import jsonschema_rs
    except ModuleNotFoundError as error:
        raise MissingExtra("needs the package jsonschema_rs", field="json", fix="pip install 'junctor[guards]'") from error
    if len(text) > MOST_SCHEMA_CHARS:
        raise ValueError("too long")
    patterns = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACKS)
    try:
        return jsonschema_rs.validator_for(json.loads(text), retriever=_refuse_remote, pattern_options=patterns)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _refuse_remote(uri: str) -> Any:
    del uri
    raise ValueError("a schema may not point outside of itself")
