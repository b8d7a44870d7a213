"""Adapters that peft made and saved itself: read from its folder, a bank of them gives what peft's model gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from junctor.errors import UserError
from junctor.layers.adapters import AdaptedLinear, bank_from_peft, load_peft, lora_scale, read_lora
from junctor.layers.catalogue import gate
from junctor.layers.plan import Plan

peft = pytest.importorskip("peft")

D, O, T = 6, 10, 5  # noqa: E741


class Block(nn.Module):
    """Two linear layers, the outer one below a name of two words."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"up_proj": nn.Linear(D, O), "down_proj": nn.Linear(O, D)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One after the other."""
        return self.inner["down_proj"](torch.tanh(self.inner["up_proj"](x)))


def base() -> Block:
    torch.manual_seed(0)
    return Block()


def saved(folder: Path, seed: int, **settings: Any) -> tuple[Path, nn.Module]:
    """An adapter with random A and B, saved by peft, and peft's model."""
    config = peft.LoraConfig(target_modules=["up_proj", "down_proj"], **{"r": 3, "lora_alpha": 6, **settings})
    model = peft.get_peft_model(base(), config)
    torch.manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(value)
    model.save_pretrained(folder)
    return folder, model.eval()


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 4},
    "patterns": {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"up_proj": 9}},
}


def one_expert(experts: int, chosen: int) -> Plan:
    """All tokens to one adapter with weight one."""
    counts = torch.zeros(experts, dtype=torch.int64)
    counts[chosen] = T
    return Plan(torch.arange(T), torch.ones(T), counts, T)


@pytest.mark.parametrize("module", ["inner.up_proj", "inner.down_proj"])
def test_a_bank_of_saved_adapters_gives_what_each_model_gives(tmp_path: Path, module: str) -> None:
    made = [saved(tmp_path / kind, seed, **settings) for seed, (kind, settings) in enumerate(KINDS.items())]
    bank = bank_from_peft([folder for folder, _ in made], module)
    layer = AdaptedLinear(base().get_submodule(module), bank)
    x = torch.randn(T, bank.d_in)
    for e, (_, model) in enumerate(made):
        theirs = model.base_model.model.get_submodule(module)
        torch.testing.assert_close(layer(x, plan=one_expert(len(made), e)), theirs(x))


def test_a_whole_model_runs_on_banks_and_is_routed(tmp_path: Path) -> None:
    folder, model = saved(tmp_path / "a", 1)
    other, _ = saved(tmp_path / "b", 2)
    ours, x = base(), torch.randn(T, D)
    for name in ("up_proj", "down_proj"):
        bank = bank_from_peft([folder / "adapter_model.safetensors", str(other)], f"inner.{name}")
        ours.inner[name] = AdaptedLinear(ours.inner[name], bank)
    hidden = torch.tanh(ours.inner["up_proj"](x, plan=one_expert(2, 0)))
    torch.testing.assert_close(ours.inner["down_proj"](hidden, plan=one_expert(2, 0)), model(x))
    routed = AdaptedLinear(base().inner["up_proj"], ours.inner["up_proj"].bank, gate("phatgoose", D, 2, k=2))
    y = routed(x)
    assert y.shape == (T, O)
    assert not torch.allclose(y, base().inner["up_proj"](x))


def test_what_peft_saves_is_read_by_module(tmp_path: Path) -> None:
    state, config = load_peft(saved(tmp_path, 0, **KINDS["patterns"])[0])
    weights = read_lora(state)
    assert {name: tuple(down.shape) for name, (down, _) in weights.items()} == {
        "inner.up_proj": (3, D),
        "inner.down_proj": (2, O),
    }
    assert lora_scale(config, 3, "inner.up_proj") == 3.0
    assert lora_scale(config, 2, "inner.down_proj") == 3.0


def test_what_is_no_lora_is_named(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "dora", 0, use_dora=True)
    with pytest.raises(UserError, match="not a plain LoRA"):
        bank_from_peft([folder], "inner.up_proj")
    with pytest.raises(UserError, match="biases"):
        load_peft(saved(tmp_path / "bias", 0, bias="lora_only")[0])
    with pytest.raises(UserError, match="cannot be read"):
        load_peft(tmp_path / "absent")
    folder, _ = saved(tmp_path / "plain", 0)
    with pytest.raises(UserError, match="does not cover"):
        bank_from_peft([folder], "inner.gate_proj")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "IA3"}))
    with pytest.raises(UserError, match="not LORA"):
        load_peft(folder)
    config.write_text("{")
    with pytest.raises(UserError, match="no saved adapter"):
        load_peft(folder)
    config.write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no saved adapter"):
        load_peft(folder)
