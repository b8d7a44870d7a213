"""Training by gradient descent, once for all estimators that need it: AdamW on one core, early stop on held-out training rows.

PyTorch is imported when a fit begins, not before, and nothing of it is kept: weights come back as numpy arrays. All randomness
comes from the generator that is passed in, so that one seed gives one fit. AdamW (Loshchilov and Hutter 2019) is written out
below because importing torch.optim costs more time than most of these fits.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.errors import MissingExtra
from junctor.policy import Array

Tensor = Any
"""A torch.Tensor; a name, so that reading this module does not import torch."""
Rows = NDArray[np.intp]
Loss = Callable[[Mapping[str, Tensor], Rows, np.random.Generator], Tensor]
"""(weights, positions of rows, randomness) -> a scalar to be made small."""

FEWEST_HELD_OUT = 16
"""With fewer rows than this to judge by, nothing is held out and training runs to its end."""
BETAS = (0.9, 0.99)
EPSILON = 1e-8
LAST_RATE = 0.1
"""The learning rate falls to this share of itself, linearly over the epochs."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    rate, decay   AdamW's learning rate and weight decay
    epochs        at most so many; `patience` epochs without a better held-out loss end it sooner
    batch         rows per step, at most a quarter of all rows
    rows          rows per epoch, drawn anew each time: caps the time on large tables
    held_out      share of the rows that judge, and are not learned from
    """

    rate: float = 0.01
    decay: float = 0.01
    epochs: int = 40
    batch: int = 256
    rows: int = 4096
    patience: int = 6
    held_out: float = 0.15


@dataclass(frozen=True, slots=True)
class Descent:
    """The weights of the epoch that was best on held-out rows, and the mean loss of every epoch, learned and held out."""

    weights: dict[str, Array]
    losses: tuple[float, ...]
    held_out: tuple[float, ...]


def torch_for(who: str) -> Any:
    """The torch module; raises MissingExtra in the name of `who` when it is not installed."""
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise MissingExtra("is trained with PyTorch", field=who, fix="pip install 'junctor[neural]'") from error


def descend(
    who: str,
    start: Mapping[str, Array],
    loss: Loss,
    rows: Rows,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    judge: Loss | None = None,
) -> Descent:
    """Make `loss` small on `rows`, from `start`; without a row, the start itself.

    `judge` is what held-out rows are judged by, where that is a part of the loss only. Raises MissingExtra when torch is
    not installed.
    """
    torch = torch_for(who)
    with _one_thread(torch):
        shapes = {name: values.shape for name, values in start.items()}
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        joined = np.concatenate([np.ravel(values) for values in start.values()]).astype(np.float32)
        flat = torch.from_numpy(joined).requires_grad_(True)

        def views() -> dict[str, Tensor]:
            parts = torch.split(flat, sizes)
            return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

        def of(measure: Loss) -> Callable[[Rows, np.random.Generator], Tensor]:
            return lambda batch, draw: measure(views(), batch, draw)

        best, losses, judged = _epochs(torch, flat, of(loss), of(judge or loss), rows, recipe, rng)
    cuts = np.split(best.astype(np.float64), np.cumsum(sizes)[:-1])
    weights = {name: cut.reshape(shape) for (name, shape), cut in zip(shapes.items(), cuts, strict=True)}
    return Descent(weights, tuple(losses), tuple(judged))


def _epochs(
    torch: Any,
    flat: Tensor,
    loss: Callable[[Rows, np.random.Generator], Tensor],
    judge: Callable[[Rows, np.random.Generator], Tensor],
    rows: Rows,
    recipe: Recipe,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], list[float], list[float]]:
    learned, held = _parted(rows, recipe.held_out, rng)
    seed = int(rng.integers(2**63))
    stepper = _AdamW(torch, flat, recipe)
    best, losses, judged = flat.detach().numpy().copy(), [], []
    for epoch in range(recipe.epochs if len(learned) else 0):
        pace = 1.0 - (1.0 - LAST_RATE) * epoch / recipe.epochs
        losses.append(float(np.mean([stepper.step(loss(batch, rng), pace) for batch in _batches(learned, recipe, rng)])))
        if not len(held):
            best = flat.detach().numpy().copy()
            continue
        with torch.no_grad():
            judged.append(float(judge(held, np.random.default_rng(seed))))
        if judged[-1] <= min(judged):
            best = flat.detach().numpy().copy()
        if epoch - int(np.argmin(judged)) >= recipe.patience:
            break
    return best, losses, judged


def _parted(rows: Rows, share: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to judge by; none to judge by where they would be too few."""
    mixed = rng.permutation(rows)
    count = int(len(rows) * share)
    return (mixed, mixed[:0]) if count < FEWEST_HELD_OUT else (mixed[count:], mixed[:count])


def _batches(rows: Rows, recipe: Recipe, rng: np.random.Generator) -> Iterator[Rows]:
    size = max(1, min(recipe.batch, -(-len(rows) // 4)))
    mixed = rng.permutation(rows)[: recipe.rows]
    for start in range(0, len(mixed), size):
        yield mixed[start : start + size]


class _AdamW:
    """The moments of one flat parameter tensor."""

    def __init__(self, torch: Any, flat: Tensor, recipe: Recipe) -> None:
        self.torch, self.flat, self.recipe, self.count = torch, flat, recipe, 0
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)

    def step(self, loss: Tensor, pace: float) -> float:
        """One step down the slope of this loss, at `pace` times the learning rate; returns the loss."""
        slope = self.torch.autograd.grad(loss, self.flat)[0]
        self.count += 1
        first, second = BETAS
        rate = self.recipe.rate * pace
        with self.torch.no_grad():
            self.mean.mul_(first).add_(slope, alpha=1.0 - first)
            self.square.mul_(second).addcmul_(slope, slope, value=1.0 - second)
            size = (self.square / (1.0 - second**self.count)).sqrt_().add_(EPSILON)
            self.flat.mul_(1.0 - rate * self.recipe.decay)
            self.flat.addcdiv_(self.mean, size, value=-rate / (1.0 - first**self.count))
        return float(loss.detach())


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    """Sums in one order, whatever the machine: the same seed gives the same weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def binary_loss(torch: Any, odds: Tensor, quality: Tensor, seen: Tensor) -> Tensor:
    """Mean cross-entropy of log odds against qualities in [0, 1] over the cells that `seen` marks; quality is 0 elsewhere."""
    cells = torch.nn.functional.softplus(odds) - odds * quality
    return (cells * seen).sum() / seen.sum().clamp(min=1.0)


def contrast_loss(torch: Any, scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean over positives of -log(exp s+ / (exp s+ + sum over the row's negatives of exp s-)).

    scores     [B, K]
    positive   [B, K] 1 where a score should be high; negative likewise low
    Rows without a positive or without a negative say nothing and are left out.
    """
    low = scores.masked_fill(negative == 0, -torch.inf).logsumexp(dim=1, keepdim=True)
    usable = positive * (negative.sum(dim=1, keepdim=True) > 0)
    gap = torch.where(usable > 0, low - scores, torch.zeros_like(scores))
    return (torch.nn.functional.softplus(gap) * usable).sum() / usable.sum().clamp(min=1.0)


def cells(torch: Any, quality: Array) -> tuple[Tensor, Tensor]:
    """Qualities with 0 for gaps, and 1 where they were recorded; both float32 [N, M]."""
    seen = ~np.isnan(quality)
    return torch.from_numpy(np.where(seen, quality, 0.0).astype(np.float32)), torch.from_numpy(seen.astype(np.float32))
