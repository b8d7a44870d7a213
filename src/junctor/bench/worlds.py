"""Streams for policies that learn while they serve: every step has an outcome per target, of which only the chosen one is seen.

Feedback comes late (geometrically, ten steps on average) and some of it twice. Half-way a world may change: a price, a new
target, or another model behind a known name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from junctor.estimators.measured import means
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Learner
from junctor.types import Catalogue, Decision, Outcome, Price, Request, Target

Change = Literal["price", "new arm", "swap"]
CHANGES: tuple[Change, ...] = ("price", "new arm", "swap")
DELAY = 10.0
"""Steps until feedback comes, on average."""
TWICE = 0.05
"""Share of feedback that comes a second time."""
DEARER = 5.0
"""After a change of price the best target costs so many times what the dearest one did."""


@dataclass(frozen=True)
class World:
    """T steps and M targets.

    table      the T rows, completely recorded, in the order of the stream; its targets have the prices of before
    features   what policies see of the rows
    quality    [T, M], after the change as it then is
    cost       [T, M] USD, or None
    weight     quality given up for one `scale` USD
    half       the step from which `after` is the catalogue; T when nothing changes
    told       per step, which steps' feedback comes after it; the last entry is what comes when all is over
    """

    table: OutcomeTable
    features: Features
    quality: Array
    cost: Array | None
    weight: float
    scale: float
    half: int
    before: Catalogue
    after: Catalogue
    told: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def utility(self) -> Array:
        """[T, M] quality less weighted cost; -inf where a target is not there yet."""
        worth = self.worth(self.quality, self.cost)
        absent = [i for i, id_ in enumerate(self.table.targets.ids) if self.before.position(id_) is None]
        worth[: self.half, absent] = -np.inf
        return worth

    def worth(self, quality: Array, cost: Array | None) -> Array:
        """What outcomes come to."""
        return quality.copy() if cost is None else np.asarray(quality - self.weight * cost / self.scale)


def world_of(table: OutcomeTable, features: Features, weight: float, rng: np.random.Generator) -> World:
    """A world in which nothing changes. Where calls are billed, a target without a list price gets its mean cost as one."""
    targets, scale = table.targets, 1.0
    if table.cost_usd is not None:
        mean = means(table.cost_usd)
        scale = float(mean.max()) or 1.0
        targets = Catalogue([_priced(target, cost) for target, cost in zip(targets, mean.tolist(), strict=True)])
    whole = replace(table, targets=targets)
    told = _told(len(table), rng)
    return World(whole, features, table.quality, table.cost_usd, weight, scale, len(table), targets, targets, told)


def changed(world: World, change: Change) -> World | None:
    """The same stream with a change half-way, in what was the best single target; None where it cannot be."""
    best, worst = _ends(world)
    half, targets = len(world) // 2, world.before
    if change == "new arm":
        others = Catalogue([target for i, target in enumerate(targets) if i != best])
        return replace(world, half=half, before=others) if len(others) > 1 else None
    if change == "swap":
        quality = world.quality.copy()
        quality[half:, [best, worst]] = quality[half:, [worst, best]]
        return replace(world, half=half, quality=quality)
    if world.cost is None or not world.weight:
        return None
    factor = DEARER * world.scale / max(1e-12, float(world.cost[:, best].mean()))
    cost = world.cost.copy()
    cost[half:, best] *= factor
    after = Catalogue([_times(target, factor) if i == best else target for i, target in enumerate(targets)])
    return replace(world, half=half, cost=cost, after=after)


def live(learner: Learner, world: World, rng: np.random.Generator) -> NDArray[np.intp]:
    """Let a policy serve the stream: the positions that it chose [T]. All feedback has come when this returns."""
    position = {id_: i for i, id_ in enumerate(world.table.targets.ids)}
    quality = world.quality.tolist()
    cost = None if world.cost is None else world.cost.tolist()
    energy = None if world.table.energy_j is None else world.table.energy_j.tolist()
    chosen = np.empty(len(world), dtype=np.intp)
    known: list[tuple[Decision, Outcome]] = []
    seen = world.features if "labels" in learner.needs else world.features.without_labels()
    for step, request in enumerate(requests(seen)):
        made = learner.decide(request, world.before if step < world.half else world.after, rng)
        place = position[made.target]
        chosen[step] = place
        bill = None if cost is None else cost[step][place]
        used = None if energy is None else energy[step][place]
        known.append((made, Outcome(quality=quality[step][place], cost_usd=bill, energy_j=used)))
        for earlier in world.told[step]:
            learner.learn(*known[earlier])
    for earlier in world.told[-1]:
        learner.learn(*known[earlier])
    return chosen


def requests(features: Features) -> list[Request]:
    """The rows as they would arrive."""
    found = []
    for row, text in enumerate(features.texts):
        labels = {name: values[row] for name, values in features.labels.items()}
        vector = None if features.embedding is None else features.embedding[row : row + 1]
        seen = Features([text], vector, {name: [value] for name, value in labels.items()})
        found.append(Request(id=str(row), text=text, labels=labels, features=seen))
    return found


def _ends(world: World) -> tuple[int, int]:
    """The best and the worst single target of the first half."""
    first = world.worth(world.quality, world.cost)[: len(world) // 2].mean(axis=0)
    return int(first.argmax()), int(first.argmin())


def _told(steps: int, rng: np.random.Generator) -> list[list[int]]:
    first = np.arange(steps) + rng.geometric(1.0 / DELAY, size=steps) - 1
    twice = np.flatnonzero(rng.random(steps) < TWICE)
    second = first[twice] + rng.geometric(1.0 / DELAY, size=len(twice))
    arrivals = [*zip(first.tolist(), range(steps), strict=True), *zip(second.tolist(), twice.tolist(), strict=True)]
    told: list[list[int]] = [[] for _ in range(steps + 1)]
    for when, step in sorted(arrivals):
        told[min(when, steps)].append(step)
    return told


def _priced(target: Target, cost: float) -> Target:
    return target if target.price is not None else msgspec.structs.replace(target, price=Price(usd_per_call=cost))


def _times(target: Target, factor: float) -> Target:
    assert target.price is not None
    known = {name: getattr(target.price, name) for name in target.price.__struct_fields__}
    per = {name: figure * factor for name, figure in known.items() if figure is not None}
    return msgspec.structs.replace(target, price=Price(**per))
