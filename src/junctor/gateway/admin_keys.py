"""Keys over HTTP, for the dashboard and for scripts; only with the admin key.

GET  /admin/keys?all=1          the keys (also revoked and expired ones), what they have spent, and the teams
POST /admin/keys                {"name", "team", "models", "budget_usd", "period", …, "expires": "30d"}: the key, once
GET  /admin/keys/ID             one key
POST /admin/keys/ID/revoke      ends it now
POST /admin/keys/ID/rotate      {"grace": "24h"}: a new secret, once
GET  /admin/audit?most=100      the audit log
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from junctor.config import Config
from junctor.errors import JunctorError, NoSuchPath, RequestError
from junctor.gateway.access import Access
from junctor.gateway.dashboard import GUARDED, query_of, send_json
from junctor.gateway.http import Exchange
from junctor.gateway.pages import Page
from junctor.gateway.replies import error_headers, error_object
from junctor.gateway.wire import parse_json
from junctor.service import Service
from junctor.tenancy.contracts import Principal
from junctor.tenancy.gate import KeyedTenancy
from junctor.tenancy.keeping import Keeper

ACTOR = "admin (over HTTP)"
MOST_ENTRIES = 1000
Answer = Callable[[Keeper, Exchange], Awaitable[dict[str, Any]]]


def key_pages(config: Config, service: Callable[[], Service], access: Access) -> dict[tuple[str, str], Page]:
    """The pages; `service` gives the one that takes calls now, `access` says who may open them."""

    def page(answer: Answer, *, changes: bool) -> Page:
        async def guarded(exchange: Exchange, principal: Principal) -> None:
            del principal
            try:
                access.check_host(exchange)
                if changes:
                    access.check_origin(exchange)
                access.require(exchange)
                send_json(exchange, await answer(_keeper(config, service()), exchange))
            except JunctorError as error:
                body = msgspec.json.encode({"error": error_object(error)})
                exchange.reply(error.http_status, [*GUARDED, *error_headers(error, "")], body)

        return Page(guarded, open=True)

    return {
        ("GET", "/admin/keys"): page(_list, changes=False),
        ("POST", "/admin/keys"): page(_create, changes=True),
        ("GET", "/admin/keys/*"): page(_show, changes=False),
        ("POST", "/admin/keys/*"): page(_change, changes=True),
        ("GET", "/admin/audit"): page(_audit, changes=False),
    }


def _keeper(config: Config, service: Service) -> Keeper:
    tenancy = service.tenancy
    if not isinstance(tenancy, KeyedTenancy):
        raise RequestError("there are no keys here", field="gateway.keys", fix='write keys = "required" under [gateway]')
    return Keeper(tenancy.store, teams=tuple(tenancy.teams), models=(*config.aliases, *config.targets), actor=ACTOR)


async def _list(keeper: Keeper, exchange: Exchange) -> dict[str, Any]:
    return {"keys": await keeper.rows(everything="all" in query_of(exchange)), "teams": list(keeper.teams)}


async def _create(keeper: Keeper, exchange: Exchange) -> dict[str, Any]:
    wanted = parse_json(exchange.body)
    known = {*CREATE_FIELDS, "expires"}
    for name in wanted:
        if name not in known:
            raise RequestError("is not a known field", field=name[:80], fix=f"known: {', '.join(sorted(known))}")
    expires = wanted.pop("expires", "")
    if not isinstance(expires, str):
        raise RequestError("is no length of time", field="expires", fix="for example 12h, 30d or 2w")
    record, key = await keeper.create(wanted, expires)
    return {"key": key, "record": record}


CREATE_FIELDS = (
    "name",
    "team",
    "tenant",
    "models",
    "priority",
    "budget_usd",
    "soft_budget_usd",
    "period",
    "requests_per_minute",
    "tokens_per_minute",
)


def _place(exchange: Exchange) -> tuple[str, str]:
    """The id and the verb of `/admin/keys/ID/VERB`."""
    id_, _, verb = exchange.path.removeprefix("/admin/keys/").partition("/")
    return id_, verb


async def _show(keeper: Keeper, exchange: Exchange) -> dict[str, Any]:
    id_, verb = _place(exchange)
    if verb:
        raise NoSuchPath("there is nothing here", field="path", fix="GET /admin/keys/ID")
    return await keeper.row(id_)


async def _change(keeper: Keeper, exchange: Exchange) -> dict[str, Any]:
    id_, verb = _place(exchange)
    if verb == "revoke":
        return {"record": await keeper.revoke(id_)}
    if verb == "rotate":
        grace = (parse_json(exchange.body) if exchange.body else {}).get("grace", "24h")
        if not isinstance(grace, str):
            raise RequestError("is no length of time", field="grace", fix="for example 0s, 1h or 24h")
        record, key = await keeper.rotate(id_, grace)
        return {"key": key, "record": record}
    raise NoSuchPath("there is nothing here", field="path", fix="POST /admin/keys/ID/revoke, or …/rotate")


async def _audit(keeper: Keeper, exchange: Exchange) -> dict[str, Any]:
    asked = query_of(exchange).get("most", "100")
    if not asked.isdigit() or not 0 < int(asked) <= MOST_ENTRIES:
        raise RequestError(f"is not a number from 1 to {MOST_ENTRIES}", field="most", fix="leave it out for 100")
    return {"entries": await keeper.store.entries(int(asked))}
