"""A small planted outcome table with known structure, for checks and examples: nothing to download, the same for every seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, State
from junctor.types import Catalogue, Price, Request, Target

TOPICS = ("arithmetic", "translation", "python code")
SKILL = np.array([[0.15, 0.90, 0.30, 0.85], [0.80, 0.20, 0.35, 0.90], [0.10, 0.25, 0.90, 0.80]])
"""[topic, target] chance of a right answer: three cheap specialists and a dear generalist."""
COST = np.array([0.0001, 0.0002, 0.0004, 0.01])


def targets() -> Catalogue:
    """Four models, cheapest first."""
    said = (
        "a linguist: translation between languages",
        "a calculator: arithmetic",
        "a programmer: python code",
        "knows it all",
    )
    ids = ("linguist", "calculator", "programmer", "generalist")
    prices = [Price(input_usd_per_mtok=c * 1e3, output_usd_per_mtok=c * 4e3) for c in COST.tolist()]
    return Catalogue([Target(id=i, description=d, price=p) for i, d, p in zip(ids, said, prices, strict=True)])


def planted(rows: int = 240, seed: int = 0, dim: int = 32) -> tuple[OutcomeTable, Features]:
    """N queries of three topics x four targets: right or wrong, costs, latencies and tokens; vectors cluster by topic."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(len(TOPICS), size=rows)
    quality = (rng.random((rows, 4)) < SKILL[topic]).astype(np.float64)
    size = rng.uniform(0.5, 1.5, (rows, 1))
    centres = rng.standard_normal((len(TOPICS), dim))
    vectors = (centres[topic] + 0.6 * rng.standard_normal((rows, dim))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [TOPICS[t] for t in topic.tolist()]
    table = OutcomeTable(
        texts=[f"{name} question number {i}" for i, name in enumerate(names)],
        targets=targets(),
        quality=quality,
        cost_usd=COST * size,
        latency_s=np.array([0.2, 0.3, 0.5, 2.0]) * size,
        input_tokens=np.repeat(40.0 * size, 4, axis=1),
        output_tokens=np.repeat(100.0 * size, 4, axis=1),
        labels={"topic": names},
        label_name="topic",
        source="planted",
    )
    return table, table.features(vectors)


def with_gaps(table: OutcomeTable, share: float, rng: np.random.Generator) -> OutcomeTable:
    """The table with this share of its cells not recorded; every target keeps its first row."""
    gone = rng.random(table.quality.shape) < share
    gone[0] = False
    return replace(
        table,
        quality=_blank(table.quality, gone),
        cost_usd=None if table.cost_usd is None else _blank(table.cost_usd, gone),
        latency_s=None if table.latency_s is None else _blank(table.latency_s, gone),
        output_tokens=None if table.output_tokens is None else _blank(table.output_tokens, gone),
    )


def _blank(values: Array, gone: NDArray[np.bool_]) -> Array:
    return np.where(gone, np.nan, values)


def requests(table: OutcomeTable, features: Features, rows: Sequence[int]) -> Iterator[Request]:
    """The rows as requests, with the features that the engine would attach."""
    for row in rows:
        labels = {name: values[row] for name, values in table.labels.items()}
        yield Request(id=f"request-{row}", text=table.texts[row], labels=labels, features=features.take([row]))


def through_files(state: State) -> State:
    """A state as it comes back from JSON and safetensors; anything but plain data fails to encode."""
    from safetensors.numpy import load, save

    config = msgspec.json.decode(msgspec.json.encode(dict(state.config)))
    return State(config, load(save({name: np.ascontiguousarray(values) for name, values in state.arrays.items()})))


def same_state(one: State, other: State) -> bool:
    """Whether two states hold the same data."""
    if msgspec.json.encode(one.config, order="sorted") != msgspec.json.encode(other.config, order="sorted"):
        return False
    return one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(values, other.arrays[name], equal_nan=values.dtype.kind == "f") for name, values in one.arrays.items()
    )


def is_frozen(config: object) -> bool:
    """Whether this is an instance of a frozen dataclass."""
    made = getattr(type(config), "__dataclass_params__", None)
    return bool(made is not None and made.frozen)


def fingerprint(table: OutcomeTable, features: Features) -> tuple[bytes, ...]:
    """Every byte that a fit could change by mistake."""
    arrays = [table.quality, table.cost_usd, table.latency_s, table.input_tokens, table.output_tokens, features.embedding]
    words = msgspec.json.encode([list(table.texts), dict(table.labels), list(features.texts), dict(features.labels)])
    return (words, *(b"" if values is None else values.tobytes() for values in arrays))
