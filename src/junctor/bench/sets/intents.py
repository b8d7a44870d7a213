"""CLINC150 and HWU64 as guarded routing: an expert per domain, and `none` for what belongs to no domain.

Targets are the domains (10 and 13), not the intents (150 and 64): guarded routing is about a handful of experts, and a table of
that width is one that every policy can be judged on. Intents stay as labels, so that who wants finer categories has them:
`policy` is "domain: intent" in words. Outcomes are 0 or 1: the expert of the request's own domain is right, and for a request
outside all domains `none` is. The label `outside` names the set that such a request belongs to, "" for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from junctor.errors import TableError
from junctor.outcomes import OutcomeTable
from junctor.outcomes.files import check_exists, load_frame
from junctor.types import Catalogue, Target

NONE = "none"
HELD_OUT = ("cooking", "news", "takeaway", "transport", "weather")
"""Scenarios of HWU64 that nobody may learn from: five sets of strangers, of one to four intents each."""


def clinc150(folder: Path) -> OutcomeTable:
    """CLINC150 (Larson et al. 2019) in its own split: 10 domains, and its out-of-scope queries as the one set of strangers."""
    text, split, domain, intent = _columns(folder / "clinc150" / "clinc150_full.parquet", "domain")
    outside = ["oos" if name == "oos" else "" for name in domain]
    sides = ["validation" if side == "val" else side for side in split]
    return _table(text, sides, domain, intent, outside, "CLINC150")


def hwu64(folder: Path) -> OutcomeTable:
    """HWU64, fold 1 (Liu et al. 2019) in its own split: 13 scenarios, five others held out as five sets of strangers.

    Every row of a held-out scenario is a test row, so that nobody learns from one.
    """
    text, split, domain, intent = _columns(folder / "hwu64" / "hwu64_fold1.csv", "scenario")
    outside = [name if name in HELD_OUT else "" for name in domain]
    sides = ["test" if away else side for side, away in zip(split, outside, strict=True)]
    return _table(text, sides, domain, intent, outside, "HWU64")


def _columns(path: Path, domain: str) -> tuple[list[str], ...]:
    """Texts, splits, domains and intents; raises TableError for a file that lacks one of them."""
    check_exists(path)
    frame = load_frame(path)
    names = ("text", "split", domain, "intent")
    lacking = [name for name in names if name not in frame.columns]
    if lacking:
        raise TableError(f"has no column {lacking[0]!r}", field=str(path), fix=f"it needs {', '.join(names)}")
    return tuple([str(value) for value in frame[name].to_list()] for name in names)


def _table(
    texts: Sequence[str],
    split: Sequence[str],
    domain: Sequence[str],
    intent: Sequence[str],
    outside: Sequence[str],
    source: str,
) -> OutcomeTable:
    inside = [not away for away in outside]
    names = sorted({name for name, own in zip(domain, inside, strict=True) if own})
    targets = [Target(id=name, kind="expert", description=_words(name)) for name in names]
    targets.append(Target(id=NONE, kind="expert", description="none of these"))
    place = {name: i for i, name in enumerate(names)}
    quality = np.zeros((len(texts), len(targets)))
    right = [place[name] if own else len(names) for name, own in zip(domain, inside, strict=True)]
    quality[np.arange(len(texts)), right] = 1.0
    actions = [f"{_words(d)}: {_words(i)}" for d, i in zip(domain, intent, strict=True)]
    strangers = len(texts) - sum(inside)
    notes = (f"{strangers} of {len(texts)} queries belong to no domain: 'none' is right for them",)
    return OutcomeTable(
        list(texts),
        Catalogue(targets),
        quality,
        labels={
            "domain": [name if own else "" for name, own in zip(domain, inside, strict=True)],
            "policy": [name if own else "" for name, own in zip(actions, inside, strict=True)],
            "outside": list(outside),
        },
        label_name="domain",
        split=list(split),
        source=source,
        notes=notes,
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
