"""graphrouter: tasks, queries and targets as nodes of a graph; a new query's edges to the targets are predicted.

Source: GraphRouter (authors' code as vendored in LLMRouterBench and FusionFactory). Messages are written out by hand; there is
no graph library. In training the edges of half of a step's queries are hidden and predicted from those of the other half, as a
test query's are: its own outcomes are never an input. What a target is follows from its description and its visible edges, so
a new one is a node with a few edges, and nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.encoders import load_encoder
from junctor.estimators import descent, trained
from junctor.estimators.descent import Recipe
from junctor.estimators.settings import check
from junctor.estimators.trained import Trained
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig
from junctor.types import Target

PSEUDO_EDGES = 10.0
"""Messages of few edges are drawn to zero as if so many edges without news were there."""
EDGE_GAIN = 3.0
BATCH = 512
"""Queries of one training step: half of them show their edges."""


class GraphEdges(Trained):
    """Holds the query layer [D, H], the task nodes [T, D] and their messages [T, H], and the target nodes [M, H].

    `edge` [H, H] makes messages of edges, `describe` [E, H] reads descriptions: both are for new targets.
    """

    name: ClassVar[str] = "graphrouter"
    shapes: ClassVar[Mapping[str, str]] = {
        "project": "DH",
        "shift": "H",
        "tasks": "TD",
        "from_task": "TH",
        "edge": "HK",
        "describe": "EH",
        "models": "MH",
    }

    def queries(self, vectors: Array) -> Array:
        """Query nodes [N, H] after the message of their task; no outcome of theirs goes in."""
        own = np.maximum(vectors @ self._parts["project"] + self._parts["shift"], 0.0)
        return own + self._parts["from_task"][trained.nearest(vectors, self._parts["tasks"])]

    def odds(self, vectors: Array, features: Features) -> Array:
        """The predicted edges: products of query and target nodes, around each target's prior."""
        del features
        odds: Array = self.queries(vectors) @ self._parts["models"].T + self._parts["prior"]
        return odds

    def introduced(self, target: Target, quality: Array, vectors: Array, features: Features) -> dict[str, Array]:
        """A node from the description and the few edges."""
        del features
        known = _described(self.config, [target], len(self._parts["describe"]))
        edges = trained.rated(quality[:, None])
        node = _messages(edges, np.ones_like(edges), self.queries(vectors)) @ self._parts["edge"]
        own = np.tanh(EDGE_GAIN * node + known @ self._parts["describe"])
        return {"models": np.concatenate([self._parts["models"], own])}


def _messages(edges: Array, seen: Array, queries: Array) -> Array:
    """[M, H]: mean over a target's visible edges of (outcome above its mean) x (query node)."""
    total: Array = edges.T @ queries / (seen.sum(axis=0)[:, None] + PSEUDO_EDGES)
    return total


@dataclass(frozen=True, kw_only=True)
class GraphRouterConfig(EstimatorConfig):
    """Hyper-parameters.

    width      of every node's hidden state
    tasks      task nodes: clusters of training queries
    messages   False takes the edges away: a target is its description alone
    encoder    reads the targets' descriptions, where there are any
    """

    width: int = 32
    tasks: int = 20
    messages: bool = True
    encoder: str = "static"
    rate: float = 0.003
    decay: float = 3.0
    epochs: int = 40

    name: ClassVar[str] = "graphrouter"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = GraphEdges
    about: ClassVar[About | None] = About(
        title="GraphRouter: a graph of tasks, queries and models",
        family="contrastive and graph",
        status="adapted",
        source="GraphRouter; authors' code lineage as vendored in ynulihao/LLMRouterBench and ulab-uiuc/FusionFactory",
        formula=(
            "q = relu(W e(x) + b) + M t(x), t the mean of the visible queries of x's task\n"
            "m_j = tanh(g V mean over visible edges (y_ij - mean y_j) q_i + D description_j)\n"
            "P(right) = sigmoid(prior_j + q . m_j); BCE over the hidden half of the edges"
        ),
        adapted=(
            "Every recorded outcome is a label; the paper's one-hot of the best utility throws ties away.",
            "Tasks are clusters of training queries, so that a query without a label has one; the paper's are described.",
            (
                "Outcomes scale the messages of their edges; the paper adds projected ones and normalises by batch. Cost is"
                " predicted apart from quality and traded afterwards, so one fit serves every trade."
            ),
            "Hidden edges are all those of the hidden queries, as at test time; the released code hides edges one by one.",
            "The stopping epoch is chosen on held-out training rows; the released code's validation rows are its test rows.",
        ),
        complexity="fit O(epochs N (D H + M H)); decision O(D (H + T) + M H)",
        claims=(
            Claim(figure="at least +12.3% over other routers, +9.5% for new models", on="its own benchmark", sure="abstract"),
            Claim(figure="70.29 mean accuracy, table per dataset 73.10", on="LLMRouterBench", sure="read"),
            Claim(figure="57.22", on="RouterArena", sure="read"),
            Claim(figure="utility .68 / .53 / .45 against .67 / .40 / .13 of the largest model", on="DiSRouter's table"),
        ),
    )

    def __post_init__(self) -> None:
        for key in ("width", "tasks", "epochs"):
            check(getattr(self, key) >= 1, f"graphrouter.{key}", "must be at least 1")
        check(self.rate > 0, "graphrouter.rate", "must be positive")
        check(self.decay >= 0, "graphrouter.decay", "must not be negative")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> GraphEdges:
        """Train the layers, then let every training edge send its message; raises UserError without a row."""
        columns, values, vectors = trained.learnable(table, features, self.name)
        quality = values[:, : len(columns.targets)]
        parts = trained.common(columns, values, vectors)
        parts["tasks"] = trained.clusters(vectors, self.tasks, rng)
        known = _described(self, list(table.targets))
        task = trained.nearest(vectors, parts["tasks"])
        found = self._trained(quality, vectors, task, len(parts["tasks"]), known, parts["prior"], rng)
        parts.update(found.weights)
        own = np.maximum(vectors @ parts["project"] + parts["shift"], 0.0)
        parts["from_task"] = _task_means(own, task, len(parts["tasks"])) @ parts.pop("to_query")
        nodes = _messages(trained.rated(quality), ~np.isnan(quality), own + parts["from_task"][task]) @ parts["edge"]
        parts["models"] = np.tanh(EDGE_GAIN * nodes * self.messages + known @ parts["describe"])
        return GraphEdges(self, columns, parts, found.losses)

    def _trained(
        self,
        quality: Array,
        vectors: Array,
        task: NDArray[np.intp],
        tasks: int,
        known: Array,
        prior: Array,
        rng: np.random.Generator,
    ) -> descent.Descent:
        torch = descent.torch_for(self.name)
        centre, scale = trained.standard(vectors)
        x = trained.float_rows(torch, (vectors - centre) / scale)
        right, seen = descent.cells(torch, quality)
        rated, level = trained.float_rows(torch, trained.rated(quality)), trained.float_rows(torch, np.nan_to_num(prior))
        member = torch.nn.functional.one_hot(torch.from_numpy(task), tasks).float()
        described = trained.float_rows(torch, known)

        def loss(w: Mapping[str, Any], batch: NDArray[np.intp], draw: np.random.Generator) -> Any:
            shown, hidden = halves(batch, draw)
            own = torch.relu(x[batch] @ w["project"] + w["shift"])
            first, last = own[shown], own[hidden]
            inside = member[batch[shown]]
            means = inside.T @ first / inside.sum(dim=0)[:, None].clamp(min=1.0) @ w["to_query"]
            edges, there = rated[batch[shown]], seen[batch[shown]]
            nodes = edges.T @ (first + inside @ means) / (there.sum(dim=0)[:, None] + PSEUDO_EDGES) @ w["edge"]
            models = torch.tanh(EDGE_GAIN * nodes * self.messages + described @ w["describe"])
            odds = (last + member[batch[hidden]] @ means) @ models.T + level
            return descent.binary_loss(torch, odds, right[batch[hidden]], seen[batch[hidden]])

        start = {
            "project": trained.drawn(rng, vectors.shape[1], self.width),
            "shift": np.zeros(self.width),
            "to_query": trained.drawn(rng, self.width, self.width, gain=0.3),
            "edge": np.eye(self.width) + trained.drawn(rng, self.width, self.width, gain=0.1),
            "describe": trained.drawn(rng, max(1, known.shape[1]), self.width, gain=0.1)[: known.shape[1]],
        }
        recipe = Recipe(rate=self.rate, decay=self.decay, epochs=self.epochs, batch=BATCH)
        found = descent.descend(self.name, start, loss, np.arange(len(x)), recipe, rng)
        project, shift = trained.folded(found.weights["project"], found.weights["shift"], centre, scale)
        found.weights.update(project=project, shift=shift)
        return found


def halves(batch: NDArray[np.intp], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions in the batch of the queries that show their edges, and of those whose edges are hidden: never one in both."""
    mixed = rng.permutation(len(batch))
    cut = max(1, len(batch) // 2)
    return mixed[:cut], mixed[cut:]


def _task_means(queries: Array, task: NDArray[np.intp], tasks: int) -> Array:
    total = np.zeros((tasks, queries.shape[1]))
    np.add.at(total, task, queries)
    mean: Array = total / np.maximum(np.bincount(task, minlength=tasks), 1.0)[:, None]
    return mean


def _described(config: GraphRouterConfig, targets: list[Target], width: int = -1) -> Array:
    """Vectors [M, E] of the descriptions; E = 0 where no target had one when the graph was made."""
    texts = [target.description for target in targets]
    if width == 0 or (width < 0 and not any(texts)):
        return np.zeros((len(texts), 0))
    return load_encoder(config.encoder).encode(texts).astype(np.float64)


GraphEdges.settings = GraphRouterConfig
