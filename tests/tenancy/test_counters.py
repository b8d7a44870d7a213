"""The counters against a ledger that remembers every call."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.tenancy.accounts import Refusal, Room, account
from junctor.tenancy.counters import Counters

from .conftest import NOW

STEPS = st.lists(st.tuples(st.floats(0, 40), st.integers(0, 50), st.integers(-20, 60)), min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(1, 8), st.integers(1, 120))
def test_windows_are_what_a_log_of_all_calls_says(steps, requests, tokens) -> None:
    counters = Counters(None)
    counters.join()
    mine = account("key:k", requests=requests, tokens=tokens, cell=counters.add_cell(1))
    now, log = NOW, []
    for wait, asked, correction in steps:
        now += wait
        inside = [entry for entry in log if entry[0] >= int(now) - 60]
        calls, taken = len(inside), sum(entry[1] for entry in inside)
        found, second, _ = counters.enter((mine,), asked, 0, now)
        fits = calls + 1 <= requests and taken + asked <= tokens
        assert isinstance(found, Room) == fits
        if not fits:
            assert isinstance(found, Refusal)
            assert found.wait_s > 0
            continue
        assert (found.requests, found.tokens) == (requests - calls - 1, tokens - taken - asked)
        used = max(0, asked + correction)
        counters.settle((mine,), 0, 0, used - asked, second, now)
        log.append((int(now), used))


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 120))
def test_who_waits_as_long_as_told_gets_in_and_not_much_earlier(steps, tokens) -> None:
    counters = Counters(None)
    counters.join()
    mine = account("key:k", requests=3, tokens=tokens, cell=counters.add_cell(1))
    now = NOW
    for wait, asked, _ in steps:
        now += wait
        found, _, _ = counters.enter((mine,), asked, 0, now)
        if isinstance(found, Refusal) and asked <= tokens:
            early, _, _ = counters.enter((mine,), asked, 0, now + found.wait_s - 1.01)
            now += found.wait_s + 1e-6
            if found.wait_s > 1.01:
                assert isinstance(early, Refusal)
            assert isinstance(counters.enter((mine,), asked, 0, now)[0], Room)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900), st.booleans()), max_size=60), st.integers(0, 3000))
def test_books_add_up_whatever_the_order(calls, budget) -> None:
    counters = Counters(None)
    counters.join()
    key = account("key:k", budget_usd=budget / 1e9, cell=counters.add_cell(1))
    team = account("team:t", budget_usd=2000 / 1e9, cell=counters.add_cell(2))
    spent, open_ = 0, []
    for most, cost, wait in calls:
        held = sum(amount for amount, _ in open_)
        fits = spent + held + most <= min(budget, 2000)
        assert (counters.reserve((key, team), most, NOW) is None) == fits
        if fits:
            open_.append((most, min(cost, most)))
        if open_ and not wait:
            amount, paid = open_.pop(0)
            counters.settle((key, team), amount, paid, 0, int(NOW), NOW)
            spent += paid
        assert counters.spent(key.cell)[1:] == counters.spent(team.cell)[1:] == (spent, sum(amount for amount, _ in open_))
        assert spent <= min(budget, 2000)
