"""Two workers behind one port, one of them killed: whichever is asked tells the same figures, and knows the same sessions."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
CONFIG = """
[gateway]
port = {port}
workers = 2
watch_s = 0
[journal]
path = "j.journal"
[providers.embedded]
[targets.arithmetic]
provider = "embedded"
model = "arithmetic"
[policies.only]
use = "fixed"
settings = {{ target = "arithmetic" }}
[aliases]
auto = "only"
"""
CHAT = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "What is 2 + 2?"}]})


def ask(port: int, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    """One call on a connection of its own, so that the kernel picks a worker each time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, {"content-type": "application/json", **headers})
    reply = connection.getresponse()
    found = reply.status, reply.read().decode(), {name.lower(): value for name, value in reply.getheaders()}
    connection.close()
    return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[str], str]]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (tmp_path / "junctor.toml").write_text(CONFIG.format(port=port))
    command = [sys.executable, "-m", "junctor", "serve", "--config", str(tmp_path / "junctor.toml")]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    link = ""
    while "dashboard" not in link:
        link = process.stdout.readline()
        assert process.poll() is None
    yield port, process, link.partition("#key=")[2].strip()
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    process.stdout.close()
    assert not list(tmp_path.glob("junctor-*")), "the run's folder is left behind"


def decided(port: int) -> int:
    status, text, _ = ask(port, "GET", "/metrics")
    assert status == 200
    return sum(int(n) for n in re.findall(r"^junctor_requests_total\{.*\} (\d+)$", text, re.MULTILINE))


def workers(process: subprocess.Popen[str]) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_figures_and_sessions_are_shared(running) -> None:
    port, process, key = running
    until = time.monotonic() + 10
    while len(workers(process)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    served = 0
    while served < 40:
        served += ask(port, "POST", "/v1/chat/completions", CHAT)[0] == 200
    assert {decided(port) for _ in range(12)} == {40}
    status, _, headers = ask(port, "POST", "/admin/login", json.dumps({"key": key}))
    assert status == 200
    cookie = headers["set-cookie"].partition(";")[0]
    for _ in range(8):
        status, text, _ = ask(port, "GET", "/admin/overview", cookie=cookie)
        found = json.loads(text)
        assert (status, found["workers"], found["today"]["decisions"]) == (200, 2, 40)
    os.kill(workers(process)[0], signal.SIGKILL)
    counts, living, until = [], 1, time.monotonic() + 15
    while (living < 2 or len(counts) < 12) and time.monotonic() < until:
        try:
            counts.append(decided(port))
            living = json.loads(ask(port, "GET", "/admin/overview", cookie=cookie)[1])["workers"]
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)  # the connection was the dead worker's
    assert living == 2, "the worker was not started again"
    assert set(counts) == {40}, "what the dead worker had counted is gone"
