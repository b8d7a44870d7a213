"""What else a gateway must hold: memory, a second worker, start-up, idle streams, a decision alone. Loopback only.

    python benchmarks/gateway_limits.py --json -                     all of them, about four minutes
    python benchmarks/gateway_limits.py --only streams,start

memory    resident memory of one worker after a warm-up, and its slope over `--requests` more (everything on, as in gateway.py)
workers   requests per second of two workers against one, in turn, at 32 connections; a limit that both share, held exactly
start     from the command to the first answer
streams   `--streams` streams opened through the gateway and left idle: all must end well; kB of the gateway for each
decision  microseconds of one decision, embedding included, in the process
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import tomli_w

import gateway
import load
from gateway import ADMIN, CHAT, Server, body, free_port, say, served

HERE = Path(__file__).parent
PARTS = ("memory", "workers", "start", "streams", "decision")
HELD = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
REST = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


def junctor(folder: Path) -> Callable[[int], Sequence[str]]:
    """How `junctor serve` is started over a folder."""
    return lambda port: [sys.executable, "-m", "junctor", "serve", "-c", str(folder / "junctor.toml"), "--port", str(port)]


def mocked(stack: contextlib.ExitStack) -> Server:
    """The mock upstream."""
    return stack.enter_context(served("mock", lambda port: [sys.executable, str(HERE / "mock_upstream.py"), str(port)]))


def prepared(folder: Path, mock: Server, workers: int = 1) -> dict[str, str]:
    """A configuration with everything on; the header that carries a key for it."""
    folder.mkdir(exist_ok=True)
    return {"authorization": f"Bearer {gateway.prepare(folder, mock.url, 'static', workers)}"}


def memory(folder: Path, requests: int) -> dict[str, Any]:
    """Resident MB after a warm-up, and MB more after `requests`."""
    with contextlib.ExitStack() as stack:
        mock = mocked(stack)
        headers = prepared(folder, mock)
        server = stack.enter_context(served("junctor", junctor(folder)))
        load.measure(server.url + CHAT, body("auto"), 16, 8, headers)
        done, points = 0, [(0, server.rss_mb())]
        while done < requests:
            done += load.measure(server.url + CHAT, body("auto"), 16, 10, headers).requests
            points.append((done, server.rss_mb()))
            say(f"memory: {done} requests, {points[-1][1]:.1f} MB")
    half = [mb for at, mb in points if at >= done / 2] or [points[-1][1]]
    return {"rss_mb": round(points[-1][1], 1), "requests": done, "slope_mb": round(points[-1][1] - points[0][1], 2)} | {
        "slope_second_half_mb": round(half[-1] - half[0], 2)
    }


def workers(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Two workers against one, and whether a limit that two share is exact."""
    with contextlib.ExitStack() as stack:
        mock = mocked(stack)
        ways = {}
        for count in (1, 2):
            part = folder / str(count)
            headers = prepared(part, mock, count)
            ways[count] = (stack.enter_context(served(f"{count} workers", junctor(part))), headers)
        time.sleep(2)
        ratios, busy = [], []
        for place in range(rounds):
            rates = {}
            for count in (1, 2) if place % 2 else (2, 1):
                server, headers = ways[count]
                before = server.cpu_s()
                rates[count] = load.measure(server.url + CHAT, body("auto"), 32, seconds, headers)
                if count == 2:
                    busy.append((server.cpu_s() - before) / seconds)
                say(f"workers: {count} of them {rates[count].rps:.0f} req/s, {rates[count].failed} failed")
            ratios.append(rates[2].rps / rates[1].rps)
        exact = shared_limit(folder / "2", ways[2][0])
    return {"ratio": round(statistics.median(ratios), 3), "cores_of_two": round(statistics.median(busy), 2)} | exact


def shared_limit(folder: Path, server: Server, most: int = 200, calls: int = 400) -> dict[str, Any]:
    """A key for `most` requests a minute, `calls` calls at once over both workers: how many were let in."""
    import urllib.error

    command = [sys.executable, "-m", "junctor", "keys", "create", "-c", str(folder / "junctor.toml"), "--json"]
    env = {**os.environ, "BENCH_ADMIN": ADMIN}
    made = subprocess.run([*command, "--requests-per-minute", str(most)], capture_output=True, text=True, check=True, env=env)
    headers = {"authorization": f"Bearer {json.loads(made.stdout)['key']}"}

    def one(_: int) -> int:
        try:
            gateway.post(server.url + CHAT, body("auto"), headers)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(one, range(calls)))
    return {"limit": most, "let_in": found.count(200), "refused_429": found.count(429), "calls": calls}


def start(folder: Path) -> dict[str, Any]:
    """Seconds from the command to the first answer: median of five."""
    times = []
    with contextlib.ExitStack() as stack:
        mock = mocked(stack)
        headers = prepared(folder, mock)
        for _ in range(5):
            port = free_port()
            began = time.perf_counter()
            env = {**os.environ, "BENCH_ADMIN": ADMIN}
            process = subprocess.Popen(junctor(folder)(port), stdout=subprocess.DEVNULL, env=env)
            while True:
                with contextlib.suppress(OSError):
                    gateway.post(f"http://127.0.0.1:{port}{CHAT}", body("auto"), headers)
                    break
                time.sleep(0.005)
            times.append(time.perf_counter() - began)
            process.terminate()
            process.wait(20)
    return {"first_answer_s": round(statistics.median(times), 3)}


class Holding(asyncio.Protocol):
    """An upstream that sends the first event of a stream and keeps the rest until it is told."""

    waiting: set[Holding]

    def __init__(self, waiting: set[Holding]) -> None:
        self.waiting = waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """What came."""
        if data.startswith(b"POST"):
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self.transport.write(head + b"%x\r\n%b\r\n" % (len(HELD), HELD))
            self.waiting.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.waiting.discard(self)

    def finish(self) -> None:
        """The rest of the stream."""
        for part in (REST, b"data: [DONE]\n\n"):
            self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.transport.write(b"0\r\n\r\n")


class Reading(asyncio.Protocol):
    """A client of one stream."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.seen = b""
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """What came."""
        self.seen += data
        if b"data:" in self.seen and not self.first.done():
            self.first.set_result(None)
        if self.seen.endswith(b"0\r\n\r\n") and not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        for waiter in (self.first, self.ended):
            if not waiter.done():
                waiter.set_result(None)

    @property
    def whole(self) -> bool:
        """Whether the stream came to its proper end."""
        return b"[DONE]" in self.seen and b'"error"' not in self.seen


async def _idle(port: int, server: Server, headers: dict[str, str], count: int, waiting: set[Holding]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    data = body("mock", stream=True)
    sent = {"host": "127.0.0.1", "content-type": "application/json", **headers, "content-length": str(len(data))}
    request = (
        f"POST {CHAT} HTTP/1.1\r\n".encode() + b"".join(f"{k}: {v}\r\n".encode() for k, v in sent.items()) + b"\r\n" + data
    )
    before = server.rss_mb()
    clients: list[Reading] = []
    for at in range(0, count, 200):
        made = [loop.create_connection(lambda: Reading(request), "127.0.0.1", port) for _ in range(min(200, count - at))]
        fresh = [protocol for _, protocol in await asyncio.gather(*made)]
        await asyncio.wait_for(asyncio.gather(*(client.first for client in fresh)), 60)
        clients += fresh
    await asyncio.sleep(3)
    open_mb, held = server.rss_mb(), len(waiting)
    say(f"streams: {len(clients)} open, {held} at the upstream, {open_mb:.0f} MB")
    for one in list(waiting):
        one.finish()
    await asyncio.wait_for(asyncio.gather(*(client.ended for client in clients)), 120)
    for client in clients:
        client.transport.close()
    good = sum(client.whole for client in clients)
    return {
        "streams": count,
        "survived": good,
        "kb_each": round((open_mb - before) * 1024 / count, 2),
        "rss_mb": round(open_mb, 1),
    }


def streams(folder: Path, count: int) -> dict[str, Any]:
    """Idle streams through the gateway."""
    import uvloop

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + 500
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError) as error:
        raise SystemExit(f"only {hard} files may be open here; ask for fewer --streams, or run it as root") from error

    async def main() -> dict[str, Any]:
        waiting: set[Holding] = set()
        upstream = await asyncio.get_running_loop().create_server(lambda: Holding(waiting), "127.0.0.1", 0, backlog=4096)
        where = upstream.sockets[0].getsockname()[1]
        headers = await asyncio.to_thread(_held_config, folder, where)
        with served("junctor", junctor(folder)) as server:
            found = await _idle(server.port, server, headers, count, waiting)
        upstream.close()
        return found

    try:
        return uvloop.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), max(hard, wanted)))


def _held_config(folder: Path, port: int) -> dict[str, str]:
    import tomllib

    headers = {"authorization": f"Bearer {gateway.prepare(folder, f'http://127.0.0.1:{port}', 'static')}"}
    tree = tomllib.loads((folder / "junctor.toml").read_text())
    tree["gateway"]["deadline_s"] = 900.0
    (folder / "junctor.toml").write_text(tomli_w.dumps(tree))
    return headers


def decision(folder: Path) -> dict[str, Any]:
    """Microseconds of `route` without its bookkeeping: encode, filter, decide."""
    import junctor.config
    from junctor.build import build_engine
    from junctor.gateway.blas import one_blas_thread
    from junctor.types import Message, Request

    folder.mkdir(exist_ok=True)
    gateway.prepare(folder, "http://127.0.0.1:9", "static")
    engine = build_engine(junctor.config.load_config(folder / "junctor.toml"), dry_run=True)
    one_blas_thread()
    text = str(gateway.TURNS[-1]["content"])
    request = Request(id="x", text=text, messages=(Message("user", text),))
    times = []
    for _ in range(4000):
        began = time.perf_counter()
        engine.route(request, "auto")
        times.append((time.perf_counter() - began) * 1e6)
    times.sort()
    return {"p50_us": round(times[len(times) // 2], 1), "p99_us": round(times[int(len(times) * 0.99)], 1)}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated: {', '.join(PARTS)}")
    parser.add_argument("--requests", type=int, default=500_000)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default="-", metavar="PATH")
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        ways: dict[str, Callable[[Path], dict[str, Any]]] = {
            "memory": lambda folder: memory(folder, asked.requests),
            "workers": lambda folder: workers(folder, asked.seconds, asked.rounds),
            "start": start,
            "streams": lambda folder: streams(folder, asked.streams),
            "decision": decision,
        }
        for part in asked.only.split(","):
            folder = Path(name) / part
            folder.mkdir()
            found[part] = ways[part](folder)
            say(f"{part}: {json.dumps(found[part])}")
    text = json.dumps(found)
    if asked.json == "-":
        print(text)
    else:
        Path(asked.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
