"""Least-loaded expert parallelism: which device computes which tokens of which expert, so that no device waits for another.

Shape suffixes: T tokens, E experts, D devices, N edges.

In expert parallelism a device holds a part of the experts, and under skewed routing the device of a popular expert is late
while the others wait. The LLEP planner lets a busy device hand tokens, together with the expert's weights, to the devices with
least load. Experts go by load, largest first; the home device keeps what fits under `alpha` times the mean load; the rest goes
to the devices with least *effective* load (assigned, plus what their own experts still have to come), in chunks of at least
`min_chunk` tokens. It is only used when the fullest device has more than `trigger` times the mean.

Source: LLEP ("Least-Loaded Expert Parallelism"), read in the authors' code: alpha 1.1, chunk 1024, lambda 1.3. Ours beside it:
hard limits on tokens and on borrowed experts per device (memory), and the excess over the limit is reported, never hidden.
Routing is untouched: every edge is computed once, with the same weights, so results equal those without spilling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.plan import Plan


@dataclass(frozen=True, slots=True)
class Piece:
    """Edges start..stop-1 of an expert's own list are computed on this device."""

    expert: int
    device: int
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        """How many edges."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Spread:
    """Who computes what.

    pieces     each edge of each expert is in exactly one
    home_E     the device that holds each expert's weights
    devices    D
    limit      tokens that a device should not exceed: alpha times the mean, rounded down, but no less than the mean
    spilled    False when the loads were even enough to leave everything at home
    """

    pieces: tuple[Piece, ...]
    home_E: tuple[int, ...]
    devices: int
    limit: int
    spilled: bool

    @property
    def load_D(self) -> list[int]:
        """Edges per device."""
        load = [0] * self.devices
        for piece in self.pieces:
            load[piece.device] += piece.tokens
        return load

    @property
    def home_load_D(self) -> list[int]:
        """Edges per device if nothing were spilled."""
        load = [0] * self.devices
        for piece in self.pieces:
            load[self.home_E[piece.expert]] += piece.tokens
        return load

    @property
    def transfers(self) -> tuple[tuple[int, int, int], ...]:
        """Weights to send: (expert, from device, to device)."""
        lent = {(p.expert, self.home_E[p.expert], p.device) for p in self.pieces if p.device != self.home_E[p.expert]}
        return tuple(sorted(lent))

    @property
    def borrowed_D(self) -> list[int]:
        """Foreign experts whose weights each device has to hold."""
        held = [0] * self.devices
        for _, _, to in self.transfers:
            held[to] += 1
        return held

    @property
    def over_D(self) -> list[int]:
        """Edges above the limit, per device: zeros when the limit was kept."""
        return [max(0, load - self.limit) for load in self.load_D]

    def device_N(self, plan: Plan) -> Tensor:
        """int64, the device that computes each edge of a plan with these loads."""
        counts = [int(c) for c in plan.counts_E.tolist()]
        given = [0] * len(self.home_E)
        for piece in self.pieces:
            given[piece.expert] += piece.tokens
        if given != counts:
            raise UserError("was made for other loads", field="spread", fix="plan again with this plan's counts")
        first_E = [sum(counts[:e]) for e in range(len(counts))]
        out_N = torch.full((plan.edges,), -1, dtype=torch.int64)
        for piece in self.pieces:
            out_N[first_E[piece.expert] + piece.start : first_E[piece.expert] + piece.stop] = piece.device
        return out_N.to(plan.token_N.device)


@dataclass(slots=True)
class _State:
    """Loads while planning."""

    limit: int
    room_D: list[int]
    slots: int | None
    assigned_D: list[int]
    pending_D: list[int]
    borrowed_D: list[int]

    def free(self, device: int, *, hard: bool) -> int:
        """Tokens that still fit: under the limit, or under the memory."""
        most = self.room_D[device] if hard else min(self.limit, self.room_D[device])
        return most - self.assigned_D[device]

    def takers(self, home: int, share: dict[int, int], *, hard: bool) -> list[tuple[int, int]]:
        """(room not claimed by its own experts, device), most first, of the devices that may take a foreign expert."""
        open_ = [
            d
            for d in range(len(self.room_D))
            if d != home and (d in share or self.slots is None or self.borrowed_D[d] < self.slots)
        ]
        return sorted(((self.free(d, hard=hard) - self.pending_D[d], d) for d in open_), key=lambda one: (-one[0], one[1]))


def least_loaded(
    counts_E: Sequence[int] | Tensor,
    devices: int,
    *,
    alpha: float = 1.1,
    min_chunk: int = 1,
    trigger: float = 1.3,
    home_E: Sequence[int] | None = None,
    memory_tokens: int | Sequence[int] | None = None,
    borrow: int | None = None,
) -> Spread:
    """The least-loaded plan for these loads.

    alpha           a device should take at most alpha times the mean load
    min_chunk       no piece handed away is shorter (a short one costs more in sent weights than it saves), unless the memory
                    leaves no other place
    trigger         spill only when the fullest device has more than this times the mean; or when the memory says so
    home_E          device of each expert; default: neighbours together, the same number everywhere
    memory_tokens   tokens that a device can hold, hard: raises UserError when no plan could be found within it
    borrow          foreign experts that a device can hold, hard; default: any number

    With min_chunk 1 and no limit on borrowed experts or memory no device exceeds `Spread.limit`: whatever was assigned stays
    under it, and D times it is at least the number of edges, so a device with room remains as long as an edge does. With
    those constraints the excess stays at home as far as the memory lets it, and `over_D` reports it. Memory alone never makes
    planning fail as long as all tokens fit somewhere; with `borrow` set, a plan may exist that this greedy rule misses.
    """
    counts = _loads(counts_E)
    homes = _homes(home_E, len(counts), devices)
    room = _rooms(memory_tokens, devices, sum(counts))
    _check_settings(alpha, min_chunk, trigger, borrow)
    home_load = [sum(c for c, h in zip(counts, homes, strict=True) if h == d) for d in range(devices)]
    mean = sum(counts) / devices
    limit = max(int(alpha * mean), -(-sum(counts) // devices))
    fits = all(load <= most for load, most in zip(home_load, room, strict=True))
    if fits and max(home_load) <= trigger * mean:
        stay = tuple(Piece(e, homes[e], 0, c) for e, c in enumerate(counts) if c)
        return Spread(stay, homes, devices, limit, spilled=False)
    state = _State(limit, room, borrow, [0] * devices, list(home_load), [0] * devices)
    pieces: list[Piece] = []
    for expert in sorted(range(len(counts)), key=lambda e: (-counts[e], e)):
        pieces += _place(state, expert, counts[expert], homes[expert], min_chunk)
    return Spread(tuple(sorted(pieces, key=lambda p: (p.expert, p.start))), homes, devices, limit, spilled=True)


def _place(state: _State, expert: int, tokens: int, home: int, min_chunk: int) -> list[Piece]:
    """Cut one expert's edges into pieces: home first, then the least loaded; then what had no place under the limit."""
    state.pending_D[home] -= tokens
    share: dict[int, int] = {}
    kept = max(0, min(tokens, state.free(home, hard=False)))
    if tokens >= min_chunk > tokens - kept > 0:  # what is handed away is a whole chunk
        kept = tokens - min_chunk
    _give(state, share, home, home, kept)
    rest = _hand_out(state, share, home, tokens - kept, min_chunk, hard=False)
    back = max(0, min(rest, state.free(home, hard=True)))
    _give(state, share, home, home, back)
    rest = _hand_out(state, share, home, rest - back, min_chunk, hard=True)
    if _hand_out(state, share, home, rest, 1, hard=True):  # memory comes before the size of a chunk
        raise UserError(
            f"{rest} tokens of expert {expert} fit on no device",
            field="memory_tokens",
            fix="allow more tokens per device or more borrowed experts",
        )
    return _cut(expert, share)


def _hand_out(state: _State, share: dict[int, int], home: int, rest: int, min_chunk: int, *, hard: bool) -> int:
    """Give chunks to the least loaded devices as long as one has room for a chunk; what is left over."""
    while rest:
        # A device that has a chunk of this expert already may take any number more.
        least = {d: 1 if d in share else min_chunk for d in range(len(state.room_D))}
        open_ = [
            (unclaimed, d)
            for unclaimed, d in state.takers(home, share, hard=hard)
            if min(rest, state.free(d, hard=hard)) >= least[d]
        ]
        if not open_:
            return rest
        unclaimed, device = open_[0]
        n = min(rest, state.free(device, hard=hard), max(least[device], unclaimed))
        spare = n - least[device]
        if 0 < rest - n < min_chunk:  # leave a whole chunk for the next device, if this one can spare it
            n -= min(spare, min_chunk - (rest - n))
        _give(state, share, device, home, n)
        rest -= n
    return 0


def _cut(expert: int, share: dict[int, int]) -> list[Piece]:
    """Consecutive pieces of the shares."""
    pieces, start = [], 0
    for device, n in share.items():
        pieces.append(Piece(expert, device, start, start + n))
        start += n
    return pieces


def _give(state: _State, share: dict[int, int], device: int, home: int, tokens: int) -> None:
    if tokens <= 0:
        return
    if device != home and device not in share:
        state.borrowed_D[device] += 1
    share[device] = share.get(device, 0) + tokens
    state.assigned_D[device] += tokens


def run_spread(plan: Plan, x_TD: Tensor, spread: Spread, expert: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Simulate the devices: each computes its own pieces from the tokens sent to it, then the results are added up.

    expert   (expert id, rows) -> rows; called once per piece, as a device would
    """
    device_N = spread.device_N(plan)
    expert_N = plan.expert_N()
    out_TD: Tensor | None = None
    for device in range(spread.devices):
        for e in sorted({piece.expert for piece in spread.pieces if piece.device == device}):
            mine = torch.nonzero((device_N == device) & (expert_N == e)).squeeze(1)
            token = plan.token_N[mine]
            made = expert(e, x_TD[token]) * plan.weight_N[mine].unsqueeze(1)
            out_TD = made.new_zeros(plan.tokens, made.shape[1]) if out_TD is None else out_TD
            out_TD = out_TD.index_add(0, token, made)
    return x_TD.new_zeros(x_TD.shape) if out_TD is None else out_TD


@dataclass(frozen=True, slots=True)
class Replay:
    """What the planner would have done on recorded loads; ratios are fullest device over mean, averaged over steps."""

    steps: int
    spilled: int
    ratio_home: float
    ratio_spread: float
    transfers: int
    over: int


def replay(recorded: Sequence[Sequence[int] | Tensor], devices: int, **settings: Any) -> Replay:
    """Plan every recorded load vector; settings as for `least_loaded`."""
    plans = [least_loaded(counts, devices, **settings) for counts in recorded]
    return Replay(
        steps=len(plans),
        spilled=sum(one.spilled for one in plans),
        ratio_home=_mean_ratio([one.home_load_D for one in plans]),
        ratio_spread=_mean_ratio([one.load_D for one in plans]),
        transfers=sum(len(one.transfers) for one in plans),
        over=sum(sum(one.over_D) for one in plans),
    )


def _mean_ratio(loads: list[list[int]]) -> float:
    ratios = [max(one) * len(one) / sum(one) for one in loads if sum(one)]
    return sum(ratios) / len(ratios) if ratios else 0.0


def _loads(counts_E: Sequence[int] | Tensor) -> list[int]:
    counts = counts_E.tolist() if isinstance(counts_E, Tensor) else list(counts_E)
    if not counts or any(c != int(c) or c < 0 for c in counts):
        raise UserError("must be whole numbers, 0 or more, one per expert", field="counts_E", fix="pass Plan.counts_E")
    return [int(c) for c in counts]


def _homes(home_E: Sequence[int] | None, experts: int, devices: int) -> tuple[int, ...]:
    if devices < 1:
        raise UserError(f"{devices} devices", field="devices", fix="at least 1")
    if home_E is None:
        return tuple(e * devices // experts for e in range(experts))
    if len(home_E) != experts or any(not 0 <= h < devices for h in home_E):
        raise UserError("does not name one device per expert", field="home_E", fix=f"{experts} numbers from 0 to {devices - 1}")
    return tuple(int(h) for h in home_E)


def _rooms(memory: int | Sequence[int] | None, devices: int, total: int) -> list[int]:
    rooms = [total] * devices if memory is None else [memory] * devices if isinstance(memory, int) else list(memory)
    if len(rooms) != devices or any(r < 0 for r in rooms):
        raise UserError("does not name the room of each device", field="memory_tokens", fix=f"{devices} numbers, 0 or more")
    if sum(rooms) < total:
        raise UserError(f"{total} tokens, room for {sum(rooms)}", field="memory_tokens", fix="more devices or smaller batches")
    return rooms


def _check_settings(alpha: float, min_chunk: int, trigger: float, borrow: int | None) -> None:
    wrong = {"alpha": alpha < 1.0, "min_chunk": min_chunk < 1, "trigger": trigger < 1.0, "borrow": (borrow or 0) < 0}
    for name in (name for name, bad in wrong.items() if bad):
        raise UserError("is too small", field=name, fix="alpha, trigger and min_chunk are at least 1, borrow at least 0")
