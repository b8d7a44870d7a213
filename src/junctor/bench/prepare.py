"""What a run starts from: a table that can be judged, the policies to judge on it, and the vectors of its texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from junctor.bench.cards import Card, card_of
from junctor.bench.references import BARS
from junctor.encoders.base import Encoder
from junctor.errors import TableError, UserError
from junctor.features import Features
from junctor.fitting import config_with
from junctor.outcomes import OutcomeTable
from junctor.outcomes.doubts import doubts
from junctor.policy import PolicyConfig

Progress = Callable[[str, int, int], None]
LEARNED = ("knn", "linear", "kmeans-table")
"""The cheap bars that learn from vectors: what is judged when no policy is named."""
BENCH_ONLY = ("random", "zero-router", "oracle")
"""References that are computed from the outcomes, not fitted."""
RECORDED = 0.99
"""Costs count as recorded when this share of the judged cells has one."""


@dataclass(frozen=True)
class Setup:
    """Shared by all seeds.

    table      with the qualities as the card counts them, and without costs that cannot be used
    configs    name -> what is fitted, the asked-about policies first
    judged     the names that were asked about, or the learned bars
    by_share   two targets without costs: the share of strong calls takes the place of cost
    split      the ratio to split by; None for the recorded split, or 60/20/20 where there is none
    """

    table: OutcomeTable
    features: Features
    encoder: Encoder | None
    configs: dict[str, PolicyConfig]
    judged: tuple[str, ...]
    card: Card | None
    notes: tuple[str, ...]
    by_share: bool
    split: str | None = None

    @property
    def macro(self) -> bool:
        """Whether datasets count alike, whatever their size, also when the best single target is chosen."""
        return self.card is not None and self.card.headline == "quality_macro"


def prepare(
    table: OutcomeTable, policies: Sequence[str] | None, encoder: str, use_card: bool, progress: Progress | None
) -> Setup:
    """Check the table, find its card, choose the policies, encode the texts.

    Raises TableError when there is nothing to compare, UnknownName for a policy that does not exist.
    """
    check(table)
    card = card_of(table) if use_card else None
    counted = table if card is None else card.count(table)
    priced, notes = with_usable_costs(counted)
    judged, names = chosen_policies(priced, policies)
    configs = {name: config_with(name, encoder) for name in names}
    made, vectors = None, None
    if any("embedding" in config.needs for config in configs.values()):
        made, vectors = encoded(table.texts, encoder, progress)
    by_share = len(table.targets) == 2 and priced.cost_usd is None
    return Setup(
        priced, priced.features(vectors), made, configs, judged, card, (*table.notes, *doubts(table), *notes), by_share
    )


def check(table: OutcomeTable) -> None:
    """Raise TableError unless at least two targets differ somewhere on at least two rows."""
    if len(table.targets) < 2:
        only = table.targets.ids[0] if len(table.targets) else "none"
        raise TableError(
            f"holds one target only ({only})", field="targets", fix="record at least two targets to choose between"
        )
    usable = int(table.mask.any(axis=1).sum())
    if usable < 2:
        raise TableError(f"has {usable} rows with a recorded quality", field="quality", fix="record at least two queries")
    if _all_alike(table):
        raise TableError(
            "is the same for every target on every query: there is nothing to compare",
            field="quality",
            fix="record targets that differ in quality or cost",
        )


def with_usable_costs(table: OutcomeTable) -> tuple[OutcomeTable, list[str]]:
    """The table without its costs when they cannot carry a cost metric, and a note that says so."""
    if table.cost_usd is None:
        return table, []
    known = ~np.isnan(table.cost_usd) & table.mask
    share = known.sum() / max(1, table.mask.sum())
    if share < RECORDED:
        lacking = [
            id_ for id_, n, m in zip(table.targets.ids, known.sum(0), table.mask.sum(0), strict=True) if n < RECORDED * m
        ]
        named = ", ".join(lacking[:4]) + (", …" if len(lacking) > 4 else "")
        note = f"costs are recorded for {share:.0%} of the outcomes only: no cost metrics"
        return replace(table, cost_usd=None), [f"{note} ({len(lacking)} targets lack them: {named})"]
    means = np.nanmean(table.cost_usd, axis=0)
    if np.ptp(means) <= 1e-12 * max(1e-300, float(np.abs(means).max())):
        return replace(table, cost_usd=None), ["all targets cost the same: no cost metrics"]
    return table, []


def chosen_policies(table: OutcomeTable, policies: Sequence[str] | None) -> tuple[tuple[str, ...], list[str]]:
    """Which policies are asked about, and which are fitted: those and the cheap bars that this table allows."""
    if policies is not None and not policies:
        raise UserError("names no policy", field="policies", fix="name at least one, or leave it out for the bars")
    bars = [name for name in BARS if name not in BENCH_ONLY]
    if table.cost_usd is None:
        bars.remove("cheapest")
    if not any(table.label):
        bars.remove("label-table")
    if policies is None:
        described = sum(bool(target.description) for target in table.targets)
        policies = LEARNED + (("similarity",) if 2 * described > len(table.targets) else ())
    asked = tuple(dict.fromkeys(policies))
    fitted = [name for name in asked if name not in BENCH_ONLY]
    return asked, list(dict.fromkeys([*fitted, *bars]))


def _all_alike(table: OutcomeTable) -> bool:
    """Whether no cell differs from its row's others, in quality or in cost."""
    for values in (table.quality, table.cost_usd):
        if values is not None:
            low = np.where(np.isnan(values), np.inf, values).min(axis=1)
            high = np.where(np.isnan(values), -np.inf, values).max(axis=1)
            if (high > low).any():
                return False
    return True


def encoded(texts: Sequence[str], name: str, progress: Progress | None) -> tuple[Encoder, NDArray[np.float32]]:
    """The encoder of this name and the vectors of the texts, which are kept on disk."""
    from junctor.encoders import load_encoder
    from junctor.encoders.cache import EmbeddingCache

    made = load_encoder(name)
    step = None if progress is None else (lambda done, total: progress(f"encoding ({name})", done, total))
    return made, EmbeddingCache(made).encode(texts, step)
