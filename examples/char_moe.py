"""A routed character model from scratch: train it, save it, load it again, let it write.

python examples/char_moe.py [TEXT] [STEPS]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from junctor.layers.layer import BalanceHook
from junctor.layers.text_data import as_text, even_windows, random_windows, read_text
from junctor.layers.tiny_lm import TinyConfig, TinyLM, load, next_character_loss, save

VERSE = """A junction takes what comes along the line
And sends it down the track that suits it best;
The short and simple go the cheaper way,
The long and hard are given to the rest.
"""


def main(steps: int = 200) -> None:
    """Four lines are enough to see it learn; name a longer text for more."""
    text = read_text(Path(sys.argv[1])) if len(sys.argv) > 1 else as_text(VERSE * 20)
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else steps
    torch.manual_seed(0)
    model = TinyLM(TinyConfig(text.vocabulary, "loss-free", layers=2, d_model=64, heads=2, experts=4, hidden=64, sequence=64))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    BalanceHook(model, optimiser)  # the bias of loss-free moves after each optimiser step
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        ids, targets = random_windows(text.train, 64, 16, order)
        output = model(ids, step=step)
        loss = next_character_loss(output, targets)
        optimiser.zero_grad()
        (loss + sum(output.losses().values())).backward()
        optimiser.step()
        if step % max(1, steps // 5) == 0 or step + 1 == steps:
            print(f"step {step + 1:4}  loss {loss.item():.3f}  experts {output.routed[0].plan.counts_E.tolist()}")

    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "char_moe.safetensors", text.alphabet)
        again, alphabet = load(Path(folder) / "char_moe.safetensors")
    ids, _ = even_windows(text.held, 64, 2)
    model.eval()
    assert torch.equal(model(ids).logits_BSV, again(ids).logits_BSV)  # the same, bit by bit
    prompt = text.encode("A junction")
    print("".join(alphabet[i] for i in again.generate(prompt, 120, temperature=0.0).tolist()))


if __name__ == "__main__":
    main()
