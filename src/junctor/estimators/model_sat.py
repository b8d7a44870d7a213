"""model-sat: a target is its aptitude, its accuracy on some core tasks; a trained head matches aptitudes to queries.

Source: "Capability Instruction Tuning" (AAAI, Now-Join-Us/CIT-LLM-Routing): 50 tasks of MMLU with 20 shots each. Here tasks are
clusters of training queries, and the shots are drawn from training rows alone; they are not learned from again. A new target
sits the same test: only its aptitude is measured, nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.estimators import descent, measured, trained
from junctor.estimators.descent import Recipe
from junctor.estimators.settings import check
from junctor.estimators.trained import Trained
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig
from junctor.types import Target

PSEUDO_SHOTS = 2.0
"""A task's accuracy is drawn to the target's mean as if it had been seen so many times more."""
ROWS_PER_TASK = 12
"""On small tables there are fewer tasks: so many rows for each."""


class ModelSAT(Trained):
    """Holds the layer that reads queries [D, H], the connector that reads aptitudes [T, H], tasks [T, D], aptitudes [T, M]."""

    name: ClassVar[str] = "model-sat"
    shapes: ClassVar[Mapping[str, str]] = {
        "project": "DH",
        "shift": "H",
        "connect": "TH",
        "tasks": "TD",
        "aptitude": "TM",
    }

    def prepare(self, parts: Mapping[str, Array]) -> None:
        """What the connector makes of each target [H, M]."""
        self._models = parts["connect"].T @ parts["aptitude"]

    def odds(self, vectors: Array, features: Features) -> Array:
        """Prior and match of query and aptitude."""
        del features
        read = np.maximum(vectors @ self._parts["project"] + self._parts["shift"], 0.0)
        odds: Array = read @ self._models + self._parts["prior"]
        return odds

    def introduced(self, target: Target, quality: Array, vectors: Array, features: Features) -> dict[str, Array]:
        """Its aptitude on the tasks that its rows fall into."""
        del target, features
        own = aptitudes(quality[:, None], trained.nearest(vectors, self._parts["tasks"]), len(self._parts["tasks"]))
        return {"aptitude": np.concatenate([self._parts["aptitude"], own], axis=1)}


@dataclass(frozen=True, kw_only=True)
class ModelSATConfig(EstimatorConfig):
    """Hyper-parameters.

    tasks, shots   of the aptitude test; the shots together are what a new target costs
    width          of the layer where queries and aptitudes meet
    choice_weight  of the softmax loss over the candidates of a query, beside the cross-entropy of each
    perturb        how much noise of a 20-shot measurement is put on aptitudes while training, in standard errors
    """

    tasks: int = 50
    shots: int = 20
    width: int = 32
    choice_weight: float = 0.0
    perturb: float = 1.0
    rate: float = 0.01
    decay: float = 3.0
    epochs: int = 30

    name: ClassVar[str] = "model-sat"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = ModelSAT
    about: ClassVar[About | None] = About(
        title="Model-SAT: capability instruction tuning",
        family="latent traits",
        status="adapted",
        source="Capability Instruction Tuning for LLM routing (AAAI), Now-Join-Us/CIT-LLM-Routing",
        formula=(
            "u_j in [0, 1]^T: accuracy of target j on T core tasks\n"
            "logit P(right) = prior_j + relu(W e(x) + b) . C (u_j - mean u_j)\n"
            "L = BCE + c x softmax cross-entropy of each right candidate against the wrong ones of its query"
        ),
        adapted=(
            "Tasks are k-means clusters of training queries, not 50 tasks of MMLU.",
            "The softmax loss over candidates is off unless asked for: on validation rows it did worse than BCE alone.",
            (
                "Aptitudes are numbers, read by a bilinear head; in the paper E5-large encodes them as words and Phi-3-mini"
                " answers Yes or No."
            ),
            (
                "Perturbing the order of tasks in the text becomes noise of the size of a measurement error while training;"
                " numbers have no order to average over at test time."
            ),
        ),
        unverified=("A 20-shot accuracy has a standard error of about .1: the test says little of single tasks.",),
        complexity="fit O(epochs N (D H + H M)); decision O(D H + H M); a new target costs T x shots calls",
        claims=(
            Claim(figure="75.28 mean, best single 71.38, best per dataset 74.16", on="small zoo", sure="read"),
            Claim(figure="80.03 mean, best single 77.90", on="mixed zoo", sure="read"),
            Claim(figure="71.88 mean accuracy, table per dataset 73.10", on="LLMRouterBench", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        for key in ("tasks", "shots", "width", "epochs"):
            check(getattr(self, key) >= 1, f"model-sat.{key}", "must be at least 1")
        for key in ("choice_weight", "perturb"):
            check(getattr(self, key) >= 0, f"model-sat.{key}", "must not be negative")
        check(self.rate > 0, "model-sat.rate", "must be positive")
        check(self.decay >= 0, "model-sat.decay", "must not be negative")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> ModelSAT:
        """Draw the test, mark every target, train the head on the rows that are not in it; raises UserError without a row."""
        columns, values, vectors = trained.learnable(table, features, self.name)
        quality = values[:, : len(columns.targets)]
        parts = trained.common(columns, values, vectors)
        tasks = trained.clusters(vectors, min(self.tasks, max(1, len(table) // ROWS_PER_TASK)), rng)
        task = trained.nearest(vectors, tasks)
        shots = drawn_shots(task, self.shots, rng)
        aptitude = aptitudes(quality[shots], task[shots], len(tasks))
        rows = np.setdiff1d(np.arange(len(table)), shots)
        found = self._trained(quality, vectors, aptitude, parts["prior"], rows, rng)
        parts.update(found.weights, tasks=tasks, aptitude=aptitude)
        return ModelSAT(self, columns, parts, found.losses)

    def _trained(
        self, quality: Array, vectors: Array, aptitude: Array, prior: Array, rows: NDArray[np.intp], rng: np.random.Generator
    ) -> descent.Descent:
        torch = descent.torch_for(self.name)
        centre, scale = trained.standard(vectors)
        x = trained.float_rows(torch, (vectors - centre) / scale)
        right, seen = descent.cells(torch, quality)
        level, noise = trained.float_rows(torch, np.nan_to_num(prior)), self.perturb * 0.5 / np.sqrt(self.shots)

        def loss(w: Mapping[str, Any], batch: NDArray[np.intp], draw: np.random.Generator) -> Any:
            shaken = aptitude + noise * draw.standard_normal(aptitude.shape)
            models = w["connect"].T @ trained.float_rows(torch, shaken)
            odds = torch.relu(x[batch] @ w["project"] + w["shift"]) @ models + level
            total = descent.binary_loss(torch, odds, right[batch], seen[batch])
            if self.choice_weight:
                good = right[batch] * seen[batch]
                choice = descent.contrast_loss(torch, odds, (good > 0.5).float(), ((good <= 0.5) & (seen[batch] > 0)).float())
                total = total + self.choice_weight * choice
            return total

        start = {
            "project": trained.drawn(rng, vectors.shape[1], self.width),
            "shift": np.zeros(self.width),
            "connect": trained.drawn(rng, len(aptitude), self.width),
        }
        found = descent.descend(self.name, start, loss, rows, Recipe(rate=self.rate, decay=self.decay, epochs=self.epochs), rng)
        project, shift = trained.folded(found.weights["project"], found.weights["shift"], centre, scale)
        found.weights.update(project=project, shift=shift)
        return found


def drawn_shots(task: NDArray[np.intp], shots: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Positions of the test's rows, ascending: `shots` of each task, but never more than half of its rows (at least one)."""
    found = []
    for number in np.unique(task):
        rows = rng.permutation(np.flatnonzero(task == number))
        found.append(rows[: max(1, min(shots, len(rows) // 2))])
    return np.sort(np.concatenate(found))


def aptitudes(quality: Array, task: NDArray[np.intp], tasks: int) -> Array:
    """[T, M]: accuracy per task above or below the target's mean; 0 for a task or a target that was never tried."""
    total, times = measured.sums(quality, task, tasks)
    mean = measured.means(quality)
    return np.nan_to_num(measured.shrunk(total, times, mean, PSEUDO_SHOTS) - mean)


ModelSAT.settings = ModelSATConfig
