"""`junctor doctor`: ten broken configurations, and the sentence for each."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

GOOD = """
[gateway]
port = 0

[journal]
path = "run/junctor.journal"

[providers.up]
kind = "openai_compatible"
base_url = "{url}"
api_key = "env:DOCTOR_KEY"

[targets."small"]
provider = "up"
price = {{input_usd_per_mtok = 0.1, output_usd_per_mtok = 0.4}}

[policies.first]
use = "fixed"
settings = {{target = "small"}}

[aliases]
auto = "first"
"""


class Models(BaseHTTPRequestHandler):
    """Lists models for those with the key, and answers calls."""

    def do_GET(self) -> None:
        known = self.headers.get("authorization") == "Bearer sk-right-0123456789"
        self.answer(200 if known else 401, {"data": []})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert asked["max_tokens"] == 1
        if asked["model"] == "gone":
            self.answer(404, {"error": {"message": "no such model"}})
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "length"}
        self.answer(200, {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DOCTOR_KEY", "sk-right-0123456789")
    return "sk-right-0123456789"


def findings(junctor, *options: str) -> tuple[int, dict[str, dict], str]:
    ran = junctor("doctor", "--json", *options)
    found = json.loads(ran.out)
    assert found["ok"] == (ran.code == 0)
    return ran.code, {f["check"]: f for f in found["findings"]}, ran.out + ran.err


def test_a_healthy_configuration(junctor, url, key, tmp_path: Path) -> None:
    (tmp_path / "junctor.toml").write_text(GOOD.format(url=url))
    code, found, said = findings(junctor, "--probe")
    assert code == 0
    assert {f["state"] for f in found.values()} <= {"ok", "skipped"}
    assert found["upstream up"]["said"] == f"{url} answers"
    assert found["target small"]["said"] == "'small' answers a call"
    assert key not in said
    assert not (tmp_path / "run").exists()
    shown = junctor("doctor", "--offline").out
    assert "ok" in shown
    assert "0 failed" in shown


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])


BROKEN: list[tuple[str, tuple[str, str], str, str, str]] = [
    (
        "a key that is not known",
        ('small"]\nprovider', 'small"]\nprovidre'),
        "configuration",
        "targets.small.providre: is not a known key",
        "did you mean 'provider'",
    ),
    (
        "a secret that is not set",
        ("env:DOCTOR_KEY", "env:DOCTOR_NO_KEY"),
        "provider up",
        "refers to the environment variable DOCTOR_NO_KEY, which is not set",
        "export DOCTOR_NO_KEY",
    ),
    (
        "a secret in clear",
        ('"env:DOCTOR_KEY"', '"sk-canary-42"'),
        "configuration",
        "providers.up.api_key: holds a secret in clear",
        "env:NAME",
    ),
    (
        "an artefact that is not there",
        ('use = "fixed"\nsettings = {target = "small"}', 'artefact = "policies/none"'),
        "alias auto",
        "policies/none",
        "junctor fit",
    ),
    (
        "a policy that is not there",
        ('auto = "first"', 'auto = "frist"'),
        "configuration",
        "names the policy 'frist', which is not in the file",
        "did you mean 'first'",
    ),
    (
        "an open relay",
        ("port = 0", 'port = 0\nhost = "0.0.0.0"'),
        "keys and teams",
        "gateway.keys: is off, and 0.0.0.0 can be reached from other machines",
        'keys = "required"',
    ),
    (
        "a journal that is a folder",
        ('path = "run/junctor.journal"', 'path = "."'),
        "journal",
        "is a folder",
        "name a file in it",
    ),
    (
        "an upstream that is down",
        ("{url}", "http://127.0.0.1:{closed}/v1"),
        "upstream up",
        "cannot be reached",
        "check base_url",
    ),
    (
        "a key that is refused",
        ("{key}", "sk-wrong-0123456789"),
        "upstream up",
        "does not accept the key (401)",
        "check what api_key refers to",
    ),
    (
        "workers without a port",
        ("port = 0", "port = 0\nworkers = 2"),
        "port",
        "is 0, but several workers share one port",
        "name a port",
    ),
    (
        "a port that is taken",
        ("port = 0", "port = {taken}"),
        "port",
        "cannot listen on 127.0.0.1",
        "free it, or choose another port",
    ),
    (
        "a guard that is unknown",
        ("[aliases]", '[guards.g]\nuse = "pi"\n\n[aliases]'),
        "guard g",
        "no guard is called 'pi'",
        "did you mean 'pii'",
    ),
    (
        "a cache without room",
        ("[aliases]", "[caches.c]\nentries = 0\n\n[aliases]"),
        "caches",
        "caches.c.entries: is not above 0",
        "default",
    ),
    (
        "a state in a place that is none",
        ("port = 0", 'port = 0\nkeys = "required"\n[state]\nurl = "mongodb://db/x"'),
        "state",
        "'mongodb' is no kind of store",
        "sqlite:FILE",
    ),
    (
        "a model that is not there",
        ('provider = "up"', 'provider = "up"\nmodel = "gone"'),
        "target small",
        "'gone' answers 404",
        "check its model name",
    ),
]


@pytest.mark.parametrize(("change", "check", "said", "fix"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_each_broken_one_gets_its_sentence(
    junctor, url, key, taken_port, monkeypatch, tmp_path: Path, change: tuple[str, str], check: str, said: str, fix: str
) -> None:
    before, after = change
    if before == "{key}":
        monkeypatch.setenv("DOCTOR_KEY", after)
    elif before == "{url}":
        url = after.format(closed=closed_port())
    text = GOOD.format(url=url)
    if before[0] != "{":
        assert before in text
        text = text.replace(before, after.replace("{taken}", str(taken_port)))
    (tmp_path / "junctor.toml").write_text(text)
    code, found, everything = findings(junctor, "--probe")
    assert code == 1
    assert found[check]["state"] == "failed"
    assert said in found[check]["said"]
    assert fix in found[check].get("fix", "")
    for secret in ("sk-canary-42", "sk-wrong-0123456789", key):
        assert secret not in everything


def test_what_is_only_doubtful_is_no_failure(junctor, url, key, tmp_path: Path) -> None:
    text = GOOD.format(url="http://models.example:1/v1")
    text = text.replace("price = {input_usd_per_mtok = 0.1, output_usd_per_mtok = 0.4}", "").replace(
        '"run/junctor.journal"', '""'
    )
    (tmp_path / "junctor.toml").write_text(
        text.replace("[policies.first]", '[policies.spare]\nuse = "random"\n\n[policies.first]')
    )
    code, found, _ = findings(junctor, "--offline")
    assert code == 0
    doubtful = {name: f["said"] for name, f in found.items() if f["state"] == "warning"}
    assert doubtful == {
        "provider up": "sends its key to models.example unencrypted",
        "policy spare": "no alias uses it",
        "journal": "none is kept",
        "prices": "no price of small: their cost is known only where the upstream states it",
    }
    assert found["upstreams"]["state"] == "skipped"


def test_a_server_that_listens_there_already_is_no_failure(junctor, url, key, tmp_path: Path) -> None:
    port = url.rpartition(":")[2].removesuffix("/v1")
    (tmp_path / "junctor.toml").write_text(GOOD.format(url=url).replace("port = 0", f"port = {port}"))
    code, found, _ = findings(junctor, "--offline")
    assert (code, found["port"]["state"]) == (0, "warning")
