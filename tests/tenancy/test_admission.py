"""Who is let in when not everybody can be: near the bound, far above first come first served, and never upside down."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from junctor.errors import RateLimited
from junctor.sections import TeamSection
from junctor.tenancy.admission import VALUES, Admission, bound, dual_prices, exact

from .test_gate import asking, bearer

PATH = Path(__file__).parents[2] / "benchmarks" / "admission.py"
SPEC = importlib.util.spec_from_file_location("admission_benchmark", PATH)
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["requests", "tokens", "money", "crowd", "bursts"])
def test_the_heuristic_reaches_its_share_of_the_bound(kind) -> None:
    found = benchmark.measure(kind, 6, seed=3)
    assert found["asked_of_capacity"] > 1.5
    assert found["exact"] <= 1.0 + 1e-9
    assert found["exact"] >= 0.995
    assert found["pfar"] >= 0.75  # the bound knows the future, and its windows do not slide; the first window is not known yet
    assert found["pfar"] >= 1.3 * found["first"]


@pytest.mark.slow
def test_prices_fill_the_capacity_and_bound_the_optimum() -> None:
    rng = np.random.default_rng(0)
    for resources in (1, 2, 3):
        values = np.array(VALUES)[rng.integers(0, 4, 300)]
        loads = rng.lognormal(0, 1, (300, resources)) / 150
        found = dual_prices(values, loads)
        dual = float(found.prices.sum() + np.maximum(0, values - loads @ found.prices).sum())
        linear = bound(values, loads)
        assert exact(values, loads) <= linear + 1e-9
        assert linear - 1e-9 <= dual <= 1.02 * linear  # weak duality, and nearly strong
        let_in = values > loads @ found.prices
        assert (loads[let_in].sum(axis=0) <= 1.05).all()  # the store holds the limit itself


def test_where_everything_fits_prices_are_zero() -> None:
    found = dual_prices(np.ones(10), np.full((10, 2), 0.05))
    assert found.prices.tolist() == [0.0, 0.0]
    assert dual_prices(np.ones(0), np.ones((0, 2))).prices.tolist() == [0.0, 0.0]


def test_equal_calls_share_what_is_left_of_their_class() -> None:
    door = Admission([60])
    let_in = {0: 0, 1: 0, 2: 0}
    for step in range(1200):
        priority = step % 3
        if door.admit(priority, (1.0,), step * 0.5) and step >= 200:
            let_in[priority] += 1
    assert door.short
    # 2 a second for a limit of 1 a second: all of the first class, half of the second, none of the third
    assert let_in[0] >= 330
    assert 130 <= let_in[1] <= 240
    assert let_in[2] == 0


def test_a_more_important_call_is_never_refused_where_a_lesser_one_of_the_same_load_is_let_in() -> None:
    rng = np.random.default_rng(1)
    door = Admission([50, 4000])
    for step in range(2000):
        load = (1.0, float(rng.lognormal(4, 1)))
        free = float(rng.random()) * 0.3
        before = list(door._acc)
        answers = []
        for priority in range(4):
            door._acc = list(before)
            answers.append(door.admit(priority, load, step * 0.3, free))
        assert answers == sorted(answers, reverse=True)
    assert door.short


def test_one_class_alone_is_first_come_first_served() -> None:
    door = Admission([10])
    assert all(door.admit(2, (1.0,), step * 0.1) for step in range(1000))
    assert not door.short


def test_it_forgets_a_rush_and_remembers_no_more_than_it_needs() -> None:
    door = Admission([100])
    for step in range(50_000):
        door.admit(step % 2, (1.0,), step * 0.001)
    assert door.short
    assert len(door._seen) < 2500
    for step in range(200):
        door.admit(step % 2, (1.0,), 200 + step * 1.0)
    assert not door.short


async def test_a_team_that_is_short_keeps_room_for_its_important_keys(tmp_path) -> None:
    from junctor.tenancy.estimates import Tariffs
    from junctor.tenancy.gate import KeyedTenancy
    from junctor.tenancy.keeping import Keeper
    from junctor.tenancy.local_store import LocalStore

    from .conftest import Clock

    clock = Clock()
    store = LocalStore(tmp_path / "junctor.db", flush_s=0.0)
    tenancy = KeyedTenancy(store, {"t": TeamSection(requests_per_minute=60)}, Tariffs({}), wall=clock)
    keeper = Keeper(store, teams=("t",), actor="test", wall=clock)
    callers = []
    for priority in (0, 5):
        _, key = await keeper.create({"team": "t", "priority": priority})
        callers.append(tenancy.identify(bearer(key)))
    good, said = [0, 0], set()
    for step in range(600):
        clock.at += 0.5
        which = int(step % 4 != 0)  # half a call a second that matters, one and a half that do not
        try:
            tenancy.enter(callers[which], asking(), "auto")
            good[which] += step >= 240
        except RateLimited as error:
            said.add(error.message)
    assert any("more important calls" in text for text in said)
    assert good[0] >= 85  # of 90
    assert good[1] >= 40  # the rest of the limit is used
    await store.aclose()
