"""Secrets that are planted, and looked for where they do not belong: output, journal, state, metrics, traces, errors, pages."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from junctor.providers.upstream import Upstream

PROVIDER_KEY = "sk-canary-provider-5f2c9a7e41"
HEADER_SECRET = "canary-header-secret-77aa31"
OTLP_SECRET = "canary-otlp-secret-90bd12"
ADMIN_KEY = "canary-admin-key-0b9e83d1c2f4"
PROMPT = "canary prompt: my grandmother's recipe is 4417"
REPLY = "canary reply: the answer is seventeen plums"
CONFIG = """
[gateway]
keys = "required"
port = 0
admin_key = "env:CANARY_ADMIN"
watch_s = 0.2
[journal]
path = "j.journal"
text = "none"
[state]
url = "sqlite:state.db"
[telemetry]
otlp_endpoint = "http://127.0.0.1:{collector}/v1/traces"
otlp_headers = {{ "x-collector-key" = "env:CANARY_OTLP" }}
[providers.up]
kind = "openai_compatible"
base_url = "http://127.0.0.1:{upstream}/v1"
api_key = "env:CANARY_PROVIDER"
headers = {{ "x-secret" = "{header}" }}
[targets.t]
provider = "up"
price = {{ input_usd_per_mtok = 1.0 }}
[policies.only]
use = "fixed"
settings = {{ target = "t" }}
[aliases]
auto = "only"
"""


class Listener:
    """A server that keeps what it gets, and answers by a function of the request."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.got = answer, b""
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
                body = await reader.readexactly(length)
                self.got += head + body
                writer.write(self.answer(head, body))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    async def stop(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def upstream(head: bytes, body: bytes) -> bytes:
    """Answers well, or quotes everything that it was sent in an error."""
    if b"fail" in body:
        quoted = json.dumps({"error": {"message": f"bad: {head.decode()}", "type": "invalid_request_error"}}).encode()
        status = b"401 Unauthorized" if b"fail-key" in body else b"400 Bad Request"
        return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(quoted), quoted)
    message = {"role": "assistant", "content": REPLY}
    usage = {"prompt_tokens": 9, "completion_tokens": 9}
    whole = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    answer = json.dumps(whole).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer)


def collector(head: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


async def serve(folder: Path, env: dict[str, str]) -> tuple[asyncio.subprocess.Process, int]:
    command = [sys.executable, "-m", "junctor", "serve", "--config", str(folder / "junctor.toml"), "--port", "0"]
    with (folder / "stderr").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=errors, env=env)
    assert process.stdout is not None
    while line := await asyncio.wait_for(process.stdout.readline(), 60):
        with (folder / "stdout").open("ab") as file:
            file.write(line)
        if b"Ctrl-C" in line:
            break
    text = (folder / "stdout").read_text()
    return process, int(text.split("http://127.0.0.1:")[1].split("/")[0])


def kept(folder: Path) -> dict[str, bytes]:
    """Every file that was written."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("junctor.toml", "stdout", "stderr")]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.slow
async def test_no_canary_is_found_where_it_does_not_belong(tmp_path: Path) -> None:
    up, traces = Listener(upstream), Listener(collector)
    text = CONFIG.format(upstream=await up.start(), collector=await traces.start(), header=HEADER_SECRET)
    (tmp_path / "junctor.toml").write_text(text)
    secrets = {"CANARY_PROVIDER": PROVIDER_KEY, "CANARY_ADMIN": ADMIN_KEY, "CANARY_OTLP": OTLP_SECRET}
    env = {**os.environ, **secrets}
    made = [sys.executable, "-m", "junctor", "keys", "create", "-c", str(tmp_path / "junctor.toml"), "--json"]
    key = json.loads(await asyncio.to_thread(subprocess.check_output, made, env=env))["key"]
    process, port = await serve(tmp_path, env)
    client = Upstream(f"http://127.0.0.1:{port}")
    said: list[bytes] = []

    async def ask(method: str, path: str, bearer: str, call: Any = None) -> int:
        head = {"authorization": f"Bearer {bearer}", "content-type": "application/json"}
        reply = await client.request(method, path, b"" if call is None else json.dumps(call).encode(), 20.0, "gateway", head)
        body = await reply.read()
        said.append(repr(reply._headers).encode() + body)
        return reply.status

    def chat(text: str, **more: Any) -> dict[str, Any]:
        return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}

    chats = "/v1/chat/completions"
    assert await ask("POST", chats, key, chat(PROMPT)) == 200
    replies = said.pop()
    assert REPLY.encode() in replies
    assert await ask("POST", chats, key, chat(f"{PROMPT} fail")) == 400
    assert await ask("POST", chats, key, chat(f"{PROMPT} fail-key")) == 502
    assert await ask("POST", chats, key, chat(PROMPT, temperature="canary")) == 400
    assert await ask("POST", chats, "jk-wrong-canary", chat(PROMPT)) == 401
    assert await ask("POST", "/v1/messages", key, chat(f"{PROMPT} fail", max_tokens=9)) == 400
    assert await ask("POST", chats, key, {**chat(PROMPT), "model": PROVIDER_KEY[:6]}) == 404
    (tmp_path / "junctor.toml").write_text(text.replace("env:CANARY_PROVIDER", PROVIDER_KEY))  # refused, and not repeated
    await asyncio.sleep(0.8)
    for page in ("overview", "decisions", "health", "spend", "frontier?alias=auto", "keys", "audit"):
        assert await ask("GET", f"/admin/{page}", ADMIN_KEY) == 200, page
        assert await ask("GET", f"/admin/{page}", key) in (401, 403), page
    assert await ask("GET", "/metrics", ADMIN_KEY) == 200
    assert await ask("GET", "/openapi.json", ADMIN_KEY) == 200
    assert await ask("GET", "/", ADMIN_KEY) == 200
    await asyncio.sleep(0.5)
    await client.aclose()
    process.terminate()
    assert process.stdout is not None
    rest = await process.stdout.read()
    assert await process.wait() == 0
    await up.stop()
    await traces.stop()
    found = {
        "answers": b"".join(said),
        "standard output": (tmp_path / "stdout").read_bytes() + rest,
        "log": (tmp_path / "stderr").read_bytes(),
        "traces": re.sub(rb"(?i)x-collector-key: [^\r]*", b"", traces.got),
    }
    found |= kept(tmp_path)
    assert "j.journal" in found
    assert len(traces.got) > 500
    assert b"holds a secret in clear" in found["log"]
    for where, data in found.items():
        for canary in (PROVIDER_KEY, HEADER_SECRET, OTLP_SECRET, ADMIN_KEY, key, key.rsplit("-", 1)[1], "grandmother", "plums"):
            assert canary.encode() not in data, f"{canary} is in {where}"
    assert f"Bearer {PROVIDER_KEY}".encode() in up.got
    assert b"grandmother" in up.got
