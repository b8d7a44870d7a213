"""All backends give what a loop over tokens gives, in every gradient and for every shape of plan."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers import dispatch as dispatching
from junctor.layers.dispatch import BACKENDS, dispatch
from junctor.layers.experts import ExpertBank
from junctor.layers.fused import Buffers
from junctor.layers.selectors import plan_from_mask as plan_of

CASES = ("ragged", "top2", "empty experts", "no edges", "all to one", "one token", "no tokens", "every edge")
FAST = ("slices", "grouped_mm", "fused", "auto")
BANKS = {
    "ffn": {"kind": "ffn"},
    "ffn with bias": {"kind": "ffn", "bias": True, "activation": "relu"},
    "tanh": {"kind": "ffn", "activation": "gelu_tanh"},
    "glu": {"kind": "glu"},
    "glu with bias": {"kind": "glu", "bias": True},
    "lora": {"kind": "lora", "alpha": 16.0, "d_out": 12},
    "pseudo": {"kind": "ffn", "zero": 1, "identity": 2},
}
E, D, H = 6, 8, 4


def weights_of(case: str, experts: int, tokens: int = 13, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """chosen_TE and weight_TE of the case."""
    made = torch.Generator().manual_seed(sum(map(ord, case)))
    tokens = {"one token": 1, "no tokens": 0}.get(case, tokens)
    draw_TE = torch.rand(tokens, experts, generator=made, dtype=dtype)
    chosen_TE = draw_TE > 0.6
    if case == "top2":
        chosen_TE = torch.zeros_like(chosen_TE).scatter(1, draw_TE.topk(2, dim=1).indices, True)
    elif case == "empty experts":
        chosen_TE[:, ::2] = False
    elif case == "no edges":
        chosen_TE[:] = False
    elif case == "all to one":
        chosen_TE[:] = False
        chosen_TE[:, 1] = True
    elif case == "every edge":
        chosen_TE[:] = True
    return chosen_TE, torch.rand(tokens, experts, generator=made, dtype=dtype) - 0.3


def bank_of(name: str, dtype: torch.dtype = torch.float32) -> ExpertBank:
    torch.manual_seed(3)
    settings = dict(BANKS[name])
    pseudo = settings.get("zero", 0) + settings.get("identity", 0)
    bank = ExpertBank(E - pseudo, D, H, dtype=dtype, **settings)
    with torch.no_grad():
        for weight in bank.parameters():
            weight.copy_(torch.randn(weight.shape, dtype=dtype))
    return bank


def dense(bank: ExpertBank, x_TD: Tensor, weight_TE: Tensor) -> Tensor:
    """All experts for all tokens, weighted: the definition, pseudo-experts included."""
    y_TO = torch.einsum("te,eto->to", weight_TE[:, : bank.real], bank(x_TD))
    if bank.identity:
        y_TO = y_TO + weight_TE[:, bank.real + bank.zero :].sum(1, keepdim=True) * x_TD
    return y_TO


def everything(bank: ExpertBank, case: str, how: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Output and all gradients."""
    torch.manual_seed(5)
    chosen_TE, weight_TE = weights_of(case, E, dtype=dtype)
    x_TD = torch.randn(chosen_TE.shape[0], D, dtype=dtype).requires_grad_()
    weight_TE.requires_grad_()
    if how == "dense":
        y_TO = dense(bank, x_TD, weight_TE * chosen_TE)
    else:
        y_TO = dispatch(plan_of(chosen_TE, weight_TE), x_TD, bank, how)
    leaves = [x_TD, weight_TE, *bank.parameters()]
    found = torch.autograd.grad((y_TO * torch.randn_like(y_TO)).sum(), leaves, allow_unused=True)
    return [y_TO, *(torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True))]


def assert_same(ours: list[Tensor], theirs: list[Tensor], rtol: float = 2e-5) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bank", BANKS)
def test_the_reference_is_the_definition(bank: str, case: str) -> None:
    made = bank_of(bank)
    assert_same(everything(made, case, "reference"), everything(made, case, "dense"))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bank", BANKS)
def test_backends_equal_the_reference_in_output_and_every_gradient(bank: str, case: str, backend: str) -> None:
    made = bank_of(bank)
    assert_same(everything(made, case, backend), everything(made, case, "reference"))


@pytest.mark.parametrize("bank", ["ffn with bias", "glu with bias", "lora", "pseudo"])
@pytest.mark.parametrize("backend", ["slices", "fused"])
def test_in_double_precision_the_difference_is_rounding(bank: str, backend: str) -> None:
    made = bank_of(bank, torch.float64)
    ours, theirs = (everything(made, "ragged", how, torch.float64) for how in (backend, "reference"))
    assert_same(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("backend", ["slices", "grouped_mm", "fused"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_cpu(backend: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    bank = ExpertBank(E, 16, 8, "glu", dtype=dtype)
    chosen_TE, weight_TE = weights_of("ragged", E)
    x_TD = torch.randn(13, 16)
    y = dispatch(plan_of(chosen_TE, weight_TE), x_TD.to(dtype), bank, backend)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), dense(bank.float(), x_TD, weight_TE * chosen_TE), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("backend", ["slices", "grouped_mm", "fused"])
def test_a_summed_output_has_a_gradient(backend: str) -> None:
    """`sum()` gives a gradient of stride 0, on which the grouped product's own backward fails."""
    bank = bank_of("ffn")
    chosen_TE, weight_TE = weights_of("top2", E)
    dispatch(plan_of(chosen_TE, weight_TE), torch.randn(13, D), bank, backend).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in bank.parameters())


@pytest.mark.parametrize("backend", ["slices", "grouped_mm", "fused"])
def test_frozen_experts_get_no_gradient_and_the_rest_is_the_same(backend: str) -> None:
    bank = bank_of("glu with bias")
    whole = everything(bank, "ragged", "reference")[:3]
    bank.w_in_EDI.requires_grad_(False)
    chosen_TE, weight_TE = weights_of("ragged", E)
    torch.manual_seed(5)
    x_TD = torch.randn(13, D).requires_grad_()
    y = dispatch(plan_of(chosen_TE, weight_TE.requires_grad_()), x_TD, bank, backend)
    (y * torch.randn_like(y)).sum().backward()
    assert bank.w_in_EDI.grad is None
    assert x_TD.grad is not None
    assert weight_TE.grad is not None
    assert_same([y, x_TD.grad, weight_TE.grad], whole)


def test_gradients_accumulate_over_two_backward_passes() -> None:
    """Kept buffers must not be written again while a gradient still lies in them."""
    bank, other = bank_of("ffn"), bank_of("ffn")
    for _ in range(3):
        for made, backend in ((bank, "fused"), (other, "reference")):
            torch.manual_seed(7)
            for case in ("ragged", "top2"):
                chosen_TE, weight_TE = weights_of(case, E)
                dispatch(plan_of(chosen_TE, weight_TE), torch.randn(13, D), made, backend).square().sum().backward()
    assert_same([one.grad for one in bank.parameters()], [one.grad for one in other.parameters()])  # type: ignore[misc]


def test_two_forwards_before_one_backward() -> None:
    bank = bank_of("ffn")
    chosen_TE, weight_TE = weights_of("ragged", E)
    plan, x_TD = plan_of(chosen_TE, weight_TE), torch.randn(13, D)
    grads = {}
    for backend in ("reference", "fused"):
        first = dispatch(plan, x_TD, bank, backend)
        second = dispatch(plan, 2 * x_TD, bank, backend)
        grads[backend] = list(torch.autograd.grad((first + second).sum(), list(bank.parameters())))
    assert_same(grads["fused"], grads["reference"])


def test_a_buffer_is_used_again_only_when_nobody_holds_it() -> None:
    buffers, like = Buffers(), torch.empty(1)
    first = buffers.take("h", like, (4, 4))
    second = buffers.take("h", like, (4, 4))
    assert first.data_ptr() != second.data_ptr()
    held = second.data_ptr()
    del second
    assert buffers.take("h", like, (4, 4)).data_ptr() == held


def test_gradients_lie_in_the_same_memory_step_after_step_and_nothing_grows() -> None:
    bank = bank_of("glu")
    places = set()
    for step in range(4):
        bank.zero_grad(set_to_none=True)
        chosen_TE, weight_TE = weights_of("ragged" if step % 2 else "top2", E)
        dispatch(plan_of(chosen_TE, weight_TE), torch.randn(13, D), bank, "fused").sum().backward()
        places.add(tuple(one.grad.data_ptr() for one in bank.parameters()))  # type: ignore[union-attr]
    assert len(places) == 1
    buffers = dispatching.buffers_of(bank)
    assert all(len(lane) <= Buffers.LANE for lane in buffers._lanes.values())
    buffers.clear()
    everything(bank, "top2", "fused")


def test_inference_mode_leaves_nothing_that_training_stumbles_over() -> None:
    bank = bank_of("ffn")
    chosen_TE, weight_TE = weights_of("top2", E)
    with torch.inference_mode():
        dispatch(plan_of(chosen_TE, weight_TE), torch.randn(13, D), bank, "fused")
    assert_same(everything(bank, "top2", "fused"), everything(bank, "top2", "reference"))
    with torch.inference_mode():
        assert dispatch(plan_of(chosen_TE, weight_TE), torch.randn(13, D), bank, "auto").isfinite().all()


def test_a_view_of_a_buffer_holds_it() -> None:
    buffers, like = Buffers(), torch.empty(1)
    row = buffers.take("h", like, (4, 4))[1]
    row.fill_(7)
    buffers.take("h", like, (4, 4)).zero_()
    assert row.tolist() == [7, 7, 7, 7]


def test_a_bank_with_buffers_copies_and_pickles() -> None:
    bank = bank_of("ffn")
    everything(bank, "top2", "fused")
    for twin in (copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))):
        assert_same(everything(twin, "top2", "fused"), everything(bank, "top2", "reference"))


@pytest.fixture
def _forgetful() -> Iterator[None]:
    dispatching.forget()
    yield
    dispatching.forget()


@pytest.mark.usefixtures("_forgetful")
def test_auto_measures_once_per_kind_of_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    timed = dispatching._timed
    monkeypatch.setattr(dispatching, "_timed", lambda *all: calls.append(1) or timed(*all))
    bank = bank_of("ffn")
    everything(bank, "top2", "auto")
    assert len(calls) == 3 * dispatching.ROUNDS
    everything(bank, "top2", "auto")
    assert len(calls) == 3 * dispatching.ROUNDS
    assert set(dispatching.chosen().values()) <= {"slices", "grouped_mm", "fused"}


@pytest.mark.usefixtures("_forgetful")
def test_measuring_leaves_no_gradient_behind_and_takes_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of("ffn")
    times = {BACKENDS["fused"]: 3.0, BACKENDS["slices"]: 1.0, BACKENDS["grouped_mm"]: 2.0}
    monkeypatch.setattr(dispatching, "_timed", lambda compute, *rest: times[compute])
    chosen_TE, weight_TE = weights_of("top2", E)
    dispatch(plan_of(chosen_TE, weight_TE), torch.randn(13, D), bank)
    assert list(dispatching.chosen().values()) == ["slices"]
    assert all(weight.grad is None for weight in bank.parameters())


@pytest.mark.parametrize(
    ("bank", "x", "backend", "field"),
    [
        (ExpertBank(E, D, H), torch.randn(13, D), "quick", "backend"),
        (ExpertBank(E, D + 1, H), torch.randn(13, D), "auto", "x"),
        (ExpertBank(E + 1, D, H), torch.randn(13, D), "auto", "plan"),
        (ExpertBank(E, D, H), torch.randn(12, D), "auto", "plan"),
        (ExpertBank(E, D, H), torch.randn(13, D).half(), "auto", "x.dtype"),
        (ExpertBank(E, D, H), torch.randn(13, D, device="meta"), "auto", "x.device"),
        (ExpertBank(E, D, 5), torch.randn(13, D), "grouped_mm", "backend"),
        (ExpertBank(E, D, H, dtype=torch.float64), torch.randn(13, D).double(), "grouped_mm", "backend"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(bank: ExpertBank, x: Tensor, backend: str, field: str) -> None:
    with pytest.raises(UserError) as raised:
        dispatch(plan_of(*weights_of("top2", E)), x, bank, backend)
    assert raised.value.field == field
    assert raised.value.fix


def test_a_plan_whose_counts_do_not_add_up_is_refused() -> None:
    """Rows beyond the last offset would get uninitialised gradients from the grouped product."""
    plan = plan_of(*weights_of("top2", E))
    plan.counts_E[0] += 1
    for backend in BACKENDS:
        with pytest.raises(UserError, match="counts that add up"):
            dispatch(plan, torch.randn(13, D), bank_of("ffn"), backend)


def test_autocast_computes_in_its_type_and_gradients_stay_in_the_weights_own() -> None:
    bank = bank_of("ffn")
    chosen_TE, weight_TE = weights_of("top2", E)
    x_TD = torch.randn(13, D).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = dispatch(plan_of(chosen_TE, weight_TE), x_TD, bank, "fused")
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert x_TD.grad is not None
    assert x_TD.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), dense(bank, x_TD, weight_TE * chosen_TE), rtol=0.1, atol=0.2)


def test_the_backward_of_indexing_a_stack_is_not_used() -> None:
    """No backend's graph holds a `select` of a stacked parameter: its backward is O(E²)."""
    bank = bank_of("ffn")
    for backend in BACKENDS:
        y = dispatch(plan_of(*weights_of("top2", E)), torch.randn(13, D), bank, backend)
        seen, todo = set(), [y.grad_fn]
        while todo:
            node = todo.pop()
            if node is not None and node not in seen:
                seen.add(node)
                todo += [after for after, _ in node.next_functions]
        names = [(type(node).__name__, tuple(type(after).__name__ for after, _ in node.next_functions)) for node in seen]
        assert ("SelectBackward0", ("AccumulateGrad",)) not in names


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"kind": "cnn"}, "experts.kind"),
        ({"activation": "sine"}, "experts.activation"),
        ({"hidden": 0}, "experts.experts"),
        ({"zero": -1}, "experts.experts"),
        ({"identity": 1, "d_out": 3}, "experts.identity"),
    ],
)
def test_impossible_banks_are_refused(settings: dict[str, object], field: str) -> None:
    with pytest.raises(UserError) as raised:
        ExpertBank(**{"experts": 2, "d_model": 4, "hidden": 4, **settings})  # type: ignore[arg-type]
    assert raised.value.field == field


def test_an_untrained_lora_bank_changes_nothing() -> None:
    bank = ExpertBank(E, D, 2, "lora", alpha=4)
    y = dispatch(plan_of(*weights_of("top2", E)), torch.randn(13, D), bank)
    assert y.abs().max() == 0
    assert bank.scale == 2
    assert "6 × lora" in repr(bank)
