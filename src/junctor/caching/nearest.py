"""The nearest of up to tens of thousands of unit vectors, at once: signs first, cosines of the few that remain."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FEW = 256
COUNTS_BITS = hasattr(np, "bitwise_count")
"""Before numpy 2.0 nothing counts bits fast: then all cosines are taken."""
WORD = 64
SPREAD = 4.5
"""Standard deviations of chance that a near vector is allowed: a near one is missed about once in a hundred thousand."""


class Vectors:
    """Vectors under keys; `nearest` gives the best at or above a cosine.

    Two vectors at an angle a differ in about a / pi of their signs. Four words of signs are compared for all vectors, and
    cosines are taken of those whose signs differ no more than those of a near one would, chance included.
    """

    __slots__ = ("_bits", "_keys", "_matrix", "_place")

    def __init__(self, dim: int) -> None:
        self._keys: list[bytes] = []
        self._place: dict[bytes, int] = {}
        self._matrix: NDArray[np.float32] = np.empty((1, dim), np.float32)
        self._bits: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, vector: NDArray[np.float32]) -> None:
        """One more; a key that is there gets the new vector."""
        place = self._place.get(key)
        if place is None:
            place = len(self._keys)
            self._keys.append(key)
            self._place[key] = place
            if place == len(self._matrix):
                self._grow()
        self._matrix[place] = vector
        if self._bits is not None:
            self._bits[:, place] = signs(vector)

    def _grow(self) -> None:
        used = len(self._matrix)
        larger = np.empty((2 * used, self._matrix.shape[1]), np.float32)
        larger[:used] = self._matrix
        self._matrix = larger
        if COUNTS_BITS and 2 * used > FEW:
            bits = np.zeros((self._matrix.shape[1] // WORD, 2 * used), np.uint64)
            if self._bits is None:
                bits[:, :used] = signs(larger[:used]).T
            else:
                bits[:, :used] = self._bits
            self._bits = bits

    def remove(self, key: bytes) -> None:
        """Forget a key; the last takes its place."""
        place = self._place.pop(key, None)
        if place is None:
            return
        last = self._keys.pop()
        if last != key:
            end = len(self._keys)
            self._keys[place] = last
            self._place[last] = place
            self._matrix[place] = self._matrix[end]
            if self._bits is not None:
                self._bits[:, place] = self._bits[:, end]

    def nearest(self, vector: NDArray[np.float32], least: float) -> tuple[bytes, float] | None:
        """The key of the nearest vector and its cosine; None when none is at or above `least`."""
        used = len(self._keys)
        if not used:
            return None
        if self._bits is None or used <= FEW:
            cosines = self._matrix[:used] @ vector
            best = int(cosines.argmax())
            cosine = float(cosines[best])
            return (self._keys[best], cosine) if cosine >= least else None
        near = self._near(vector, least, used)
        if not len(near):
            return None
        cosines = self._matrix[near] @ vector
        at = int(cosines.argmax())
        cosine = float(cosines[at])
        return (self._keys[int(near[at])], cosine) if cosine >= least else None

    def _near(self, vector: NDArray[np.float32], least: float, used: int) -> NDArray[np.intp]:
        assert self._bits is not None
        differ: NDArray[np.uint16] = np.zeros(used, np.uint16)
        for ours, theirs in zip(signs(vector), self._bits, strict=True):
            np.add(differ, np.bitwise_count(theirs[:used] ^ ours), out=differ)
        return np.flatnonzero(differ <= most_different(least, WORD * len(self._bits)))


def signs(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """[..., D / 64] the signs of [..., D] packed into words; a rest of D that fills no word is left out."""
    whole = vectors.shape[-1] // WORD * WORD
    packed: NDArray[np.uint64] = np.packbits(vectors[..., :whole] > 0, axis=-1).view(np.uint64)
    return packed


def most_different(least: float, bits: int) -> int:
    """How many of `bits` signs two vectors of this cosine may differ in, chance included."""
    share = math.acos(max(-1.0, min(1.0, least))) / math.pi
    return math.ceil(bits * share + SPREAD * math.sqrt(bits * share * (1 - share)) + 1)
