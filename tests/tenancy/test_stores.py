"""Every store does the same: windows, budgets, keys, the audit log; over the real servers."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from junctor.tenancy.accounts import NO_END, PLENTY, Refusal, Room, period_ids
from junctor.tenancy.keys import KeyRecord, digest_of, made
from junctor.tenancy.stores import Entry

from .conftest import NOW, Clock, ticket

pytestmark = pytest.mark.slow  # as a whole: `make check` is an inner loop


async def now_or_later(value):
    return await value if inspect.isawaitable(value) else value


async def enter(store, call, now=NOW):
    return await now_or_later(store.enter(call, now))


async def reserve(store, call, amount, now=NOW):
    return await now_or_later(store.reserve(call, amount, now))


async def settle(store, call, cost, tokens=0, now=NOW):
    store.settle(call, cost, tokens, now)
    await booked(store)


async def booked(store):
    if hasattr(store, "drain"):
        assert await store.drain(10)


async def of(store, name, now=NOW):
    rows = {row.period: row for row in await store.spent([name])}
    return rows.get(period_ids(now)[2])


async def test_requests_are_counted_in_a_window_that_slides(make_store):
    store = make_store()
    spec = {"requests": 3}
    rooms = [await enter(store, ticket(store, spec), NOW + i * 10) for i in range(4)]
    assert [room.requests for room in rooms[:3]] == [2, 1, 0]
    refused = rooms[3]
    assert isinstance(refused, Refusal)
    assert refused.kind == "requests"
    assert refused.account == "key:a0"
    # the first call was counted at NOW: there is room when that second has left the window, and not before
    assert refused.wait_s == pytest.approx(31, abs=0.01)
    assert isinstance(await enter(store, ticket(store, spec), NOW + 60.9), Refusal)
    assert isinstance(await enter(store, ticket(store, spec), NOW + 61), Room)
    assert isinstance(await enter(store, ticket(store, spec), NOW + 61), Refusal)
    # after a long silence everything is free again
    assert (await enter(store, ticket(store, spec), NOW + 1000)).requests == 2


async def test_no_window_of_sixty_seconds_ever_holds_more_than_the_limit(make_store):
    store = make_store()
    taken = []
    for step in range(300):
        at = NOW + step * 0.7
        if isinstance(await enter(store, ticket(store, {"requests": 20}), at), Room):
            taken.append(at)
    assert max(sum(start <= at < start + 60 for at in taken) for start in taken) <= 20
    assert len(taken) >= 60  # and the limit is used: 210 seconds hold at least three full windows


async def test_tokens_are_corrected_to_what_they_were(make_store):
    store = make_store()
    first = ticket(store, {"tokens": 100}, sent=160)
    assert (await enter(store, first)).tokens == 60
    assert isinstance(await enter(store, ticket(store, {"tokens": 100}, sent=400)), Refusal)
    await settle(store, first, 0, tokens=10)
    assert (await enter(store, ticket(store, {"tokens": 100}, sent=40), NOW + 1)).tokens == 80
    late = ticket(store, {"tokens": 100}, sent=40)
    await enter(store, late, NOW + 2)
    await settle(store, late, 0, tokens=500, now=NOW + 30)
    refused = await enter(store, ticket(store, {"tokens": 100}, sent=4), NOW + 31)
    assert refused.kind == "tokens"
    assert refused.wait_s == pytest.approx(32, abs=0.01)


async def test_what_is_refused_is_counted_nowhere(make_store):
    store = make_store()
    wide, narrow = {"name": "key:w", "requests": 10}, {"name": "team:n", "requests": 1}
    assert isinstance(await enter(store, ticket(store, wide, narrow)), Room)
    for _ in range(3):
        refused = await enter(store, ticket(store, wide, narrow))
        assert refused.account == "team:n"
    assert (await enter(store, ticket(store, wide))).requests == 8


async def test_a_budget_is_reserved_then_booked_to_the_nano_dollar(make_store):
    store = make_store()
    spec = {"budget_usd": 1e-6}
    call = ticket(store, spec)
    assert (await enter(store, call)).budget == 1000
    assert await reserve(store, call, 700) is None
    other = ticket(store, spec)
    assert (await enter(store, other)).budget == 300
    assert await reserve(store, other, 301) == Refusal("budget", "key:a0", 0.0, 300)
    assert other.reserved == 0
    assert (await of(store, "key:a0")).reserved == 700
    await settle(store, call, 123)
    found = await of(store, "key:a0")
    assert (found.spent, found.reserved) == (123, 0)
    assert await reserve(store, other, 877) is None
    await settle(store, other, 0)
    assert (await of(store, "key:a0")).spent == 123


async def test_a_booking_may_go_over_but_then_nothing_is_left(make_store):
    store = make_store()
    call = ticket(store, {"budget_usd": 1e-6})
    await enter(store, call)
    await reserve(store, call, 900)
    await settle(store, call, 1500)
    room = await enter(store, ticket(store, {"budget_usd": 1e-6}))
    assert room.budget == -500
    assert (await reserve(store, ticket(store, {"budget_usd": 1e-6}), 1)).left == 0


async def test_where_much_is_left_the_ceiling_is_set_aside_on_the_way_in(make_store):
    store = make_store()
    call = ticket(store, {"budget_usd": 1e-3}, ceiling=1_000_000 // PLENTY)
    assert (await enter(store, call)).budget == 1_000_000
    assert call.reserved == 1_000_000 // PLENTY
    second = ticket(store, {"budget_usd": 1e-3}, ceiling=1_000_000 // PLENTY)
    await enter(store, second)
    assert second.reserved == 0  # a little less is left by now
    assert await reserve(store, second, 1000) is None
    assert await reserve(store, second, 500) is None
    assert (await of(store, "key:a0")).reserved == call.reserved + 1500
    await settle(store, call, 10)
    await settle(store, second, 20)
    assert (await of(store, "key:a0"))[2:] == (30, 0)


async def test_periods_begin_anew(make_store):
    store = make_store()
    day = 86_400
    for spec, later in (({"period": "day"}, day), ({"period": "week"}, 7 * day), ({"period": "month"}, 31 * day)):
        spec |= {"name": f"key:{spec['period']}", "budget_usd": 1e-6}
        call = ticket(store, spec)
        await enter(store, call)
        await settle(store, call, 1000)
        assert (await enter(store, ticket(store, spec))).budget == 0
        assert (await enter(store, ticket(store, spec), NOW + later)).budget == 1000
    spec = {"name": "key:total", "period": "total", "budget_usd": 1e-6}
    call = ticket(store, spec)
    await enter(store, call)
    await settle(store, call, 1000)
    assert (await enter(store, ticket(store, spec), NOW + 400 * day)).budget == 0


async def test_two_hundred_at_once_spend_no_more_than_there_is_for_seven(make_store):
    stores = [make_store(), make_store()]
    spec, cost = {"budget_usd": 7e-6}, 1000
    team = {"name": "team:t", "budget_usd": 100e-6}
    good = []

    async def call(number):
        store = stores[number % 2]
        mine = ticket(store, spec, team)
        await enter(store, mine)
        if await reserve(store, mine, cost) is None:
            good.append(number)
            await asyncio.sleep(0)
            store.settle(mine, cost, 10, NOW)

    await asyncio.gather(*(call(number) for number in range(200)))
    for store in stores:
        await booked(store)
    assert len(good) == 7
    found = await of(stores[0], "key:a0")
    assert (found.spent, found.reserved) == (7000, 0)
    assert (await of(stores[1], "team:t")).spent == 7000


async def test_limits_are_exact_over_two_workers(make_store):
    stores = [make_store(), make_store()]
    rooms = await asyncio.gather(*(enter(stores[i % 2], ticket(stores[i % 2], {"requests": 33})) for i in range(100)))
    assert sum(isinstance(room, Room) for room in rooms) == 33


async def test_budgets_that_are_crossed_are_told_once(make_store):
    stores = [make_store(), make_store()]
    told = []
    for store in stores:
        store.on_crossing = told.append
    spec = {"budget_usd": 1e-6, "soft_usd": 5e-7}
    for number in range(6):
        store = stores[number % 2]
        call = ticket(store, spec)
        room = await enter(store, call)
        assert room.soft == (number >= 3)
        await settle(store, call, 200)
    assert [(c.kind, c.account, c.spent) for c in told] == [("soft", "key:a0", 600), ("hard", "key:a0", 1000)]


async def test_without_limits_only_the_spending_is_booked(make_store):
    store = make_store()
    call = ticket(store, {})
    assert await enter(store, call) == Room(NO_END, NO_END, NO_END, False)
    await settle(store, call, 42, tokens=10)
    assert (await of(store, "key:a0")).spent == 42


async def test_keys_are_kept_without_their_secret(make_store):
    clock = Clock()
    store = make_store(wall=clock)
    record, key = made(KeyRecord(id="", name="ci", models=("auto",), budget_usd=2.5), NOW)
    await store.create(record, digest_of(key.encode()))
    assert await now_or_later(store.find(digest_of(key.encode()), NOW)) == record
    assert await now_or_later(store.find(digest_of(key.encode() + b"x"), NOW)) is None
    assert await store.keys() == [record]
    assert await store.key(record.id) == record
    assert await store.key("nobody") is None


async def test_a_rotated_key_is_good_until_its_grace_ends(make_store):
    import time

    store = make_store()
    now = time.time()
    record, old = made(KeyRecord(id=""), now)
    await store.create(record, digest_of(old.encode()))
    await store.rotate(record, digest_of(b"second"), now + 0.4)
    for key in (old.encode(), b"second"):
        assert await now_or_later(store.find(digest_of(key), time.time())) == record
    await store.rotate(record, digest_of(b"third"), now + 3600)  # the first one's grace does not grow
    await asyncio.sleep(0.45)
    assert await now_or_later(store.find(digest_of(old.encode()), time.time())) is None
    assert await now_or_later(store.find(digest_of(b"second"), time.time())) == record
    await store.rotate(record, digest_of(b"fourth"), time.time() - 1)
    assert await now_or_later(store.find(digest_of(b"second"), time.time())) is None
    assert await now_or_later(store.find(digest_of(b"third"), time.time())) is None


async def test_the_audit_log_keeps_its_order(make_store):
    store = make_store()
    for number in range(5):
        await store.append(Entry(at=NOW + number, actor="me", action="key.created", subject=str(number), detail={"n": number}))
    store.note(Entry(at=NOW + 9, actor="gateway", action="budget.exhausted"))
    await booked(store)
    found = await store.entries(3)
    assert [(e.action, e.subject) for e in found] == [("key.created", "3"), ("key.created", "4"), ("budget.exhausted", "")]
    assert found[1].detail == {"n": 4}
