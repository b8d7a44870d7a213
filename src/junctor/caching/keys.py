"""What determines an answer: two requests with one key are the same question of the same caller's.

Everything that is sent upstream counts, in any order of its fields, but for what changes no word of an answer: whether it is
streamed, whose end user asks, labels. The alias, the owner and what the caller wants of the choice (a least quality, a weight
of cost) and the API that it came by count too; a budget and a deadline do not: a kept answer costs nothing, at once.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from junctor.caching.contracts import Owner
from junctor.types import NO_CONSTRAINTS, Constraints, Request

NO_MATTER = frozenset(
    (
        "model",  # the alias stands for it
        "n",  # one
        "stream",
        "stream_options",
        "metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    )
)
WANTED = tuple(name for name in Constraints.__struct_fields__ if name not in ("budget_usd", "deadline_s"))
NOTHING = [None] * len(WANTED)
_encode = msgspec.json.Encoder(order="deterministic").encode


def cacheable(request: Request, most_temperature: float) -> bool:
    """Whether one answer may stand for another: one is asked for, and the caller did not ask for variety."""
    params = request.params
    temperature = params.get("temperature")
    return params.get("n") in (None, 1) and (temperature is None or temperature <= most_temperature)


def asked(request: Request) -> dict[str, Any]:
    """The fields that matter, messages among them."""
    found = {name: value for name, value in request.params.items() if name not in NO_MATTER and value is not None}
    if "messages" not in found:
        found["messages"] = request.messages or request.text
    return found


def digest(*parts: Any) -> bytes | None:
    """A digest of plain values, whatever the order of their fields; None for what is no JSON and cannot be sent anyway."""
    try:
        return blake2b(_encode(parts), digest_size=16).digest()
    except (OverflowError, ValueError, TypeError, RecursionError):
        return None


def wanted(request: Request) -> list[float | None] | None:
    """What the caller wants of the choice; None for nothing."""
    constraints = request.constraints
    if constraints is NO_CONSTRAINTS:
        return None
    found = [getattr(constraints, name) for name in WANTED]
    return None if found == NOTHING else found


def exact_key(request: Request, model: str, owner: Owner) -> bytes | None:
    """The key of a request; None when it has none."""
    return digest(owner, model, request.api, wanted(request), asked(request))
