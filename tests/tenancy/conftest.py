"""Stores over the real servers, private ones on free ports; a tenancy with a clock that tests set."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from junctor.tenancy.accounts import account
from junctor.tenancy.local_store import LocalStore
from junctor.tenancy.stores import Store, Ticket

NOW = 1_800_000_000.0
KINDS = ("local", "redis", "postgres")


class Clock:
    """Unix seconds that stand still until a test moves them."""

    def __init__(self, at: float = NOW) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


class RedisServer:
    """A redis-server of our own, that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"

    running = False

    def start(self) -> None:
        self.running = True
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, "--appendonly", "yes", "--appendfsync", "always", "--save", ""],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: answers(self.port))

    def stop(self) -> None:
        self.running = False
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


class PostgresServer:
    """A PostgreSQL cluster of our own. It will not run as root, so root runs it as somebody else."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.folder = folder
        self.port = free_port()
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        self.as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []

    def run(self, *command: str) -> None:
        subprocess.run([*self.as_user, *command], check=True, cwd=self.folder, capture_output=True, timeout=60)

    def init(self) -> None:
        if self.as_user:
            shutil.chown(self.folder, "postgres", "postgres")
        self.run(postgres_binary("initdb"), "-D", str(self.data), "-U", "tester", "-A", "trust", "--no-sync")

    running = False

    def start(self) -> None:
        self.running = True
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self.run(postgres_binary("pg_ctl"), "-D", str(self.data), "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self.running = False
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run(postgres_binary("pg_ctl"), "-D", str(self.data), "-w", "-m", "immediate", "stop")


def postgres_binary(name: str) -> str:
    found = shutil.which(name)
    if found:
        return found
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(places[-1]) if places else ""


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "the server did not come up"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    pytest.importorskip("redis")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (scripts/system-packages.sh)")
    with tempfile.TemporaryDirectory(prefix="junctor-redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    pytest.importorskip("asyncpg")
    if not postgres_binary("initdb"):
        pytest.skip("postgresql is not installed (scripts/system-packages.sh)")
    with tempfile.TemporaryDirectory(prefix="junctor-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder))
        server.init()
        server.start()
        yield server
        server.stop()


def clear_redis(server: RedisServer) -> None:
    import redis

    with redis.Redis(port=server.port) as client:
        client.flushall()


async def clear_postgres(server: PostgresServer) -> None:
    import asyncpg

    connection = await asyncpg.connect(server.url)
    await connection.execute("DROP SCHEMA IF EXISTS junctor CASCADE")
    await connection.close()


@pytest.fixture(params=KINDS)
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[..., Store]]:
    """Opens stores of one kind over the same state, as several workers do."""
    opened: list[Store] = []
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        clear_redis(server)
    elif request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        await clear_postgres(server)

    def make(**more: Any) -> Store:
        if request.param == "local":
            more.pop("on_failure", None)
            store: Store = LocalStore(tmp_path / "junctor.db", flush_s=0.05, **more)
        elif request.param == "redis":
            from junctor.tenancy.redis_store import RedisStore

            store = RedisStore(server.url, **more)
        else:
            from junctor.tenancy.postgres_store import PostgresStore

            store = PostgresStore(server.url, **more)
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.aclose()


def ticket(store: Store, *specs: dict[str, Any], sent: int = 40, asked: int | None = 0, ceiling: int = 0) -> Ticket:
    """A call for accounts a0, a1, …; it does not expire for a minute."""
    made = [
        account(**{"name": f"key:a{i}", **spec, "cell": store.place(spec.get("name", f"key:a{i}"))})
        for i, spec in enumerate(specs)
    ]
    found = Ticket(tuple(made), sent, asked, 1)
    found.ceiling = ceiling
    found.expires = NOW + 60
    return found
