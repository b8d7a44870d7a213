"""Runs the gateway: a socket, uvicorn with uvloop and httptools, and a shutdown that lets answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from junctor.engine import Engine
from junctor.errors import ConfigError
from junctor.gateway.app import Gateway

KEEP_ALIVE_S = 75
BACKLOG = 4096
SHUTDOWN_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Server(uvicorn.Server):
    """uvicorn's server, except that a signal ends it and is not raised again: a clean stop exits with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal stops accepting and waits for answers, the second one does not wait."""
        loop = asyncio.get_running_loop()
        try:
            for number in SHUTDOWN_SIGNALS:
                loop.add_signal_handler(number, self.handle_exit, number, None)
        except (NotImplementedError, RuntimeError, ValueError):  # no signals here: Windows, or not the main thread
            yield
            return
        try:
            yield
        finally:
            for number in SHUTDOWN_SIGNALS:
                loop.remove_signal_handler(number)


def bind(host: str, port: int) -> socket.socket:
    """A listening address; raises ConfigError when it is taken or is none. Port 0 takes any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        sock.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no address"
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason.lower()}", field="gateway.port", fix="free it, or choose another port"
        ) from error
    return sock


async def serve_async(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    max_body_bytes: int = 8 * 1024 * 1024,
    shutdown_s: float = 10.0,
    on_ready: Callable[[str, int], None] | None = None,
    until: asyncio.Event | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or `until`, then let answers finish for up to `shutdown_s` seconds and close the engine.

    `on_ready(host, port)` is called once connections are accepted. Raises ConfigError when the port is taken.
    """
    sock = bind(host, port)
    config = uvicorn.Config(
        Gateway(engine, max_body_bytes=max_body_bytes),
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="error",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(shutdown_s)),
    )
    if on_ready is not None:  # the socket listens already: a client that comes now waits in its backlog
        on_ready(host, sock.getsockname()[1])
    # What is loaded now lives as long as the process: spare the collector from walking it again and again.
    gc.collect()
    gc.freeze()
    server = _Server(config)
    waiting = None if until is None else asyncio.create_task(_stop_after(until, server))
    try:
        await server.serve(sockets=[sock])
    finally:
        if waiting is not None:
            waiting.cancel()
        gc.unfreeze()
        sock.close()
        await engine.aclose()


async def _stop_after(until: asyncio.Event, server: _Server) -> None:
    await until.wait()
    server.should_exit = True


def serve(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    max_body_bytes: int = 8 * 1024 * 1024,
    shutdown_s: float = 10.0,
    on_ready: Callable[[str, int], None] | None = None,
) -> None:
    """`serve_async` in an event loop of its own: uvloop where it runs, asyncio elsewhere."""
    main = serve_async(engine, host, port, max_body_bytes=max_body_bytes, shutdown_s=shutdown_s, on_ready=on_ready)
    if sys.platform == "win32":
        asyncio.run(main)
    else:
        import uvloop

        uvloop.run(main)
