"""The character model: causal, trainable with a gate of any kind, the same after saving and loading."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from junctor.errors import ArtefactError, UserError  # noqa: E402
from junctor.layers import catalogue, text_data, tiny_lm  # noqa: E402
from junctor.layers.layer import BalanceHook, MoELayer  # noqa: E402
from junctor.layers.tiny_lm import TinyConfig, TinyLM  # noqa: E402

SMALL = {"layers": 2, "d_model": 16, "heads": 2, "experts": 4, "hidden": 16, "sequence": 12}
TEXT = "the junction sends the long train down the slow line and the short one down the fast line. " * 8


def model(gate: str = "loss-free", **settings: object) -> TinyLM:
    torch.manual_seed(0)
    return TinyLM(TinyConfig(9, gate, dict(settings), **SMALL))


def ids(batch: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randint(9, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gate", ["dense", "top-k", "loss-free"])
def test_no_logit_depends_on_a_later_character(gate: str) -> None:
    net, seen = model(gate).eval(), ids()
    other = seen.clone()
    other[:, 8:] = (other[:, 8:] + 1) % 9
    torch.testing.assert_close(net(seen).logits_BSV[:, :8], net(other).logits_BSV[:, :8])


@pytest.mark.parametrize("gate", ["dense", "loss-free"])
def test_it_learns_a_short_text(gate: str) -> None:
    text = text_data.as_text(TEXT)
    torch.manual_seed(0)
    net = TinyLM(TinyConfig(text.vocabulary, gate, **SMALL))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    if gate != "dense":
        BalanceHook(net, optimiser)
    order, losses = torch.Generator().manual_seed(0), []
    for _ in range(25):
        seen, targets = text_data.random_windows(text.train, 12, 8, order)
        output = net(seen)
        loss = tiny_lm.next_character_loss(output, targets)
        optimiser.zero_grad()
        (loss + sum(output.losses().values())).backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_saved_and_loaded_it_is_the_same_bit_by_bit(tmp_path: Path) -> None:
    net = model("loss-free", rate=0.5)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    BalanceHook(net, optimiser)
    net(ids()).logits_BSV.sum().backward()
    optimiser.step()  # the gates' buffers are no longer what they start as
    net.eval()
    tiny_lm.save(net, tmp_path / "deep" / "m.safetensors", "abcdefghi")
    again, alphabet = tiny_lm.load(tmp_path / "deep" / "m.safetensors")
    assert alphabet == "abcdefghi"
    assert again.config == net.config
    assert not again.training
    assert torch.equal(net(ids()).logits_BSV, again(ids()).logits_BSV)
    prompt = torch.tensor([1, 2])
    assert torch.equal(net.generate(prompt, 20, seed=3), again.generate(prompt, 20, seed=3))
    assert len(again.generate(prompt, 20)) == 22
    assert torch.equal(again.generate(prompt, 5, temperature=0.0), again.generate(prompt, 5, temperature=0.0, seed=9))


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing of ours")
    for path in (tmp_path / "x", tmp_path / "absent"):
        with pytest.raises(ArtefactError, match="no saved model"):
            tiny_lm.load(path)
    net = model("dense")
    with pytest.raises(UserError, match="written"):
        tiny_lm.save(net, tmp_path / "x" / "m", "")


def test_bad_input_is_named() -> None:
    net = model("dense")
    with pytest.raises(UserError, match="up to 12"):
        net(ids(1, 13))
    with pytest.raises(UserError, match="prompt"):
        net.generate(torch.zeros(0, dtype=torch.int64), 3)
    with pytest.raises(UserError, match="heads"):
        TinyLM(TinyConfig(9, "dense", d_model=15))


def entries(causal: bool) -> list[str]:
    return [one.name for one in catalogue.GATES if one.causal is causal]


@pytest.mark.parametrize("name", entries(causal=False))
def test_a_gate_that_sees_the_future_is_refused(name: str) -> None:
    with pytest.raises(UserError):
        model(name)


def test_attention_is_computed_for_gates_that_read_it_only() -> None:
    net = model("top-k")
    assert not any(block.wants_attention for block in net.blocks)
    attention = tiny_lm.Attention(16, 2)
    x = torch.randn(2, 5, 16)
    plain, none = attention(x)
    same, weights = attention(x, weights=True)
    assert none is None
    assert torch.equal(plain, same)
    assert weights.shape == (2, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5))
    assert float(weights.triu(1).abs().max()) == 0.0


@pytest.mark.skipif("got-smoe" not in entries(causal=True), reason="that gate is not in the catalogue")
def test_a_gate_that_reads_attention_gets_it() -> None:
    net = model("got-smoe", smoothing="attention")
    assert all(block.wants_attention for block in net.blocks)
    assert net(ids()).logits_BSV.isfinite().all()


@pytest.mark.skipif("rmoe" not in entries(causal=True), reason="that gate is not in the catalogue")
def test_a_gate_that_recurs_over_depth_shares_its_cell_and_state() -> None:
    net = model("rmoe", width=8)
    layers = [one for one in net.modules() if isinstance(one, MoELayer)]
    assert layers[0].gate.scorer.cell is layers[1].gate.scorer.cell
    output = net(ids())
    loss = output.routed[1].plan.weight_N.square().sum()
    loss.backward()
    assert float(layers[0].gate.scorer.project_RD.grad.abs().sum()) > 0


def test_windows_and_characters() -> None:
    text = text_data.as_text(TEXT)
    assert text.decode(text.encode("the line")) == "the line"
    order = [text_data.random_windows(text.train, 8, 4, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(order[0][0], order[1][0])
    assert torch.equal(order[0][0][:, 1:], order[0][1][:, :-1])
    seen, targets = text_data.even_windows(text.held, 8, 100)
    assert torch.equal(seen[:, 1:], targets[:, :-1])
    for bad in (
        lambda: text.encode("Ж"),
        lambda: text_data.as_text("short"),
        lambda: text_data.as_text(TEXT, 1.0),
        lambda: text_data.random_windows(text.held, 4000, 1, torch.Generator()),
        lambda: text_data.even_windows(text.held, 4000, 1),
    ):
        with pytest.raises(UserError):
            bad()


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00" * 40)
    with pytest.raises(UserError, match="UTF-8"):
        text_data.read_text(tmp_path / "b")
    with pytest.raises(UserError, match="cannot be read"):
        text_data.read_text(tmp_path / "absent")


@pytest.mark.parametrize("name", entries(causal=True))
def test_every_causal_gate_trains_in_it(name: str) -> None:
    net = model(name)
    output = net(ids(), generator=torch.Generator().manual_seed(0))
    loss = tiny_lm.next_character_loss(output, ids()) + sum(output.losses().values())
    loss.backward()
    assert loss.isfinite()
    layers = [one for one in net.modules() if isinstance(one, MoELayer)]
    assert all(one.experts.w_in_EDI.grad is not None for one in layers)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
