"""What a caller says beside the call itself, in `x-junctor-…` headers or as `junctor_…` keys of `metadata`, whatever the API.

    weight          what cost is worth against quality in this request: 0 is the best, a large one the cheapest
    budget_usd, deadline_s, quality_floor    limits of this request
    session         which conversation it belongs to
    tenant          (header only) a name for the journal

A header wins over metadata. Our own metadata keys are not sent upstream; the others are, and policies see them as labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from junctor.errors import RequestError
from junctor.types import NO_CONSTRAINTS, Constraints

NAMES = {"budget_usd": "budget_usd", "deadline_s": "deadline_s", "quality_floor": "quality_floor", "weight": "cost_weight"}
"""What callers write -> the field of Constraints."""
HEADERS = {b"x-junctor-" + said.replace("_", "-").encode(): name for said, name in NAMES.items()}
PREFIX = "junctor_"
METADATA = {PREFIX + said: name for said, name in NAMES.items()}
SESSION_HEADER, SESSION_KEY = b"x-junctor-session", "junctor_session"
TENANT_HEADER = b"x-junctor-tenant"
OURS = frozenset({*METADATA, SESSION_KEY})
NAME_CHARS = 256
NO_LABELS: Mapping[str, str] = {}
CHECKS: Mapping[str, tuple[Callable[[float], bool], str, str]] = {
    "budget_usd": (lambda x: 0 <= x < float("inf"), "is not a number of 0 or more", "give US dollars for the whole request"),
    "deadline_s": (lambda x: 0 < x < float("inf"), "is not a number above 0", "give seconds for the whole request"),
    "quality_floor": (lambda x: 0 <= x <= 1, "is not a number from 0 to 1", "give the least predicted quality"),
    "cost_weight": (lambda x: 0 <= x < float("inf"), "is not a number of 0 or more", "0 for the best, 1000 for the cheapest"),
}


class Wishes(NamedTuple):
    """Labels for policies, limits and preferences, the tenant and the session ("" where none is named)."""

    labels: Mapping[str, str]
    constraints: Constraints
    tenant: str
    session: str


NO_WISHES = Wishes(NO_LABELS, NO_CONSTRAINTS, "", "")


def wishes_of(params: dict[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> Wishes:
    """Read them off; `params["metadata"]` loses the keys that are ours. Raises RequestError that names header or key."""
    asked: dict[str, tuple[str, Any]] = {}
    labels, tenant, session = NO_LABELS, "", ""
    metadata = params.get("metadata")
    if metadata:
        if not OURS.isdisjoint(metadata):
            asked = {name: (f"metadata.{key}", metadata[key]) for key, name in METADATA.items() if key in metadata}
            session = _name(metadata.get(SESSION_KEY, ""), f"metadata.{SESSION_KEY}")
            metadata = params["metadata"] = {key: value for key, value in metadata.items() if key not in OURS}
        labels = {key: value for key, value in metadata.items() if isinstance(value, str)}
    for header, value in headers:
        if header.startswith(b"x-junctor-"):
            name = HEADERS.get(header)
            if name is not None:
                asked[name] = (header.decode(), value.decode("latin-1"))
            elif header == SESSION_HEADER:
                session = _name(value.decode("latin-1"), "x-junctor-session")
            elif header == TENANT_HEADER:
                tenant = _name(value.decode("latin-1")[:NAME_CHARS], "x-junctor-tenant")
    if asked:
        return Wishes(labels, Constraints(**{name: _figure(name, *said) for name, said in asked.items()}), tenant, session)
    if not (tenant or session or labels):
        return NO_WISHES
    return Wishes(labels, NO_CONSTRAINTS, tenant, session)


def _name(value: Any, path: str) -> str:
    if not isinstance(value, str) or len(value) > NAME_CHARS or not value.isprintable():
        raise RequestError(f"is not a text of at most {NAME_CHARS} printable characters", field=path, fix="send a short name")
    return value


def _figure(name: str, path: str, value: Any) -> float:
    try:
        figure = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        figure = float("nan")
    holds, problem, fix = CHECKS[name]
    if not holds(figure):
        raise RequestError(problem, field=path, fix=fix)
    return figure
