"""The dashboard at `/`: its files, its login, and the admin API behind it.

Every answer carries a policy that lets the browser run our own scripts only, forbids framing and sniffing, and keeps nothing in
a cache. What is read from requests is data to the page's scripts, which put it in as text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from junctor.config import Config
from junctor.errors import JunctorError, NoSuchPath, RequestError
from junctor.gateway.access import Access, is_loopback, new_key
from junctor.gateway.admin import Desk, error_of
from junctor.gateway.http import Exchange
from junctor.gateway.metrics_page import metrics_page
from junctor.gateway.pages import Page
from junctor.gateway.replies import error_headers
from junctor.gateway.wire import parse_json
from junctor.service import Service
from junctor.telemetry.metrics import Metrics
from junctor.tenancy.contracts import Principal

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
GUARDED = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
JSON = (b"content-type", b"application/json")
Headers = Iterable[tuple[bytes, bytes]]
Pages = dict[tuple[str, str], Page]


def dashboard_allowed(config: Config) -> bool:
    """Whether there is a dashboard: it is wanted, and either it has a configured key or only this machine can reach it."""
    gateway = config.gateway
    return gateway.dashboard and (bool(gateway.admin_key) or is_loopback(gateway.host))


def dashboard_pages(
    config: Config,
    service: Callable[[], Service],
    metrics: Metrics,
    key: str,
    host: str = "",
    current: Callable[[], Config] | None = None,
) -> Pages:
    """Everything that can be seen, by method and path.

    service   gives the service that takes calls now
    key       the admin key, or the one that was made for this run; "" when there is none: then nothing but /metrics, and that
              only where no other machine can ask for it
    host      the address that is listened on, where the command line overrides the configuration
    current   gives the configuration that holds now; without, it is always this one
    """
    host = host or config.gateway.host
    access = Access(key or new_key(), host, config.telemetry.dashboard_hosts)
    open_metrics = config.telemetry.open_metrics or (is_loopback(host) and not config.gateway.admin_key)
    pages: Pages = {("GET", "/metrics"): metrics_page(metrics, access, host, open_=open_metrics, keyed=bool(key))}
    if not key or not config.gateway.dashboard:
        return pages
    return pages | _files(access) | _login(access, service) | _api(access, Desk(current or (lambda: config), service, metrics))


def _files(access: Access) -> Pages:
    async def index(exchange: Exchange, principal: Principal) -> None:
        del principal
        _send_file(exchange, "index.html")

    async def asset(exchange: Exchange, principal: Principal) -> None:
        del principal
        _send_file(exchange, exchange.path.rpartition("/")[2])

    return {("GET", "/"): _guarded(access, index), ("GET", "/dashboard/*"): _guarded(access, asset)}


def _send_file(exchange: Exchange, name: str) -> None:
    found = web_files().get(name)
    if found is None:
        raise NoSuchPath("there is no such file", field="path", fix="start at /")
    kind = TYPES[name.rpartition(".")[2]]
    exchange.reply(200, [*GUARDED, (b"content-type", f"{kind}; charset=utf-8".encode())], found)


@cache
def web_files() -> dict[str, bytes]:
    """The dashboard's own files, by name."""
    folder = files("junctor.gateway").joinpath("web")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in TYPES}


def _login(access: Access, service: Callable[[], Service]) -> Pages:
    async def login(exchange: Exchange, principal: Principal) -> None:
        del principal
        access.check_origin(exchange)
        key = parse_json(exchange.body).get("key")
        if not isinstance(key, str):
            raise RequestError("is missing", field="key", fix="send the admin key")
        secure = (b"x-forwarded-proto", b"https") in exchange.headers
        cookie = access.login(key, secure=secure)
        if (tenancy := service().tenancy) is not None:
            tenancy.audit("admin", "admin.login")
        send_json(exchange, {"ok": True}, [cookie])

    async def logout(exchange: Exchange, principal: Principal) -> None:
        del principal
        access.check_origin(exchange)
        send_json(exchange, {"ok": True}, [access.logout()])

    return {("POST", "/admin/login"): _guarded(access, login), ("POST", "/admin/logout"): _guarded(access, logout)}


def _api(access: Access, desk: Desk) -> Pages:
    looks = {
        "overview": desk.overview,
        "decisions": desk.decisions,
        "frontier": desk.frontier,
        "health": desk.health,
        "spend": desk.spend,
        "trials": desk.trials,
    }
    asks = {"route": desk.route, "try": desk.attempt}

    def looking(find: Callable[[dict[str, str]], Awaitable[dict[str, Any]]]) -> Page:
        async def answer(exchange: Exchange, principal: Principal) -> None:
            del principal
            access.require(exchange)
            send_json(exchange, await find(query_of(exchange)))

        return _guarded(access, answer)

    def asking(find: Callable[[bytes], Awaitable[dict[str, Any]]]) -> Page:
        async def answer(exchange: Exchange, principal: Principal) -> None:
            del principal
            access.check_origin(exchange)
            access.require(exchange)
            send_json(exchange, await find(exchange.body))

        return _guarded(access, answer)

    pages: Pages = {("GET", f"/admin/{name}"): looking(find) for name, find in looks.items()}
    return pages | {("POST", f"/admin/{name}"): asking(find) for name, find in asks.items()}


def query_of(exchange: Exchange) -> dict[str, str]:
    """The query string; of a name that stands there twice, the last."""
    return dict(parse_qsl(exchange.query.decode("latin-1"), max_num_fields=32))


def send_json(exchange: Exchange, found: Any, more: Headers = ()) -> None:
    """A JSON answer that nobody keeps."""
    exchange.reply(200, [*GUARDED, JSON, *more], msgspec.json.encode(found))


def _guarded(access: Access, answer: Callable[[Exchange, Principal], Awaitable[None]]) -> Page:
    """A page behind the host check, whose errors carry the guarding headers too."""

    async def guarded(exchange: Exchange, principal: Principal) -> None:
        try:
            access.check_host(exchange)
            await answer(exchange, principal)
        except JunctorError as error:
            exchange.reply(error.http_status, [*GUARDED, *error_headers(error, "")], msgspec.json.encode(error_of(error)))

    return Page(guarded, open=True)
