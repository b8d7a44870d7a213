"""AWS Signature Version 4: the headers that prove who sends a request, made of a secret that is never sent."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from msgspec import Struct

ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(Struct, frozen=True):
    """Who signs. `session_token` goes with temporary keys. Not shown by `repr`."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(***)"


class Signer:
    """Signs requests to one service in one region."""

    def __init__(self, credentials: Credentials, region: str, service: str) -> None:
        self._who = credentials
        self._region = region
        self._service = service
        self._day = ""
        self._key = b""

    def __repr__(self) -> str:
        return f"Signer({self._service!r}, {self._region!r})"

    def headers(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        query: tuple[tuple[str, str], ...] = (),
        now: datetime | None = None,
    ) -> dict[str, str]:
        """The headers to add: `authorization`, `x-amz-date` and, for temporary keys, `x-amz-security-token`.

        `path` is the path as it is sent, quoted; `headers` are those to be signed, `host` among them; all others may change on
        the way.
        """
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        added = {"x-amz-date": stamp}
        if self._who.session_token:
            added["x-amz-security-token"] = self._who.session_token
        names, canonical = canonical_request(method, path, {**headers, **added}, body, query)
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        to_sign = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(stamp[:8]), to_sign.encode(), "sha256").hex()
        who = f"Credential={self._who.access_key_id}/{scope}"
        return {**added, "authorization": f"{ALGORITHM} {who}, SignedHeaders={names}, Signature={signature}"}

    def _signing_key(self, day: str) -> bytes:
        """Four rounds of HMAC, the same for a whole day."""
        if self._day != day:
            key = f"AWS4{self._who.secret_access_key}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day, self._key = day, key
        return self._key


def canonical_request(
    method: str, path: str, headers: Mapping[str, str], body: bytes, query: tuple[tuple[str, str], ...] = ()
) -> tuple[str, str]:
    """(names of the signed headers, the request as it is hashed). The quoted path is quoted again: all but S3 want it so."""
    tidy = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    names = ";".join(name for name, _ in tidy)
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query)
    lines = [
        method,
        quote(path or "/", safe="/-_.~"),
        "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{value}" for name, value in tidy),
        "",
        names,
        hashlib.sha256(body).hexdigest(),
    ]
    return names, "\n".join(lines)
