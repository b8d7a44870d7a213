"""Runs the gateway: a socket, an event loop, and a shutdown that lets answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from junctor.engine import Engine
from junctor.errors import ConfigError
from junctor.gateway.app import Gateway
from junctor.gateway.blas import one_blas_thread
from junctor.gateway.http import Server
from junctor.service import Service

BACKLOG = 4096
MAX_BODY_BYTES = 8 * 1024 * 1024
GC_THRESHOLD = 20_000
OnReady = Callable[[str, int], None]
Alongside = Callable[[], Coroutine[Any, Any, Any]]


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; raises ConfigError when the address is taken or is none. Port 0 takes any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        sock.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no address"
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason.lower()}", field="gateway.port", fix="free it, or choose another port"
        ) from error
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event, on_hangup: Alongside | None) -> Iterator[None]:
    """SIGINT and SIGTERM set `stop`, a second one `hurry`; where there are no signals (threads, Windows), nothing happens."""
    hangups: set[asyncio.Future[Any]] = set()

    def told() -> None:
        (hurry if stop.is_set() else stop).set()

    def hung_up() -> None:
        if on_hangup is not None:
            task = asyncio.ensure_future(on_hangup())
            hangups.add(task)
            task.add_done_callback(hangups.discard)

    loop, numbers = asyncio.get_running_loop(), []
    try:
        answers = [(signal.SIGINT, told), (signal.SIGTERM, told)]
        if on_hangup is not None:
            answers.append((signal.SIGHUP, hung_up))
        for number, answer in answers:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, answer)
                numbers.append(number)
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _calm_collector() -> Iterator[None]:
    """What is loaded now lives as long as the process, so the collector need not walk it; and requests leave few cycles."""
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


async def serve_async(
    app: Engine | Service | Gateway,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    body_timeout_s: float = 30.0,
    shutdown_s: float = 10.0,
    on_ready: OnReady | None = None,
    until: asyncio.Event | None = None,
    alongside: Sequence[Alongside] = (),
    on_hangup: Alongside | None = None,
    shared_port: bool = False,
) -> None:
    """Serve until SIGINT, SIGTERM or `until`, then let answers finish for up to `shutdown_s` seconds and close the service.

    `on_ready(host, port)` is called once connections are accepted. `alongside` runs while it serves, `on_hangup` at each
    SIGHUP. With `shared_port` other processes may listen on the same port. Raises ConfigError when the port is taken.
    """
    one_blas_thread()
    gateway = app if isinstance(app, Gateway) else Gateway(app)
    sock = bind(host, port, shared=shared_port)
    server = Server(gateway, max_body_bytes=max_body_bytes, body_timeout_s=body_timeout_s, refusal=gateway.refusal)
    listening = await asyncio.get_running_loop().create_server(server.connection, sock=sock, backlog=BACKLOG)
    _batch_journal(gateway)
    stop, hurry = until or asyncio.Event(), asyncio.Event()
    beside = [asyncio.ensure_future(thing()) for thing in (server.sweep, *alongside)]
    try:
        with _signals(stop, hurry, on_hangup), _calm_collector():
            if on_ready is not None:
                on_ready(host, sock.getsockname()[1])
            await stop.wait()
            listening.close()
            await _first_of(server.drain(), hurry.wait(), seconds=shutdown_s)
            if gateway.service.turn_away():
                await asyncio.sleep(0.05)  # they hear of it before their connections are cut
    finally:
        listening.close()
        server.give_up()
        await asyncio.sleep(0.05)  # cancelled requests write their last record
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await gateway.aclose()


def _batch_journal(gateway: Gateway) -> None:
    journal = gateway.service.engine.ledger.journal
    if journal is not None:
        journal.batch(asyncio.get_running_loop().call_soon)


async def _first_of(*things: Coroutine[Any, Any, Any], seconds: float) -> None:
    tasks = [asyncio.ensure_future(thing) for thing in things]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def serve(app: Engine | Service | Gateway, host: str = "127.0.0.1", port: int = 8080, **settings: Any) -> None:
    """`serve_async` in an event loop of its own: uvloop where it runs, asyncio elsewhere."""
    main = serve_async(app, host, port, **settings)
    if sys.platform == "win32":
        asyncio.run(main)
    else:
        import uvloop

        uvloop.run(main)
