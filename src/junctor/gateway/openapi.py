"""The OpenAPI 3.1 document of everything that the gateway serves, at `GET /openapi.json`.

The APIs that callers speak are described by hand; pages that are added beside them (dashboard, admin) are listed with what is
known of every page: its path, its method, whether it needs a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

import junctor
from junctor.gateway.openapi_schemas import SCHEMAS, Schema, ref
from junctor.gateway.pages import Page, Pages

JSON = "application/json"
EVENTS = "text/event-stream"
PATH = "/openapi.json"
WISHES = {
    "x-junctor-budget-usd": ({"type": "number", "minimum": 0}, "most US dollars for this request"),
    "x-junctor-deadline-s": ({"type": "number", "exclusiveMinimum": 0}, "most seconds for the whole answer"),
    "x-junctor-quality-floor": ({"type": "number", "minimum": 0, "maximum": 1}, "least predicted quality"),
}
MISTAKES = ("400", "401", "403", "404", "405", "408", "409", "413", "422", "429", "431")
FAILURES = ("500", "502", "503", "504")


class Described(NamedTuple):
    """An operation: what it is, the schemas of its request and its answer ("" for none), and how it behaves."""

    summary: str
    takes: str = ""
    gives: str = ""
    streams: bool = False
    errors: str = "Error"
    tag: str = "models"
    calls: bool = False
    parameter: str = ""


OPERATIONS: dict[tuple[str, str], Described] = {
    ("POST", "/v1/chat/completions"): Described(
        "OpenAI chat completion, whole or streamed", "ChatRequest", "ChatCompletion", streams=True, calls=True
    ),
    ("POST", "/v1/messages"): Described(
        "Anthropic message, whole or streamed",
        "MessagesRequest",
        "Message",
        streams=True,
        errors="MessagesError",
        calls=True,
    ),
    ("POST", "/v1/messages/count_tokens"): Described(
        "Tokens of an Anthropic message, estimated here and not by the model's own tokenizer",
        "CountRequest",
        "CountedTokens",
        errors="MessagesError",
    ),
    ("POST", "/v1/responses"): Described(
        "OpenAI response, whole or streamed", "ResponsesRequest", "Response", streams=True, calls=True
    ),
    ("GET", "/v1/responses/*"): Described("A response that was kept", gives="Response", parameter="id"),
    ("DELETE", "/v1/responses/*"): Described("Forget a response", gives="ResponseDeleted", parameter="id"),
    ("POST", "/v1/embeddings"): Described("OpenAI embeddings", "EmbeddingsRequest", "Embeddings", calls=True),
    ("POST", "/v1/moderations"): Described("OpenAI moderation", "ModerationsRequest", "Moderations", calls=True),
    ("GET", "/v1/models"): Described("Aliases, then targets", gives="Models"),
    ("POST", "/v1/feedback"): Described("Say later how a decision turned out", "Feedback", "FeedbackTaken", tag="decisions"),
    ("GET", "/v1/decisions/*"): Described("A decision and what came of it", gives="Decision", tag="decisions", parameter="id"),
    ("GET", "/healthz"): Described("200 while it serves", gives="Health", tag="service"),
    ("GET", PATH): Described("This document", gives="Decision", tag="service"),
}


def document(pages: Iterable[tuple[str, str, Page]]) -> dict[str, Any]:
    """The document over these pages: method, path (`/*` for everything below), page."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, page in pages:
        found = OPERATIONS.get((method, path))
        operation = _other(method, path, page) if found is None else _operation(found)
        if page.open:
            operation["security"] = []
        operation["operationId"] = f"{method.lower()}{path}".replace("/*", "/one").replace("/", "_")
        name = found.parameter if found is not None else "rest"
        paths.setdefault(path.replace("/*", f"/{{{name}}}"), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "junctor",
            "version": junctor.__version__,
            "summary": "A gateway that decides which model takes each request.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "security": [{"bearer": []}, {"key": []}, {}],
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _json(schema: Schema) -> dict[str, Any]:
    return {JSON: {"schema": schema}}


def _operation(found: Described) -> dict[str, Any]:
    content = _json(ref(found.gives)) if found.gives else {}
    if found.streams:
        content |= {EVENTS: {"schema": {}}}
    errors = {status: {"description": "refused", "content": _json(ref(found.errors))} for status in MISTAKES}
    errors |= {status: {"description": "failed", "content": _json(ref(found.errors))} for status in FAILURES}
    out: dict[str, Any] = {
        "summary": found.summary,
        "tags": [found.tag],
        "responses": {"200": {"description": "answered", "content": content}, **errors},
    }
    if found.takes:
        out["requestBody"] = {"required": True, "content": _json(ref(found.takes))}
    parameters = [_in_path(found.parameter)] if found.parameter else []
    if found.calls:
        parameters += [
            {"name": name, "in": "header", "description": words, "schema": schema} for name, (schema, words) in WISHES.items()
        ]
    return out | ({"parameters": parameters} if parameters else {})


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _other(method: str, path: str, page: Page) -> dict[str, Any]:
    """A page that is not described by hand."""
    out: dict[str, Any] = {
        "summary": "For the dashboard and for administrators" if path.startswith("/admin") else "A page",
        "tags": ["admin" if page.admin or path.startswith("/admin") else "pages"],
        "responses": {
            "200": {"description": "answered"},
            "default": {"description": "refused", "content": _json(ref("Error"))},
        },
    }
    if path.endswith("/*"):
        out["parameters"] = [_in_path("rest")]
    if method in ("POST", "PUT", "PATCH"):
        out["requestBody"] = {"content": _json({})}
    return out


class OpenApi:
    """The document of some pages, made when it is first asked for and again when pages were added."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._made: tuple[int, bytes] = (0, b"")

    def body(self) -> bytes:
        """The document as JSON."""
        listed = list(self._pages.listed())
        if self._made[0] != len(listed):
            self._made = (len(listed), msgspec.json.encode(document(listed)))
        return self._made[1]
