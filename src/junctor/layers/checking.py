"""The conformance suite of gates: `check_gate(build)` in a plug-in's own tests, and over every gate of the catalogue in ours.

Shape suffixes: B sequences, S positions, T = B S tokens, E experts, D model width.

Each check is a function of a Stand and raises AssertionError with a sentence. What a check cannot know it does not guess: a
gate that declares `causal=False` is not searched for a leak, a gate without trainable parameters is not asked for gradients.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.experts import ExpertBank
from junctor.layers.layer import attach_experts
from junctor.layers.plan import GRANULARITIES, Plan, RouteContext, Scores

Build = Callable[[int, int], Gate]


@dataclass(frozen=True, slots=True)
class Stand:
    """What a gate is checked on.

    build           (d_model, experts) -> Gate
    batch, length   B and S
    about           further fields of RouteContext
    """

    build: Build
    d_model: int = 16
    experts: int = 16
    batch: int = 3
    length: int = 8
    seed: int = 0
    about: tuple[tuple[str, Any], ...] = ()

    def gate(self, seed: int | None = None, *, training: bool = True) -> Gate:
        """A new gate from seeded weights; the caller's random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed if seed is None else seed)
            gate = self.build(self.d_model, self.experts).train(training)
            torch.manual_seed(self.seed)
            attach_experts(gate, ExpertBank(gate.experts, self.d_model, 4))
            return gate

    def x_BSD(self, seed: int = 1) -> Tensor:
        """Tokens."""
        return torch.randn(self.batch, self.length, self.d_model, generator=torch.Generator().manual_seed(seed))

    def context(self, x_BSD: Tensor, *, training: bool = True, **changed: Any) -> RouteContext:
        """Everything a gate may look at, made from these tokens alone, position by position; attention is causal."""
        batch, length, _ = x_BSD.shape
        position_S = torch.arange(length)
        flat: dict[str, Any] = {
            "x_TD": x_BSD.reshape(batch * length, self.d_model),
            "token_ids_T": (torch.arange(batch)[:, None] * 5 + position_S * 3).reshape(-1) % 11,
            "task_ids_T": torch.zeros(batch * length, dtype=torch.int64),
            "segment_ids_T": (position_S // 4).expand(batch, length).reshape(-1),
        }
        generator = torch.Generator().manual_seed(self.seed)
        context = RouteContext(
            **flat, shape=(batch, length), attention_TT=causal_attention(x_BSD), training=training, generator=generator
        )
        return replace(context, **{**dict(self.about), **changed})

    def route(self, gate: Gate, x_BSD: Tensor, **changed: Any) -> tuple[Plan, Scores]:
        """The gate's answer, in its own mode."""
        answer: tuple[Plan, Scores] = gate(self.context(x_BSD, training=gate.training, **changed))
        return answer


def causal_attention(x_BSD: Tensor) -> Tensor:
    """Softmax of x x' / sqrt(D) over earlier positions and the own one, [B, S, S]."""
    score_BSS = x_BSD.float() @ x_BSD.float().transpose(1, 2) / max(x_BSD.shape[2], 1) ** 0.5
    later_SS = torch.ones(x_BSD.shape[1], x_BSD.shape[1], dtype=torch.bool).triu(1)
    return torch.softmax(score_BSS.masked_fill(later_SS, -torch.inf), dim=-1)


Check = Callable[[Stand], None]


def _modes(stand: Stand) -> Iterator[Gate]:
    yield stand.gate(training=True)
    yield stand.gate(training=False)


def _rows(plan: Plan, tokens: int) -> Tensor:
    """Weights per token, [T, …], with what tells an edge of weight 0 from none; per whatever the plan's unit is otherwise."""
    both = torch.cat((plan.dense_TE().detach().float(), plan.chosen_TE().float()), dim=1)
    return both.reshape(tokens, -1) if tokens and plan.tokens % tokens == 0 else both


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def _same_plan(one: Plan, other: Plan) -> bool:
    same = torch.equal(one.token_N, other.token_N) and torch.equal(one.counts_E, other.counts_E)
    return same and _close(one.weight_N, other.weight_N)


def plan_is_well_formed(stand: Stand) -> None:
    """Edges are sorted, unique, finite and add up."""
    for gate in _modes(stand):
        plan, scores = stand.route(gate, stand.x_BSD())
        plan.check()
        assert plan.experts == gate.experts, f"the plan counts {plan.experts} experts, the gate says {gate.experts}"
        assert plan.token_N.dtype == plan.counts_E.dtype == torch.int64, "tokens and counts must be int64"
        assert plan.granularity in GRANULARITIES, f"no granularity {plan.granularity!r}"
        place_N = plan.expert_N() * max(plan.tokens, 1) + plan.token_N
        assert bool((place_N[1:] > place_N[:-1]).all()), "edges must be sorted by expert, then token, none of them twice"
        assert bool(plan.weight_N.isfinite().all()), "a weight is not finite"
        assert scores.probs_TE.shape == scores.logits_TE.shape, "logits and probabilities must be of one shape"
        assert plan.edges, "no token of an ordinary batch gets an expert"


def gradient_reaches_the_scorer(stand: Stand) -> None:
    """Weights, losses or log probabilities carry a gradient to some trainable parameter, and it is finite."""
    gate = stand.gate()
    trained = [one for one in gate.scorer.parameters() if one.requires_grad]
    if not trained:
        return
    context = stand.context(stand.x_BSD())
    plan, scores = gate(context)
    draw = torch.randn(plan.edges, generator=torch.Generator().manual_seed(2))
    carried = [(plan.weight_N * draw).sum(), *(one.sum() for one in gate.balancer.loss(plan, scores, context).values())]
    carried += (
        []
        if scores.logp is None
        else [(scores.logp * torch.arange(1, scores.logp.numel() + 1).reshape(scores.logp.shape)).sum()]
    )
    carried = [one for one in carried if one.requires_grad]
    assert carried, "neither weights nor losses nor log probabilities have a gradient"
    grads: tuple[Tensor | None, ...] = torch.autograd.grad(torch.stack(carried).sum(), trained, allow_unused=True)
    found = [one for one in grads if one is not None]
    assert any(bool(one.abs().max() > 0) for one in found), "the gradient of every scorer parameter is zero"
    assert all(bool(one.isfinite().all()) for one in found), "a gradient is not finite"


def same_generator_same_plan(stand: Stand) -> None:
    """Twice the same with a generator of the same seed; the global random state is not touched."""
    for gate in _modes(stand):
        before = torch.random.get_rng_state()
        first, second = (stand.route(gate, stand.x_BSD())[0] for _ in range(2))
        assert torch.equal(before, torch.random.get_rng_state()), "a draw came from the global random state"
        assert _same_plan(first, second), "two runs with the same generator seed differ"


def evaluation_needs_no_generator(stand: Stand) -> None:
    """In evaluation mode nothing is drawn: with other seeds the plan is the same."""
    gate = stand.gate(training=False)
    plans = [stand.route(gate, stand.x_BSD(), generator=torch.Generator().manual_seed(seed))[0] for seed in (3, 4)]
    assert _same_plan(*plans), "evaluation depends on the generator"
    assert _same_plan(stand.route(gate, stand.x_BSD(), generator=None)[0], plans[0]), "evaluation needs a generator"


def forward_is_pure(stand: Stand) -> None:
    """No parameter or buffer changes in forward or loss: activation checkpointing runs them twice."""
    for gate in _modes(stand):
        before = {name: one.clone() for name, one in gate.state_dict().items()}
        context = stand.context(stand.x_BSD(), training=gate.training)
        plan, scores = gate(context)
        gate.balancer.loss(plan, scores, context)
        changed = [name for name, one in gate.state_dict().items() if not torch.equal(one, before[name])]
        assert not changed, f"forward changed {', '.join(changed)}"


def causal_when_declared(stand: Stand) -> None:
    """Other tokens later in a sequence change no earlier route."""
    for gate in _modes(stand):
        if not gate.causal:
            return
        half = stand.length // 2
        x_BSD = stand.x_BSD()
        other_BSD = torch.cat((x_BSD[:, :half], 3 * stand.x_BSD(7)[:, half:]), dim=1)
        early_T = (torch.arange(stand.length) < half).repeat(stand.batch)
        first, second = (_rows(stand.route(gate, one)[0], stand.batch * stand.length) for one in (x_BSD, other_BSD))
        if first.shape[0] == early_T.shape[0]:
            first, second = first[early_T], second[early_T]
        assert _close(first, second), "causal is declared, but later tokens change earlier routes"


def batch_invariant_when_declared(stand: Stand) -> None:
    """Other sequences in the batch change no route of the first."""
    for gate in _modes(stand):
        if not gate.batch_invariant:
            return
        x_BSD = stand.x_BSD()
        other_BSD = torch.cat((x_BSD[:1], 3 * stand.x_BSD(7)[1:]))
        first, second = (_rows(stand.route(gate, one)[0], stand.batch * stand.length) for one in (x_BSD, other_BSD))
        own = first.shape[0] // stand.batch
        assert _close(first[:own], second[:own]), "batch_invariant is declared, but other sequences change routes"


def padding_has_no_edges(stand: Stand) -> None:
    """Padding is not routed, also when its vectors are not numbers; a batch of nothing but padding gives an empty plan."""
    padding_BS = torch.zeros(stand.batch, stand.length, dtype=torch.bool)
    padding_BS[:, stand.length - 2 :] = True
    tokens = stand.batch * stand.length
    for gate in _modes(stand):
        plan, _ = stand.route(gate, stand.x_BSD(), padding_T=padding_BS.reshape(-1))
        chosen = plan.chosen_TE()
        if plan.tokens % tokens == 0:
            assert not chosen.reshape(tokens, -1)[padding_BS.reshape(-1)].any(), "a padding token has an edge"
        assert plan.edges, "with some padding no token is routed at all"
        empty, _ = stand.route(gate, stand.x_BSD(), padding_T=torch.ones(tokens, dtype=torch.bool))
        assert empty.edges == 0, "a batch of nothing but padding has edges"


def zero_tokens_give_an_empty_plan(stand: Stand) -> None:
    """No tokens, no edges, no error, also for the losses."""
    for gate in _modes(stand):
        context = stand.context(torch.empty(0, stand.length, stand.d_model), training=gate.training)
        plan, scores = gate(context)
        assert plan.edges == 0, "there are edges without tokens"
        assert plan.experts == gate.experts, "the empty plan forgets the experts"
        losses = gate.balancer.loss(plan, scores, context)
        assert all(bool(one.isfinite().all()) for one in losses.values()), "a loss over no tokens is not finite"


def layout_does_not_matter(stand: Stand) -> None:
    """A non-contiguous input is routed as its contiguous copy."""
    for gate in _modes(stand):
        x_BSD = stand.x_BSD()
        apart_TD = x_BSD.reshape(-1, stand.d_model).t().contiguous().t()
        assert not apart_TD.is_contiguous(), "the check's own input must not be contiguous"
        plans = stand.route(gate, x_BSD)[0], stand.route(gate, x_BSD, x_TD=apart_TD)[0]
        assert _same_plan(*plans), "a non-contiguous input is routed differently"


def scores_are_fp32(stand: Stand) -> None:
    """Under autocast scores are those computed without it; half-precision tokens are scored in fp32, too."""
    gate = stand.gate()
    plain = stand.route(gate, stand.x_BSD())[1]
    with torch.autocast("cpu", torch.bfloat16):
        cast = stand.route(gate, stand.x_BSD())[1]
    half = stand.route(gate, stand.x_BSD().bfloat16(), attention_TT=causal_attention(stand.x_BSD()))[1]
    for scores, when in ((plain, "plainly"), (cast, "under autocast"), (half, "for bfloat16 tokens")):
        assert scores.probs_TE.dtype == scores.logits_TE.dtype == torch.float32, f"{when}, scores are not fp32"
    assert torch.allclose(cast.probs_TE, plain.probs_TE, rtol=1e-5, atol=1e-6), "autocast changes the scores"


def state_goes_through_a_file(stand: Stand) -> None:
    """A gate of another seed that loads this one's state dict routes as this one, and updates do not break that."""
    gate, other = stand.gate(), stand.gate(stand.seed + 1)
    gate.balancer.update(torch.arange(gate.experts))
    file = io.BytesIO()
    torch.save(gate.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    plans = [stand.route(one, stand.x_BSD())[0] for one in (gate, other)]
    assert _same_plan(*plans), "a state dict does not carry all of the state"


def update_leaves_parameters_alone(stand: Stand) -> None:
    """The balancer's update changes buffers only, builds no graph, and takes counts of zero."""
    gate = stand.gate()
    before = {name: one.clone() for name, one in gate.named_parameters()}
    for counts_E in (torch.arange(gate.experts), torch.zeros(gate.experts, dtype=torch.int64)):
        gate.balancer.update(counts_E)
    assert all(torch.equal(one, before[name]) for name, one in gate.named_parameters()), "update changed a parameter"
    assert not any(one.requires_grad for one in gate.buffers()), "update built a graph"
    stand.route(gate, stand.x_BSD())[0].check()


def not_a_number_is_refused(stand: Stand) -> None:
    """NaN in a token gives a UserError, or a plan whose weights are finite."""
    gate = stand.gate(training=False)
    x_BSD = stand.x_BSD()
    x_BSD[0, 1] = torch.nan
    try:
        plan, scores = stand.route(gate, x_BSD)
    except UserError:
        return
    seen = bool(scores.probs_TE.isnan().any())
    assert seen or bool(plan.weight_N.isfinite().all()), "NaN reaches the weights, and neither scores nor an error show it"


def one_expert_is_refused_or_works(stand: Stand) -> None:
    """With a single expert, k may be too large: a UserError, or a plan over that one expert."""
    single = replace(stand, experts=1)
    try:
        gate = single.gate()
        plan, _ = single.route(gate, single.x_BSD())
    except UserError:
        return
    plan.check()
    assert plan.experts == gate.experts, "the plan is for other experts"


CHECKS: dict[str, Check] = {
    one.__name__: one
    for one in (
        plan_is_well_formed,
        gradient_reaches_the_scorer,
        same_generator_same_plan,
        evaluation_needs_no_generator,
        forward_is_pure,
        causal_when_declared,
        batch_invariant_when_declared,
        padding_has_no_edges,
        zero_tokens_give_an_empty_plan,
        layout_does_not_matter,
        scores_are_fp32,
        state_goes_through_a_file,
        update_leaves_parameters_alone,
        not_a_number_is_refused,
        one_expert_is_refused_or_works,
    )
}


@contextmanager
def _noted(name: str, failures: list[str]) -> Iterator[None]:
    try:
        yield
    except (AssertionError, UserError, RuntimeError, IndexError, ValueError, TypeError) as failure:
        kind = "" if isinstance(failure, AssertionError) else f"{type(failure).__name__}: "
        failures.append(f"{name}: {kind}{failure}")


def check_gate(build: Build, *, exclude: tuple[str, ...] = (), **stand: Any) -> tuple[str, ...]:
    """Run all checks on the gate that `build(d_model, experts)` makes; returns their names. AssertionError names all that fail.

    exclude  checks to leave out: say why where you call this
    stand    Stand's further fields: d_model, experts, batch, length, seed, about
    """
    unknown = set(exclude) - set(CHECKS)
    if unknown:
        raise UserError(f"no check {min(unknown)!r}", field="exclude", fix=", ".join(CHECKS))
    failures: list[str] = []
    names = [name for name in CHECKS if name not in exclude]
    for name in names:
        with _noted(name, failures):
            CHECKS[name](Stand(build, **stand))
    assert not failures, "\n".join(failures)
    return tuple(names)
