"""`junctor serve` with several workers, and a configuration that changes while it runs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIG = """
[gateway]
port = {port}
workers = {workers}
watch_s = 0.1
{gateway}
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
{aliases}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def get(port: int, path: str, body: dict | None = None) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
    reply = connection.getresponse()
    found = json.loads(reply.read())
    connection.close()
    return reply.status, found


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Running:
    def __init__(self, folder: Path, workers: int, aliases: str = 'auto = "only"', gateway: str = "") -> None:
        self.folder, self.port, self.workers, self.gateway = folder, free_port(), workers, gateway
        self.write(aliases)
        command = [sys.executable, "-m", "junctor", "serve", "--config", str(folder / "junctor.toml")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def write(self, aliases: str) -> None:
        text = CONFIG.format(port=self.port, workers=self.workers, aliases=aliases, gateway=self.gateway)
        fresh = self.folder / "fresh"
        fresh.write_text(text)
        fresh.rename(self.folder / "junctor.toml")

    def until(self, wanted, path: str = "/healthz", seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate()[1])
            try:
                if wanted(*get(self.port, path)):
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError("never")

    def names(self) -> list[str]:
        return [entry["id"] for entry in get(self.port, "/v1/models")[1]["data"]]

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def running(tmp_path):
    made = []

    def start(*args, **more):
        made.append(Running(tmp_path, *args, **more))
        made[-1].until(lambda status, _: status == 200)
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


@pytest.mark.slow
def test_two_workers_share_a_port_and_one_that_dies_is_replaced(running):
    served = running(2)
    pids = children(served.process.pid)
    assert len(pids) == 2
    calls = 12
    for _ in range(calls):
        body = {"model": "auto", "messages": [{"role": "user", "content": "what is 2 + 3?"}]}
        status, answer = get(served.port, "/v1/chat/completions", body)
        assert status == 200
        assert answer["choices"][0]["message"]["content"]
    os.kill(pids[0], signal.SIGKILL)
    end = time.monotonic() + 20
    while (set(children(served.process.pid)) & {pids[0]} or len(children(served.process.pid)) < 2) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(children(served.process.pid)) == 2
    served.until(lambda status, _: status == 200)
    code, said = served.end()
    assert code == 0
    assert "is started again" in said
    lines = (served.folder / "j.journal").read_bytes().splitlines()
    assert sum(b'"kind":"decision"' in line for line in lines) == calls


@pytest.mark.slow
def test_workers_that_cannot_start_end_it_with_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        served = Running(tmp_path, 2)
        served.process.kill()
        served.process.communicate()
        served.port = taken.getsockname()[1]
        served.write('auto = "only"')
        command = [sys.executable, "-m", "junctor", "serve", "--config", str(tmp_path / "junctor.toml")]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "cannot listen on 127.0.0.1" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_a_changed_file_is_taken_over_and_a_broken_one_is_not(running):
    served = running(1)
    assert served.names() == ["auto", "arithmetic"]
    served.write('auto = "only"\ncheap = "only"')
    served.until(lambda _, found: [e["id"] for e in found["data"]] == ["auto", "cheap", "arithmetic"], "/v1/models")
    served.write('auto = "nobody"')
    time.sleep(0.6)
    assert served.names() == ["auto", "cheap", "arithmetic"]
    served.write('last = "only"')
    served.until(lambda _, found: [e["id"] for e in found["data"]] == ["last", "arithmetic"], "/v1/models")
    served.write('again = "only"')
    served.process.send_signal(signal.SIGHUP)
    served.until(lambda _, found: [e["id"] for e in found["data"]] == ["again", "arithmetic"], "/v1/models")
    body = {"model": "again", "messages": [{"role": "user", "content": "what is 2 + 3?"}]}
    assert get(served.port, "/v1/chat/completions", body)[0] == 200
    code, said = served.end()
    assert code == 0
    assert "the configuration stays as it was: aliases.auto.policy: names the policy 'nobody'" in said
    assert b'"alias":"again"' in (served.folder / "j.journal").read_bytes()
