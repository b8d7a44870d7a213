"""A published set made ready: read, checked, priced, encoded, and thinned for a quick run. Kept per process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from junctor.bench.cards import card_of
from junctor.bench.prepare import Progress, Setup, check, encoded, with_usable_costs
from junctor.bench.sets import PublishedSet
from junctor.encoders.base import Encoder
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.outcomes.splitting import draw_groups

QUICK_ROWS = 300
STAND_IN = "there are no texts: a query's vector is that of its label's name, so nobody can know more than the label"
NOTHING = "there is nothing to encode: only policies that read neither vectors nor labels take part"


class Run(Struct, frozen=True, kw_only=True):
    """What one run of the suite asks of everybody.

    data        folder of the published sets, "" when there is none
    out         folder that results are kept in
    encoder     who turns texts into vectors
    seeds, resamples, quick   how thoroughly
    limit_s     seconds after which a single unit is given up
    """

    data: str
    out: str
    encoder: str = "static"
    seeds: int = 5
    resamples: int = 200
    quick: bool = False
    limit_s: float = 300.0


_READY: dict[tuple[str, str, bool], Setup] = {}


def ready(run: Run, one: PublishedSet, progress: Progress | None = None) -> Setup:
    """The set, made once in a process. Raises TableError when it cannot be judged."""
    key = (f"{run.data}/{one.name}/{'/'.join(one.files)}", run.encoder, run.quick)
    if key not in _READY:
        _READY[key] = _prepared(run, one, progress)
    return _READY[key]


def _prepared(run: Run, one: PublishedSet, progress: Progress | None) -> Setup:
    folder = Path(one.files[0]) if Path(one.files[0]).is_absolute() else Path(run.data)
    table = one.load(folder)
    if run.quick:
        table = _few(table)
    if table.propensity is None:  # a log holds one target per row: nothing can differ within a row
        check(table)
    card = card_of(table)
    counted = table if card is None else card.count(table)
    priced, notes = with_usable_costs(counted)
    made, vectors, more = _vectors(one, priced, run.encoder, progress)
    by_share = len(table.targets) == 2 and priced.cost_usd is None
    said = (*table.notes, *notes, *more)
    return Setup(priced, Features(priced.texts, vectors, priced.labels), made, {}, (), card, said, by_share, one.split or None)


def _vectors(
    one: PublishedSet, table: OutcomeTable, encoder: str, progress: Progress | None
) -> tuple[Encoder | None, NDArray[np.float32] | None, Sequence[str]]:
    if one.vectors == "none":
        return None, None, [NOTHING]
    if one.vectors == "texts":
        return *encoded(table.texts, encoder, progress), []
    words = [name.replace("_", " ") for name in table.label]
    return *encoded(words, encoder, progress), [STAND_IN]


def _few(table: OutcomeTable) -> OutcomeTable:
    """A few rows of every side of the split, in proportion within each label."""
    if len(table) <= QUICK_ROWS:
        return table
    side = [""] * len(table) if table.split is None else table.split
    label = [f"{s}/{name}" for s, name in zip(side, table.label, strict=True)]
    share = QUICK_ROWS / len(table)
    part = draw_groups(table.groups(), label, (share, 1 - share), np.random.default_rng(0))
    return table.take(part == 0)
