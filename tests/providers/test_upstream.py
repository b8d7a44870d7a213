"""The client against servers that say exactly these bytes."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
import zlib

import pytest

from junctor.errors import ConfigError, UpstreamBroken, UpstreamGarbage, UpstreamRefused, UpstreamTimeout
from junctor.providers import upstream as module
from junctor.providers.upstream import Upstream, checked_base


class Scripted:
    """Answers each request with the next script: bytes, pauses (float) and None for closing."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.seen = []
        self.connections = 0

    async def start(self, **tls):
        self.tasks = set()
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, **tls)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader, writer):
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
                self.seen.append((head, await reader.readexactly(length)))
                for step in self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]:
                    if step is None:
                        return
                    if isinstance(step, float):
                        await asyncio.sleep(step)
                        continue
                    writer.write(step)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def stop(self):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def over():
    made = []

    async def start(*scripts, **settings):
        server = await Scripted(*scripts).start()
        client = Upstream(f"http://127.0.0.1:{server.port}/v1", **settings)
        made.append((server, client))
        return client, server

    yield start
    for server, client in made:
        await client.aclose()
        await server.stop()


def whole(body=b"{}", status="200 OK", extra=b""):
    return b"HTTP/1.1 " + status.encode() + b"\r\n" + extra + b"content-length: %d\r\n\r\n%b" % (len(body), body)


async def ask(client, timeout_s=5.0, body=b"x"):
    response = await client.post("/chat", body, timeout_s, "t", {"x-more": "1"})
    return response, await response.read()


async def test_what_is_sent_and_what_comes_back(over):
    client, server = await over([whole(b"hello", extra=b"X-Kind: Good\r\n")], headers={"authorization": "Bearer k"})
    response, body = await ask(client, body=b"payload")
    assert (response.status, body, response.header("x-kind"), response.header("absent")) == (200, b"hello", "Good", "")
    head, sent = server.seen[0]
    assert sent == b"payload"
    assert head.startswith(b"POST /v1/chat HTTP/1.1\r\n")
    for line in (b"host: 127.0.0.1:%d" % server.port, b"authorization: Bearer k", b"x-more: 1", b"content-length: 7"):
        assert line + b"\r\n" in head
    assert head.count(b"host:") == 1


async def test_connections_are_kept_and_shared(over):
    client, server = await over([0.02, whole()])
    for _ in range(3):
        await ask(client)
    assert server.connections == 1
    await asyncio.gather(*(ask(client) for _ in range(4)))
    assert server.connections == 4
    assert len(client._idle) == 4


async def test_a_connection_that_the_server_closed_is_not_used(over):
    client, server = await over([whole(), None])
    await ask(client)
    await asyncio.sleep(0.05)
    await ask(client)
    assert server.connections == 2


async def test_connection_close_is_obeyed_and_old_ones_go(over, monkeypatch):
    client, server = await over(
        [whole(extra=b"connection: close\r\n")],
    )
    await ask(client)
    assert not client._idle
    client, server = await over([whole()])
    monkeypatch.setattr(module, "IDLE_S", -1.0)
    await ask(client)
    await ask(client)
    assert server.connections == 2


async def test_a_body_without_length_ends_with_the_connection(over):
    client, _ = await over([b"HTTP/1.1 200 OK\r\n\r\nfirst ", 0.02, b"second", None])
    assert (await ask(client))[1] == b"first second"
    assert not client._idle


async def test_chunks_one_by_one(over):
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    client, _ = await over([head, b"3\r\none\r\n", 0.05, b"3\r\ntwo\r\n", 0.05, b"0\r\n\r\n"])
    response = await client.post("/c", b"", 5.0, "t")
    assert [await response.readany(), await response.readany(), await response.readany()] == [b"one", b"two", b""]
    assert len(client._idle) == 1


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_compressed_although_not_asked_for(over, pack):
    kind = b"gzip" if pack is gzip.compress else b"deflate"
    client, _ = await over([whole(pack(b"words " * 100), extra=b"content-encoding: " + kind + b"\r\n")])
    assert (await ask(client))[1] == b"words " * 100


async def test_interim_answers_are_skipped_but_not_for_ever(over):
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    client, _ = await over([interim * 3 + whole(b"there")], [interim * 100])
    response, body = await ask(client)
    assert (response.status, body, response.header("link")) == (200, b"there", "")
    with pytest.raises(UpstreamGarbage, match="interim"):
        await ask(client)
    assert not client._idle


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        ([b"SSH-2.0-OpenSSH\r\n", 0.2], UpstreamGarbage, "not HTTP"),
        ([b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 0.2], UpstreamGarbage, "protocol"),
        ([b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000, 0.2], UpstreamGarbage, "head of over"),
        ([b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, 0.2], UpstreamGarbage, "head of over"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour", None], UpstreamBroken, "before the answer was complete"),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfo", None], UpstreamBroken, "complete"),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 0.2], UpstreamGarbage, "not HTTP"),
        ([b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope", 0.2], UpstreamGarbage, "not HTTP"),
        ([None], UpstreamBroken, "closed the connection"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 9.0], UpstreamTimeout, "silent for 0.3 s"),
        ([9.0], UpstreamTimeout, "silent for 0.3 s"),
    ],
)
async def test_each_failure_has_its_error(over, script, error, says):
    client, _ = await over(script)
    with pytest.raises(error, match=says) as caught:
        await ask(client, 0.3)
    assert caught.value.target == "t"
    await asyncio.sleep(0)
    assert not client._idle


async def test_silence_has_a_limit_of_its_own(over):
    client, _ = await over([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 9.0], read_timeout_s=0.1)
    with pytest.raises(UpstreamTimeout, match="silent for too long"):
        await ask(client, None)


async def test_bytes_that_nobody_asked_for_spoil_the_connection(over):
    client, server = await over([whole(b"one") + whole(b"smuggled")], [whole(b"two")])
    assert (await ask(client))[1] == b"one"
    assert (await ask(client))[1] == b"two"
    assert server.connections == 2
    client, server = await over([whole(b"one"), 0.05, b"HTTP/1.1 200 OK\r\n"], [whole(b"two")])
    assert (await ask(client))[1] == b"one"
    await asyncio.sleep(0.1)
    assert (await ask(client))[1] == b"two"
    assert server.connections == 2


async def test_a_body_has_a_bound(over, monkeypatch):
    monkeypatch.setattr(module, "MOST_BODY_BYTES", 1000)
    client, _ = await over([whole(b"a" * 2000)])
    with pytest.raises(UpstreamGarbage, match="over 1000 bytes"):
        await ask(client)
    client, _ = await over([whole(gzip.compress(b"a" * 100_000), extra=b"content-encoding: gzip\r\n")])
    with pytest.raises(UpstreamGarbage, match="over 1000 bytes"):
        await ask(client)


async def test_a_stream_that_nobody_reads_is_held_back(over, monkeypatch):
    monkeypatch.setattr(module, "HIGH_WATER", 100_000)
    body = b"z" * 20_000_000
    client, _ = await over([whole(body)])
    response = await client.post("/c", b"", 20.0, "t")
    await asyncio.sleep(0.2)
    assert response._size < 2_000_000
    got = 0
    while more := await response.readany():
        got += len(more)
    assert got == len(body)


async def test_giving_up_closes_the_connection(over):
    client, server = await over([9.0], [whole()])
    task = asyncio.create_task(ask(client))
    await asyncio.sleep(0.2)
    assert server.seen
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.01)
    assert not client._open
    assert (await ask(client))[0].status == 200


async def test_nobody_listens():
    server = await Scripted([None]).start()
    await server.stop()
    with pytest.raises(UpstreamRefused, match="no connection"):
        await Upstream(f"http://127.0.0.1:{server.port}").post("/", b"", 5.0, "t")
    with pytest.raises(UpstreamRefused):
        await Upstream("http://no-such-host.invalid").post("/", b"", 5.0, "t")


async def test_a_connection_that_is_not_made_in_time(monkeypatch):
    async def never(*_, **__):
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    with pytest.raises(UpstreamRefused):
        await Upstream("http://127.0.0.1:9", connect_timeout_s=0.05).post("/", b"", 5.0, "t")
    with pytest.raises(UpstreamTimeout):
        await Upstream("http://127.0.0.1:9", connect_timeout_s=5).post("/", b"", 0.05, "t")


@pytest.fixture
def certificate(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*made, *names], check=True, capture_output=True)
    return key, cert


async def test_tls_is_checked(certificate, monkeypatch):
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = await Scripted([whole(b"sealed")]).start(ssl=context)
    strange = Upstream(f"https://localhost:{server.port}")
    with pytest.raises(UpstreamRefused):
        await ask(strange)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    known = Upstream(f"https://localhost:{server.port}")
    assert (await ask(known))[1] == b"sealed"
    await known.aclose()
    await server.stop()


def test_addresses():
    assert checked_base("https://host/v1/") == "https://host/v1"
    for url in (
        "ftp://host",
        "host/v1",
        "https://",
        "https://u:p@host",
        "https://host:0",
        "https://host:x",
        "http://h/ a",
        "http://h?q=1",
    ):
        with pytest.raises(ConfigError) as caught:
            checked_base(url)
        assert caught.value.field == "base_url"
    with pytest.raises(ConfigError):
        Upstream("http://h", {"x\r\ny": "z"})
    with pytest.raises(ConfigError):
        Upstream("http://h", {"x": "z\r\nsmuggled: 1"})
    secret = Upstream("http://h", {"authorization": "Bearer s3cret"}, secrets=("s3cret",))
    assert "s3cret" not in repr(secret)
    assert secret.redacted(b"your key s3cret is bad") == b"your key *** is bad"
    assert Upstream("http://[::1]:99/x")._fixed.startswith(b"host: [::1]:99\r\n")
