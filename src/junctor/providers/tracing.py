"""Which trace the call at hand is part of (W3C Trace Context): read from a caller, passed on to every upstream.

It lives in a context variable, so that no provider has to carry it; nobody sets it where nothing is traced.
"""

from __future__ import annotations

import re
from contextvars import ContextVar

from msgspec import Struct

HEADER = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
STATE_CHARS = 512


class Place(Struct, frozen=True, gc=False):
    """Where a request stands in a trace. `trace`, `above` (the caller's span, "" for none) and `own` are hex.

    request   id of the request that this is the place of
    kept      whether its spans are exported
    headers   what upstreams are sent, as header lines
    """

    request: str
    trace: str
    above: str
    own: str
    kept: bool
    state: str
    headers: bytes


CURRENT: ContextVar[Place | None] = ContextVar("junctor_trace", default=None)


def parse_parent(value: bytes) -> tuple[str, str, bool] | None:
    """(trace, span, whether it is kept) of a traceparent header; None for one that is not valid."""
    found = HEADER.fullmatch(value.strip())
    if found is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == b"ff" or (version == b"00" and rest) or not trace.strip(b"0") or not span.strip(b"0"):
        return None
    return trace.decode(), span.decode(), bool(int(flags, 16) & 1)


def place_of(request: str, given: tuple[str, str, bool] | None, state: bytes, *, kept: bool) -> Place:
    """The place of a request: in the trace that it was given, else in one of its own. Decision ids are random hex."""
    digits = request.removeprefix("dec-")
    own = digits[:16]
    trace, above, kept = given or (digits.ljust(32, "0"), "", kept)
    if given is None or len(state) > STATE_CHARS or not state.isascii() or not state.decode("ascii").isprintable():
        state = b""
    headers = b"traceparent: 00-%b-%b-0%d\r\n" % (trace.encode(), own.encode(), kept)
    if state:
        headers += b"tracestate: " + state + b"\r\n"
    return Place(request, trace, above, own, kept, state.decode("ascii"), headers)
