"""Nearest neighbours and knn decisions as rows grow: figures of docs/scale.md, as JSON.

    python benchmarks/scale.py [--rows 50000,200000] [--with exact,lists,usearch,hnswlib] [--fit ROWS] [--policy knn] [--json -]

`search` asks each way of finding 100 neighbours, on one thread: build time, the index's own memory, recall@100, µs of a single
query. `fit` (a process of its own) fits a policy on ROWS x 20 targets with costs and reports peak memory and the whole
decision.

Vectors are synthetic: unit, 256 numbers, a few thousand unequal clusters around a few hundred topics. On 65,000 rows their 1st,
10th, 100th and 1,000th neighbours have cosines of .84, .73, .56 and .35; real queries under the static encoder (seven public
sets, 65,648 texts) .82, .64, .51 and .37.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.estimators.neighbours import Lists
from junctor.features import Features
from junctor.fitting import fit_policy, policy_config
from junctor.outcomes import OutcomeTable
from junctor.testing.planted import through_files
from junctor.types import Catalogue, Request

DIM, TOPICS, EACH, ASKED, NEAR = 256, 300, 15, 400, 100
TARGETS = 20
Vectors = NDArray[np.float32]
Search = Callable[[Vectors], Any]


def vectors(rows: int, seed: int) -> tuple[Vectors, NDArray[np.intp]]:
    """Unit vectors [rows, 256] and the cluster of each."""
    world, rng = np.random.default_rng(7), np.random.default_rng(seed)
    scale = ((1 + np.arange(DIM)) ** -0.38).astype(np.float32)
    topics = np.repeat(world.standard_normal((TOPICS, DIM), np.float32) * scale, EACH, axis=0)
    centres = topics + np.float32(0.8) * world.standard_normal(topics.shape, np.float32) * scale
    share = world.permutation(1.0 / np.arange(1, len(centres) + 1) ** 0.8)
    home = rng.choice(len(centres), size=rows, p=share / share.sum())
    out = np.empty((rows, DIM), dtype=np.float32)
    for start in range(0, rows, 50_000):
        block = slice(start, min(start + 50_000, rows))
        spread = rng.uniform(0.3, 1.3, (block.stop - start, 1)).astype(np.float32)
        noise = rng.standard_normal((block.stop - start, DIM), np.float32)
        noise *= spread * scale
        noise += centres[home[block]] + np.float32(0.4) * scale
        out[block] = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return out, home


def exact(found: Vectors, kind: type[np.floating[Any] | np.int8]) -> tuple[Search, int]:
    """Compare with every row: float32, float16 or 8-bit whole numbers, plain numpy."""
    if kind is np.int8:
        factor = np.float32(127.0 / np.abs(found).max())
        rows: NDArray[Any] = np.round(found * factor).astype(np.int8)
    else:
        rows = found.astype(kind)

    def search(query: Vectors) -> NDArray[np.intp]:
        if kind is np.float32:
            near = rows @ query
        else:
            near = np.concatenate([rows[i : i + 4096].astype(np.float32) @ query for i in range(0, len(rows), 4096)])
        return np.argpartition(-near, NEAR)[:NEAR]

    return search, rows.nbytes


def graph_usearch(found: Vectors, kind: str) -> tuple[Search, int]:
    """HNSW of usearch: connectivity 16, 64 while building, 100 while asking."""
    from usearch.index import Index

    index = Index(ndim=DIM, metric="ip", dtype=kind, connectivity=16, expansion_add=64, expansion_search=NEAR)
    index.add(np.arange(len(found)), found, threads=1)
    return lambda query: index.search(query, NEAR, threads=1).keys, int(index.memory_usage)


def graph_hnswlib(found: Vectors) -> tuple[Search, int]:
    """HNSW of hnswlib: M 16, 64 while building, 100 while asking; float32 only."""
    import hnswlib

    index = hnswlib.Index("ip", DIM)
    index.init_index(len(found), M=16, ef_construction=64, random_seed=1)
    index.add_items(found, num_threads=1)
    index.set_ef(NEAR)
    return lambda query: index.knn_query(query, NEAR, num_threads=1)[0][0], int(index.index_file_size())


def lists(found: Vectors) -> tuple[Search, int]:
    """Ours: faiss inverted lists, 8 bits a dimension."""
    made, order = Lists.build(found, np.random.default_rng(0), "scale")
    size = sum(part.nbytes for part in made.arrays().values())
    return lambda query: order[made.nearest(query, NEAR)[1]], size


WAYS: dict[str, dict[str, Callable[[Vectors], tuple[Search, int]]]] = {
    "exact": {
        "exact float32": lambda found: exact(found, np.float32),
        "exact float16": lambda found: exact(found, np.float16),
        "exact int8": lambda found: exact(found, np.int8),
    },
    "lists": {"faiss lists, 8 bit": lists},
    "usearch": {
        "usearch i8": lambda found: graph_usearch(found, "i8"),
        "usearch f16": lambda found: graph_usearch(found, "f16"),
    },
    "hnswlib": {"hnswlib f32": graph_hnswlib},
}


def timed(step: Callable[[int], Any], calls: int) -> dict[str, float]:
    """µs of `step(i)`: median, the fastest tenth's end, and the slowest hundredth's beginning."""
    taken = []
    for i in range(calls):
        started = time.perf_counter_ns()
        step(i)
        taken.append((time.perf_counter_ns() - started) / 1e3)
    return {f"us_p{p}": round(float(np.percentile(taken, p)), 1) for p in (10, 50, 99)}


def searched(rows: int, ways: list[str]) -> list[dict[str, Any]]:
    """Every way of finding neighbours among so many rows."""
    found, _ = vectors(rows, 1)
    asked, _ = vectors(ASKED, 2)
    near = asked @ found.T
    true = np.argpartition(-near, NEAR, axis=1)[:, :NEAR]
    del near
    out = []
    for name, make in ((name, make) for way in ways for name, make in WAYS[way].items()):
        started = time.perf_counter()
        search, size = make(found)
        built = time.perf_counter() - started
        calls = ASKED if "exact" not in name else 20
        recall = np.mean([len(np.intersect1d(search(asked[i]), true[i])) / NEAR for i in range(calls)])
        figures = timed(lambda i, search=search: search(asked[i]), calls)  # type: ignore[misc]
        out.append(
            {"rows": rows, "way": name, "build_s": round(built, 1), "mb": round(size / 1e6), "recall": round(float(recall), 3)}
            | figures
        )
        sys.stderr.write(f"{out[-1]}\n")
    return out


def planted(rows: int, seed: int) -> tuple[OutcomeTable, Features]:
    """Queries x 20 targets whose quality depends on the cluster, and costs."""
    found, home = vectors(rows, seed)
    world, rng = np.random.default_rng(3), np.random.default_rng(seed)
    skill = world.uniform(0.1, 0.95, (TOPICS * EACH, TARGETS))
    quality = np.empty((rows, TARGETS))
    for start in range(0, rows, 50_000):
        block = slice(start, min(start + 50_000, rows))
        quality[block] = rng.random((block.stop - start, TARGETS)) < skill[home[block]]
    cost = np.geomspace(1e-4, 1e-2, TARGETS) * rng.uniform(0.5, 1.5, (rows, 1))
    table = OutcomeTable(
        [f"question number {i}" for i in range(rows)], Catalogue.of([f"target-{i}" for i in range(TARGETS)]), quality, cost
    )
    return table, table.features(found)


def fitted(rows: int, policy: str) -> dict[str, Any]:
    """Fit a policy as `junctor fit` does, save and read it back, and time whole decisions."""
    table, features = planted(rows, 1)
    before = _peak_mb()
    started = time.perf_counter()
    fit = fit_policy(policy_config(policy), table, features, np.arange(rows), np.arange(0), np.random.default_rng(0))
    out: dict[str, Any] = {"policy": policy, "rows": rows, "targets": TARGETS, "fit_s": round(time.perf_counter() - started, 1)}
    out |= {"peak_mb_data": before, "peak_mb_fit": _peak_mb()}
    asked, seen = planted(ASKED, 2)
    queries = seen.vectors("scale")
    wanted = [Request(id=str(i), text=asked.texts[i], features=seen.take([i])) for i in range(ASKED)]
    rng = np.random.default_rng(0)
    for _ in range(2):
        out["decide"] = timed(lambda i: fit.policy.decide(wanted[i % ASKED], asked.targets, rng), 5 * ASKED)
    inner = fit.policy.estimator  # type: ignore[attr-defined]
    out["predict"] = timed(lambda i: inner.expect(wanted[i % ASKED].features), 5 * ASKED)
    if hasattr(inner, "_lists"):
        out["search"] = timed(lambda i: inner._lists.nearest(queries[i % ASKED], NEAR), 5 * ASKED)
    if rows <= 200_000:
        again = type(fit.policy).from_state(through_files(fit.policy.state()))
        one, other = (p.decide_many(seen, asked.targets, rng)[0] for p in (fit.policy, again))
        out["same_after_reading"] = bool((one == other).all())
    choices = fit.policy.decide_many(seen, asked.targets, rng)[0]
    out["quality"] = round(float(np.take_along_axis(asked.quality, choices[:, None], axis=1).mean()), 3)
    return out


def _peak_mb() -> int:
    """Most resident memory so far. Linux keeps ru_maxrss over an exec, so a child would report its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM")) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _apart(rows: int, policy: str) -> dict[str, Any]:
    """`fitted` in a process of its own, so that its peak memory is its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([sys.executable, __file__, "--inner", str(rows), "--policy", policy, "--json", file.name], check=True)
        found: dict[str, Any] = json.loads(Path(file.name).read_text("utf-8"))
    return found


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", default="20000", help="comma-separated")
    parser.add_argument("--with", dest="ways", default=",".join(WAYS), help="ways of finding neighbours, comma-separated")
    parser.add_argument("--fit", default="20000", help="rows to fit on, comma-separated; empty for none")
    parser.add_argument("--policy", default="knn", help="policy to fit")
    parser.add_argument("--inner", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", default="-", metavar="PATH", help="where the JSON goes; - is standard output")
    asked = parser.parse_args()
    if asked.inner:
        found: dict[str, Any] = fitted(asked.inner, asked.policy)
    else:
        search = [one for rows in asked.rows.split(",") if rows for one in searched(int(rows), asked.ways.split(","))]
        found = {
            "cores": os.cpu_count(),
            "search": search,
            "fit": [_apart(int(rows), asked.policy) for rows in asked.fit.split(",") if rows],
        }
    text = json.dumps(found, indent=1)
    if asked.json == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(asked.json).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
