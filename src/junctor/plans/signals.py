"""Signals of an answer where the table has none: scores, verdicts and repeated answers, drawn with a stated power.

Tables of outcomes hold no texts, so nothing there can be scored or verified. What stands in is drawn from the recorded quality
with a power that the caller states (an AUC, a share of yes). A figure got so says what a scorer of that power would be worth,
and nothing about a scorer that exists. Recorded signals go before simulated ones: `samples["score"]`, `["verified"]` and
`["key"]`.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from junctor.outcomes import OutcomeTable
from junctor.policy import Array

RIGHT = 0.0
"""The key of the right answer; wrong answers have the keys 1, 2, …"""
HALF = 0.5
"""From this quality on an answer counts as right."""
CLIP = 0.999


def separation(auc: float) -> float:
    """Distance d of two unit normals that are told apart with this AUC: auc = Phi(d / sqrt(2))."""
    return float(np.sqrt(2.0)) * NormalDist().inv_cdf(min(max(auc, 1.0 - CLIP), CLIP))


def scores(table: OutcomeTable, auc: float, rng: np.random.Generator) -> Array:
    """[N, M, 1]: the recorded `samples["score"]`, or d * quality + noise with this AUC between quality 1 and quality 0."""
    recorded = table.samples.get("score")
    if recorded is not None:
        first: Array = recorded[:, :, :1]
        return first
    drawn: Array = separation(auc) * (table.quality - HALF) + rng.standard_normal(table.quality.shape)
    return drawn[:, :, None]


def verified(table: OutcomeTable, k: int, yes: tuple[float, float], spread: float, rng: np.random.Generator) -> Array:
    """[N, M, 1] p_ver, the share of yes among k verdicts: of the recorded `samples["verified"]`, or drawn.

    yes      mean share of yes for right and for wrong answers
    spread   how alike the verdicts of one answer are: its own share of yes is Beta with mean `yes` and this concentration
    """
    recorded = table.samples.get("verified")
    if recorded is not None:
        seen = recorded[:, :, :k]
        count = (~np.isnan(seen)).sum(axis=2)
        share: Array = np.divide(np.nansum(seen, axis=2), count, out=np.full(count.shape, HALF), where=count > 0)
        return share[:, :, None]
    right, wrong = yes
    mean = np.clip(wrong + (right - wrong) * np.nan_to_num(table.quality), 1e-3, 1.0 - 1e-3)
    own = rng.beta(mean * spread, (1.0 - mean) * spread)
    drawn: Array = np.where(table.mask, rng.binomial(k, own) / k, np.nan)
    return drawn[:, :, None]


def drawn_answers(
    table: OutcomeTable, draws: int, steady: tuple[float, float] | None, options: int, rng: np.random.Generator
) -> dict[str, Array]:
    """`quality` and `key`, both [N, M, S >= draws]: repeated answers of each cell and what each says.

    Recorded `samples["key"]` and `samples["quality"]` are taken as they are. Where only quality has samples, a right draw has
    the right key and a wrong one a wrong key at random among `options` - 1. Without samples the recorded answer is what the
    target usually says; a draw says it with probability steady[0] where it is right, steady[1] where it is wrong, and else
    anything. Without `steady` quality is the share of right samples: draws are right with that probability.
    """
    quality, key = table.samples.get("quality"), table.samples.get("key")
    if quality is not None and quality.shape[2] >= draws:
        filled = np.where(np.isnan(quality), table.quality[:, :, None], quality)
        keys = _wrong_keys(filled, options, rng) if key is None else key
        return {"quality": filled, "key": keys}
    if steady is None:
        right = rng.random((*table.quality.shape, draws)) < table.quality[:, :, None]
        drawn = np.where(np.isnan(table.quality)[:, :, None], np.nan, right.astype(np.float64))
        return {"quality": drawn, "key": _wrong_keys(drawn, options, rng)}
    return _simulated(table.quality, draws, steady, options, rng)


def _wrong_keys(quality: Array, options: int, rng: np.random.Generator) -> Array:
    return np.where(quality >= HALF, RIGHT, rng.integers(1, max(options, 2), quality.shape).astype(np.float64))


def _simulated(
    quality: Array, draws: int, steady: tuple[float, float], options: int, rng: np.random.Generator
) -> dict[str, Array]:
    shape = (*quality.shape, draws)
    usual = _wrong_keys(quality, options, rng)[:, :, None]
    stays = rng.random(shape) < np.where(usual == RIGHT, *steady)
    # Another key than the usual one: shift it by 1 … options - 1 round the circle of keys.
    other = (usual + rng.integers(1, max(options, 2), shape)) % max(options, 2)
    keys = np.where(stays, usual, other)
    values = np.where(stays, quality[:, :, None], (keys == RIGHT).astype(np.float64))
    return {"quality": np.where(np.isnan(quality)[:, :, None], np.nan, values), "key": keys}


def sigma(keys: Array) -> Array:
    """[n] spread of n answers' keys [n, S]: (different keys - 1) / (S - 1)."""
    ordered = np.sort(keys, axis=1)
    different: NDArray[np.intp] = (np.diff(ordered, axis=1) != 0).sum(axis=1)
    return np.asarray(different / max(1, keys.shape[1] - 1))


def votes(keys: Array, *, last: bool) -> NDArray[np.intp]:
    """[n] position of the first answer in each row's largest group of equal keys [n, S]; NaN never votes.

    Of tied groups the one that began first, or the one whose latest answer came last.
    """
    same = keys[:, :, None] == keys[:, None, :]
    count = same.sum(axis=2)
    place = np.arange(keys.shape[1])
    began = np.where(same, place[None, None, :], keys.shape[1]).min(axis=2)
    ended = np.where(same, place[None, None, :], -1).max(axis=2)
    rank = count * (2 * keys.shape[1]) + (ended if last else -began)
    found: NDArray[np.intp] = np.where(np.isnan(keys), -1, rank).argmax(axis=1)
    return found
