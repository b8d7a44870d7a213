"""The least-loaded plan: every edge once, even loads where that is possible, memory kept, same results."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from junctor.errors import UserError  # noqa: E402
from junctor.layers.plan import Plan  # noqa: E402
from junctor.layers.planner import Spread, least_loaded, replay, run_spread  # noqa: E402


def covered(spread: Spread, counts: list[int]) -> bool:
    """Whether the pieces of each expert tile its list."""
    for expert, count in enumerate(counts):
        pieces = sorted((p.start, p.stop) for p in spread.pieces if p.expert == expert)
        at = 0
        for start, stop in pieces:
            if start != at or stop <= start:
                return False
            at = stop
        if at != count:
            return False
    return True


def some_loads(seed: int) -> tuple[list[int], int]:
    draw = random.Random(seed)
    experts = draw.choice([1, 4, 8, 16])
    counts = [int(draw.paretovariate(0.6)) % 5000 * draw.choice([0, 1, 1]) for _ in range(experts)]
    return counts, draw.choice([1, 2, 4, 5])


@pytest.mark.parametrize("seed", range(60))
def test_every_edge_is_computed_once_and_no_device_is_over_the_limit(seed: int) -> None:
    counts, devices = some_loads(seed)
    alpha = 1.0 + (seed % 4) / 10
    spread = least_loaded(counts, devices, alpha=alpha, trigger=1.0)
    assert covered(spread, counts)
    assert sum(spread.load_D) == sum(counts)
    assert spread.over_D == [0] * devices
    assert max(spread.load_D) <= max(alpha * sum(counts) / devices, -(-sum(counts) // devices))


@pytest.mark.parametrize("seed", range(60))
def test_memory_is_respected_and_chunks_are_whole(seed: int) -> None:
    counts, devices = some_loads(seed)
    room = [sum(counts)] + [sum(counts) // devices + 40] * (devices - 1)
    spread = least_loaded(counts, devices, trigger=1.0, min_chunk=16, memory_tokens=room)
    assert covered(spread, counts)
    assert all(load <= most for load, most in zip(spread.load_D, room, strict=True))
    away = [p for p in spread.pieces if p.device != spread.home_E[p.expert]]
    # A shorter piece is handed away only where the home device is full to the last token.
    assert all(p.tokens >= 16 or spread.load_D[home] == room[home] for p in away for home in [spread.home_E[p.expert]])


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("borrow", [0, 1, 2])
def test_no_device_borrows_more_experts_than_it_can_hold(seed: int, borrow: int) -> None:
    counts, devices = some_loads(seed)
    spread = least_loaded(counts, devices, trigger=1.0, min_chunk=16, borrow=borrow)
    assert covered(spread, counts)
    assert max(spread.borrowed_D) <= borrow
    assert max(spread.load_D) <= max(spread.limit, *spread.home_load_D)
    assert spread.over_D == [max(0, load - spread.limit) for load in spread.load_D]


def test_memory_alone_can_force_a_spill() -> None:
    counts, room = [60, 40], [50, 50]
    spread = least_loaded(counts, 2, trigger=2.0, memory_tokens=room)
    assert spread.spilled
    assert spread.load_D == [50, 50]
    assert spread.transfers == ((0, 0, 1),)


def test_even_loads_stay_at_home() -> None:
    spread = least_loaded([10, 11, 10, 12], 2)
    assert not spread.spilled
    assert spread.transfers == ()
    assert spread.load_D == spread.home_load_D == [21, 22]


def test_one_hot_expert_is_shared_by_all() -> None:
    spread = least_loaded([4000, 0, 0, 0], 4, alpha=1.1)
    assert max(spread.load_D) == 1100
    assert spread.home_load_D == [4000, 0, 0, 0]
    assert spread.borrowed_D == [0, 1, 1, 1]


def a_plan(seed: int, tokens: int = 64, experts: int = 8) -> tuple[Plan, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    skew = torch.linspace(3, 0, experts)
    chosen = (torch.rand(tokens, experts, generator=made) + skew).topk(2, dim=1).indices
    expert, order = chosen.reshape(-1).sort(stable=True)
    weight = torch.randint(1, 5, (2 * tokens,), generator=made).double()
    plan = Plan(order // 2, weight, torch.bincount(expert, minlength=experts), tokens)
    plan.check()
    return plan, torch.randint(-4, 5, (tokens, 6), generator=made).double()


@pytest.mark.parametrize("seed", range(5))
def test_results_equal_those_without_spilling(seed: int) -> None:
    plan, x = a_plan(seed)
    weights = torch.randint(-3, 4, (8, 6, 6), generator=torch.Generator().manual_seed(seed)).double()

    def expert(e: int, rows: torch.Tensor) -> torch.Tensor:
        return (rows @ weights[e]).clamp(min=0)

    home = least_loaded(plan.counts_E, 4, trigger=4.0)
    spread = least_loaded(plan.counts_E, 4, trigger=1.0)
    assert spread.spilled
    assert not home.spilled
    dense = sum(plan.dense_TE()[:, e : e + 1] * expert(e, x) for e in range(8))
    # Whole numbers add up exactly in any order, so equality is exact.
    assert torch.equal(run_spread(plan, x, home, expert), dense)
    assert torch.equal(run_spread(plan, x, spread, expert), dense)
    assert torch.bincount(spread.device_N(plan), minlength=4).tolist() == spread.load_D


def test_recorded_loads_replayed() -> None:
    loads = [[900, 10, 10, 10], [10, 10, 10, 10], [0, 0, 0, 0]]
    seen = replay(loads, 2)
    assert (seen.steps, seen.spilled, seen.over) == (3, 1, 0)
    assert seen.ratio_spread <= 1.1 < seen.ratio_home


def test_no_tokens_and_more_devices_than_experts() -> None:
    plan, x = a_plan(0, tokens=0)
    empty = least_loaded(plan.counts_E, 4)
    assert empty.pieces == ()
    assert run_spread(plan, x, empty, lambda e, rows: rows).shape == (0, 6)
    assert max(least_loaded([9, 3], 5, alpha=1.0, trigger=1.0).load_D) == 3


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"alpha": 0.9}, "alpha"),
        ({"min_chunk": 0}, "min_chunk"),
        ({"trigger": 0.5}, "trigger"),
        ({"borrow": -1}, "borrow"),
        ({"memory_tokens": 3}, "memory_tokens"),
        ({"memory_tokens": [100]}, "memory_tokens"),
        ({"home_E": [0, 7]}, "home_E"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], field: str) -> None:
    with pytest.raises(UserError) as caught:
        least_loaded([30, 1], 2, **settings)
    assert caught.value.field == field


def test_bad_loads_and_an_impossible_memory_are_named() -> None:
    with pytest.raises(UserError, match="whole numbers"):
        least_loaded([1, -2], 2)
    with pytest.raises(UserError, match="whole numbers"):
        least_loaded([], 2)
    with pytest.raises(UserError, match="devices"):
        least_loaded([1], 0)
    with pytest.raises(UserError, match="fit on no device"):
        least_loaded([100, 0], 2, memory_tokens=[50, 50], borrow=0)
    plan, _ = a_plan(1)
    with pytest.raises(UserError, match="other loads"):
        least_loaded([1, 2], 2).device_N(plan)
