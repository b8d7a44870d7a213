"""An experiment: one question that is asked of every policy that can answer it, on every set that has the data for it.

The suite runs experiments policy by policy, in any order and in many processes. So that figures of two policies can still be
paired, an experiment draws splits, streams and resamples from (seed) alone, never from the policy's name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.bench.prepare import Setup

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Result:
    """What one policy came to in one experiment on one set.

    figures   metric -> [S, 1 + B]: per seed the figure itself, then its value on each of B paired resamples (B may be 0)
    curves    what plots draw, as plain JSON data: name -> anything
    notes     what a reader must know, a sentence each
    skipped   why this policy could not answer here; "" when it did
    """

    figures: Mapping[str, Array] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: str = ""


class Experiment(ABC):
    """A question with its metrics.

    name, title, question   for people; the question is one sentence
    metrics                 metric -> what it means, the headline among them
    less_is_better          those metrics where it is
    bars                    the cheap policies or references that everyone is compared with, by the headline
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    metrics: ClassVar[Mapping[str, str]]
    headline: ClassVar[str]
    less_is_better: ClassVar[frozenset[str]] = frozenset()
    bars: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def policies(self, setup: Setup) -> tuple[str, ...]:
        """Who can answer on this set: names of registered policies and estimators, and of references of this experiment.

        Empty when the set lacks the data for the question.
        """

    def ranked_by(self, setup: Setup) -> str:
        """The metric that ranks on this set: the headline, unless the set asks for another one."""
        del setup
        return self.headline

    @abstractmethod
    def run(self, setup: Setup, policy: str, *, seeds: int, resamples: int) -> Result:
        """Ask one policy, `seeds` times."""
