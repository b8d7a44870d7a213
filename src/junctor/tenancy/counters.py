"""Counters that all workers of a machine share: one mapped file, one lock that the kernel gives back when a process dies.

A cell has 256 whole numbers of 64 bits: the budget period and what was spent in it, what each worker has set aside, and one
bucket a second of requests and of tokens. Every write that matters is a single number, and they are ordered so that a process
that is killed between two of them errs on the safe side. What is set aside stands in the column of the worker that did it;
when that worker is dead, its column is cleared.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from junctor.errors import ConfigError
from junctor.tenancy.accounts import NO_END, PLENTY, WINDOW_S, Account, Calendar, Crossing, Refusal, Room, wait_for

MAGIC = 0x6A756E63746F7201
CELL = 256
CELLS = 65_536
HEAD = 512
WORKERS = 64
VERSION, HIGHEST, USED = 1, 2, 3
PERIOD, SPENT, SECOND, REQUESTS, TOKENS, SOFT, HARD = range(7)
HELD = 8
RING = 64
REQUEST_RING = HELD + WORKERS
TOKEN_RING = REQUEST_RING + RING
SPIN = 3
EXCLUSIVE, AT_ONCE, UNLOCK = 2, 6, 8
"""Of flock(2): wait for the lock, take it now or fail, give it back."""


class Counters:
    """The mapped file. Use one object from one thread; other threads and processes open their own.

    `folder` holds the file and a lock file for each worker; None: only this object's memory, shared with nobody.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._calendar = Calendar()
        self._worker_fd = -1
        self._process = 0
        self._fd = -1
        self.worker = 0
        self.open()

    def open(self) -> None:
        """Map the file; again in a forked child, whose locks must be its own. Raises ConfigError."""
        self._process = os.getpid()
        if self.folder is None:
            self.capacity = 4096
            self.cells = memoryview(mmap.mmap(-1, 8 * (HEAD + CELL * self.capacity))).cast("q")
            self._flock: Any = _no_lock
        else:
            self._open_file(self.folder)
        self.joined = False

    def _open_file(self, folder: Path) -> None:
        try:
            from fcntl import flock
        except ImportError as error:
            raise ConfigError(
                "needs file locks, which this system has not", field="state.url", fix="use a redis:// or postgresql:// address"
            ) from error
        self._flock, self.capacity = flock, CELLS
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(folder / "counters", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._locked():
                size = 8 * (HEAD + CELL * CELLS)
                if os.fstat(self._fd).st_size < size:
                    os.truncate(self._fd, size)
                    _allocate(self._fd, 0, 8 * HEAD)
            self.cells = memoryview(mmap.mmap(self._fd, size)).cast("q")
        except OSError as error:
            raise ConfigError(
                f"cannot be opened: {error.strerror}", field=str(folder), fix="name a file in a folder that you may write to"
            ) from error
        if self.cells[0] not in (0, MAGIC):
            raise ConfigError("is not a file of counters", field=str(folder / "counters"), fix="move it away")
        self.cells[0] = MAGIC

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.lock()
        try:
            yield
        finally:
            self._flock(self._fd, UNLOCK)

    def lock(self) -> None:
        """Take the lock: a few quick tries, because whoever has it keeps it for microseconds, then wait."""
        for _ in range(SPIN):
            try:
                self._flock(self._fd, AT_ONCE)
            except BlockingIOError:
                continue
            return
        self._flock(self._fd, EXCLUSIVE)

    def join(self) -> None:
        """Take a column of one's own for what is set aside. Raises ConfigError when there are too many workers."""
        if self.joined and self._process == os.getpid():
            return
        if self._process != os.getpid():
            self.open()
        if self.folder is not None:
            self._take_column(self.folder)
        else:
            self.cells[HIGHEST] = 1
        self.joined = True

    def _take_column(self, folder: Path) -> None:
        for number in range(WORKERS):
            fd = try_lock(folder / f"worker-{number}", self._flock)
            if fd >= 0:
                self.worker, self._worker_fd = number, fd
                with self._locked():
                    self.cells[HIGHEST] = max(self.cells[HIGHEST], number + 1)
                    self._clear(number)
                return
        raise ConfigError(f"has {WORKERS} workers already", field="state.url", fix="stop some, or use redis or postgresql")

    def bury(self) -> list[tuple[int, int]]:
        """Clear the columns of workers that died: (worker, nano-dollars that it had set aside)."""
        found = []
        if self.folder is None:
            return []
        for number in range(self.cells[HIGHEST]):
            if number == self.worker and self.joined:
                continue
            fd = try_lock(self.folder / f"worker-{number}", self._flock)
            if fd < 0:
                continue
            with self._locked():
                amount = self._clear(number)
            os.close(fd)
            if amount:
                found.append((number, amount))
        return found

    def _clear(self, worker: int) -> int:
        """What a worker had set aside in all accounts, now zero."""
        import numpy as np

        every = np.frombuffer(self.cells, dtype=np.int64)[HEAD:]
        column = every[: len(every) // CELL * CELL].reshape(-1, CELL)[: self.used(), HELD + worker]
        amount = int(column.sum())
        if amount:
            column[:] = 0
        return amount

    def used(self) -> int:
        """How many cells may be in use."""
        return self.cells[USED]

    def add_cell(self, cell: int) -> int:
        """Make sure that a cell has room on the disk, and give it back. Raises ConfigError."""
        if not 0 < cell < self.capacity:
            raise ConfigError(f"holds no more than {self.capacity} keys and teams", field="state.url", fix="use redis://")
        if cell >= self.cells[USED]:
            if self._fd >= 0:
                _allocate(self._fd, 8 * (HEAD + cell * CELL), 8 * CELL)
            with self._locked():
                self.cells[USED] = max(self.cells[USED], cell + 1)
        return HEAD + cell * CELL

    # steps of a call; `at` is where a cell begins

    def enter(self, accounts: tuple[Account, ...], tokens: int, ceiling: int, now: float) -> tuple[Room | Refusal, int, int]:
        """Count a call against all or none; also the second in which it was counted, and what was set aside already.

        Where much more than `ceiling` is left of every budget, that is set aside in the same breath.
        """
        cells, second = self.cells, int(now)
        ids = self._calendar.ids(now)
        requests_left = tokens_left = budget_left = NO_END
        soft = False
        self.lock()
        try:
            for a in accounts:
                at = a.cell
                if cells[at + SECOND] != second:
                    second = self._advance(at, second)
                if a.requests >= 0:
                    requests_left = min(requests_left, a.requests - cells[at + REQUESTS] - 1)
                if a.tokens >= 0:
                    tokens_left = min(tokens_left, a.tokens - cells[at + TOKENS] - tokens)
                if a.budget >= 0 or a.soft >= 0:
                    used = self._used(at, ids[a.period])
                    soft = soft or 0 <= a.soft <= used
                    budget_left = min(budget_left, a.budget - used) if a.budget >= 0 else budget_left
            if requests_left < 0 or tokens_left < 0:
                return self._refusal(accounts, tokens, now), second, 0
            if budget_left < ceiling * PLENTY or budget_left == NO_END:
                ceiling = 0
            self._count(accounts, tokens, ceiling, second & (RING - 1))
        finally:
            self._flock(self._fd, UNLOCK)
        return Room(requests_left, tokens_left, budget_left, soft), second, ceiling

    def _count(self, accounts: tuple[Account, ...], tokens: int, amount: int, place: int) -> None:
        cells, column = self.cells, HELD + self.worker
        for a in accounts:
            at = a.cell
            if a.requests >= 0:
                cells[at + REQUEST_RING + place] += 1
                cells[at + REQUESTS] += 1
            if a.tokens >= 0 and tokens:
                cells[at + TOKEN_RING + place] += tokens
                cells[at + TOKENS] += tokens
            if amount and a.budget >= 0:
                cells[at + column] += amount

    def _used(self, at: int, period: int) -> int:
        """Spent in this period and set aside by all workers."""
        cells = self.cells
        if cells[at + PERIOD] != period:
            cells[at + SPENT] = 0
            cells[at + PERIOD] = period
        start, highest = at + HELD, cells[HIGHEST]
        held = cells[start] if highest == 1 else sum(cells[start : start + highest])
        return cells[at + SPENT] + held

    def reserve(self, accounts: tuple[Account, ...], amount: int, now: float) -> Refusal | None:
        """Set aside in all accounts with a budget, or in none."""
        ids, column = self._calendar.ids(now), HELD + self.worker
        self.lock()
        try:
            for a in accounts:
                if a.budget >= 0:
                    left = a.budget - self._used(a.cell, ids[a.period])
                    if amount > left:
                        return Refusal("budget", a.name, 0.0, max(0, left))
            for a in accounts:
                if a.budget >= 0:
                    self.cells[a.cell + column] += amount
        finally:
            self._flock(self._fd, UNLOCK)
        return None

    def settle(
        self, accounts: tuple[Account, ...], reserved: int, cost: int, token_error: int, second: int, now: float
    ) -> list[Crossing]:
        """Book a cost, give back what was set aside, and correct the tokens counted in `second` by `token_error`."""
        cells, ids, crossed = self.cells, self._calendar.ids(now), []
        self.lock()
        try:
            for a in accounts:
                at = a.cell
                period = ids[a.period]
                if cells[at + PERIOD] != period:
                    self._used(at, period)
                cells[at + SPENT] += cost
                if a.budget >= 0:
                    if reserved and self.joined:  # a closed store's column is cleared by others
                        cells[at + HELD + self.worker] -= reserved
                    if cells[at + SPENT] >= (a.soft if 0 <= a.soft < a.budget else a.budget):
                        crossed += self._crossings(a, period)
                elif 0 <= a.soft <= cells[at + SPENT]:
                    crossed += self._crossings(a, period)
                if token_error and a.tokens >= 0 and second + WINDOW_S >= cells[at + SECOND]:
                    cells[at + TOKEN_RING + (second & (RING - 1))] += token_error
                    cells[at + TOKENS] += token_error
        finally:
            self._flock(self._fd, UNLOCK)
        return crossed

    def _crossings(self, a: Account, period: int) -> list[Crossing]:
        cells, found = self.cells, []
        spent = cells[a.cell + SPENT]
        for kind, mark, limit in (("soft", SOFT, a.soft), ("hard", HARD, a.budget)):
            if 0 <= limit <= spent and cells[a.cell + mark] != period:
                cells[a.cell + mark] = period
                found.append(Crossing(kind, a.name, spent))
        return found

    def _advance(self, at: int, second: int) -> int:
        """Let the buckets go that have left the window, sum up what is in it, and say what second it is there."""
        cells = self.cells
        last = cells[at + SECOND]
        if last > second:
            return last  # another worker's clock is ahead
        for gone in range(max(last, second - RING) - WINDOW_S, second - WINDOW_S):
            place = gone & (RING - 1)
            cells[at + REQUEST_RING + place] = 0
            cells[at + TOKEN_RING + place] = 0
        cells[at + REQUESTS] = sum(cells[at + REQUEST_RING : at + REQUEST_RING + RING])
        cells[at + TOKENS] = sum(cells[at + TOKEN_RING : at + TOKEN_RING + RING])
        cells[at + SECOND] = second
        return second

    def _refusal(self, accounts: tuple[Account, ...], tokens: int, now: float) -> Refusal:
        """The limit that is over, of several the one with the longest wait."""
        found = []
        for a in accounts:
            if a.requests >= 0 and a.requests < self.cells[a.cell + REQUESTS] + 1:
                found.append(self._over("requests", a, REQUEST_RING, 1, now))
            if a.tokens >= 0 and a.tokens < self.cells[a.cell + TOKENS] + tokens:
                found.append(self._over("tokens", a, TOKEN_RING, tokens, now))
        return max(found, key=lambda refusal: refusal.wait_s)

    def _over(self, kind: str, a: Account, ring: int, asked: int, now: float) -> Refusal:
        cells, limit = self.cells, a.requests if kind == "requests" else a.tokens
        last = cells[a.cell + SECOND]
        start = a.cell + ring
        buckets = [(s, cells[start + (s & (RING - 1))]) for s in range(last - WINDOW_S, last + 1)]
        left = limit - sum(count for _, count in buckets)
        return Refusal(kind, a.name, wait_for(buckets, limit, asked, now), max(0, left))

    # looking and mending

    def spent(self, at: int) -> tuple[int, int, int]:
        """Period, spent in it, and set aside by all workers."""
        cells = self.cells
        return cells[at + PERIOD], cells[at + SPENT], sum(cells[at + HELD : at + HELD + WORKERS])

    def free(self, a: Account, now: float) -> float:
        """The least share of its limits per minute that is unused; without the lock, so it may be a call old."""
        cells, at = self.cells, a.cell
        if cells[at + SECOND] + 1 < now - 1:
            return 1.0
        requests = 1.0 - cells[at + REQUESTS] / a.requests if a.requests > 0 else 1.0
        tokens = 1.0 - cells[at + TOKENS] / a.tokens if a.tokens > 0 else 1.0
        return min(requests, tokens)

    def changed(self, before: dict[int, tuple[int, int]]) -> list[tuple[int, int, int]]:
        """(cell, period, spent) of the cells that differ from `before`, which is brought up to date."""
        import numpy as np

        count = self.used()
        table = np.frombuffer(self.cells, dtype=np.int64)[HEAD : HEAD + count * CELL].reshape(count, CELL)
        busy = np.flatnonzero(table[:, PERIOD])
        found = []
        for cell, period, amount in zip(busy.tolist(), table[busy, PERIOD].tolist(), table[busy, SPENT].tolist(), strict=True):
            if before.get(cell) != (period, amount):
                before[cell] = (period, amount)
                found.append((cell, period, amount))
        return found

    def restore(self, at: int, period: int, amount: int) -> None:
        """After a loss of this file: at least this much was spent in that period."""
        with self._locked():
            cells = self.cells
            if cells[at + PERIOD] < period or (cells[at + PERIOD] == period and cells[at + SPENT] < amount):
                cells[at + SPENT] = amount
                cells[at + PERIOD] = period

    def close(self) -> None:
        """Give the column and the files back."""
        if self._worker_fd >= 0:
            os.close(self._worker_fd)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._worker_fd = -1
        self._flock = _no_lock
        self.joined = False


def _no_lock(fd: int, operation: int) -> None:
    del fd, operation


def _allocate(fd: int, start: int, length: int) -> None:
    """Room on the disk, now: a mapped file that finds none later kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, start, length)


def try_lock(path: Path, flock: Any) -> int:
    """A descriptor that has this file locked; -1 when somebody else has."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        flock(fd, AT_ONCE)
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd
