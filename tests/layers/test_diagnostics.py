"""Diagnostics on routes whose figures are known: constant, random, planted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from junctor.errors import UserError  # noqa: E402
from junctor.layers import diagnostics as measure  # noqa: E402
from junctor.layers.contracts import Gate, Scorer, Selector  # noqa: E402
from junctor.layers.plan import Plan, RouteContext, Scores  # noqa: E402
from junctor.layers.recorder import Recorder, flip_rates  # noqa: E402


def random_routes(tokens: int, experts: int, k: int, seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    picked = torch.rand(tokens, experts, generator=made).topk(k, dim=1).indices
    return torch.zeros(tokens, experts, dtype=torch.bool).scatter_(1, picked, True)


def test_load_and_balance() -> None:
    even, all_one = torch.tensor([5, 5, 5, 5]), torch.tensor([20, 0, 0, 0])
    assert measure.max_violation(even) == 0.0
    assert measure.max_violation(all_one) == 3.0
    assert measure.max_violation(torch.zeros(4)) == 0.0
    assert measure.idle_share(all_one) == 0.75
    assert measure.effective_number(even) == pytest.approx(4.0)
    assert measure.effective_number(all_one) == pytest.approx(1.0)
    assert measure.gini(even) == pytest.approx(0.0)
    assert measure.gini(all_one) == pytest.approx(0.75)
    assert measure.load_share_E(all_one).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_entropies() -> None:
    uniform, certain = torch.full((3, 8), 1 / 8), torch.eye(8)
    assert measure.routing_entropy(uniform) == pytest.approx(1.0)
    assert measure.routing_entropy(certain) == pytest.approx(0.0)
    assert measure.routing_entropy(uniform * 8) == pytest.approx(1.0)  # sigmoid scores do not sum to one
    assert measure.routing_entropy(torch.zeros(2, 4)) == 0.0
    p = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert measure.tsallis_entropy(p, 1.0001) == pytest.approx(measure.tsallis_entropy(p, 1.0), abs=1e-3)
    assert measure.tsallis_entropy(uniform, 2.0) == pytest.approx(1 - 1 / 8)


def test_flip_rate_and_overlap() -> None:
    a = random_routes(200, 8, 2)
    b = a.clone()
    b[:50] = a[:50].roll(1, dims=1)
    assert measure.flip_rate(a, a) == 0.0
    assert measure.flip_rate(a, b) == 0.25
    assert measure.route_overlap(a, a) == 1.0
    assert 0.75 <= measure.route_overlap(a, b) < 1.0
    with pytest.raises(UserError, match="same tokens"):
        measure.flip_rate(a, b[:10])


def slow_srp(chosen: torch.Tensor, length: int, expert: int) -> float:
    """By trying every threshold with loops."""
    segments = [chosen[s : s + length, expert].tolist() for s in range(0, len(chosen) - length + 1, length)]
    best = 0.0
    for threshold in range(1, length + 1):
        on = [sum(segment) >= threshold for segment in segments]
        hit = sum(sum(s) for s, flag in zip(segments, on, strict=True) if flag)
        predicted, real = length * sum(on), sum(sum(s) for s in segments)
        if hit:
            precision, recall = hit / predicted, hit / real
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def test_srp_is_the_best_f1_of_a_segment_route() -> None:
    chosen = random_routes(130, 6, 2, seed=3)
    fast = measure.segment_routing_performance(chosen, 8)
    assert fast.tolist() == pytest.approx([slow_srp(chosen, 8, e) for e in range(6)])


def test_constant_routes_are_fully_local_and_random_ones_at_chance() -> None:
    constant = random_routes(16, 8, 2).repeat_interleave(16, dim=0)
    srp = measure.segment_routing_performance(constant, 16)
    assert srp[constant.any(0)].tolist() == pytest.approx([1.0] * int(constant.any(0).sum()))
    assert measure.segment_cache_hit_rate(constant, 16, 2) == 1.0
    chance = random_routes(16000, 8, 2)
    found = float(measure.segment_routing_performance(chance, 16).mean())
    assert found == pytest.approx(measure.random_srp(0.25, 16), abs=0.01)
    assert measure.random_srp(0.25, 400) == pytest.approx(2 * 0.25 / 1.25, abs=0.03)
    assert measure.segment_cache_hit_rate(chance, 1000, 4) == pytest.approx(0.5, abs=0.05)
    assert measure.segment_cache_hit_rate(chance, 16, 8) == 1.0


def test_a_planted_committee_is_found_and_a_uniform_router_has_none() -> None:
    mass = torch.full((5, 16), 0.4 / 13)
    mass[:, [3, 7, 11]] = 0.2
    found = measure.standing_committee(mass)
    assert set(found.members) == {3, 7, 11}
    assert found.coverage == pytest.approx(0.6)
    assert found.overlap[3] == 1.0
    uniform = measure.class_mass_CE(random_routes(20000, 16, 2), torch.arange(20000) % 5)
    none = measure.standing_committee(uniform)
    assert none.members == ()
    assert none.gini < 0.05
    changing = torch.eye(5, 16) + 0.01  # each domain has its own favourite
    assert measure.standing_committee(changing, budgets=(1, 2)).members == ()
    assert measure.standing_committee(changing, budgets=(1,)).overlap[1] == 0.0


def test_specialisation_from_independent_to_decided() -> None:
    ids = torch.arange(4000) % 4
    decided = torch.zeros(4000, 8, dtype=torch.bool)
    decided[torch.arange(4000), ids] = True
    mass = measure.class_mass_CE(decided, ids)
    assert measure.specialisation(mass) == pytest.approx(math.log(4), abs=0.01)
    assert measure.specialisation_share(mass) == pytest.approx(1.0, abs=0.01)
    random = measure.class_mass_CE(random_routes(4000, 8, 2), torch.arange(4000) % 60)
    assert measure.specialisation_share(random) < 0.01
    assert measure.specialisation(torch.zeros(3, 4)) == 0.0


def test_effective_numbers_of_routes() -> None:
    routes = torch.eye(4, dtype=torch.bool).repeat(25, 1)
    ids = torch.arange(100) % 4
    assert measure.effective_routes(routes) == pytest.approx(4.0)
    assert measure.compositions_per_route(routes, ids) == pytest.approx(1.0)
    one_route = torch.ones(100, 4, dtype=torch.bool)
    assert measure.compositions_per_route(one_route, ids) == pytest.approx(4.0)


def test_nothing_is_a_defined_result() -> None:
    none = torch.zeros(0, 4, dtype=torch.bool)
    assert measure.flip_rate(none, none) == 0.0
    assert measure.effective_routes(none) == 0.0
    assert measure.compositions_per_route(none, torch.zeros(0)) == 0.0
    assert measure.routing_entropy(none.float()) == 0.0
    assert measure.segment_routing_performance(none, 8).tolist() == [0.0] * 4
    assert measure.segment_cache_hit_rate(none, 8, 2) == 0.0
    assert measure.class_mass_CE(none, torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
    assert measure.standing_committee(torch.zeros(2, 4)).members == ()


def test_bad_input_is_named() -> None:
    for bad in (
        lambda: measure.routing_entropy(torch.tensor([[math.nan, 1.0]])),
        lambda: measure.max_violation(torch.tensor([-1, 2])),
        lambda: measure.max_violation(torch.zeros(0)),
        lambda: measure.segment_counts_SE(random_routes(8, 4, 1), 0),
        lambda: measure.segment_cache_hit_rate(random_routes(8, 4, 1), 4, 5),
        lambda: measure.standing_committee(torch.ones(2, 4), budgets=(5,)),
        lambda: measure.class_mass_CE(random_routes(8, 4, 1), torch.zeros(7)),
        lambda: measure.class_mass_CE(random_routes(8, 4, 1), torch.full((8,), 9), classes=3),
        lambda: measure.random_srp(1.5, 4),
    ):
        with pytest.raises(UserError):
            bad()


class Given(Scorer):
    """Scores are the input itself."""

    def forward(self, context: RouteContext) -> Scores:
        return Scores(context.x_TD, context.x_TD.softmax(1))


class Best(Selector):
    """Top-1."""

    def forward(self, selection_TE: torch.Tensor, scores: Scores, context: RouteContext) -> Plan:
        expert, order = selection_TE.argmax(1).sort(stable=True)
        weight = scores.probs_TE[order, expert]
        return Plan(order, weight, torch.bincount(expert, minlength=selection_TE.shape[1]), len(order))


def test_the_recorder_counts_what_passes_while_it_is_open(tmp_path: Path) -> None:
    model = torch.nn.ModuleList([Gate(Given(4, 4), Best()), Gate(Given(4, 4), Best())])
    recorder = Recorder(model, keep=64)
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    context = RouteContext(x, token_ids_T=torch.arange(48) % 3)
    model[0](context)  # closed: not seen
    for number in range(3):
        with recorder.step(number):
            model[0](context)
            model[0](context)
            model[1](context)
    seen = recorder.summary(segment=8)["layers"]
    assert sum(seen["0"]["counts"]) == 3 * 2 * 48
    assert sum(seen["1"]["counts"]) == 3 * 48
    assert [line["step"] for line in seen["0"]["history"]] == [0, 1, 2]
    assert seen["0"]["history"][0]["experts_per_token"] == 1.0
    assert {"srp", "srp_random", "sch", "sch_random", "specialisation", "classes_per_route"} <= set(seen["1"])
    assert 64 <= len(recorder.routes()["0"]) < 64 + 48
    assert "flip_rate" not in seen["0"]["history"][0]
    assert seen["0"]["history"][1]["flip_rate"] == 0.0
    assert "committee" not in seen["0"]
    recorder.save(tmp_path / "deep" / "d.json")
    assert json.loads((tmp_path / "deep" / "d.json").read_text()) == recorder.summary()
    assert not model[0]._forward_hooks
    with pytest.raises(UserError, match="written"):
        recorder.save(tmp_path)


def test_the_recorder_finds_the_committee_of_the_tasks() -> None:
    model = torch.nn.ModuleList([Gate(Given(4, 4), Best())])
    x = torch.zeros(60, 4)
    x[:40, 2] = 1.0  # two thirds of each task go to expert 2
    x[40:, 0] = 1.0
    recorder = Recorder(model)
    with recorder.step(0):
        model[0](RouteContext(x, task_ids_T=torch.arange(60) % 2))
    seen = recorder.summary(segment=4)["layers"]["0"]
    assert seen["committee"] == [2]
    assert seen["committee_coverage"] == pytest.approx(2 / 3)


def test_a_replayed_forward_is_not_counted() -> None:
    from torch.utils.checkpoint import checkpoint

    model = torch.nn.ModuleList([Gate(Given(4, 4), Best())])
    x = torch.randn(10, 4, requires_grad=True)
    recorder = Recorder(model)
    with recorder.step(0):
        weights = checkpoint(lambda rows: model[0](RouteContext(rows))[0].weight_N, x, use_reentrant=False)
        weights.sum().backward()
    assert sum(recorder.summary()["layers"]["0"]["counts"]) == 10


def test_flip_rates_between_two_recordings() -> None:
    model = torch.nn.ModuleList([Gate(Given(4, 4), Best())])
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(2))
    before, after = Recorder(model), Recorder(model)
    with before.step(0):
        model[0](RouteContext(x))
    moved = x.clone()
    moved[:10] = moved[:10].roll(1, 1)
    with after.step(1):
        model[0](RouteContext(moved))
    assert flip_rates(before, after) == {"0": 0.25}
    with pytest.raises(UserError, match="no gate"):
        Recorder(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="keep"):
        Recorder(model, keep=-1)
