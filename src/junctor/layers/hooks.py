"""What a training loop needs beside the loss: policy gradients, projected steps, logit shifts tuned at test time.

Shape suffixes: M samples of the same input, T tokens, E experts, D width, O outputs, R rank of a kept subspace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.contracts import Gate, Scorer
from junctor.layers.plan import RouteContext, Scores


def policy_loss(logp: Tensor, reward: Tensor, baseline: Tensor | float = 0.0) -> Tensor:
    """REINFORCE: -mean((reward - baseline) * logp); reward and baseline are constants to the gradient."""
    if logp.shape != reward.shape:
        raise UserError(f"logp is {tuple(logp.shape)}, reward is {tuple(reward.shape)}", field="reward", fix="one per sample")
    return -((reward - baseline).detach() * logp).mean()


def rloo_loss(logp_M: Tensor, reward_M: Tensor) -> Tensor:
    """REINFORCE leave-one-out over M samples of the same input: -(1/M) sum_m (r_m - mean of the other rewards) logp_m.

    Both [M, ...]; what follows M (tokens, sequences) is summed. The baseline of a sample does not contain its own reward, so
    minus the gradient is an unbiased estimate of the gradient of the expected reward.
    """
    samples = logp_M.shape[0]
    if samples < 2 or logp_M.shape != reward_M.shape:
        raise UserError(
            f"logp is {tuple(logp_M.shape)}, reward is {tuple(reward_M.shape)}",
            field="logp_M",
            fix="two samples or more, alike",
        )
    reward_M = reward_M.detach()
    others_M = (reward_M.sum(0, keepdim=True) - reward_M) / (samples - 1)
    return -((reward_M - others_M) * logp_M).mean(0).sum()


def input_basis(x_TD: Tensor, energy: float = 0.999) -> Tensor:
    """Orthonormal [D, R]: the fewest directions that hold this share of the inputs' energy; 1 keeps the whole row space."""
    if not 0.0 < energy <= 1.0:
        raise UserError(f"energy {energy}", field="energy", fix="above 0, at most 1")
    _, value_R, rows_RD = torch.linalg.svd(x_TD.double(), full_matrices=False)
    if not len(value_R) or float(value_R[0]) == 0.0:
        return x_TD.new_zeros(x_TD.shape[1], 0, dtype=torch.float32)
    real = value_R > value_R[0] * max(x_TD.shape) * torch.finfo(torch.float32).eps
    share_R = value_R.square().cumsum(0) / value_R.square().sum()
    need = int((share_R < energy).sum()) + 1 if energy < 1.0 else len(value_R)
    kept_RD: Tensor = rows_RD[: min(need, int(real.sum()))]
    return kept_RD.t().float().contiguous()


class ProjectedStep:
    """An optimiser whose step on chosen weights stays orthogonal to kept input directions: W x is unchanged for x in the basis.

    basis   per parameter [O, D] an orthonormal [D, R] (`input_basis`)
    shape   what a step is multiplied by before the projection: a symmetric [D, D] for a weight [O, D], [E, D, D] for stacked
            weights [E, D, O]
    still   per stacked parameter [E, ...] a bool [E]: these experts do not move
    What is projected is the step taken, not the gradient: momentum, Adam's scaling and weight decay cannot leak past it.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        basis: Mapping[nn.Parameter, Tensor],
        shape: Mapping[nn.Parameter, Tensor] | None = None,
        still: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> None:
        self.optimiser, self.basis, self.shape, self.still = optimiser, dict(basis), dict(shape or {}), dict(still or {})
        for parameter, directions_DR in self.basis.items():
            if parameter.ndim != 2 or parameter.shape[1] != directions_DR.shape[0]:
                raise UserError(
                    f"weight is {tuple(parameter.shape)}, basis is {tuple(directions_DR.shape)}",
                    field="basis",
                    fix="weights (out, in) and bases (in, rank)",
                )

    def zero_grad(self) -> None:
        """The wrapped optimiser's."""
        self.optimiser.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Step, then take out of each chosen weight's change what it must not have."""
        chosen = list(dict.fromkeys([*self.basis, *self.shape, *self.still]))
        before = [parameter.clone() for parameter in chosen]
        self.optimiser.step()
        for parameter, old in zip(chosen, before, strict=True):
            parameter.copy_(old + self._allowed(parameter, parameter - old))

    def _allowed(self, parameter: nn.Parameter, change: Tensor) -> Tensor:
        if parameter in self.shape:
            shape = self.shape[parameter].to(change.dtype)
            change = change @ shape if change.ndim == 2 else shape @ change
        if parameter in self.basis:
            directions_DR = self.basis[parameter].to(change.dtype)
            change = change - (change @ directions_DR) @ directions_DR.t()
        if parameter in self.still:
            change = change.masked_fill(self.still[parameter].reshape(-1, *[1] * (change.ndim - 1)), 0.0)
        return change


def softmax_probs(logits_TE: Tensor) -> Tensor:
    """Probabilities of most gates."""
    return logits_TE.softmax(-1)


class ShiftedScorer(Scorer):
    """Another scorer's logits plus one vector: logits + shift_E. A shift of zero gives the other scorer's scores, bit by bit.

    activation   what makes weights from logits; the wrapped scorer's own
    """

    def __init__(self, inner: Scorer, activation: Callable[[Tensor], Tensor] = softmax_probs) -> None:
        super().__init__(inner.d_model, inner.experts)
        self.inner, self.activation = inner, activation
        self.shift_E = nn.Parameter(torch.zeros(inner.experts))
        self.__dict__["causal"], self.__dict__["batch_invariant"] = inner.causal, inner.batch_invariant

    def forward(self, context: RouteContext) -> Scores:
        """The shifted scores."""
        scores: Scores = self.inner(context)
        if not torch.is_grad_enabled() and not bool(self.shift_E.any()):
            return scores
        logits_TE = scores.logits_TE + self.shift_E.float()
        return Scores(logits_TE, self.activation(logits_TE), scores.state, scores.logp)


def shifted(gate: Gate, activation: Callable[[Tensor], Tensor] = softmax_probs) -> ShiftedScorer:
    """Put a shift in front of the gate's scorer, or give the one that is there."""
    if not isinstance(gate.scorer, ShiftedScorer):
        gate.scorer = ShiftedScorer(gate.scorer, activation)
    return gate.scorer


def optimise_shift(
    shifts: Sequence[ShiftedScorer], loss: Callable[[], Tensor], steps: int, lr: float, *, restart: bool = True
) -> list[float]:
    """Lower `loss` (of the context so far) by the shifts alone; the losses before each step, then the last one.

    restart   begin at zero: nothing of an earlier request is left. Every other parameter keeps its value and gets no gradient.
    """
    vectors = [one.shift_E for one in shifts]
    if restart:
        with torch.no_grad():
            for vector in vectors:
                vector.zero_()
    optimiser = torch.optim.Adam(vectors, lr=lr)
    history: list[float] = []
    for _ in range(steps):
        value = loss()
        history.append(value.item())
        for vector, grad in zip(vectors, torch.autograd.grad(value, vectors, allow_unused=True), strict=True):
            vector.grad = grad
        optimiser.step()
    with torch.no_grad():
        history.append(loss().item())
    for vector in vectors:
        vector.grad = None
    return history
