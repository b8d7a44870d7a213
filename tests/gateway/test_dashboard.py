"""The dashboard and the admin API over real sockets: who gets in, what is said there, and what never is."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from junctor.config import parse_config
from junctor.errors import ConfigError
from junctor.gateway.access import COOKIE, Access, dashboard_link
from junctor.gateway.assembly import assemble
from junctor.gateway.seeing import prepare
from junctor.gateway.serving import serve_async

pytestmark = pytest.mark.slow  # as a whole: `make check` is an inner loop

KEY = "the-admin-key-canary"
UPSTREAM_KEY = "sk-upstream-canary"
PROMPT = "prompt-canary <script>alert(1)</script>"
LOOKS = ("overview", "decisions", "frontier", "health", "spend", "trials")
JSON = {"content-type": "application/json"}


@dataclass
class Seen:
    """A gateway with everything that can be seen, and a client for it."""

    url: str
    session: aiohttp.ClientSession
    lines: list[str]
    folder: Path

    async def get(self, path: str, **headers: str) -> tuple[int, Any, aiohttp.ClientResponse]:
        async with self.session.get(self.url + path, headers=headers) as reply:
            body = await reply.read()
            return reply.status, json.loads(body) if reply.content_type == "application/json" else body, reply

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, aiohttp.ClientResponse]:
        data = json.dumps(body).encode()
        async with self.session.post(self.url + path, data=data, headers={**JSON, **headers}) as reply:
            raw = await reply.read()
            return reply.status, json.loads(raw) if reply.content_type == "application/json" else raw, reply

    async def admin(self, path: str) -> Any:
        status, found, _ = await self.get(path, authorization=f"Bearer {KEY}")
        assert status == 200, found
        return found

    async def chat(self, text: str = PROMPT, model: str = "auto", **headers: str) -> tuple[int, Any, aiohttp.ClientResponse]:
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        return await self.post("/v1/chat/completions", body, **headers)


def tree(port: int, **gateway: Any) -> dict[str, Any]:
    price = {"input_usd_per_mtok": 1000.0, "output_usd_per_mtok": 2000.0}
    return {
        "gateway": {"admin_key": "env:ADMIN_CANARY", "port": 0, **gateway},
        "journal": {"path": "j.journal", "fsync": "never"},
        "providers": {
            "up": {"kind": "openai_compatible", "base_url": f"http://127.0.0.1:{port}/v1", "api_key": "env:UPSTREAM_CANARY"}
        },
        "targets": {
            "small": {"provider": "up", "model": "up", "price": {"input_usd_per_mtok": 10.0}},
            "large": {"provider": "up", "model": "up", "price": price},
        },
        "policies": {"only": {"use": "fixed", "settings": {"target": "small"}}},
        "aliases": {"auto": "only"},
    }


@pytest.fixture
async def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Awaitable[Seen]]]:
    """Starts a gateway from a configuration."""
    monkeypatch.setenv("ADMIN_CANARY", KEY)
    monkeypatch.setenv("UPSTREAM_CANARY", UPSTREAM_KEY)
    running: list[tuple[Seen, asyncio.Event, asyncio.Task[None]]] = []

    async def start(up: Any, change: Callable[[dict[str, Any]], None] = lambda _: None, *, file: bool = False) -> Seen:
        wanted = tree(up.port)
        change(wanted)
        path = tmp_path / "junctor.json.yaml"  # what is JSON is YAML too
        path.write_text(json.dumps(wanted))
        assembled = assemble(parse_config(wanted, tmp_path), path if file else None)
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        serving = serve_async(
            assembled.gateway,
            port=0,
            on_ready=lambda _, port: ready.set_result(port),
            until=stop,
            alongside=assembled.alongside,
        )
        task = asyncio.create_task(serving)
        port = await ready
        jar = aiohttp.CookieJar(unsafe=True)
        found = Seen(
            f"http://127.0.0.1:{port}", aiohttp.ClientSession(cookie_jar=jar), assembled.lines("127.0.0.1", port), tmp_path
        )
        running.append((found, stop, task))
        return found

    yield start
    for found, stop, task in running:
        await found.session.close()
        stop.set()
        await asyncio.wait_for(task, 20)


async def test_everything_behind_the_login_needs_the_key(seen, upstream) -> None:
    served = await seen(await upstream())
    for name in LOOKS:
        status, found, _ = await served.get(f"/admin/{name}")
        assert (status, found["error"]["code"]) == (401, "invalid_api_key"), name
        status, _, _ = await served.get(f"/admin/{name}", authorization="Bearer wrong")
        assert status == 401, name
        status, _, _ = await served.get(f"/admin/{name}", cookie=f"{COOKIE}=9999999999.00.{'0' * 64}")
        assert status == 401, name
        await served.admin(f"/admin/{name}")
    for name in ("route", "try"):
        status, _, _ = await served.post(f"/admin/{name}", {"text": "x", "model": "auto"})
        assert status == 401
    assert (await served.get("/metrics"))[0] == 401
    assert b"junctor_build_info" in (await served.get("/metrics", authorization=f"Bearer {KEY}"))[1]


async def test_every_answer_is_guarded(seen, upstream) -> None:
    served = await seen(await upstream())
    for path in ("/", "/dashboard/app.js", "/dashboard/style.css", "/dashboard/none.js", "/admin/overview", "/admin/login"):
        _, _, reply = await (served.post(path, {"key": "wrong"}) if path.endswith("login") else served.get(path))
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy, path
        assert "frame-ancestors 'none'" in policy, path
        assert reply.headers["x-frame-options"] == "DENY", path
        assert reply.headers["x-content-type-options"] == "nosniff", path
        assert reply.headers["cache-control"] == "no-store", path


async def test_a_path_does_not_lead_out_of_the_folder(seen, upstream) -> None:
    served = await seen(await upstream())
    for path in ("/dashboard/../../sections.py", "/dashboard/%2e%2e/app.py", "/dashboard//etc/passwd", "/dashboard/"):
        async with served.session.get(aiohttp.client.URL(served.url + path, encoded=True)) as reply:
            assert reply.status == 404, path


async def test_a_login_begins_a_session_that_no_script_and_no_other_site_can_use(seen, upstream) -> None:
    served = await seen(await upstream())
    status, _, reply = await served.post("/admin/login", {"key": "wrong"})
    assert (status, reply.headers.get("set-cookie")) == (401, None)
    status, _, reply = await served.post("/admin/login", {"key": KEY})
    cookie = reply.headers["set-cookie"]
    assert status == 200
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert KEY not in cookie
    assert (await served.get("/admin/overview"))[0] == 200
    await served.post("/admin/logout", {})
    assert (await served.get("/admin/overview"))[0] == 401


async def test_another_site_can_make_nothing_happen(seen, upstream) -> None:
    up = await upstream()
    served = await seen(up)
    await served.post("/admin/login", {"key": KEY})
    asked = {"text": "x", "model": "auto"}
    for headers in (
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"content-type": "text/plain"},
        {"origin": "null"},
    ):
        status, found, _ = await served.post("/admin/try", asked, **headers)
        assert (status, found["error"]["code"]) == (403, "not_allowed"), headers
        assert (await served.post("/admin/login", {"key": KEY}, **headers))[0] == 403
    assert up.bodies == []
    status, _, _ = await served.post("/admin/try", asked, origin=served.url, **{"sec-fetch-site": "same-origin"})
    assert status == 200
    assert len(up.bodies) == 1


async def test_a_rebound_name_is_not_answered(seen, upstream) -> None:
    def proxied(wanted) -> None:
        wanted["telemetry"] = {"dashboard_hosts": ["gateway.example"]}

    served = await seen(await upstream(), proxied)
    for host, status in (("evil.example", 403), ("gateway.example:8443", 200), ("localhost", 200), ("[::1]:80", 200)):
        assert (await served.get("/", host=host))[0] == status, host
        for path in ("/admin/overview", "/metrics"):
            assert (await served.get(path, host=host, authorization=f"Bearer {KEY}"))[0] == status, (path, host)


async def test_keys_cannot_be_guessed_fast(seen, upstream) -> None:
    served = await seen(await upstream())
    statuses = [(await served.post("/admin/login", {"key": f"guess {n}"}))[0] for n in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    status, _, reply = await served.post("/admin/login", {"key": "one more guess"})
    assert status == 429
    assert int(reply.headers["retry-after"]) > 0
    assert (await served.post("/admin/login", {"key": KEY}))[0] == 200  # nobody can lock the owner out


def test_a_session_ends_with_its_time_and_with_its_key() -> None:
    now = [1000.0]
    access = Access("one", "127.0.0.1", wall=lambda: now[0])
    ticket = access.login("one")[1].split(b";")[0]

    class Asked:
        headers = ((b"cookie", ticket),)

    access.require(Asked())
    Access("one", "127.0.0.1", wall=lambda: now[0]).require(Asked())
    with pytest.raises(Exception, match="admin key"):
        Access("two", "127.0.0.1", wall=lambda: now[0]).require(Asked())
    now[0] += 13 * 3600
    with pytest.raises(Exception, match="admin key"):
        access.require(Asked())


async def test_a_request_shows_everywhere_with_the_right_figures(seen, upstream) -> None:
    served = await seen(await upstream())
    for _ in range(3):
        await served.chat(**{"x-junctor-tenant": "acme"})
    await served.chat(model="large")
    overview = await served.admin("/admin/overview")
    cost = 3 * 10 * 10 / 1e6 + (10 * 1000 + 5 * 2000) / 1e6
    assert overview["today"]["cost_usd"] == pytest.approx(cost)
    assert overview["today"]["decisions"] == 4
    rows = (await served.admin("/admin/decisions?limit=2"))["decisions"]
    assert [row["alias"] for row in rows] == ["", "auto"]
    assert rows[1]["reasons"]
    assert rows[1]["outcome"]["attempts"][0]["target"] == "small"
    assert rows[1]["tenant"] == "acme"
    spend = await served.admin("/admin/spend")
    assert {row["tenant"]: row["decisions"] for row in spend["tables"]["tenant"]} == {"acme": 3, "": 1}
    (saved,) = spend["savings"]
    assert (saved["best_single"], saved["basis"]) == ("small", "list price")
    assert saved["cpu_usd"] == pytest.approx(3 * spend["cpu_s_per_request"] / 3600 * 0.05)
    assert spend["cpu_s_per_request"] > 0, "the gateway's own time is never free"
    health = await served.admin("/admin/health")
    assert {row["id"]: row["answered"] for row in health["targets"]} == {"small": 3, "large": 1}
    frontier = await served.admin("/admin/frontier?alias=auto")
    assert frontier["policy"]["cost_usd"] == pytest.approx(1e-4)
    text = (await served.get("/metrics", authorization=f"Bearer {KEY}"))[1].decode()
    assert 'junctor_requests_total{alias="auto",target="small",tenant="acme",code=""} 3' in text


async def test_the_tail_says_only_what_is_new(seen, upstream) -> None:
    served = await seen(await upstream())
    await served.chat()
    first = await served.admin("/admin/decisions")
    await asyncio.sleep(0.6)
    await served.chat("second")
    second = await served.admin(f"/admin/decisions?after={first['last']}")
    assert [row["text"] for row in second["decisions"]] == ["second"]
    assert second["last"] > first["last"]


@pytest.mark.parametrize(("mode", "query"), [("none", ""), ("digest", ""), ("full", "?redacted=1")])
async def test_prompts_are_shown_only_where_they_are_kept_and_wanted(seen, upstream, mode, query) -> None:
    served = await seen(await upstream(), lambda wanted: wanted["journal"].update(text=mode))
    await served.chat()
    found = await served.admin(f"/admin/decisions{query}")
    assert len(found["decisions"]) == 1
    assert "canary" not in json.dumps(found)


async def test_no_secret_is_on_any_page(seen, upstream) -> None:
    served = await seen(await upstream())
    await served.chat(authorization="Bearer caller-canary")
    await served.post("/admin/login", {"key": KEY})
    pages = ["/", "/metrics", *(f"/admin/{name}" for name in LOOKS)]
    for path in pages:
        _, found, reply = await served.get(path, authorization=f"Bearer {KEY}")
        text = json.dumps(found) if not isinstance(found, bytes) else found.decode()
        for secret in (KEY, UPSTREAM_KEY, "caller-canary"):
            assert secret not in text, path
            assert secret not in str(reply.headers), path
    journal = (served.folder / "j.journal").read_text()
    assert KEY not in journal
    assert UPSTREAM_KEY not in journal


async def test_nothing_is_printed_or_logged_per_request(seen, upstream, capfd, caplog) -> None:
    caplog.set_level("DEBUG", logger="junctor")
    served = await seen(await upstream())
    await served.chat()
    await served.post("/admin/try", {"text": PROMPT, "model": "auto"}, authorization=f"Bearer {KEY}")
    await served.post("/admin/try", {"text": PROMPT, "model": "nobody"}, authorization=f"Bearer {KEY}")
    out, err = capfd.readouterr()
    assert out == ""
    assert "canary" not in err + caplog.text


async def test_the_playground_asks_nobody_until_told(seen, upstream) -> None:
    up = await upstream()
    served = await seen(up)
    key = {"authorization": f"Bearer {KEY}"}
    status, found, _ = await served.post("/admin/route", {"text": "x", "model": "auto", "budget_usd": 0.001}, **key)
    assert status == 200
    assert found["routed"]["decision"]["target"] == "small"
    assert "over the budget" in found["routed"]["refusals"]["large"]
    assert up.bodies == []
    assert (await served.admin("/admin/decisions"))["decisions"] == []
    status, found, _ = await served.post("/admin/try", {"text": "x", "model": "auto"}, **key)
    assert (status, found["text"], found["target"]) == (200, "pong", "small")
    assert found["outcome"]["cost_usd"] == pytest.approx(1e-4)
    assert len(up.bodies) == 1


MISTAKES = [
    ("/admin/route", {"model": "auto"}, "text"),
    ("/admin/route", {"text": "x"}, "model"),
    ("/admin/route", {"text": "x", "model": "nobody"}, "model"),
    ("/admin/route", {"text": "x", "model": "auto", "budget_usd": -1}, "budget_usd"),
    ("/admin/route", {"text": "x", "model": "auto", "budget_usd": True}, "budget_usd"),
    ("/admin/route", {"text": "x", "model": "auto", "labels": {"a": 1}}, "labels"),
    ("/admin/route", [], "body"),
    ("/admin/decisions?limit=-1", None, "limit"),
    ("/admin/decisions?after=x", None, "after"),
    ("/admin/frontier?alias=nobody", None, "alias"),
    ("/admin/spend?since=yesterday", None, "since"),
]


async def test_a_mistake_is_named(seen, upstream) -> None:
    served = await seen(await upstream())
    key = {"authorization": f"Bearer {KEY}"}
    for path, body, field in MISTAKES:
        status, found, _ = await (served.get(path, **key) if body is None else served.post(path, body, **key))
        assert 400 <= status < 500, path
        assert found["error"]["message"].startswith(f"{field}: "), path


async def test_what_is_turned_away_is_counted_by_its_code(seen, upstream) -> None:
    served = await seen(await upstream())
    await served.chat(model="nobody")
    await served.post("/v1/chat/completions", [])
    await served.get("/nowhere")
    text = (await served.get("/metrics", authorization=f"Bearer {KEY}"))[1].decode()
    for code in ("model_not_found", "invalid_request", "not_found"):
        assert re.search(rf'^junctor_refused_total\{{code="{code}"\}} 1$', text, re.MULTILINE), code


async def test_without_a_key_of_ours_a_key_is_made_and_told_in_a_fragment(seen, upstream) -> None:
    served = await seen(await upstream(), lambda wanted: wanted["gateway"].pop("admin_key"))
    (line,) = [line for line in served.lines if "dashboard" in line]
    key = line.partition("#key=")[2]
    assert len(key) >= 32
    assert (await served.get("/admin/overview"))[0] == 401
    assert (await served.post("/admin/login", {"key": key}))[0] == 200
    assert (await served.get("/admin/overview"))[0] == 200
    assert (await served.get("/metrics"))[0] == 200, "only this machine can ask, and no key was wanted"
    assert (await served.get("/metrics", host="evil.example"))[0] == 403, "no page of another name may read it"


async def test_a_configured_key_is_not_printed(seen, upstream) -> None:
    served = await seen(await upstream())
    assert any("dashboard http://127.0.0.1" in line for line in served.lines)
    assert KEY not in "".join(served.lines)


async def test_where_others_can_reach_it_there_is_no_dashboard_without_a_key(seen, upstream) -> None:
    def public(wanted) -> None:
        wanted["gateway"].pop("admin_key")
        wanted["gateway"]["host"] = "0.0.0.0"

    try:
        served = await seen(await upstream(), public)
    except ConfigError:
        return  # a gateway without any key is not started there at all
    assert not any("dashboard" in line for line in served.lines)
    assert (await served.get("/"))[0] == 404
    assert (await served.get("/admin/overview"))[0] == 404
    assert (await served.get("/metrics"))[0] == 403


async def test_it_can_be_switched_off(seen, upstream) -> None:
    served = await seen(await upstream(), lambda wanted: wanted["gateway"].update(dashboard=False))
    assert (await served.get("/"))[0] == 404
    assert (await served.get("/admin/overview"))[0] == 404
    assert (await served.get("/metrics", authorization=f"Bearer {KEY}"))[0] == 200


async def test_without_a_journal_it_says_so(seen, upstream) -> None:
    served = await seen(await upstream(), lambda wanted: wanted["journal"].update(path=""))
    await served.chat()
    assert (await served.admin("/admin/spend"))["journal"] is False
    assert (await served.admin("/admin/overview"))["today"] is None
    rows = (await served.admin("/admin/decisions"))["decisions"]
    assert [(row["outcome"]["target"], row["text"]) for row in rows] == [("small", "")]


async def test_a_trace_goes_through_to_the_upstream_and_to_the_collector(seen, upstream) -> None:
    up, bodies = await upstream(), []

    async def collect(reader, writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
        bodies.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    collector = await asyncio.start_server(collect, "127.0.0.1", 0)
    port = collector.sockets[0].getsockname()[1]
    endpoint = {"otlp_endpoint": f"http://127.0.0.1:{port}/v1/traces"}
    served = await seen(up, lambda wanted: wanted.update(telemetry=endpoint))
    trace = "0af7651916cd43dd8448eb211c80319c"
    _, _, reply = await served.chat(traceparent=f"00-{trace}-b7ad6b7169203331-01")
    own = reply.headers["x-junctor-decision"].removeprefix("dec-")[:16]
    assert f"traceparent: 00-{trace}-{own}-01\r\n".encode() in up.heads[0]
    for _ in range(100):
        await asyncio.sleep(0.05)
        if bodies:
            break
    assert bytes.fromhex(trace) in bodies[0]
    assert b"gen_ai.usage.input_tokens" in bodies[0]
    assert b"canary" not in bodies[0]
    collector.close()
    await collector.wait_closed()


@pytest.mark.parametrize(
    ("host", "link"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/#key=k"),
        ("0.0.0.0", "http://127.0.0.1:80/#key=k"),
        ("::1", "http://[::1]:80/#key=k"),
    ],
)
def test_the_link(host, link) -> None:
    assert dashboard_link(host, 80, "k") == link


def test_what_workers_share_is_made_once(tmp_path, monkeypatch) -> None:
    wanted = tree(1, workers=2)
    wanted["gateway"].pop("admin_key")
    prepared = prepare(parse_config(wanted, tmp_path))
    assert prepared.folder is not None
    assert prepared.folder.stat().st_mode & 0o077 == 0, "other users of this machine may not read it"
    assert prepared.made
    prepared.remove()
    assert not prepared.folder.exists()
    monkeypatch.delenv("ADMIN_CANARY", raising=False)
    with pytest.raises(ConfigError, match=r"gateway\.admin_key"):
        prepare(parse_config(tree(1), tmp_path))


async def test_spend_knows_keys_by_name_and_their_teams(seen, upstream) -> None:
    def keyed(wanted) -> None:
        wanted["gateway"]["keys"] = "required"
        wanted["teams"] = {"red": {}}

    served = await seen(await upstream(), keyed)
    admin = {"authorization": f"Bearer {KEY}"}
    status, made, _ = await served.post("/admin/keys", {"name": "ci", "team": "red"}, **admin)
    assert status == 200, made
    secret = next(value for value in _texts(made) if value.startswith("jk-") and len(value) > 40)
    assert (await served.chat(authorization=f"Bearer {secret}"))[0] == 200
    assert (await served.chat())[0] == 401
    spend = await served.admin("/admin/spend")
    assert [(row["team"], row["decisions"]) for row in spend["tables"]["team"]] == [("red", 1)]
    assert [row["name"] for row in spend["tables"]["key"]] == ["ci"]
    assert secret not in json.dumps(spend)
    text = (await served.get("/metrics", **admin))[1].decode()
    assert 'junctor_refused_total{code="invalid_api_key"} 1' in text
    assert secret not in text


def _texts(found: Any) -> list[str]:
    if isinstance(found, dict):
        return [text for value in found.values() for text in _texts(value)]
    return [found] if isinstance(found, str) else []


async def test_after_a_reload_the_new_engine_is_seen(seen, upstream) -> None:
    def watched(wanted) -> None:
        wanted["gateway"]["watch_s"] = 0.05
        wanted["policies"]["other"] = {"use": "fixed", "settings": {"target": "large"}}

    served = await seen(await upstream(), watched, file=True)
    await served.chat()
    path = served.folder / "junctor.json.yaml"
    path.write_text(path.read_text().replace('{"auto": "only"}', '{"auto": "other", "more": "only"}'))
    for _ in range(100):
        _, models, _ = await served.get("/v1/models")
        if "more" in json.dumps(models):
            break
        await asyncio.sleep(0.05)
    await served.chat()
    overview = await served.admin("/admin/overview")
    assert set(overview["aliases"]) == {"auto", "more"}
    assert overview["today"]["decisions"] == 2
    assert len((await served.admin("/admin/decisions"))["decisions"]) == 2
    text = (await served.get("/metrics", authorization=f"Bearer {KEY}"))[1].decode()
    assert 'junctor_requests_total{alias="auto",target="large",tenant="",code=""} 1' in text
    assert 'junctor_requests_total{alias="auto",target="small",tenant="",code=""} 1' in text
