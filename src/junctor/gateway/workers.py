"""Several worker processes behind one port: the kernel shares out connections, one parent looks after the workers.

Each worker binds the port itself (SO_REUSEPORT) and builds its own service; what they share (keys, budgets, limits, journal) is
shared through files or a store. A worker that dies is replaced; one that cannot start ends them all with its own exit code.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

log = logging.getLogger("junctor.gateway")
EARLY_S = 5.0
MOST_RESTARTS = 20
RESTARTS_WITHIN_S = 60.0
GRACE_S = 5.0


class Workers:
    """Runs `work(number)` in `count` child processes until told to stop; `work` returns the child's exit code.

    SIGTERM and SIGINT are handed on, SIGHUP too (workers read their configuration again). POSIX only.
    """

    def __init__(self, count: int, work: Callable[[int], int], *, shutdown_s: float = 10.0) -> None:
        self.count = count
        self.shutdown_s = shutdown_s
        self._work = work
        self._children: dict[int, tuple[int, float]] = {}
        self._stopping = False
        self._restarts: list[float] = []

    def run(self) -> int:
        """Until all have ended; the exit code of the first that failed, else 0."""
        before = {number: signal.signal(number, self._told) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            for number in range(self.count):
                self._start(number)
            return self._look_after()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child:
            self._children[child] = (number, time.monotonic())
            return
        code = 1
        try:
            for told in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(told, signal.SIG_DFL)
            code = self._work(number)
            sys.stdout.flush()
            sys.stderr.flush()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)

    def _look_after(self) -> int:
        failed = 0
        while self._children:
            try:
                child, status = os.wait()
            except InterruptedError:
                continue
            number, since = self._children.pop(child, (-1, 0.0))
            if number < 0 or self._stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code > 0 and time.monotonic() - since < EARLY_S:
                failed = code  # it could not start: the others would not either, or would serve something else
                self._stop(signal.SIGTERM)
            elif not self._may_restart():
                failed = failed or 1
                self._stop(signal.SIGTERM)
            else:
                log.error("worker %d ended with %d and is started again", number, code)
                self._start(number)
        return failed

    def _may_restart(self) -> bool:
        now = time.monotonic()
        self._restarts = [at for at in self._restarts if now - at < RESTARTS_WITHIN_S] + [now]
        return len(self._restarts) <= MOST_RESTARTS

    def _told(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP:
            self._send(number)
        elif not self._stopping:
            self._stop(number)
        else:
            self._send(number)  # in a hurry

    def _stop(self, number: int) -> None:
        self._stopping = True
        self._send(number)
        signal.signal(signal.SIGALRM, lambda *_: self._send(signal.SIGKILL))
        signal.alarm(int(self.shutdown_s + GRACE_S) + 1)

    def _send(self, number: int) -> None:
        for child in list(self._children):
            try:
                os.kill(child, number)
            except ProcessLookupError:
                continue
