"""Worker processes of one machine: exact together, and none of them can take the books with it when it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from junctor.errors import ConfigError
from junctor.tenancy.accounts import Refusal, Room, period_ids
from junctor.tenancy.counters import HEAD, HELD, Counters
from junctor.tenancy.local_store import LocalStore

from .conftest import NOW, ticket
from .test_stores import enter, of, reserve, settle

WORKER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from junctor.tenancy.accounts import Room, account
    from junctor.tenancy.local_store import LocalStore
    from junctor.tenancy.stores import Ticket

    store = LocalStore(Path(sys.argv[1]), flush_s=0.05)
    mine = account("key:k", budget_usd=1e6, requests=int(sys.argv[2]), cell=store.place("key:k"))
    now, hold = float(sys.argv[3]), sys.argv[4] == "hold"
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    while True:
        ticket = Ticket((mine,), 40, 0, 1)
        if not isinstance(store.enter(ticket, now), Room):
            break
        assert store.reserve(ticket, 1000, now) is None
        if hold and done == 20:
            print("holding", flush=True)
            time.sleep(60)
        store.settle(ticket, 7, 0, now)
        done += 1
        if hold:
            print(done, flush=True)
    print("done", done, flush=True)
    import asyncio
    asyncio.run(store.aclose())
""")


def start(path: Path, limit: int, hold: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(path), str(limit), str(NOW), hold or "run"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def go(worker: subprocess.Popen[str]) -> None:
    assert worker.stdout is not None
    assert worker.stdin is not None
    assert worker.stdout.readline() == "ready\n"
    worker.stdin.write("\n")
    worker.stdin.flush()


@pytest.mark.slow
async def test_three_processes_share_one_limit_exactly(tmp_path: Path) -> None:
    path = tmp_path / "junctor.db"
    workers = [start(path, 5000) for _ in range(3)]
    for worker in workers:
        go(worker)
    said = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sum(int(words[-1]) for words in said) == 5000
    store = LocalStore(path, flush_s=0.0)
    assert (await of(store, "key:k"))[2:] == (35_000, 0)
    await store.aclose()


async def test_a_killed_worker_loses_nothing_and_what_it_held_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "junctor.db"
    store = LocalStore(path, flush_s=0.05)
    assert isinstance(await enter(store, ticket(store, {})), Room)  # this one lives on
    worker = start(path, 10**6, "hold")
    go(worker)
    assert worker.stdout is not None
    lines = iter(worker.stdout.readline, "")
    assert "holding\n" in lines
    assert (await of(store, "key:k"))[2:] == (140, 1000)
    worker.send_signal(signal.SIGKILL)
    worker.wait(10)
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            stream.close()
    for _ in range(200):
        if (await of(store, "key:k")).reserved == 0:
            break
        await asyncio.sleep(0.02)
    assert (await of(store, "key:k"))[2:] == (140, 0)
    told = await store.entries(5)
    assert [(e.action, e.detail["reserved_usd"]) for e in told] == [("reservations.expired", 1e-6)]
    await store.aclose()


@pytest.mark.slow
async def test_kill_at_random_points_leaves_books_that_add_up(tmp_path: Path) -> None:
    path = tmp_path / "junctor.db"
    for pause in (0.0, 0.004, 0.013):
        worker = start(path, 10**6, "x")
        go(worker)
        await asyncio.sleep(pause)
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=10)
    store = LocalStore(path, flush_s=0.0)
    spec = {"name": "key:k", "budget_usd": 1e6, "requests": 10**6}
    room = await enter(store, ticket(store, spec))
    counters = store.counters
    at = counters.add_cell(1)
    counters.bury()
    found = await of(store, "key:k")
    asked = 10**6 - room.requests - 1
    # every call that was booked had been counted; at most the one under way in each worker was counted and not booked
    assert 0 <= asked - found.spent // 7 <= 3
    assert found.spent % 7 == 0
    assert found.reserved == 0
    assert counters.cells[at + 3] == sum(counters.cells[at + 72 : at + 136])
    await store.aclose()


async def test_a_forked_child_takes_a_column_of_its_own(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "junctor.db", flush_s=0.0)
    call = ticket(store, {"budget_usd": 1.0})
    await enter(store, call)
    await reserve(store, call, 100)
    child = os.fork()
    if child == 0:
        try:
            mine = ticket(store, {"budget_usd": 1.0})
            ok = isinstance(store.enter(mine, NOW), Room) and store.counters.worker == 1
            store.reserve(mine, 50, NOW)
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status[1]) == 0
    assert (await of(store, "key:a0")).reserved == 150
    assert store.counters.bury() == [(1, 50)]
    assert (await of(store, "key:a0")).reserved == 100
    await settle(store, call, 1)
    await store.aclose()


async def test_a_lost_file_of_counters_is_made_again_from_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "junctor.db"
    store = LocalStore(path, flush_s=0.05)
    call = ticket(store, {"budget_usd": 1e-6})
    await enter(store, call)
    await settle(store, call, 600)
    await store.aclose()
    for file in (tmp_path / "junctor.db.counters").iterdir():
        file.unlink()
    again = LocalStore(path, flush_s=0.0)
    assert (await enter(again, ticket(again, {"budget_usd": 1e-6}))).budget == 400
    await again.aclose()


async def test_the_period_before_stays_on_record(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "junctor.db", flush_s=0.05)
    month = 31 * 86_400
    for number in range(2):
        call = ticket(store, {"budget_usd": 1.0})
        await enter(store, call, NOW + number * month)
        await settle(store, call, 100 + number, now=NOW + number * month)
        await asyncio.sleep(0.3)
    assert [row.spent for row in await store.spent(["key:a0"])] == [100, 101]
    await store.aclose()


async def test_the_audit_log_cannot_be_rewritten(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "junctor.db", flush_s=0.0)
    from junctor.tenancy.stores import Entry

    await store.append(Entry(at=NOW, actor="me", action="key.created"))
    with sqlite3.connect(tmp_path / "junctor.db") as db:
        for statement in ("DELETE FROM audit", "UPDATE audit SET entry = ''"):
            with pytest.raises(sqlite3.IntegrityError, match="only grows"):
                db.execute(statement)
    db.close()
    await store.aclose()


def test_what_is_no_file_of_counters_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "x.counters"
    folder.mkdir()
    (folder / "counters").write_bytes(b"somebody's diary " * 1000)
    with pytest.raises(ConfigError, match="not a file of counters"):
        Counters(folder)


def test_a_clock_that_goes_back_gives_no_second_helping(tmp_path: Path) -> None:
    counters = Counters(None)
    counters.join()
    from junctor.tenancy.accounts import account

    mine = account("key:k", requests=2, cell=counters.add_cell(1))
    assert isinstance(counters.enter((mine,), 0, 0, NOW)[0], Room)
    assert isinstance(counters.enter((mine,), 0, 0, NOW - 30)[0], Room)
    assert isinstance(counters.enter((mine,), 0, 0, NOW - 500)[0], Refusal)
    assert period_ids(NOW)[3] == 1
    assert counters.cells[HEAD + HELD] == 0
