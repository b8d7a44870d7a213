"""Keys, budgets and limits over HTTP: what a caller sees, what an admin may do, and what adds up in the end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import msgspec
import pytest

from junctor.caching.exact import ExactCache
from junctor.caching.store import Store as CacheStore
from junctor.config import parse_config
from junctor.engine import Alias, Engine
from junctor.gateway.access import Access
from junctor.gateway.admin_keys import key_pages
from junctor.gateway.app import Gateway
from junctor.gateway.http import Exchange
from junctor.sections import TeamSection
from junctor.service import Service
from junctor.tenancy.estimates import Tariffs
from junctor.tenancy.gate import KeyedTenancy
from junctor.tenancy.keeping import Keeper
from junctor.tenancy.keys import digest_of
from junctor.tenancy.local_store import LocalStore
from junctor.types import Catalogue, Price

from .conftest import BODY, STREAM_HEAD, InOrder, chunk, engine_over, event, in_turn, raw, stall, status, whole
from .test_workers import Running

ADMIN = "an admin key of a fair length"
COST = (10 * 1.0 + 5 * 2.0) / 1e6  # what conftest's upstream says it used, at its price


@pytest.fixture
async def keyed(gateway, tmp_path):
    """A gateway whose callers need keys."""

    async def start(*ups, teams=None, caches=None, prices=()):
        engine = engine_over(list(ups), tmp_path)
        if prices:
            engine = dearer(engine, prices)
        store = LocalStore(tmp_path / "junctor.db", flush_s=0.0)
        targets = {target.id: target for target in engine.catalogue}
        tariffs = Tariffs(targets, {"auto": tuple(targets)})
        tenancy = KeyedTenancy(store, teams or {}, tariffs, admin=digest_of(ADMIN.encode()))
        keeper = Keeper(store, teams=tuple(teams or ()), models=("auto", *targets), actor="test")
        served = await gateway(engine=Service(engine, tenancy=tenancy, caches=caches))
        served.tenancy = tenancy
        return served, keeper

    return start


def dearer(engine: Engine, prices) -> Engine:
    """The same with these prices: a figure per million tokens in and out, or a whole price."""
    found = zip(engine.catalogue, prices, strict=True)
    priced = {t.id: p if isinstance(p, Price) else Price(input_usd_per_mtok=p, output_usd_per_mtok=p) for t, p in found}
    targets = Catalogue([msgspec.structs.replace(t, price=priced[t.id]) for t in engine.catalogue])
    aliases = {"auto": Alias(name="auto", policy=InOrder(), targets=targets)}
    return Engine(targets, engine.providers, aliases, engine.ledger.journal)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def spent(keeper, record) -> tuple[float, float]:
    row = await keeper.row(record.id)
    return row["spent_usd"], row["reserved_usd"]


async def test_no_key_no_answer(keyed, upstream) -> None:
    up = await upstream()
    served, keeper = await keyed(up)
    _, key = await keeper.create({})
    for headers in ({}, bearer("jk-wrong-key"), bearer(key + "0"), {"x-api-key": "sk-other"}, {"authorization": key}):
        reply = await served.chat(headers=headers)
        assert reply.status == 401
        error = (await reply.json())["error"]
        assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
        assert key not in json.dumps(error)
    for path in ("/v1/models", "/v1/decisions/x"):
        assert (await served.session.get(served.url + path)).status == 401
    assert (await served.session.get(served.url + "/healthz")).status == 200
    assert up.bodies == []
    assert served.records() == []
    assert (await served.chat(headers=bearer(key))).status == 200
    assert (await served.chat(headers={"x-api-key": key})).status == 200
    assert (await served.chat(headers={"api-key": key})).status == 200


async def test_the_key_goes_no_further(keyed, upstream, caplog) -> None:
    up = await upstream()
    served, keeper = await keyed(up)
    record, key = await keeper.create({"tenant": "acme"})
    reply = await served.chat(headers=bearer(key))
    secret = key.rpartition("-")[2]
    assert secret.encode() not in b"".join(up.heads)
    assert b"sk-secret" in up.heads[0]  # the provider's own key, set in conftest
    assert secret not in served.journal.read_text()
    assert secret not in caplog.text
    assert secret not in str(reply.headers)
    assert (served.records()[0].key, served.records()[0].tenant) == (record.id, "acme")


async def test_out_of_scope_is_forbidden_before_anything_is_counted(keyed, upstream) -> None:
    up = await upstream()
    served, keeper = await keyed(up)
    _, key = await keeper.create({"models": ["auto"], "requests_per_minute": 1})
    for _ in range(3):
        reply = await served.chat("t0", headers=bearer(key))
        assert reply.status == 403
        assert (await reply.json())["error"]["code"] == "not_allowed"
    assert (await served.chat("auto", headers=bearer(key))).status == 200


async def test_limits_are_told_in_the_usual_headers(keyed, upstream) -> None:
    served, keeper = await keyed(await upstream(), teams={"t": TeamSection(requests_per_minute=2)})
    _, key = await keeper.create({"team": "t", "tokens_per_minute": 1000, "budget_usd": 1.0})
    first = await served.chat(headers=bearer(key), max_tokens=20)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-limit-tokens"] == "1000"
    assert 970 <= int(first.headers["x-ratelimit-remaining-tokens"]) < 1000
    assert first.headers["x-junctor-budget-left-usd"] == "1.000000"
    second = await served.chat(headers=bearer(key), stream=True)
    await second.read()
    assert second.headers["x-ratelimit-remaining-requests"] == "0"
    assert second.headers["x-junctor-budget-left-usd"] == f"{1 - COST:.6f}"
    third = await served.chat(headers=bearer(key))
    assert third.status == 429
    assert 55 <= int(third.headers["retry-after"]) <= 61
    assert (await third.json())["error"]["type"] == "rate_limit_error"


async def test_two_hundred_at_once_over_http_spend_what_there_is_for_seven(keyed, upstream) -> None:
    up = await upstream()
    served, keeper = await keyed(up)
    # "ping" and a message are 12 bytes, 4 tokens out: a call may cost 12 + 2 × 4 millionths, and does cost what is asked for
    most = (12 * 1.0 + 4 * 2.0) / 1e6 + 1e-9
    record, key = await keeper.create({"budget_usd": 7.5 * most, "period": "total"})
    replies = await asyncio.gather(*(served.chat(headers=bearer(key), max_tokens=4) for _ in range(200)))
    good = [reply for reply in replies if reply.status == 200]
    assert {reply.status for reply in replies} == {200, 429}
    booked, reserved = await spent(keeper, record)
    assert reserved == 0.0
    assert booked == pytest.approx(len(good) * COST)
    assert booked <= 7.5 * most
    assert len(good) == len(up.bodies) == 7
    refused = next(reply for reply in replies if reply.status == 429)
    assert (await refused.json())["error"]["code"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers


async def test_failed_tries_cost_nothing_and_the_fallback_is_booked(keyed, upstream) -> None:
    served, keeper = await keyed(await upstream(status("500 Oops")), await upstream())
    record, key = await keeper.create({"budget_usd": 1.0})
    reply = await served.chat(headers=bearer(key))
    assert reply.headers["x-junctor-target"] == "t1"
    assert await spent(keeper, record) == (COST, 0.0)
    down, keeper = served, keeper
    assert (await down.chat("t0", headers=bearer(key))).status == 502
    assert await spent(keeper, record) == (COST, 0.0)


async def test_a_stream_that_breaks_is_booked_by_what_came(keyed, upstream) -> None:
    broken = in_turn(STREAM_HEAD, chunk(event("po")), chunk(event("ng")))
    served, keeper = await keyed(await upstream(broken))
    record, key = await keeper.create({"budget_usd": 1.0})
    reply = await served.chat(headers=bearer(key), stream=True)
    assert b"upstream_broken" in await reply.content.read()
    booked, reserved = await spent(keeper, record)
    assert reserved == 0.0
    assert booked == pytest.approx((3 * 1.0 + 2 * 2.0) / 1e6)  # 12 bytes are 3 tokens; two events


async def test_a_caller_who_goes_away_pays_for_what_came(keyed, upstream) -> None:
    async def slow(up, reader, writer):
        writer.write(STREAM_HEAD + chunk(event("po")))
        await writer.drain()
        await stall(up, reader, writer)

    up = await upstream(slow)
    served, keeper = await keyed(up)
    record, key = await keeper.create({"budget_usd": 1.0})
    reply = await served.chat(headers=bearer(key), stream=True)
    await reply.content.readany()
    assert (await spent(keeper, record))[1] > 0
    reply.close()
    await asyncio.wait_for(up.gone.wait(), 10)
    for _ in range(100):
        booked, reserved = await spent(keeper, record)
        if not reserved:
            break
        await asyncio.sleep(0.02)
    assert (booked, reserved) == (pytest.approx((3 * 1.0 + 1 * 2.0) / 1e6), 0.0)


async def test_an_upstream_without_usage_is_booked_by_the_length_of_its_answer(keyed, upstream) -> None:
    message = {"role": "assistant", "content": "pong"}
    body = json.dumps({"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    served, keeper = await keyed(await upstream(raw(head + body, then="close")))
    record, key = await keeper.create({"budget_usd": 1.0})
    assert (await served.chat(headers=bearer(key))).status == 200
    assert await spent(keeper, record) == (pytest.approx((3 + 2 * (len(body) // 4)) / 1e6), 0.0)


@pytest.mark.parametrize("stream", [False, True])
async def test_cached_and_reasoning_tokens_are_booked_at_their_own_prices(keyed, upstream, stream) -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "total_tokens": 1100,
        "prompt_tokens_details": {"cached_tokens": 800},
        "completion_tokens_details": {"reasoning_tokens": 60},
    }

    async def thoughtful(up, reader, writer):
        if not up.bodies[-1].get("stream"):
            writer.write(whole(json.dumps({**BODY, "usage": usage}).encode()))
            return
        last = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up", "choices": [], "usage": usage}
        said = event("pong") + event(finish_reason="stop") + b"data: " + json.dumps(last).encode() + b"\n\n"
        writer.write(STREAM_HEAD + chunk(said) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0, cached_input_usd_per_mtok=0.1, reasoning_usd_per_mtok=4.0)
    served, keeper = await keyed(await upstream(thoughtful), prices=(price,))
    record, key = await keeper.create({"budget_usd": 1.0})
    reply = await served.chat(headers=bearer(key), stream=stream)
    assert reply.status == 200
    await reply.read()
    assert await spent(keeper, record) == (pytest.approx((200 * 1.0 + 800 * 0.1 + 40 * 2.0 + 60 * 4.0) / 1e6), 0.0)


async def test_a_hit_in_the_cache_is_counted_and_costs_nothing(keyed, upstream) -> None:
    caches = {"auto": ExactCache(CacheStore(100, 1.0, 60.0))}
    served, keeper = await keyed(await upstream(), caches=caches)
    record, key = await keeper.create({"budget_usd": 1.0, "requests_per_minute": 10})
    for _ in range(3):
        reply = await served.chat(headers=bearer(key))
    assert reply.headers["x-junctor-cache"] == "exact"
    assert reply.headers["x-ratelimit-remaining-requests"] == "7"
    assert await spent(keeper, record) == (COST, 0.0)


async def test_what_is_left_chooses_cheaper_targets_and_then_nobody(keyed, upstream) -> None:
    dear, cheap = await upstream(), await upstream()
    served, keeper = await keyed(dear, cheap, prices=(100.0, 1.0))
    _, key = await keeper.create({"budget_usd": 0.0005})
    targets = [(await served.chat(headers=bearer(key), max_tokens=100)).headers["x-junctor-target"] for _ in range(3)]
    assert targets == ["t1"] * 3  # the first in its order may cost 0.02
    assert "over the budget" in next(iter(served.records()[0].refusals.values()))
    _, key = await keeper.create({"budget_usd": 0.000001})
    reply = await served.chat(headers=bearer(key), max_tokens=100)
    assert reply.status == 429
    assert (await reply.json())["error"]["code"] == "insufficient_quota"


# the admin pages


class Recorded(Exchange):
    """An exchange without a connection."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes = b"", query: bytes = b"") -> None:
        head = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:8080", **headers}.items()]
        super().__init__(None, method, path, head, body, keep_alive=True, chunked=True, query=query)
        self.status = 0

    def reply(self, status, headers, body) -> None:
        self.status, self.found = status, json.loads(body)


@pytest.fixture
async def desk(tmp_path, upstream):
    config = parse_config(
        {
            "gateway": {"keys": "required"},
            "providers": {"embedded": {}},
            "targets": {"t0": {"provider": "embedded"}},
            "policies": {"p": {"use": "fixed", "settings": {"target": "t0"}}},
            "aliases": {"auto": "p"},
        },
        tmp_path,
    )
    store = LocalStore(tmp_path / "junctor.db", flush_s=0.0)
    engine = engine_over([await upstream()], tmp_path)
    tenancy = KeyedTenancy(store, {"t": TeamSection()}, Tariffs({}), admin=digest_of(ADMIN.encode()))
    gateway = Gateway(Service(engine, tenancy=tenancy))
    for (method, path), page in key_pages(config, lambda: gateway.service, Access(ADMIN, "127.0.0.1")).items():
        gateway.pages.add(method, path, page)

    async def ask(method: str, path: str, body=None, **headers: str):
        path, _, query = path.partition("?")
        given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
        exchange = Recorded(method, path, given, b"" if body is None else json.dumps(body).encode(), query.encode())
        await gateway(exchange)
        return exchange.status, exchange.found

    yield ask, tenancy
    await gateway.service.aclose()


async def test_an_admin_makes_lists_rotates_and_revokes(desk) -> None:
    ask, tenancy = desk
    admin = bearer(ADMIN)
    code, made = await ask("POST", "/admin/keys", {"name": "ci", "team": "t", "budget_usd": 2, "expires": "1h"}, **admin)
    assert code == 200
    id_, key = made["record"]["id"], made["key"]
    assert tenancy.identify([(b"x-api-key", key.encode())]).key == id_
    code, listed = await ask("GET", "/admin/keys", **admin)
    assert (code, [row["id"] for row in listed["keys"]], listed["teams"]) == (200, [id_], ["t"])
    assert key.rpartition("-")[2] not in json.dumps(listed)
    code, rotated = await ask("POST", f"/admin/keys/{id_}/rotate", {"grace": "0s"}, **admin)
    assert code == 200
    assert tenancy.identify([(b"x-api-key", rotated["key"].encode())]).key == id_
    assert (await ask("POST", f"/admin/keys/{id_}/revoke", **admin))[0] == 200
    assert (await ask("GET", "/admin/keys", **admin))[1]["keys"] == []
    assert (await ask("GET", "/admin/keys?all=1", **admin))[1]["keys"][0]["state"] == "revoked"
    assert (await ask("GET", f"/admin/keys/{id_}", **admin))[1]["name"] == "ci"
    _, log = await ask("GET", "/admin/audit?most=10", **admin)
    assert [entry["action"] for entry in log["entries"]] == ["key.created", "key.rotated", "key.revoked"]
    assert {entry["actor"] for entry in log["entries"]} == {"admin (over HTTP)"}


async def test_nobody_else_may(desk) -> None:
    ask, tenancy = desk
    _, made = await ask("POST", "/admin/keys", {}, **bearer(ADMIN))
    for headers in ({}, bearer(made["key"]), bearer("wrong")):
        for method, path in (
            ("GET", "/admin/keys"),
            ("POST", "/admin/keys"),
            ("GET", f"/admin/keys/{made['record']['id']}"),
            ("POST", f"/admin/keys/{made['record']['id']}/revoke"),
            ("GET", "/admin/audit"),
        ):
            if headers == bearer("wrong") and method == "POST":
                continue  # ten wrong keys a minute
            assert (await ask(method, path, {}, **headers))[0] == 401
    evil = {**bearer(ADMIN), "origin": "https://evil.example"}
    assert (await ask("POST", "/admin/keys", {}, **evil))[0] == 403
    assert (await ask("GET", "/admin/keys", host="evil.example", **bearer(ADMIN)))[0] == 403
    assert len(await tenancy.store.keys()) == 1


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/admin/keys", {"budget_usd": -1}, "budget_usd"),
        ("/admin/keys", {"budget_usd": "much"}, "key"),
        ("/admin/keys", {"team": "nobody"}, "team"),
        ("/admin/keys", {"models": ["nothing"]}, "model"),
        ("/admin/keys", {"expires": "soon"}, "expires"),
        ("/admin/keys", {"admin": True}, "admin"),
        ("/admin/keys", {"id": "mine"}, "id"),
        ("/admin/keys/nobody/revoke", {}, "id"),
    ],
)
async def test_mistakes_of_an_admin_are_named(desk, path, body, field) -> None:
    ask, tenancy = desk
    code, found = await ask("POST", path, body, **bearer(ADMIN))
    assert code == 400
    assert found["error"]["param"] == field
    assert await tenancy.store.keys() == []


@pytest.mark.slow
def test_two_workers_share_limits_and_hear_of_a_revoked_key(tmp_path) -> None:
    running = Running(tmp_path, 2, gateway='keys = "required"\n[teams.t]\nrequests_per_minute = 25')
    try:
        running.until(lambda code, _: code == 200)

        def junctor(*words: str) -> str:
            command = [sys.executable, "-m", "junctor", *words, "--config", str(tmp_path / "junctor.toml")]
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

        made = json.loads(junctor("keys", "create", "--team", "t", "--json"))
        codes = [ask_with(running.port, made["key"]) for _ in range(40)]
        assert (codes.count(200), codes.count(429)) == (25, 15)
        junctor("keys", "revoke", made["record"]["id"])
        assert [ask_with(running.port, made["key"]) for _ in range(10)] == [401] * 10
        assert "key.revoked" in junctor("audit")
        assert made["key"] not in junctor("keys", "list", "--all", "--json")
        running.write('auto = "only"\nother = "only"')
        running.until(lambda code, found: code == 401, "/v1/models")
        for _ in range(100):
            if "config.reloaded" in (log := junctor("audit")):
                break
        assert "config.reloaded" in log
    finally:
        running.process.terminate()
        out, err = running.process.communicate(timeout=30)
    assert made["key"] not in out + err


def ask_with(port: int, key: str) -> int:
    """One call on a connection of its own, so that both workers get some."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "1 + 1"}]})
    connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.status
