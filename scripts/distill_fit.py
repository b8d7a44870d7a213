"""The fit of distill_encoder.py: one linear map, so that bags of token vectors point where the teacher's vectors do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from junctor.encoders.wordpiece import WordPiece, clip

Floats = NDArray[np.float32]

_MOMENTUM, _SPREAD, _TINY = 0.9, 0.99, 1e-8
_LAST_RATE = 0.05


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Adam with a linearly falling rate; `relations` weighs matching similarities within a batch against matching vectors."""

    epochs: int = 4
    batch: int = 512
    rate: float = 5e-4
    relations: float = 1_000.0


def bags(texts: Sequence[str], tokens: WordPiece, rows: Floats) -> Floats:
    """[N, D]: the sum of the rows of each text's tokens, before any map."""
    out = np.zeros((len(texts), rows.shape[1]), np.float32)
    for i, text in enumerate(texts):
        out[i] = rows[tokens.ids(clip(text))].sum(axis=0)
    return out


def unit(rows: Floats) -> Floats:
    """Rows of length one; a zero row stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    out: Floats = (rows / np.maximum(lengths, 1e-6)).astype(np.float32)
    return out


def principal_map(vectors: Floats, dim: int) -> Floats:
    """[D, dim]: the directions of largest second moment, signs fixed so that two machines agree."""
    _, directions = np.linalg.eigh((vectors.T @ vectors).astype(np.float64))
    basis = directions[:, ::-1][:, :dim]
    signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(dim)])
    signed: Floats = (basis * signs).astype(np.float32)
    return signed


def fit_map(sums: Floats, wanted: Floats, start: Floats, settings: FitSettings, rng: np.random.Generator) -> Floats:
    """M [D, dim] from bags [N, D] to unit vectors [N, dim], beginning at `start`.

    Minimises the mean of 1 - cos(bag M, wanted) plus `relations` times the mean squared error of the similarities in a batch.
    """
    current = start.astype(np.float32)
    mean, spread = np.zeros_like(current), np.zeros_like(current)
    batches = len(sums) // settings.batch
    total = settings.epochs * batches
    for step in range(1, total + 1):
        if (step - 1) % batches == 0:
            order = rng.permutation(len(sums))
        place = (step - 1) % batches * settings.batch
        chosen = order[place : place + settings.batch]
        slope = _slope(sums[chosen], wanted[chosen], current, settings.relations)
        mean = _MOMENTUM * mean + (1 - _MOMENTUM) * slope
        spread = _SPREAD * spread + (1 - _SPREAD) * slope * slope
        rate = settings.rate * max(_LAST_RATE, 1 - step / total)
        change = (mean / (1 - _MOMENTUM**step)) / (np.sqrt(spread / (1 - _SPREAD**step)) + _TINY)
        current = (current - rate * change).astype(np.float32)
        show("fitting", step, total)
    return current


def _slope(sums: Floats, wanted: Floats, current: Floats, relations: float) -> Floats:
    """The gradient of the loss of one batch with respect to M."""
    count = len(sums)
    raw = sums @ current
    lengths = np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-6)
    vectors = raw / lengths
    missed = vectors @ vectors.T - wanted @ wanted.T
    np.fill_diagonal(missed, 0)
    pull = -wanted / count + relations * 4 / count**2 * (missed @ vectors)
    pull -= (pull * vectors).sum(axis=1, keepdims=True) * vectors  # along a vector nothing changes: its length is one
    slope: Floats = sums.T @ (pull / lengths)
    return slope


def show(what: str, done: int, total: int) -> None:
    """Progress on one line of stderr, a hundred times at most."""
    if done == total or done % max(1, total // 100) == 0:
        sys.stderr.write(f"\r{what}: {done:,} of {total:,}" + ("\n" if done == total else ""))
        sys.stderr.flush()
