"""`GET /metrics`: the figures of all workers, whichever of them is asked."""

from __future__ import annotations

import asyncio

from junctor.errors import Forbidden, JunctorError
from junctor.gateway.access import Access
from junctor.gateway.http import Exchange
from junctor.gateway.pages import Page
from junctor.gateway.replies import error_body, error_headers
from junctor.telemetry.exposition import CONTENT_TYPE, exposition
from junctor.telemetry.metrics import Metrics
from junctor.tenancy.contracts import Principal


def metrics_page(metrics: Metrics, access: Access, host: str, *, open_: bool, keyed: bool) -> Page:
    """The page. It names tenants and targets, so it is open only where `open_` says so; else it takes the admin key.

    `keyed` False: there is no admin key, so where others can reach `host` nobody may look.
    """

    async def answer(exchange: Exchange, principal: Principal) -> None:
        del principal
        try:
            access.check_host(exchange)
            if not open_ and not keyed:
                raise Forbidden(
                    f"the figures are not shown to everybody who can reach {host}",
                    fix="set gateway.admin_key and send it as authorization: Bearer KEY, or set telemetry.open_metrics",
                )
            if not open_:
                access.require(exchange)
            page = await asyncio.to_thread(exposition, metrics.read())  # a long one must hold up no request
            exchange.reply(200, [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-store")], page)
        except JunctorError as error:
            exchange.reply(error.http_status, error_headers(error, ""), error_body(error))

    return Page(answer, open=True)
