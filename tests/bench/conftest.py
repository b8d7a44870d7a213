"""A small world in which the right target can be read off the text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from junctor.bench.document import Board
from junctor.bench.protocol import run_bench
from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue

WORDS = {"sums": "add the numbers seven and twelve", "verse": "write a short poem about rain", "code": "fix this python loop"}


def _made(rows: int = 240, *, costs: bool = True, labels: bool = True, splits: bool = True, seed: int = 0) -> OutcomeTable:
    """`big` is good at everything and dear; `small` is good at sums; `bard` at verse."""
    rng = np.random.default_rng(seed)
    names = [list(WORDS)[i % 3] for i in range(rows)]
    skill = {"big": (0.9, 0.9, 0.9), "small": (0.9, 0.3, 0.2), "bard": (0.1, 0.95, 0.2)}
    chance = np.array([[skill[t][list(WORDS).index(n)] for t in skill] for n in names])
    quality = (rng.uniform(size=chance.shape) < chance).astype(float)
    cost = np.array([[0.01, 0.0005, 0.001]]) * rng.uniform(0.8, 1.2, size=chance.shape)
    split = ["test" if i % 4 == 3 else "ood_test" if i % 20 == 0 else "train" for i in range(rows)]
    return OutcomeTable(
        texts=[f"{WORDS[n]} number {i}" for i, n in enumerate(names)],
        targets=Catalogue.of(list(skill)),
        quality=quality,
        cost_usd=cost if costs else None,
        labels={"dataset": names} if labels else {},
        label_name="dataset" if labels else "",
        split=split if splits else None,
        source="/somewhere/private/made.parquet",
    )


@pytest.fixture(scope="session")
def made() -> Callable[..., OutcomeTable]:
    """Makes tables of the small world: rows, costs, labels, splits, seed."""
    return _made


@pytest.fixture(scope="session")
def board(made: Callable[..., OutcomeTable], tmp_path_factory: pytest.TempPathFactory) -> Board:
    """One run over the small world, with costs, labels and an out-of-distribution split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "xdg-cache"))
        return run_bench(made(), dataset="made", encoder="lexical", seeds=2, resamples=200, timing_calls=5)
