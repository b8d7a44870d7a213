"""Headless Chromium over its DevTools protocol: open a page, run a script in it, press keys, take pictures."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

PATH = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
PATIENCE_S = 20.0


class Tab:
    """One tab. `problems` are console errors, uncaught exceptions and what the content policy forbade."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.problems: list[str] = []
        self._socket = socket
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            found = json.loads(message.data)
            if "id" in found:
                self._waiting.pop(found["id"]).set_result(found)
                continue
            about = found.get("params", {})
            if found["method"] == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(about["exceptionDetails"])[:500])
            elif found["method"] == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
                self.problems.append(json.dumps(about["args"])[:500])
            elif found["method"] == "Log.entryAdded" and about["entry"]["level"] == "error":
                self.problems.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        found = await asyncio.wait_for(self._waiting[number], PATIENCE_S)
        if "error" in found:
            raise RuntimeError(f"{method}: {found['error']}")
        result: dict[str, Any] = found["result"]
        return result

    async def prepare(self, width: int = 1280, height: int = 900, *, dark: bool = False, scale: float = 1) -> None:
        """The window's size, and the colours that the system asks for."""
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")
        await self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)
        wanted = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.send("Emulation.setEmulatedMedia", features=wanted)

    async def go(self, url: str) -> None:
        """Open an address, and wait until its page stands."""
        await self.send("Page.navigate", url=url)
        await self.until("location.href !== 'about:blank' && document.readyState === 'complete' && !!document.body")

    async def run(self, script: str) -> Any:
        """The value of an expression; promises are waited for."""
        found = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:800])
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = PATIENCE_S) -> Any:
        """The value of an expression as soon as it is true; raises TimeoutError with what the page shows."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            found = await self.run(script)
            if found:
                return found
            await asyncio.sleep(0.05)
        shown = await self.run("document.body.innerText.slice(0, 600)")
        raise TimeoutError(f"{script} stayed false; problems {self.problems}; the page shows {shown!r}")

    async def press(self, key: str) -> None:
        """A key of the keyboard: Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def picture(self, path: Path, height: int | None = None) -> None:
        """The page as a PNG: all of it, or its upper part."""
        size = (await self.send("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(height or size["height"], size["height"]), "scale": 1}
        found = await self.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(found["data"]))

    async def close(self) -> None:
        """Leave it."""
        await self._socket.close()
        await self._reading


@asynccontextmanager
async def tab() -> AsyncIterator[Tab]:
    """A browser of its own with one tab; both are gone afterwards."""
    if PATH is None:
        raise RuntimeError("there is no chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            PATH, *FLAGS, f"--user-data-dir={folder}", "about:blank", stdout=quiet, stderr=quiet
        )
        try:
            async with aiohttp.ClientSession() as session:
                address = await _address(Path(folder) / "DevToolsActivePort", session)
                async with session.ws_connect(address, max_msg_size=64 << 20) as socket:
                    found = Tab(socket)
                    yield found
                    await found.close()
        finally:
            process.terminate()
            await process.wait()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def _address(path: Path, session: aiohttp.ClientSession) -> str:
    for _ in range(400):
        lines = await asyncio.to_thread(_lines, path)
        if len(lines) > 1:
            async with session.get(f"http://127.0.0.1:{lines[0]}/json") as reply:
                pages = [each for each in await reply.json() if each["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
        await asyncio.sleep(0.05)
    raise TimeoutError("chromium did not start")
