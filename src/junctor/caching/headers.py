"""What a caller may say of caches: `Cache-Control: no-store` or `x-junctor-cache: off`."""

from __future__ import annotations

from collections.abc import Iterable

from junctor.errors import RequestError


def wants_fresh(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether nothing may come out of a cache and nothing be kept; header names are lower-case. Raises RequestError."""
    for header, value in headers:
        if header == b"x-junctor-cache":
            if value.strip().lower() != b"off":
                raise RequestError("is not off", field="x-junctor-cache", fix="send off, or leave it out")
            return True
        if header == b"cache-control" and b"no-store" in value.lower():
            return True
    return False
