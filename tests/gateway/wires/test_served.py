"""All APIs through `junctor serve` from a configuration file, with two workers."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CONFIG = """
[gateway]
port = {port}
workers = 2
[providers.embedded]
[targets.arithmetic]
provider = "embedded"
[targets.vectors]
provider = "embedded"
model = "static-embeddings"
capabilities = ["embeddings"]
[responses]
ttl_s = 600
"""


def call(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own, so that either worker may get it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, json.dumps(body) if body else None)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A running gateway's port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free: int = sock.getsockname()[1]
    (tmp_path / "junctor.toml").write_text(CONFIG.format(port=free))
    command = [sys.executable, "-m", "junctor", "serve", "--config", str(tmp_path / "junctor.toml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        try:
            call(free, "GET", "/healthz")
            break
        except OSError:
            time.sleep(0.05)
    yield free
    process.terminate()
    process.communicate(timeout=30)


def test_every_api_is_served_and_responses_are_shared_by_the_workers(port: int, tmp_path: Path) -> None:
    asked = {"model": "arithmetic", "input": "What is 12 * 8?"}
    status, first = call(port, "POST", "/v1/responses", asked)
    assert status == 200
    assert "96" in first["output"][0]["content"][0]["text"]
    assert (tmp_path / "junctor.responses.db").exists()
    for _ in range(12):  # by chance all by one worker: once in 4,096 runs
        assert call(port, "GET", f"/v1/responses/{first['id']}") == (200, first)
    status, second = call(port, "POST", "/v1/responses", {**asked, "previous_response_id": first["id"]})
    assert (status, second["previous_response_id"]) == (200, first["id"])
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    assert call(port, "DELETE", f"/v1/responses/{first['id']}")[1]["deleted"] is True
    assert {call(port, "GET", f"/v1/responses/{first['id']}")[0] for _ in range(12)} == {404}

    turns = [{"role": "user", "content": "What is 12 * 8?"}]
    status, message = call(port, "POST", "/v1/messages", {"model": "arithmetic", "max_tokens": 50, "messages": turns})
    assert status == 200
    assert "96" in message["content"][0]["text"]
    assert call(port, "POST", "/v1/messages/count_tokens", {"model": "arithmetic", "messages": turns})[1]["estimated"] is True
    status, vectors = call(port, "POST", "/v1/embeddings", {"model": "vectors", "input": ["a cat", "a dog"]})
    assert [len(row["embedding"]) for row in vectors["data"]] == [256, 256]
    status, refused = call(port, "POST", "/v1/embeddings", {"model": "arithmetic", "input": "a cat"})
    assert (status, refused["error"]["refusals"]) == (422, {"arithmetic": "cannot do: embeddings"})
    found = call(port, "GET", "/openapi.json")[1]["paths"]
    assert {"/v1/messages", "/v1/responses/{id}", "/v1/embeddings", "/v1/moderations"} <= found.keys()
