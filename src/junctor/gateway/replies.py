"""What goes back: statuses, headers and bodies, made once where they can be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from junctor.engine import Answer, Engine, StreamAnswer
from junctor.errors import JunctorError, NoTarget, OverBudget, ReplyRefused, UpstreamError, UpstreamStatus

Headers = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")
STREAM_HEAD: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
JSON_LINE = b"content-type: application/json\r\n"
STREAM_LINES = b"".join(b"%b: %b\r\n" % pair for pair in STREAM_HEAD)
TYPES = {4: "invalid_request_error", 5: "server_error"}
RATE_LIMITED = 429
LONGEST_HEADER = 200


@lru_cache(maxsize=4096)
def header_text(text: str) -> bytes:
    """A name as a header value: printable ASCII, everything else percent-encoded, so that no name can break a header."""
    return quote(text, safe=" !#$&'()*+,/:;=?@[]{}|^`<>\"")[:LONGEST_HEADER].encode("ascii")


def error_object(error: JunctorError) -> dict[str, Any]:
    """The OpenAI error shape: one line of message, the type, the field as `param`, our code."""
    status = error.http_status
    kind = "rate_limit_error" if status == RATE_LIMITED else TYPES.get(status // 100, "server_error")
    found: dict[str, Any] = {"message": str(error), "type": kind, "param": error.field or None, "code": error.code}
    if isinstance(error, UpstreamError):
        found["param"] = None
    if isinstance(error, NoTarget):
        found["refusals"] = error.refusals
    return found


def error_body(error: JunctorError) -> bytes:
    """The body of an error answer. A client error of an upstream is passed on in the upstream's own words."""
    if isinstance(error, UpstreamStatus) and error.http_status == error.upstream_status and _is_error(error.body):
        return error.body
    return msgspec.json.encode({"error": error_object(error)})


def _is_error(body: bytes) -> bool:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get("error"), dict)


def error_event(error: JunctorError) -> bytes:
    """An error in the middle of a stream, as clients of this API expect it; no `[DONE]` follows, because it is not done."""
    return b"data: " + msgspec.json.encode({"error": error_object(error)}) + b"\n\n"


def error_headers(error: JunctorError, decision: str) -> Headers:
    """Headers of an error answer; the decision's id when one was taken."""
    headers = [JSON_TYPE]
    if decision:
        headers.append((b"x-junctor-decision", decision.encode("ascii")))
    after = getattr(error, "retry_after_s", None)
    if isinstance(error, (OverBudget, ReplyRefused)):
        headers.append((b"x-should-retry", b"false"))  # the clients of this API try a 429 and a 502 again otherwise
    if after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(after))))
    return headers


def answer_head(answer: Answer | StreamAnswer, cost: float | None) -> bytes:
    """Header lines: what was decided, who answered, after how many attempts, what it was predicted to cost, and did."""
    decision = answer.decision
    head = b"x-junctor-decision: %b\r\nx-junctor-target: %b\r\nx-junctor-policy: %b\r\nx-junctor-attempts: %d\r\n" % (
        decision.id.encode("ascii"),  # the gateway made it
        header_text(answer.target.id),
        header_text(decision.policy),
        answer.tries,
    )
    predicted = answer.predicted.cost_usd
    if predicted is not None:
        head += b"x-junctor-predicted-cost-usd: %.9g\r\n" % predicted
    if cost is not None:
        head += b"x-junctor-cost-usd: %.9g\r\n" % cost
    context = answer.run.context
    if context is None:
        return head
    if context.hold is not None and context.hold.headers:
        head += lines(context.hold.headers)
    if context.notes:
        head += lines([(b"x-junctor-" + name.encode("ascii"), header_text(words)) for name, words in context.notes.items()])
    return head


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def whole_head(answer: Answer) -> bytes:
    """The header lines of a whole answer: it knows its cost."""
    return answer_head(answer, answer.outcome.cost_usd) + JSON_LINE


def stream_head(answer: StreamAnswer) -> bytes:
    """Those of a streamed answer; its cost is known beforehand only where a plan had to look at it first."""
    return answer_head(answer, answer.billed_usd) + STREAM_LINES


def models_body(engine: Engine, scope: frozenset[str] | None = None) -> bytes:
    """`GET /v1/models`: the aliases, then the targets; of these what is in the scope of a key."""
    entries: list[dict[str, Any]] = [
        {"id": name, "object": "model", "created": 0, "owned_by": "junctor", "targets": list(alias.targets.ids)}
        for name, alias in engine.aliases.items()
    ]
    entries += [
        {"id": target.id, "object": "model", "created": 0, "owned_by": target.provider, "description": target.description}
        for target in engine.catalogue
    ]
    shown = [entry for entry in entries if scope is None or entry["id"] in scope]
    return json.dumps({"object": "list", "data": shown}).encode()
