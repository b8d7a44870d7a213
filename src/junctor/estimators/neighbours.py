"""Nearest rows among many: inverted lists of 8-bit vectors, searched by faiss (extra `ann`). An index, no estimator.

Rows are grouped around about 2 sqrt(n) k-means centroids and kept list by list, one signed byte per dimension. A query looks at
the lists of its nearest centroids only, so the rows that it is compared with hardly grow with n. On one million rows x 256 this
was several times faster to build and to ask than the graph indexes (usearch, hnswlib) at a higher recall of 100 neighbours:
benchmarks/scale.py measures all of them.

The state is plain arrays (centroids, codes, their unit, list sizes), from which the same index is made again: nothing is
stored in faiss's own format.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from junctor.errors import ArtefactError, MissingExtra
from junctor.estimators import saved
from junctor.policy import State

Vectors = NDArray[np.float32]
Codes = NDArray[np.int8]
Rows = NDArray[np.int64]

LOOKED_AT = 20
"""So many rows are compared per neighbour that is asked for, and never fewer than for LEAST_ASKED neighbours."""
LEAST_ASKED = 100
SHOWN = 40
"""Rows per centroid that k-means sees."""
FEWEST = 8
"""Rows per centroid, at least."""
ROUNDS = 6
LEVELS = 127
SMALLEST = np.float32(1e-6)
BLOCK = 65_536


def available() -> bool:
    """Whether faiss can be imported."""
    return importlib.util.find_spec("faiss") is not None


def _faiss(who: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its SWIG types, from Python 3.12 on
            import faiss
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "needs the package faiss for so many rows", field=who, fix="pip install 'junctor[ann]', or set index to exact"
        ) from error
    return faiss


class Lists:
    """n rows of D numbers in L lists; row numbers are places in the order of the lists.

    centroids   float32 [L, D]
    unit        float32 [1]: a code c in -127 … 127 stands for the number c * unit
    sizes       int64 [L] rows per list
    """

    def __init__(self, centroids: Vectors, unit: Vectors, sizes: Rows, index: Any) -> None:
        self.centroids, self.unit, self.sizes, self._index = centroids, unit, sizes, index
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._asked: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def width(self) -> int:
        """D."""
        return int(self.centroids.shape[1])

    @classmethod
    def build(cls, vectors: Vectors, rng: np.random.Generator, who: str) -> tuple[Lists, Rows]:
        """The lists of n vectors and the order [n] in which they hold them: place i is row order[i] of `vectors`.

        Raises MissingExtra in the name of `who` without faiss.
        """
        faiss = _faiss(who)
        count = max(1, min(2 ** round(np.log2(2.0 * len(vectors) ** 0.5)), len(vectors) // FEWEST))
        shown = np.sort(rng.choice(len(vectors), min(len(vectors), count * SHOWN), replace=False))
        centroids = _centroids(faiss, np.ascontiguousarray(vectors[shown]), count, int(rng.integers(2**31)))
        coarse = _flat(faiss, centroids)
        blocks = [slice(start, start + BLOCK) for start in range(0, len(vectors), BLOCK)]
        home = np.concatenate([coarse.search(vectors[block], 1)[1][:, 0] for block in blocks])
        order = np.argsort(home, kind="stable")
        largest = max(vectors.max(), -vectors.min(), SMALLEST)
        unit = np.array([largest / LEVELS], dtype=np.float32)
        codes = np.empty(vectors.shape, dtype=np.int8)
        for block in blocks:
            codes[block] = np.rint(vectors[order[block]] / unit)
        sizes = np.bincount(home, minlength=count).astype(np.int64)
        return cls(centroids, unit, sizes, _filled(faiss, centroids, sizes, codes)), order

    def nearest(self, vector: Vectors, count: int) -> tuple[Vectors, Rows]:
        """Similarities and places of about the `count` rows of the largest inner product with one vector [D], best first."""
        near, places = self._searched(vector[None], count)
        found = places[0]
        return (near[0], found) if found[-1] >= 0 else (near[0][found >= 0], found[found >= 0])

    def nearest_many(self, vectors: Vectors, count: int) -> tuple[Vectors, Rows]:
        """The same for N vectors: [N, count] each; the place is -1 where fewer rows were looked at."""
        return self._searched(np.ascontiguousarray(vectors), count)

    def _searched(self, vectors: Vectors, count: int) -> tuple[Vectors, Rows]:
        asked = self._asked.get(count) or self._asking(count)
        # faiss multiplies bytes with bytes: a query is turned into whole numbers too, each with a unit of its own.
        unit = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), SMALLEST) / LEVELS
        near, places = self._index.search(np.rint(vectors / unit), count, params=asked)
        near *= self.unit * unit
        return near, places

    def _asking(self, count: int) -> Any:
        faiss = _faiss("index")
        self._asked[count] = faiss.SearchParametersIVF(nprobe=self.probes(count))
        return self._asked[count]

    def probes(self, count: int) -> int:
        """How many lists are looked at for `count` neighbours."""
        wanted = LOOKED_AT * max(count, LEAST_ASKED)
        return int(min(max(np.ceil(wanted * len(self.sizes) / len(self)), 1), len(self.sizes)))

    def vectors(self, places: slice) -> Vectors:
        """The rows at these places, as their codes have them."""
        return self._codes(places).astype(np.float32) * self.unit

    def _codes(self, places: slice) -> Codes:
        """Codes of these places, read out of the lists that hold them."""
        faiss = _faiss("index")
        first, last, _ = places.indices(len(self))
        out = np.empty((max(last - first, 0), self.width), dtype=np.int8)
        for place in range(int(np.searchsorted(self._starts, first, side="right")) - 1, len(self.sizes)):
            start, stop = int(self._starts[place]), int(self._starts[place + 1])
            if start >= last:
                break
            if stop > start:
                held = faiss.rev_swig_ptr(self._index.invlists.get_codes(place), (stop - start) * self.width)
                part = slice(max(first, start), min(last, stop))
                out[part.start - first : part.stop - first] = _turned(
                    held.reshape(-1, self.width)[part.start - start : part.stop - start]
                )
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The state, as plain arrays."""
        codes = self._codes(slice(None))
        return {"centroids": self.centroids, "unit": self.unit, "sizes": self.sizes, "codes": codes}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], who: str) -> Self:
        """The inverse of `arrays`; raises ArtefactError when they do not fit, MissingExtra without faiss."""
        state = State({}, arrays)
        centroids = saved.array(state, "centroids", (None, None), np.float32)
        unit = saved.array(state, "unit", (1,), np.float32)
        sizes = saved.array(state, "sizes", (len(centroids),), np.int64)
        codes = saved.array(state, "codes", (None, centroids.shape[1]), np.int8)
        if not len(codes) or (sizes < 0).any() or sizes.sum() != len(codes):
            raise ArtefactError("does not add up to the rows", field="sizes", fix=saved.FIX)
        return cls(centroids, unit, sizes, _filled(_faiss(who), centroids, sizes, codes))


def _centroids(faiss: Any, shown: Vectors, count: int, seed: int) -> Vectors:
    bounds = {"min_points_per_centroid": 1, "max_points_per_centroid": SHOWN}
    means = faiss.Kmeans(shown.shape[1], count, niter=ROUNDS, seed=seed, spherical=True, **bounds)
    means.train(shown)
    return np.ascontiguousarray(means.centroids, dtype=np.float32)


def _flat(faiss: Any, centroids: Vectors) -> Any:
    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(centroids)
    return index


def _turned(codes: NDArray[Any]) -> NDArray[Any]:
    """Signed bytes as faiss keeps them (c + 128, unsigned), or back: both are one flipped bit."""
    other = np.uint8 if codes.dtype == np.int8 else np.int8
    return (codes.view(np.uint8) ^ np.uint8(128)).view(other)


def _filled(faiss: Any, centroids: Vectors, sizes: Rows, codes: Codes) -> Any:
    """A faiss index over these lists; it copies the codes."""
    width = centroids.shape[1]
    kind, product = faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
    coarse = _flat(faiss, centroids)
    index = faiss.IndexIVFScalarQuantizer(coarse, width, len(centroids), kind, product, False)
    index.referenced_objects = [coarse]  # faiss does not keep it alive
    start = 0
    for place, size in enumerate(sizes.tolist()):
        if size:
            ids = np.arange(start, start + size, dtype=np.int64)
            part = _turned(codes[start : start + size])
            index.invlists.add_entries(place, size, faiss.swig_ptr(ids), faiss.swig_ptr(part))
        start += size
    index.ntotal, index.is_trained = start, True
    return index
