"""Requests made from our own OpenAPI document, right and wrong: none may be answered with a 5xx."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ADMIN = "fuzz-admin-key-0123456789"
SECONDS = 900 if os.environ.get("JUNCTOR_SOAK") else 25
CONFIG = """
[gateway]
port = 0
admin_key = "env:FUZZ_ADMIN"
watch_s = 0
[journal]
path = "j.journal"
[providers.embedded]
[targets.arithmetic]
provider = "embedded"
model = "arithmetic"
[targets."static-embeddings"]
provider = "embedded"
capabilities = ["embeddings"]
[policies.only]
use = "fixed"
settings = { target = "arithmetic" }
[aliases]
auto = "only"
"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[int, int]]:
    """A gateway with an offline provider: its port and its process."""
    (folder / "junctor.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "junctor", "serve", "--config", str(folder / "junctor.toml"), "--port", "0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "FUZZ_ADMIN": ADMIN}, text=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield int(line.split("127.0.0.1:")[1].split("/")[0]), process.pid
    finally:
        process.terminate()
        process.communicate(timeout=30)


def post(port: int, body: bytes, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def rss_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_request_that_the_document_allows_or_forbids_is_a_server_error(tmp_path: Path) -> None:
    with served(tmp_path) as (port, _):
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"http://127.0.0.1:{port}/openapi.json"]
        command += [
            "--header",
            f"Authorization: Bearer {ADMIN}",
            "--checks",
            "not_a_server_error",
            "--seed",
            "1",
            "--no-shrink",
        ]
        command += ["--phases", "coverage,fuzzing", "--max-examples", "20", "--max-time", str(SECONDS), "--workers", "1"]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=SECONDS * 3 + 60, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:]
    found = re.search(r"(\d+) generated, (\d+) passed", ran.stdout)
    assert found
    assert int(found[1]) == int(found[2]) > 300
    assert "a request failed with" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_what_is_too_much_is_bounded_in_time_and_memory(tmp_path: Path) -> None:
    """Thousands of turns, deep JSON, bodies of 100 MB: answered, or refused at once, and the memory comes back."""
    with served(tmp_path) as (port, pid):
        said = {"model": "auto", "messages": [{"role": "user", "content": "what is 2 + 3?"}]}
        assert post(port, json.dumps(said).encode())[0] == 200
        before, began = rss_mb(pid), time.monotonic()
        turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(20_001)]
        status, answer = post(port, json.dumps({**said, "messages": turns}).encode())
        assert (status, json.loads(answer)["error"]["code"]) == (400, "context_length_exceeded")
        deep = b'{"model": "auto", "messages": [{"role": "user", "content": ' + b"[" * 200_000
        assert post(port, deep)[0] == 400
        nested = json.dumps(said).encode()[:-1] + b', "x": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}"
        assert post(port, nested)[0] in (200, 400)
        for _ in range(3):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):  # it may hang up on the rest of the body
                assert post(port, b" " * 100_000_000)[0] == 413
        assert post(port, json.dumps(said).encode())[0] == 200
        assert time.monotonic() - began < 60
        assert rss_mb(pid) - before < 120
