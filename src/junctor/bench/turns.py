"""Conversations judged at three levels: per turn, per span of turns with one policy, per whole conversation.

A policy that is right on nine turns of ten can be wrong in every conversation, so the three are reported apart (Arch-Router).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


def turn_accuracy(right: Flags) -> float:
    """Share of turns that are right."""
    return float(np.mean(right)) if len(right) else float("nan")


def span_accuracy(right: Flags, conversation: Sequence[Hashable], policy: Sequence[Hashable]) -> float:
    """Share of spans that are right in every turn: a span is a run of turns of one conversation with one true policy."""
    return _whole(right, list(zip(conversation, policy, strict=True)))


def conversation_accuracy(right: Flags, conversation: Sequence[Hashable]) -> float:
    """Share of conversations that are right in every turn; turns of one conversation stand together."""
    return _whole(right, list(conversation))


def _whole(right: Flags, keys: Sequence[Hashable]) -> float:
    runs = [[bool(right[i]) for i in run] for _, run in groupby(range(len(keys)), key=keys.__getitem__)]
    return float(np.mean([all(run) for run in runs])) if runs else float("nan")
