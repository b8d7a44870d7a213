"""Load generators for the benchmarks: `wrk` where it is installed, else a raw asyncio client in a process of its own.

    python benchmarks/load.py URL CONNECTIONS SECONDS BODY_FILE      prints one JSON line

Both keep CONNECTIONS requests in flight on kept-alive connections and report requests per second and latency percentiles.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

LUA = """
local file = io.open(os.getenv("BODY_FILE"), "rb")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["content-type"] = "application/json"
for line in io.lines(os.getenv("HEADS_FILE")) do
  local name, value = line:match("^([^:]+): (.*)$")
  wrk.headers[name] = value
end
done = function(s, l, r)
  local bad = s.errors.status + s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout
  io.write(string.format("RESULT %f %d %d %f %f\\n", s.duration / 1e6, s.requests, bad,
    l:percentile(50) / 1e3, l:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """One run: requests that were answered, those that failed, per second, and milliseconds at two percentiles."""

    requests: int
    failed: int
    rps: float
    p50_ms: float
    p99_ms: float


def generator() -> str:
    """Which of the two is used here."""
    return "wrk" if shutil.which("wrk") else "asyncio"


BEARER = {"authorization": "Bearer bench"}


def measure(url: str, body: bytes, connections: int, seconds: float, headers: Mapping[str, str] = BEARER) -> Load:
    """Load one URL. Loopback only."""
    if urlsplit(url).hostname != "127.0.0.1":
        raise SystemExit("the benchmark loads 127.0.0.1 only")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body.json"
        file.write_bytes(body)
        lines = {"content-type": "application/json", **headers}
        file.with_name("heads").write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
        if generator() == "wrk":
            return _wrk(url, file, connections, seconds)
        command = [sys.executable, __file__, url, str(connections), str(seconds), str(file)]
        return Load(**json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))


def _wrk(url: str, file: Path, connections: int, seconds: float) -> Load:
    script = file.with_name("post.lua")
    script.write_text(LUA)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(script), url]
    env = {**os.environ, "BODY_FILE": str(file), "HEADS_FILE": str(file.with_name("heads"))}
    printed = subprocess.run(command, capture_output=True, check=True, text=True, env=env).stdout
    found = re.search(r"RESULT (\S+) (\d+) (\d+) (\S+) (\S+)", printed)
    if found is None:
        raise SystemExit(f"wrk printed no result: {printed}")
    took, requests, bad = float(found[1]), int(found[2]), int(found[3])
    return Load(requests, bad, requests / took, float(found[4]), float(found[5]))


class _Client(asyncio.Protocol):
    """One connection that always has one request in flight."""

    def __init__(self, request: bytes, until: float, latencies: list[float]) -> None:
        self.request = request
        self.until = until
        self.latencies = latencies
        self.failed = 0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self.buffer = b""
        self.started = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        if not _is_whole(self.buffer):
            return
        now = time.perf_counter()
        self.latencies.append(now - self.started)
        self.failed += not self.buffer.startswith(b"HTTP/1.1 200")
        if now < self.until:
            self._send()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.failed += error is not None
        self.closed.set_result(None)


def _same(client: _Client) -> _Client:
    return client


def _is_whole(buffer: bytes) -> bool:
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = buffer[:end].lower()
    place = head.find(b"content-length:")
    if place < 0:
        return buffer.endswith(b"0\r\n\r\n")
    return len(buffer) >= end + 4 + int(head[place + 15 :].split(b"\r\n", 1)[0])


async def _load(url: str, connections: int, seconds: float, body: bytes, heads: str) -> Load:
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n" + heads.replace("\n", "\r\n")
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    latencies: list[float] = []
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    clients = [_Client(request, started + seconds, latencies) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(functools.partial(_same, client), "127.0.0.1", parts.port or 80)
    await asyncio.gather(*(client.closed for client in clients))
    took = time.perf_counter() - started
    latencies.sort()
    count = len(latencies)
    at = [latencies[min(count - 1, int(share * count))] * 1e3 for share in (0.5, 0.99)]
    return Load(count, sum(client.failed for client in clients), count / took, *at)


if __name__ == "__main__":
    import uvloop

    target, wide, long, name = sys.argv[1:]
    said = Path(name).with_name("heads").read_text()
    print(json.dumps(asdict(uvloop.run(_load(target, int(wide), float(long), Path(name).read_bytes(), said)))))
