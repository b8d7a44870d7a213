"""Who may open the dashboard: whoever knows the admin key, by a header or by a session that a login began.

A session is a signed ticket in a cookie that no script can read and no other site can send (HttpOnly, SameSite=Strict). The
signature's secret is derived from the key, so every worker knows the tickets of every other, and a new key ends all sessions.
Beyond the key: the Host must be one of ours (no page of another name may be rebound to this address), and what changes or
costs anything must come from our own page.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from junctor.errors import Forbidden, RateLimited, Unauthorised
from junctor.gateway.http import Exchange

COOKIE = "junctor_session"
SESSION_S = 12 * 3600
FAILURES = 10
WITHIN_S = 60.0
NAMES = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
Header = tuple[bytes, bytes]


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host in NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def new_key() -> str:
    """A key for one run, where the configuration names none."""
    return secrets.token_urlsafe(24)


def dashboard_link(host: str, port: int, key: str = "") -> str:
    """Where the dashboard is. A key goes into the fragment, which browsers do not send and servers do not log."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host  # noqa: S104
    return f"http://{shown}:{port}/" + (f"#key={key}" if key else "")


class Neighbours:
    """Who may ask without a key: programs of this machine, not the pages of other sites that its browser shows.

    Such a page can send a request without reading the answer, or have its own name point at this address and read it too.
    `hosts` are further names under which the gateway may be asked for.
    """

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._hosts = NAMES | {name.lower() for name in hosts}

    def check(self, exchange: Exchange) -> None:
        """Raises Forbidden for what another site's page sends."""
        host = origin = b""
        for name, value in exchange.headers:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        if host and not self._ours(_host_name(host.decode("latin-1"))):
            raise Forbidden(
                f"{host[:80].decode('latin-1')!r} is no name of this gateway",
                field="host",
                fix="ask 127.0.0.1, add the name to telemetry.dashboard_hosts, or require keys",
            )
        if origin and not self._ours(urlsplit(origin.decode("latin-1")).hostname or ""):
            raise Forbidden("comes from another site", field="origin", fix="require keys, and let your server ask with one")

    def _ours(self, name: str) -> bool:
        """Names that nobody can register are ours, as those that containers give to this machine are."""
        return name in self._hosts or name.endswith((".localhost", ".internal", ".local")) or is_loopback(name)


class Access:
    """Checks requests for the dashboard and the admin pages.

    key     the admin key; all workers must have the same
    host    the address that the gateway listens on: on loopback only loopback names are taken as Host
    hosts   further names under which it may be asked for (a proxy in front of it)
    """

    def __init__(self, key: str, host: str, hosts: Iterable[str] = (), wall: Callable[[], float] = time.time) -> None:
        if not key:
            raise ValueError("an empty admin key would open everything")
        self._digest = hashlib.sha256(key.encode()).digest()
        self._secret = hashlib.sha256(b"junctor session\0" + key.encode()).digest()
        self._local = is_loopback(host)
        self._hosts = {name.lower() for name in hosts} | {host.lower()}
        self._wall = wall
        self._failures: deque[float] = deque(maxlen=FAILURES)

    def check_host(self, exchange: Exchange) -> None:
        """Raises Forbidden for a Host that is none of ours."""
        name = _host_name(_header(exchange, b"host"))
        if not self._local or name in NAMES or name in self._hosts or is_loopback(name):
            return
        raise Forbidden(
            f"{name[:80]!r} is no name of this gateway",
            field="host",
            fix="open it by its address, or add the name to telemetry.dashboard_hosts",
        )

    def check_origin(self, exchange: Exchange) -> None:
        """Raises Forbidden for what another site's page sends."""
        origin, site = _header(exchange, b"origin"), _header(exchange, b"sec-fetch-site")
        theirs = bool(origin) and urlsplit(origin).netloc.lower() != _header(exchange, b"host").lower()
        if theirs or site not in ("", "same-origin", "none"):
            raise Forbidden(
                "comes from another site", field="origin", fix="use the dashboard's own page, or send the key as a header"
            )
        if not _header(exchange, b"content-type").lower().startswith("application/json"):
            raise Forbidden("is not sent as JSON", field="content-type", fix="send content-type: application/json")

    def require(self, exchange: Exchange) -> None:
        """Raises Unauthorised without the admin key or a session."""
        given = bearer(exchange)
        if given and self.knows(given):
            return
        if not given and self._session_holds(exchange):
            return
        raise Unauthorised("this needs the admin key", fix="log in, or send authorization: Bearer KEY")

    def knows(self, key: str) -> bool:
        """Whether this is the admin key, in constant time. Raises RateLimited for wrong ones after ten in a minute.

        The right key always opens: otherwise any stranger could lock the owner out.
        """
        if hmac.compare_digest(hashlib.sha256(key.encode("utf-8", "replace")).digest(), self._digest):
            return True
        now = self._wall()
        if len(self._failures) == FAILURES and now - self._failures[0] < WITHIN_S:
            raise RateLimited("too many wrong keys", retry_after_s=WITHIN_S, fix="wait a minute")
        self._failures.append(now)
        return False

    def login(self, key: str, *, secure: bool = False) -> Header:
        """The cookie of a new session; raises Unauthorised."""
        if not self.knows(key):
            raise Unauthorised("this is not the admin key", field="key", fix="it stands in the start line of junctor serve")
        body = f"{int(self._wall()) + SESSION_S}.{secrets.token_hex(16)}"
        return _cookie(f"{body}.{self._sign(body)}", SESSION_S, secure=secure)

    def logout(self) -> Header:
        """The cookie that ends a session in this browser."""
        return _cookie("", 0)

    def _sign(self, body: str) -> str:
        return hmac.new(self._secret, body.encode(), hashlib.sha256).hexdigest()

    def _session_holds(self, exchange: Exchange) -> bool:
        body, _, signature = _session(exchange).rpartition(".")
        if not body or not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            return False
        until, _, _ = body.partition(".")
        return until.isdigit() and int(until) > self._wall()


def bearer(exchange: Exchange) -> str:
    """The key in the headers, "" without one."""
    scheme, _, key = _header(exchange, b"authorization").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else _header(exchange, b"x-api-key")


def _cookie(value: str, seconds: int, *, secure: bool = False) -> Header:
    parts = f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}" + ("; Secure" if secure else "")
    return b"set-cookie", parts.encode("ascii")


def _session(exchange: Exchange) -> str:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(_header(exchange, b"cookie"))
    except CookieError:
        return ""
    found = jar.get(COOKIE)
    return "" if found is None else found.value


def _host_name(host: str) -> str:
    """Without the port, lower-case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _header(exchange: Exchange, name: bytes) -> str:
    return next((value.decode("latin-1") for found, value in exchange.headers if found == name), "")
