"""Draws that a replay repeats.

Shape suffixes: T tokens, D width.

Activation checkpointing runs a forward again in the backward pass. A gate that draws noise from a generator would there draw
other noise and choose other experts: the gradient would be that of another function. So a layer takes one seed per forward from
the caller's generator and gives its gate a generator of that seed. The seeds of the last forwards are kept with a checksum of
their tokens; a replay has the same tokens, finds its seed, and draws nothing from the caller's generator. Where tokens do not
come out bit by bit the same (kernels that add in any order), `rewinding` sets the caller's generator itself back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.plan import RouteContext

KEPT = 256
_rewound: ContextVar[bool] = ContextVar("rewound", default=False)
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def in_backward() -> bool:
    """Whether this runs inside a backward pass: a forward there is activation checkpointing's replay."""
    return int(torch._C._current_graph_task_id()) != -1


def checksum(x_TD: Tensor) -> tuple[Any, ...]:
    """Shape, dtype and the sum of the bits read as whole numbers: exact in any order of addition, also of NaN."""
    flat = x_TD.detach().contiguous().flatten()
    whole = flat.numel() * flat.element_size() % 8 == 0  # eight bytes at a time is faster; the sum may wrap around
    bits = flat.view(torch.int64 if whole else _BITS[flat.element_size()])
    return (*x_TD.shape, x_TD.dtype, int(bits.sum()))


@dataclass(slots=True)
class _Forward:
    """What was drawn for one forward, and how often it was replayed."""

    key: tuple[Any, ...]
    seed: int
    replays: int = 0


class Draws:
    """The seeds of a layer's last forwards in training. Belongs to the run: it is not saved, copies start without any."""

    def __init__(self) -> None:
        self._forwards: deque[_Forward] = deque(maxlen=KEPT)

    def __reduce__(self) -> tuple[type[Draws], tuple[()]]:
        """A copy, and what is read from a file, is empty."""
        return Draws, ()

    def own(self, context: RouteContext) -> RouteContext:
        """The context with a generator of this forward alone; as it is where there is none, or in evaluation."""
        if context.generator is None or not context.training:
            return context
        made: RouteContext = self._fork(context, context.generator)
        return made

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _fork(self, context: RouteContext, parent: torch.Generator) -> RouteContext:
        seed = self._again(context.x_TD) if in_backward() and not _rewound.get() else self._first(context.x_TD, parent)
        return replace(context, generator=torch.Generator(parent.device).manual_seed(seed))

    def _first(self, x_TD: Tensor, parent: torch.Generator) -> int:
        seed = int(torch.randint(2**62, (), generator=parent, device=parent.device))
        if not _rewound.get():
            self._forwards.append(_Forward(checksum(x_TD), seed))
        return seed

    def _again(self, x_TD: Tensor) -> int:
        """The seed of the forward with these tokens; of equal ones the latest of those that were replayed least."""
        key = checksum(x_TD)
        found = [one for one in self._forwards if one.key == key]
        if not found:
            raise UserError(
                "a replay by activation checkpointing has tokens that no forward had: what to draw again is not known",
                field="generator",
                fix="checkpoint(…, use_reentrant=False, context_fn=junctor.layers.replay.rewinding(generator))",
            )
        least = min(one.replays for one in found)
        mine = [one for one in found if one.replays == least][-1]
        mine.replays += 1
        return mine.seed


class _Remember(AbstractContextManager[None]):
    """Around the first forward: takes the generator's state."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.state: Tensor | None = None

    def __enter__(self) -> None:
        self.state = self.generator.get_state()

    def __exit__(self, *_: object) -> None:
        return None


class _Rewind(AbstractContextManager[None]):
    """Around a replay: the state of the first forward, and afterwards again the one that was found."""

    def __init__(self, first: _Remember) -> None:
        self.first = first
        self.found: Tensor | None = None
        self.token: Token[bool] | None = None

    def __enter__(self) -> None:
        self.found, self.token = self.first.generator.get_state(), _rewound.set(True)
        if self.first.state is not None:
            self.first.generator.set_state(self.first.state)

    def __exit__(self, *_: object) -> None:
        if self.token is not None and self.found is not None:
            _rewound.reset(self.token)
            self.first.generator.set_state(self.found)


def rewinding(generator: torch.Generator) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """For checkpoint(…, use_reentrant=False, context_fn=rewinding(generator)): replays draw what the forward drew.

    Layers need it only where a replay's tokens are not bit by bit those of the forward; a gate alone, outside a layer, needs it
    whenever it draws.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        first = _Remember(generator)
        return first, _Rewind(first)

    return contexts
