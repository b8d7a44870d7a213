"""The dashboard in headless Chromium: it draws without an error, shows what happens, works by keyboard and on a phone."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from junctor.config import parse_config
from junctor.gateway.assembly import assemble
from junctor.gateway.serving import serve_async

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))

import chromium  # noqa: E402  the scripts' folder is no package

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PATH is None, reason="no chromium: apt-get install chromium (make test does where it may)"),
]
EVIL = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
PAGES = ("overview", "live", "frontier", "health", "spend", "playground", "compare")
READY = {
    "overview": "document.querySelectorAll('.bar').length > 0",
    "live": "document.querySelectorAll('.feed > li').length > 0",
    "frontier": "!!document.querySelector('.plot .us')",
    "health": "document.querySelectorAll('.target').length === 2",
    "spend": "document.querySelectorAll('tbody tr').length > 1",
    "playground": "document.querySelectorAll('select option').length > 2",
    "compare": "!!document.querySelector('.card')",
}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """A gateway over local solvers, two of which have names that would be markup; its link, and where to send requests."""
    evil = f"solver {EVIL}"
    price = {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 20.0}
    tree = {
        "gateway": {"port": 0},
        "journal": {"path": "j.journal", "fsync": "never"},
        "providers": {"embedded": {}},
        "targets": {
            evil: {"provider": "embedded", "model": "arithmetic", "price": price},
            "facts": {"provider": "embedded", "model": "facts", "price": {"input_usd_per_mtok": 1.0}},
        },
        "policies": {"only": {"use": "fixed", "settings": {"target": evil}}, "other": {"use": "cheapest"}},
        "aliases": {"auto": {"policy": "only", "trials": [{"name": EVIL, "policy": "other"}]}},
    }
    assembled = assemble(parse_config(tree, tmp_path))
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.create_task(
        serve_async(
            assembled.gateway,
            port=0,
            on_ready=lambda _, port: ready.set_result(port),
            until=stop,
            alongside=assembled.alongside,
        )
    )
    port = await ready
    (link,) = [line.split()[-1] for line in assembled.lines("127.0.0.1", port) if "dashboard" in line]
    yield link, f"http://127.0.0.1:{port}"
    stop.set()
    await asyncio.wait_for(task, 20)


async def send(url: str, text: str) -> str:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}]}).encode()
    headers = {"content-type": "application/json", "x-junctor-tenant": "<b onclick=x>tenant</b>"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as reply,
    ):
        said = json.loads(await reply.read())
        if reply.status == 200:
            score = json.dumps({"decision_id": reply.headers["x-junctor-decision"], "quality": 1.0}).encode()
            async with session.post(f"{url}/v1/feedback", data=score) as told:
                await told.read()
        return str(said["choices"][0]["message"]["content"])


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
async def test_every_page_draws_and_fits(served, width, dark) -> None:
    link, url = served
    for text in ("What is 2 + 2?", EVIL):
        await send(url, text)
    async with chromium.tab() as tab:
        await tab.prepare(width, 900, dark=dark)
        await tab.go(link)
        await tab.until(READY["overview"])
        assert "key" not in await tab.run("location.href"), "the key stays in the address"
        for page in PAGES:
            await tab.run(f"location.hash = '#{page}'")
            await tab.until(READY[page])
            if page == "live":
                await tab.run("document.querySelector('.feed summary').click()")
                await tab.until("!!document.querySelector('.story')")
            wide = await tab.run("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{page} scrolls sideways at {width}"
            assert await tab.run("document.title") != "taken"
            assert await tab.run("document.querySelectorAll('main img, main script, main b[onclick]').length") == 0, page
        shade = await tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] * 1")
        assert (shade < 60) is dark
        assert tab.problems == []


async def test_what_is_sent_appears_and_its_story_is_told(served) -> None:
    link, url = served
    async with chromium.tab() as tab:
        await tab.prepare()
        await tab.go(link)
        await tab.until("document.body.innerText.includes('No request today')")
        await tab.run("location.hash = '#live'")
        await tab.until("document.body.innerText.includes('No decision yet')")
        await send(url, EVIL)
        await tab.until("document.querySelectorAll('.feed > li').length === 1")
        await tab.until("document.querySelector('.badge').innerText === 'answered'")
        await tab.run("document.querySelector('.feed summary').click()")
        story = await tab.until("document.querySelector('.story')?.innerText")
        assert EVIL in story
        assert "<b onclick=x>tenant</b>" in story
        assert "Reasons" in story
        await send(url, "What is 3 + 4?")
        await tab.until("[...document.querySelectorAll('button')].some(b => b.innerText === 'Show 1 new')")
        assert await tab.run("document.querySelectorAll('.feed > li').length") == 1, "nothing moves while a row is open"
        await tab.run("[...document.querySelectorAll('button')].find(b => b.innerText === 'Show 1 new').click()")
        await tab.until("document.querySelectorAll('.feed > li').length === 2")
        assert await tab.run("document.querySelectorAll('.feed details')[1].open"), "an open row stays open"
        await tab.run("[...document.querySelectorAll('button')].find(b => b.innerText === 'Hide prompts').click()")
        await tab.until("document.querySelectorAll('.feed > li').length === 2 && !document.body.innerText.includes('3 + 4')")
        assert tab.problems == []


async def test_the_playground_answers(served) -> None:
    link, _ = served
    async with chromium.tab() as tab:
        await tab.prepare()
        await tab.go(link)
        await tab.until("!!document.querySelector('.tiles')")
        await tab.run("location.hash = '#playground'")
        await tab.until(READY["playground"])
        await tab.run("document.querySelector('textarea').value = 'What is 12 + 30?'")
        await tab.run("document.querySelector('button[type=submit]').click()")
        await tab.until("document.body.innerText.includes('Would be taken by')")
        await tab.run("[...document.querySelectorAll('button')].find(b => b.innerText === 'Send it').click()")
        assert await tab.until("document.querySelector('pre.answer')?.innerText") == "42"
        assert tab.problems == []


async def test_a_wrong_key_is_told_and_the_right_one_opens(served) -> None:
    link, url = served
    async with chromium.tab() as tab:
        await tab.prepare(390, 844)
        await tab.go(url)
        await tab.until("document.activeElement.name === 'key'")
        assert len(tab.problems) == 1, "the page asked once whether there is a session"
        await tab.send("Input.insertText", text="wrong")
        await tab.press("Enter")
        await tab.until("document.querySelector('[role=alert]')?.innerText.includes('not the admin key')")
        await tab.send("Input.insertText", text=link.partition("#key=")[2])
        await tab.press("Enter")
        await tab.until("!!document.querySelector('.tiles')")
        await tab.run("document.getElementById('logout').click()")
        await tab.until("document.activeElement.name === 'key'")


@pytest.mark.parametrize("page", ["live", "spend", "playground"])
async def test_tab_reaches_every_control_and_shows_where_it_is(served, page) -> None:
    link, url = served
    await send(url, "What is 2 + 2?")
    async with chromium.tab() as tab:
        await tab.prepare()
        await tab.go(link)
        await tab.until("!!document.querySelector('.tiles')")
        await tab.run(f"location.hash = '#{page}'")
        await tab.until(READY[page])
        await tab.run(
            "document.activeElement.blur(); window.all = [...document.querySelectorAll('a[href], button, select, input, "
            "textarea, summary')].filter(e => e.checkVisibility({ visibilityProperty: true })); window.seen = new Set()"
        )
        for _ in range(await tab.run("all.length") + 6):
            await tab.press("Tab")
            shown = await tab.run(
                "seen.add(document.activeElement), document.activeElement === document.body || "
                "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
            )
            assert shown, "focus cannot be seen"
        missed = await tab.run("all.filter(e => e.isConnected && !seen.has(e)).map(e => e.outerHTML.slice(0, 120))")
        assert missed == []


async def test_the_colours_can_be_chosen_and_are_kept(served) -> None:
    link, _ = served
    async with chromium.tab() as tab:
        await tab.prepare(dark=False)
        await tab.go(link)
        await tab.until("!!document.querySelector('.tiles')")
        light = await tab.run("getComputedStyle(document.body).backgroundColor")
        await tab.run("document.getElementById('theme').click(); document.getElementById('theme').click()")
        dark = await tab.run("getComputedStyle(document.body).backgroundColor")
        assert dark != light
        await tab.send("Page.reload")
        await tab.until("document.readyState === 'complete' && !!document.querySelector('.tiles')")
        assert await tab.run("getComputedStyle(document.body).backgroundColor") == dark


async def test_nothing_moves_while_it_is_refreshed(served) -> None:
    link, url = served
    await send(url, "What is 2 + 2?")
    async with chromium.tab() as tab:
        await tab.prepare()
        await tab.go(link)
        await tab.until(READY["overview"])
        await tab.run(
            "window.moved = 0; new PerformanceObserver(l => { for (const e of l.getEntries()) moved += e.value; })"
            ".observe({ type: 'layout-shift' })"
        )
        await asyncio.sleep(4.5)
        assert await tab.run("moved") < 0.02
