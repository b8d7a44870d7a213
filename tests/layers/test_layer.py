"""MoELayer in place of an FFN: shapes, saving, compile, autocast, checkpointing, processes; and balancing between steps."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from junctor.errors import UserError
from junctor.layers import catalogue
from junctor.layers.contracts import Balancer, Gate, Selector
from junctor.layers.experts import ExpertBank
from junctor.layers.layer import BalanceHook, MoELayer
from junctor.layers.linear import LinearScorer
from junctor.layers.selectors import TopK

E, D, H = 4, 8, 8


class Counting(Balancer):
    """Keeps what update() was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def update(self, counts_E: Tensor) -> None:
        self.seen.append(counts_E.tolist())


def gate_of(k: int = 2, experts: int = E, balancer: Balancer | None = None) -> Gate:
    return Gate(LinearScorer(D, experts, std=1.0), TopK(k), balancer, name="linear")


def layer_of(dispatcher: str = "fused", balancer: Balancer | None = None, **settings: Any) -> MoELayer:
    torch.manual_seed(0)
    return MoELayer(gate_of(balancer=balancer), ExpertBank(E, D, H, "glu"), dispatcher, **settings)


def gradients(layer: nn.Module, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), list(layer.parameters())))


@pytest.mark.parametrize("shape", [(D,), (5, D), (2, 3, D), (2, 1, 3, D), (0, D), (2, 0, D)])
def test_the_output_has_the_shape_of_the_input(shape: tuple[int, ...]) -> None:
    y = layer_of()(torch.randn(shape))
    assert y.shape == shape
    assert y.isfinite().all()


def test_it_is_the_weighted_sum_of_the_chosen_experts() -> None:
    layer = layer_of()
    x = torch.randn(2, 3, D)
    out = layer.forward_with_plan(x)
    wanted = torch.einsum("te,ted->td", out.plan.dense_TE(), layer.experts(x.reshape(-1, D)).transpose(0, 1))
    torch.testing.assert_close(out.y.reshape(-1, D), wanted)
    torch.testing.assert_close(layer(x), out.y)
    assert out.losses == {}


def test_a_shared_expert_is_added() -> None:
    shared = nn.Linear(D, D)
    x = torch.randn(3, D)
    torch.testing.assert_close(layer_of(shared=shared)(x), layer_of()(x) + shared(x))


def test_a_layer_without_tokens_gives_zero_gradients_to_everything() -> None:
    layer = layer_of()
    assert all(one.abs().sum() == 0 for one in gradients(layer, layer(torch.randn(0, D))))


def test_padding_gets_zeros_and_a_batch_of_padding_too() -> None:
    layer, x = layer_of(), torch.randn(2, 3, D)
    padding = torch.tensor([[False, False, True], [False, True, True]])
    y = layer(x, padding_T=padding)
    assert y[padding].abs().max() == 0
    assert y[~padding].abs().min() > 0
    assert layer(x, padding_T=torch.ones_like(padding)).abs().max() == 0


def test_a_non_contiguous_input_is_the_same_as_its_copy() -> None:
    layer, x = layer_of(), torch.randn(3, 2, D).transpose(0, 1)
    assert not x.is_contiguous()
    torch.testing.assert_close(layer(x), layer(x.contiguous()))


@pytest.mark.parametrize(
    ("x", "field"),
    [
        (torch.full((3, D), float("nan")), "selection_TE"),
        (torch.randn(3, D + 1), "x"),
        (torch.tensor(1.0), "x"),
        (torch.ones(3, D, dtype=torch.int64), "x"),
        (torch.randn(3, D, device="meta"), "x.device"),
        (torch.randn(3, D).half(), "x.dtype"),
    ],
)
def test_bad_input_is_refused_by_name(x: Tensor, field: str) -> None:
    with pytest.raises(UserError) as raised:
        layer_of()(x)
    assert raised.value.field == field
    assert raised.value.fix


class Blind(Selector):
    """Looks at no score, so NaN passes it."""

    def forward(self, selection_TE: Tensor, scores: Any, context: Any) -> Any:
        return TopK(2)(torch.zeros_like(selection_TE), scores, context)


def test_nan_scores_are_refused_when_the_selector_lets_them_pass() -> None:
    layer = MoELayer(Gate(LinearScorer(D, E), Blind()), ExpertBank(E, D, H))
    x = torch.randn(3, D)
    x[1] = float("nan")
    with pytest.raises(UserError, match="the first is token 1"):
        layer(x)
    padding = torch.tensor([False, True, False])
    assert layer(x, padding_T=padding)[[0, 2]].isfinite().all()


def test_more_experts_per_token_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="cannot choose 9 experts"):
        MoELayer(gate_of(k=9), ExpertBank(E, D, H))(torch.randn(3, D))


def test_half_precision_on_the_cpu_is_computed() -> None:
    layer = layer_of().half()
    y = layer(torch.randn(3, D).half())
    assert y.dtype == torch.float16
    assert y.isfinite().all()


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="the gate knows 4 experts, the bank has 5"):
        MoELayer(gate_of(), ExpertBank(E, D, H, zero=1))
    with pytest.raises(UserError, match="no dispatcher"):
        layer_of("fast")


class Sees(TopK):
    causal = False


def test_a_gate_that_sees_later_tokens_is_refused_in_an_autoregressive_model() -> None:
    gate, bank = Gate(LinearScorer(D, E), Sees(2), name="ec"), ExpertBank(E, D, H)
    with pytest.raises(UserError, match="'ec' looks at later tokens"):
        MoELayer(gate, bank)
    MoELayer(gate, bank, allow_non_causal=True)
    MoELayer(gate, bank, autoregressive=False)


def test_from_plain_values() -> None:
    config = {"d_model": D, "experts": E, "hidden": H, "gate": "top-k", "gate_settings": {"k": 3}, "bank": {"zero": 1}}
    layer = MoELayer.from_config({**config, "dispatcher": "slices"})
    assert (layer.gate.experts, layer.gate.name, layer.dispatcher) == (E + 1, "top-k", "slices")
    out = layer.forward_with_plan(torch.randn(3, D))
    assert out.plan.edges == 9
    assert set(out.losses) == {"switch", "z"}
    for wrong, field in (({**config, "width": 3}, "width"), ({"d_model": D}, "experts"), ({**config, "gate": "none"}, "gate")):
        with pytest.raises(UserError) as raised:
            MoELayer.from_config(wrong)
        assert raised.value.field == field


def test_a_gate_that_looks_at_experts_is_shown_the_bank() -> None:
    layer = MoELayer.from_config({"d_model": D, "experts": E, "hidden": H, "gate": "erc"})
    before = layer.forward_with_plan(torch.randn(3, D), generator=torch.Generator().manual_seed(0)).losses
    with torch.no_grad():
        layer.experts.w_in_EDI *= 3
    after = layer.forward_with_plan(torch.randn(3, D), generator=torch.Generator().manual_seed(0)).losses
    assert before["erc"] != after["erc"]
    other = copy.deepcopy(layer)
    assert other.gate.balancer._experts[0] is other.experts


def test_a_causal_gate_of_the_catalogue_is_taken_and_one_that_is_not_is_refused() -> None:
    config = {"d_model": D, "experts": E, "hidden": H}
    MoELayer.from_config({**config, "gate": "loss-free"})
    with pytest.raises(UserError, match="'ec-dlm' looks at later tokens"):
        MoELayer.from_config({**config, "gate": "ec-dlm"})
    MoELayer.from_config({**config, "gate": "ec-dlm", "autoregressive": False})


def test_a_state_dict_carries_everything(tmp_path: Path) -> None:
    layer, x = layer_of(), torch.randn(3, D)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    torch.manual_seed(99)
    other = MoELayer(gate_of(), ExpertBank(E, D, H, "glu"), "fused")
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # from inside the compiler
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fused", "grouped_mm"])
def test_compiled_it_gives_the_same(backend: str) -> None:
    layer, x = layer_of(backend), torch.randn(2, 3, D)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    for ours, theirs in zip(gradients(layer, compiled(x)), gradients(layer, layer(x)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_under_autocast_scores_stay_exact_and_products_do_not() -> None:
    layer, x = layer_of(), torch.randn(64, D)
    plain = layer.forward_with_plan(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = layer.forward_with_plan(x)
    assert torch.equal(cast.scores.logits_TE, plain.scores.logits_TE)
    assert torch.equal(cast.plan.token_N, plain.plan.token_N)
    assert cast.y.dtype == torch.bfloat16
    torch.testing.assert_close(cast.y.float(), plain.y, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_it_gives_the_same_and_counts_once(reentrant: bool) -> None:
    balancer = Counting()
    layer, x = layer_of(balancer=balancer), torch.randn(5, D, requires_grad=True)
    wanted = gradients(layer, layer(x))
    hook = BalanceHook(layer)
    layer.zero_grad()
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    hook.step()
    for parameter, other in zip(layer.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, other)
    assert [sum(counts) for counts in balancer.seen] == [10]


def test_the_balancer_is_updated_once_per_step_with_the_counts_of_all_micro_batches() -> None:
    balancer = Counting()
    layer = layer_of(balancer=balancer)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    hook = BalanceHook(nn.Sequential(layer), optimiser)
    counts = []
    for _ in range(2):
        out = layer.forward_with_plan(torch.randn(5, D))
        counts.append(out.plan.counts_E)
        out.y.sum().backward()
    layer.eval()
    layer(torch.randn(50, D))
    layer.train()
    optimiser.step()
    assert balancer.seen == [sum(counts).tolist()]  # type: ignore[attr-defined]
    optimiser.step()
    assert len(balancer.seen) == 1
    hook.close()
    layer(torch.randn(5, D))
    optimiser.step()
    assert len(balancer.seen) == 1


def test_layers_that_share_a_gate_share_its_counts() -> None:
    balancer = Counting()
    gate = gate_of(balancer=balancer)
    model = nn.Sequential(*(MoELayer(gate, ExpertBank(E, D, H)) for _ in range(2)))
    hook = BalanceHook(model)
    model(torch.randn(5, D))
    hook.step()
    assert [sum(counts) for counts in balancer.seen] == [20]


def test_a_watched_layer_copies_without_its_watchers() -> None:
    balancer = Counting()
    layer = layer_of(balancer=balancer)
    hook = BalanceHook(layer)
    copy.deepcopy(layer)(torch.randn(5, D))
    hook.step()
    assert balancer.seen == []


def test_a_model_without_a_layer_has_nothing_to_balance() -> None:
    with pytest.raises(UserError, match="no MoELayer"):
        BalanceHook(nn.Linear(2, 2))


TRAIN = """
import sys
import torch
from torch import nn
from junctor.layers.catalogue import gate
from junctor.layers.experts import ExpertBank
from junctor.layers.layer import BalanceHook, MoELayer

folder, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
layer = MoELayer(gate("loss-free", 8, 4, rate=0.5), ExpertBank(4, 8, 8), "fused")
start = {name: one.clone() for name, one in layer.state_dict().items()}
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
model = nn.parallel.DistributedDataParallel(layer)
hook = BalanceHook(model)
seen = []
layer.gate.balancer.update = lambda counts_E: seen.append(counts_E.tolist())
torch.manual_seed(1)
model(torch.randn(6, 8)[rank * 3 :][:3]).square().sum().backward()
hook.step()
torch.save((start, [one.grad for one in layer.parameters()], seen), f"{folder}/{rank}.pt")
torch.distributed.barrier()  # both have all they need: neither leaves while the other still talks
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_in_two_processes_gradients_are_averaged_and_counts_summed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    commands = [[sys.executable, str(tmp_path / "train.py"), str(tmp_path), str(rank)] for rank in range(2)]
    running = [subprocess.Popen(command) for command in commands]
    try:
        assert [one.wait(timeout=90) for one in running] == [0, 0]
    finally:
        for one in running:
            one.kill()
    layer = MoELayer(catalogue.gate("loss-free", D, E), ExpertBank(E, D, H), "reference")
    for rank in range(2):
        start, found, seen = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        layer.load_state_dict(start)
        torch.manual_seed(1)
        out = layer.forward_with_plan(torch.randn(6, D))
        for ours, theirs in zip(found, gradients(layer, out.y), strict=True):
            torch.testing.assert_close(ours, theirs / 2)
        assert seen == [out.plan.counts_E.tolist()]
