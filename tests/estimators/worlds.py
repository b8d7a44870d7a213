"""Planted worlds in which the idea of a trained estimator matters, and how far a policy gets in them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from junctor.encoders import load_encoder
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Estimator, EstimatorConfig
from junctor.types import Catalogue


@dataclass(frozen=True)
class World:
    """Recorded rows to learn from, and the true chances [n, M] of new ones."""

    table: OutcomeTable
    features: Features
    test: Features
    chance: np.ndarray

    def fit(self, config: EstimatorConfig, seed: int = 0) -> Estimator:
        return config.fit(self.table, self.features, np.random.default_rng(seed))

    def gained(self, config: EstimatorConfig, seed: int = 0) -> float:
        """How much of the way from the best single target to the best choice per query: 0 and 1."""
        return self.reached(self.fit(config, seed))

    def reached(self, fitted: Estimator, among: slice = slice(None)) -> float:
        """The same of a fitted estimator, choosing among some of the targets."""
        chance = self.chance[:, among]
        places = fitted.predict_many(self.test).quality[:, among].argmax(axis=1)
        value = chance[np.arange(len(chance)), places].mean()
        single, best = chance.mean(axis=0).max(), chance.max(axis=1).mean()
        return float((value - single) / (best - single))

    def newcomers(self, config: EstimatorConfig, known: int, shown: int) -> float:
        """Fitted on the first `known` targets, shown the others on so many rows: how far it gets among the others alone."""
        ids = self.table.targets.ids
        fitted = config.fit(self.table.only(ids[:known]), self.features, np.random.default_rng(0))
        rows = np.random.default_rng(1).choice(len(self.table), shown, replace=False)
        for id_ in ids[known:]:
            fitted = fitted.onboard(id_, self.table.take(rows), self.features.take(rows))
        return self.reached(fitted, slice(known, None))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-z))


def units(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recorded(quality: np.ndarray, vectors: np.ndarray, texts=None, **columns) -> tuple[OutcomeTable, Features]:
    table = OutcomeTable(
        texts=texts or [f"query {i}" for i in range(len(quality))],
        targets=Catalogue.of([f"target-{j}" for j in range(quality.shape[1])]),
        quality=quality,
        **columns,
    )
    return table, table.features(vectors.astype(np.float32))


def hidden_skills(
    rows: int = 400,
    targets: int = 30,
    dim: int = 48,
    depth: int = 2,
    tried: float = 0.15,
    luck: float = 0.0,
    gain: float = 3.0,
    bent: bool = False,
    seed: int = 0,
    test: int = 1000,
) -> World:
    """What a target is good at lies in `depth` of `dim` directions, the same for all; each is `tried` on a share of the rows.

    luck   how strongly a query is easy or hard for all targets alike, which no vector tells
    bent   a target is as good at the opposite of what it is good at: no straight line tells where
    """
    rng = np.random.default_rng(seed)
    vectors = units(rng, rows + test, dim)
    place = vectors[:, :depth] * np.sqrt(dim)
    skill = rng.standard_normal((depth, targets))
    skill /= np.linalg.norm(skill, axis=0)
    odds = gain * ((place @ skill) ** 2 - 1.0 if bent else place @ skill)
    chance = sigmoid(odds)
    easy = luck * rng.standard_normal((rows, 1))
    quality = (rng.random((rows, targets)) < sigmoid(odds[:rows] + easy)).astype(np.float64)
    gone = rng.random(quality.shape) >= tried
    gone[0] = False
    turned, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    table, features = recorded(np.where(gone, np.nan, quality), vectors[:rows] @ turned)
    seen = Features([""] * test, (vectors[rows:] @ turned).astype(np.float32))
    return World(table, features, seen, chance[rows:])


def telling_lengths(rows: int = 500, targets: int = 5, dim: int = 24, seed: int = 0, test: int = 1000) -> World:
    """Right or wrong is a noisy sign of what an answer would be like; its length shows it almost without noise."""
    rng = np.random.default_rng(seed)
    vectors = units(rng, rows + test, dim)
    answer = np.abs(vectors @ rng.standard_normal((dim, targets)))
    chance = sigmoid(3.0 * (answer - 0.7))
    quality = (rng.random((rows, targets)) < chance[:rows]).astype(np.float64)
    tokens = np.exp(5.0 - answer[:rows] + 0.1 * rng.standard_normal(quality.shape))
    table, features = recorded(quality, vectors[:rows], output_tokens=tokens)
    seen = Features([""] * test, vectors[rows:].astype(np.float32))
    return World(table, features, seen, chance[rows:])


def mixed_domains(
    rows: int = 1500,
    targets: int = 38,
    topics: int = 40,
    domains: int = 4,
    tried: float = 1.0,
    luck: float = 0.0,
    spread: float = 0.08,
    seed: int = 0,
    test: int = 1000,
) -> World:
    """Many topics of few domains: who is good at one topic is good at the others of its domain, wherever they lie."""
    rng = np.random.default_rng(seed)
    centres = units(rng, topics, 32)
    domain = rng.integers(domains, size=topics)
    skill = rng.uniform(0.1, 0.9, (domains, targets))
    topic = rng.integers(topics, size=rows + test)
    vectors = centres[topic] + spread * rng.standard_normal((rows + test, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chance = skill[domain[topic]]
    odds = np.log(chance / (1.0 - chance))[:rows] + luck * rng.standard_normal((rows, 1))
    quality = (rng.random((rows, targets)) < sigmoid(odds)).astype(np.float64)
    gone = rng.random(quality.shape) >= tried
    gone[0] = False
    table, features = recorded(np.where(gone, np.nan, quality), vectors[:rows])
    return World(table, features, Features([""] * test, vectors[rows:].astype(np.float32)), chance[rows:])


TOPICS = (
    "river lake ocean wave harbour fish tide ship",
    "bread butter flour oven cake sugar dough salt",
    "court judge law crime prison trial jury lawyer",
    "guitar piano song melody drum concert choir rhythm",
    "planet star galaxy telescope orbit comet moon rocket",
    "doctor hospital nurse surgery patient disease fever medicine",
    "goal match football player coach stadium league referee",
    "bank loan money interest credit debt market stock",
    "forest tree leaf squirrel deer mushroom owl moss",
    "engine wheel brake car truck fuel garage road",
    "king queen castle knight sword throne battle crown",
    "python code compiler function variable loop debugger library",
)


def with_documents(rows: int = 600, seed: int = 0, test: int = 600, marker: str = "\n### Documents\n") -> World:
    """Three targets know four topics each, whatever they are given to read. Three others know little, but answer anything from
    documents on its topic, and are misled by documents on another one. Half of the queries come with documents.
    """
    rng = np.random.default_rng(seed)
    words = [topic.split() for topic in TOPICS]
    count = rows + test
    topic, other = rng.integers(len(words), size=count), rng.integers(1, len(words), size=count)
    kind = rng.choice(3, p=[0.5, 0.25, 0.25], size=count)  # none, on the topic, on another
    subject = np.where(kind == 1, topic, (topic + other) % len(words))
    texts = [" ".join(rng.choice(words[t], 6)) for t in topic.tolist()]
    for i in np.flatnonzero(kind).tolist():
        texts[i] += marker + " ".join(rng.choice(words[subject[i]], 10))
    knows = np.where(topic[:, None] % 3 == np.arange(3), 0.8, 0.2)
    reads = np.array([0.3, 0.95, 0.1])[kind][:, None] + np.array([0.02, 0.0, -0.02])
    chance = np.concatenate([knows, reads], axis=1)
    quality = (rng.random((rows, 6)) < chance[:rows]).astype(np.float64)
    vectors = load_encoder("static").encode(texts)
    table, features = recorded(quality, vectors[:rows], texts[:rows])
    return World(table, features, Features(texts[rows:], vectors[rows:]), chance[rows:])


def without_tokens(world: World) -> World:
    return replace(world, table=replace(world.table, output_tokens=None))
