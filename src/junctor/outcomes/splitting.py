"""Train, validation and test rows: by the recorded split or by a ratio, never with one prompt on two sides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from junctor.errors import TableError
from junctor.outcomes.files import near
from junctor.outcomes.table import OutcomeTable

Rows = NDArray[np.intp]
DEFAULT = (0.6, 0.2, 0.2)
NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
# Below this share of rows with every outcome recorded, a table is sparse (bandit logs): there is no common set of rows.
SPARSE = 0.5
FEWEST = 5
"""With fewer queries a side of 60/20/20 is empty, or a single query."""


@dataclass(frozen=True)
class Split:
    """Row numbers of each side, ascending; `extra` holds further test sides ("ood_test"). `notes` says what was left out."""

    train: Rows
    validation: Rows
    test: Rows
    extra: dict[str, Rows] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def is_ratio(text: str) -> bool:
    """Whether a split argument is a ratio ("70/10/20", "80/20", "0.7") and not the name of a column."""
    return re.fullmatch(r"[\d./\s%]+", text.strip()) is not None


def split_table(
    table: OutcomeTable,
    *,
    split: str | None = None,
    seed: int = 0,
    validation_share: float = 0.2,
    judging: bool = True,
) -> Split:
    """Split the rows of a table.

    split             None: the recorded split, or 60/20/20 where there is none; the name of the split column or of a label;
                      or a ratio: "70/10/20", "80/20" or "0.8" (the last two take validation out of train)
    seed              of every random choice; the same table, ratio and seed give the same rows
    validation_share  of the training rows, where validation has to be taken out of them
    judging           False where one policy is fitted rather than several judged: rows that lack an outcome keep their side,
                      and there may be no test rows

    Random sides are drawn by group (rows of one normalised prompt stay together) and in proportion within each label. Then, on
    whichever split: rows of validation and test that repeat a prompt of an earlier side leave, and so do rows of theirs that
    lack a target's quality, because every policy must be judged on the same rows; a sparse table keeps those. Notes count all
    of it. Raises TableError for an unknown column, a bad ratio, a side without rows, or too few rows to split at all.
    """
    if not 0 < validation_share < 1:
        raise TableError(f"{validation_share} is no share", field="validation_share", fix="between 0 and 1, such as 0.2")
    rng = np.random.default_rng(seed)
    groups = table.groups()
    notes: list[str] = []
    if split is None and table.split is None:
        sides = _random(table, groups, DEFAULT, rng)
    elif split is not None and is_ratio(split):
        sides = _random(table, groups, _shares(split, validation_share), rng)
    else:
        sides, notes = _recorded(_names(table, split), ("train", "test") if judging else ("train",))
        if not len(sides["validation"]):
            sides |= _carved(table, groups, sides["train"], validation_share, rng, notes)
    return _honest(table, groups, sides, notes, judging=judging)


def _shares(text: str, validation_share: float) -> tuple[float, ...]:
    """Train, validation, test shares of a ratio string."""
    fix = "such as 70/10/20, 80/20 or 0.8"
    try:
        parts = [float(part) for part in text.replace("%", "").split("/")]
    except ValueError as error:
        raise TableError(f"{text!r} is no ratio", field="split", fix=fix) from error
    if len(parts) == 1:
        parts.append((100.0 if parts[0] > 1 else 1.0) - parts[0])
    total = sum(parts)
    if len(parts) > 3 or min(parts) <= 0 or not (abs(total - 1) < 1e-6 or abs(total - 100) < 1e-6):
        raise TableError(
            f"{text!r} is no ratio of train, validation and test", field="split", fix=f"parts over 0 that add up, {fix}"
        )
    train, *rest = (part / total for part in parts)
    if len(rest) == 1:
        return train * (1 - validation_share), train * validation_share, rest[0]
    return train, *rest


def _random(table: OutcomeTable, groups: Rows, shares: Sequence[float], rng: np.random.Generator) -> dict[str, Rows]:
    different = len(np.unique(groups))
    if different < FEWEST:
        raise TableError(
            f"{different} different queries are too few to split into train, validation and test",
            field="split",
            fix=f"record {FEWEST} or more; some hundreds are worth learning from",
        )
    part = draw_groups(groups, table.label, shares, rng)
    return {name: np.flatnonzero(part == i) for i, name in enumerate(("train", "validation", "test"))}


def draw_groups(groups: Rows, label: Sequence[str], shares: Sequence[float], rng: np.random.Generator) -> Rows:
    """[N] part of each row: whole groups, in proportion to `shares` overall and within each label.

    Labels come in random order and groups at random within a label; each group goes to the part that is furthest behind its
    share of the rows so far. So the sizes are exact to within one group, and small labels balance each other out.
    """
    count = int(groups.max(initial=-1)) + 1
    sizes = np.bincount(groups, minlength=count)
    first = np.full(count, len(groups), np.intp)
    np.minimum.at(first, groups, np.arange(len(groups)))
    _, stratum = np.unique([label[i] for i in first.tolist()], return_inverse=True)
    rank = rng.permutation(int(stratum.max(initial=-1)) + 1)[stratum]
    order = np.lexsort((rng.random(count), rank))
    behind = [0.0] * len(shares)
    part = np.empty(count, np.intp)
    for group in order.tolist():
        size = int(sizes[group])
        behind = [b + size * share for b, share in zip(behind, shares, strict=True)]
        chosen = max(range(len(shares)), key=behind.__getitem__)
        behind[chosen] -= size
        part[group] = chosen
    return part[groups]


def _names(table: OutcomeTable, split: str | None) -> Sequence[str]:
    if table.split is not None and split in (None, table.split_name):
        return table.split
    if split is not None and split in table.labels:
        return table.labels[split]
    known = ([table.split_name] if table.split is not None else []) + list(table.labels)
    fix = near(str(split), known) if known else "it has none; give a ratio such as 70/10/20"
    raise TableError("there is no such split column", field=str(split), fix=fix)


def _recorded(names: Sequence[str], needed: Sequence[str]) -> tuple[dict[str, Rows], list[str]]:
    """Rows by side of a split that was recorded, and what was left out; raises TableError where a needed side has none."""
    lowered = [name.strip().lower() for name in names]
    places: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    left: Counter[str] = Counter()
    for row, name in enumerate(lowered):
        side = NAMES.get(name) or (name if name.startswith("ood") else None)
        if side is None:
            left[names[row]] += 1
        else:
            places.setdefault(side, []).append(row)
    for side in needed:
        if not places[side]:
            found = ", ".join(sorted(set(names) - {""})) or "nothing"
            raise TableError(
                f"there are no {side} rows; it holds {found}", field="split", fix=f"call them {side!r}, or give a ratio"
            )
    notes = [f"{n} rows of the split {name!r} were left out" for name, n in left.items()]
    return {side: np.array(rows, np.intp) for side, rows in places.items()}, notes


def _carved(
    table: OutcomeTable, groups: Rows, train: Rows, share: float, rng: np.random.Generator, notes: list[str]
) -> dict[str, Rows]:
    label = table.label
    part = draw_groups(_compact(groups[train]), [label[i] for i in train.tolist()], (1 - share, share), rng)
    notes.append(f"validation is {share:.0%} of the training rows ({int((part == 1).sum())} of {len(train)})")
    return {"train": train[part == 0], "validation": train[part == 1]}


def _compact(groups: Rows) -> Rows:
    return np.unique(groups, return_inverse=True)[1].astype(np.intp)


def _honest(table: OutcomeTable, groups: Rows, sides: dict[str, Rows], notes: list[str], *, judging: bool) -> Split:
    """Take repeated and incomplete rows out of the sides that are judged, and say so."""
    complete = np.asarray(table.mask.all(axis=1))
    sparse = bool(complete.mean() < SPARSE)
    seen = groups[sides["train"]]
    judged = ["validation", "test", *(name for name in sides if name not in ("train", "validation", "test"))]
    for name in judged:
        rows = sides[name]
        repeats = np.isin(groups[rows], seen)
        if repeats.any():
            notes.append(f"{int(repeats.sum())} {name} rows repeat training prompts and were left out")
        rows = rows[~repeats]
        if name == "validation":
            seen = np.r_[seen, groups[rows]]
        lacking = ~complete[rows]
        if judging and lacking.any():
            done = "kept, because the table is sparse" if sparse else "left out"
            notes.append(f"{int(lacking.sum())} {name} rows lack the quality of some target and were {done}")
            rows = rows if sparse else rows[complete[rows]]
        sides[name] = rows
    for name in ("train", "test") if judging else ("train",):
        if not len(sides[name]):
            why = f" ({notes[-1]})" if notes else f" of {len(table)}"
            raise TableError(f"no {name} rows are left{why}", field="split", fix="record more queries, or give another ratio")
    extra = {name: rows for name, rows in sides.items() if name not in ("train", "validation", "test") and len(rows)}
    return Split(sides["train"], sides["validation"], sides["test"], extra, tuple(notes))
