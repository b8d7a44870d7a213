"""batch-split: a linear program per batch of requests, each batch with its part of what is left.

A baseline of PORT. On a recorded stream every batch is solved before it is served. While serving, nobody waits for a batch: the
prices of the last full one decide until the next is full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.estimators.settings import check as require
from junctor.policies.allocating import Allocator, AllocatorConfig
from junctor.policies.pricing import optimum, walk
from junctor.policy import Array, Policy


class BatchSplit(Allocator):
    """The window is the batch that is being filled."""

    name: ClassVar[str] = "batch-split"
    config: BatchSplitConfig

    def allocate(
        self, quality: Array, cost: Array, budgets: Array, rng: np.random.Generator, *, check: bool, billed: Array | None = None
    ) -> NDArray[np.intp]:
        """Batch by batch: the optimum under the budgets' proportional part, served from all that is left."""
        del rng
        rows, bills, left = len(quality), cost if billed is None else billed, budgets.copy()
        chosen = []
        for start in range(0, rows, self.config.batch):
            batch = slice(start, min(start + self.config.batch, rows))
            part = left * ((batch.stop - start) / (rows - start))
            scores = optimum(quality[batch], cost[batch], part).scores(quality[batch], cost[batch])
            chosen.append(walk(scores, cost[batch], left, bills[batch], check=check))
        return np.concatenate(chosen) if chosen else np.empty(0, np.intp)

    def collecting(self) -> bool:
        """Always, where there are budgets."""
        return self.bounded

    def collected(self) -> None:
        """A batch is full: its prices hold for the next one. Without scipy the old ones stay."""
        if len(self.window) < self.config.batch:
            return
        quality, cost = self.seen()
        self.window = []
        ahead = max(self.config.horizon - len(self.settled), self.config.batch)
        try:
            self.prices = optimum(quality, cost, self.remaining * (len(quality) / ahead)).prices
        except ModuleNotFoundError:
            return


@dataclass(frozen=True, kw_only=True)
class BatchSplitConfig(AllocatorConfig):
    """batch: requests that are solved together; horizon: how many the budgets are for."""

    batch: int = 256
    horizon: int = 10_000

    name: ClassVar[str] = "batch-split"
    fitted: ClassVar[type[Policy]] = BatchSplit
    about: ClassVar[About | None] = About(
        title="BatchSplit",
        family="allocation under budget",
        status="adapted",
        source="a baseline of PORT (fzwark/PORT: test.py, batches of 256); its own code was not released",
        formula="per batch b of the stream: max Σ q^ x, Σ_j x_ij <= 1, Σ_{i in b} c^_ij x_ij <= |b| / (rows to come) B_j(left)",
        adapted=(
            "Budgets are split over the requests that are still to come, so that what one batch saves goes to the later ones.",
            "While serving, the prices of the last full batch decide: a request does not wait for its batch.",
        ),
        unverified=("How the authors split a budget over batches was not to be seen in the released code.",),
        complexity="a linear program of batch x M per batch; a decision: one prediction, O(M)",
        claims=(
            Claim(
                figure="performance 1838.1, 57.24% of the estimates' optimum",
                on="RouterBench 0-shot, 10,000 requests",
                sure="read",
            ),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.batch >= 1, "batch-split.batch", "must be at least 1")
        require(self.horizon >= 1, "batch-split.horizon", "must be at least 1")


BatchSplit.config_type = BatchSplitConfig
