"""The store goes away and comes back: nobody hangs, nothing that was spent is lost, and it heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import pytest

from junctor.errors import OverBudget, StateUnavailable, Unauthorised
from junctor.tenancy import remote
from junctor.tenancy.accounts import Refusal, Room, period_ids
from junctor.tenancy.estimates import Tariffs
from junctor.tenancy.gate import KeyedTenancy
from junctor.tenancy.keeping import Keeper
from junctor.tenancy.keys import KeyRecord
from junctor.types import Call, Message, Request, Target

from .conftest import clear_postgres, clear_redis
from .test_gate import PRICE, Standing, bearer, ended, took


@pytest.fixture(params=["redis", "postgres"])
async def away(request, monkeypatch):
    """A server that can be stopped, and tenancies over it."""
    monkeypatch.setattr(remote, "DOWN_S", 0.1)
    server = request.getfixturevalue(f"{request.param}_server")
    if request.param == "redis":
        from junctor.tenancy.redis_store import RedisStore as Kind

        clear_redis(server)
    else:
        from junctor.tenancy.postgres_store import PostgresStore as Kind

        await clear_postgres(server)
    opened = []

    def make(on_failure):
        store = Kind(server.url, on_failure=on_failure)
        opened.append(store)
        tenancy = KeyedTenancy(store, {}, Tariffs({"cheap": Target(id="cheap", provider="p", price=PRICE)}))
        return tenancy, Keeper(store, models=("auto",), actor="test")

    yield server, make
    if server.running is False:
        server.start()
    for store in opened:
        await store.aclose()


def asking(**params):
    return Request(id="d", text="x" * 92, messages=(Message("user", "x" * 92),), params={"max_tokens": 100, **params})


async def call(tenancy, key, cost):
    """One whole call; what it was let in with."""
    found = tenancy.identify(bearer(key))
    principal = await found if not hasattr(found, "permit") else found
    hold = await resolved(tenancy.enter(principal, asking(), "auto"))
    run = Standing(asking(), Call("cheap"))
    try:
        await resolved(tenancy.reserve(hold, run))
    except BaseException:
        tenancy.settle(hold, None, None)
        raise
    tenancy.settle(hold, run, ended(took(cost)))
    return hold


async def resolved(value):
    return await value if asyncio.iscoroutine(value) else value


async def spent(keeper, record):
    return (await keeper.row(record.id))["spent_usd"]


async def healed(tenancy, key):
    for _ in range(100):
        try:
            return await call(tenancy, key, 0.0)
        except StateUnavailable:
            await asyncio.sleep(0.05)
    raise AssertionError("the store came back and nobody noticed")


@pytest.mark.slow
async def test_refusing_while_it_is_away(away):
    server, make = away
    tenancy, keeper = make("refuse")
    record, key = await keeper.create({"budget_usd": 1.0})
    await call(tenancy, key, 0.25)
    under_way = await resolved(tenancy.enter(tenancy.identify(bearer(key)), asking(), "auto"))
    server.stop()
    tenancy.settle(under_way, Standing(asking()), ended(took(0.125)))  # an answer is never held up
    started = time.monotonic()
    refused = 0
    for _ in range(50):
        with pytest.raises(StateUnavailable):
            await call(tenancy, key, 0.25)
        refused += 1
    assert refused == 50
    assert time.monotonic() - started < 10 * remote.ANSWER_S  # the circuit: not each of them waits
    server.start()
    await healed(tenancy, key)
    assert await tenancy.store.drain(10)
    assert await spent(keeper, record) == pytest.approx(0.375)


@pytest.mark.slow
async def test_allowing_within_what_this_worker_knows(away):
    server, make = away
    tenancy, keeper = make("allow")
    record, key = await keeper.create({"budget_usd": 0.01, "requests_per_minute": 1000})
    _, never_seen = await keeper.create({})
    await call(tenancy, key, 0.004)
    assert await tenancy.store.drain(10)
    await call(tenancy, key, 0.0)  # hears of the 0.004
    server.stop()
    let_in = 0
    for _ in range(12):
        with contextlib.suppress(OverBudget):
            await call(tenancy, key, 0.001)
            let_in += 1
    # 0.006 are left and a call may cost 0.0003: six calls of 0.001 fit
    assert let_in == 6
    with pytest.raises((StateUnavailable, Unauthorised)):
        await call(tenancy, never_seen, 0.001)
    server.start()
    for _ in range(100):
        if not tenancy.store.down:
            break
        await asyncio.sleep(0.05)
    assert await tenancy.store.drain(10)
    assert await spent(keeper, record) == pytest.approx(0.01)
    with pytest.raises(Exception, match="US dollars left"):
        await call(tenancy, key, 0.001)


@pytest.mark.slow
async def test_nobody_is_there_from_the_start(away):
    server, make = away
    server.stop()
    tenancy, keeper = make("allow")
    with pytest.raises(StateUnavailable):
        await call(tenancy, "jk-abc-def", 0.0)
    with pytest.raises(StateUnavailable):
        await keeper.create({})
    server.start()
    await asyncio.sleep(0.3)
    for _ in range(100):
        try:
            _, key = await keeper.create({})
            break
        except StateUnavailable:
            await asyncio.sleep(0.1)
    await call(tenancy, key, 0.0)


@pytest.mark.slow
async def test_postgres_refuses_to_rewrite_the_audit_log(postgres_server):
    import asyncpg

    from junctor.tenancy.postgres_store import PostgresStore
    from junctor.tenancy.stores import Entry

    await clear_postgres(postgres_server)
    store = PostgresStore(postgres_server.url)
    await store.append(Entry(at=0.0, actor="me", action="key.created"))
    connection = await asyncpg.connect(postgres_server.url)
    for statement in ("DELETE FROM junctor.audit", "UPDATE junctor.audit SET entry = ''", "TRUNCATE junctor.audit"):
        with pytest.raises(asyncpg.PostgresError, match="only grows"):
            await connection.execute(statement)
    await connection.close()
    assert len(await store.entries(5)) == 1
    await store.aclose()


@pytest.mark.slow
async def test_a_store_that_hangs_holds_nobody_up_for_long(redis_server, monkeypatch):
    from junctor.tenancy.redis_store import RedisStore

    clear_redis(redis_server)
    monkeypatch.setattr(remote, "ANSWER_S", 0.3)
    monkeypatch.setattr(remote, "DOWN_S", 30.0)
    store = RedisStore(redis_server.url)
    tenancy = KeyedTenancy(store, {}, Tariffs({}))
    _, key = await Keeper(store, actor="test").create({})
    await call(tenancy, key, 0.0)
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        waits = []
        for _ in range(40):
            started = time.monotonic()
            with pytest.raises(StateUnavailable):
                await resolved(tenancy.enter(tenancy.caller(KeyRecord(id="x")), asking(), "auto"))
            waits.append(time.monotonic() - started)
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert sum(wait > 0.15 for wait in waits) == 1  # the first; then the circuit is open
    monkeypatch.setattr(remote, "DOWN_S", 0.05)
    store._down_until = 0.0
    await healed(tenancy, key)
    await store.aclose()


async def test_what_was_set_aside_ends_by_itself(away):
    _, make = away
    tenancy, _ = make("refuse")
    from .conftest import NOW, ticket
    from .test_stores import enter, reserve

    store = tenancy.store
    lost = ticket(store, {"budget_usd": 1e-6})
    await enter(store, lost)
    assert await reserve(store, lost, 800) is None
    later = ticket(store, {"budget_usd": 1e-6})
    assert isinstance(await enter(store, later, NOW + 30), Room)
    assert isinstance(await reserve(store, later, 300, NOW + 30), Refusal)
    assert (await enter(store, later, NOW + 61)).budget == 1000
    later.expires = NOW + 200
    assert await reserve(store, later, 300, NOW + 61) is None


async def test_a_booking_that_was_sent_twice_is_booked_once(away):
    _, make = away
    tenancy, _ = make("refuse")
    from .conftest import NOW, ticket
    from .test_stores import enter

    store = tenancy.store
    one = ticket(store, {"budget_usd": 1e-6})
    await enter(store, one)
    booking = remote.Booking(1, one.id, one.holds, one.accounts, 100, 0, one.second, NOW)
    await store._book([booking])
    await store._book([booking, booking._replace(number=2, cost=7)])
    found = {row.period: row.spent for row in await store.spent(["key:a0"])}
    assert found[period_ids(NOW)[2]] == 107
